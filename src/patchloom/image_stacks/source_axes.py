"""Axes of a source, as far as it declares them, and the error if it does not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patchloom.axes import LEGAL_AXES, AxesMap
from patchloom.errors import AxesError

_LETTERS = {"sample": "S", "time": "T", "channel": "C"}
_EXAMPLES = {2: "YX", 3: "ZYX", 4: "CZYX", 5: "TCZYX", 6: "STCZYX"}


def axes_from_names(names: Sequence[object]) -> str | None:
    """Return the axes that the names of a source's dimensions mean, or None if they mean none.

    Parameters
    ----------
    names : sequence
        One name for each dimension: a letter of `STCZYX`, in upper or lower case, or `"sample"`, `"time"`, `"channel"`.

    Examples
    --------
    >>> axes_from_names(["time", "c", "y", "x"])
    'TCYX'
    >>> axes_from_names(["dim_0", "dim_1"]) is None
    True
    """
    letters = _letters(names)
    legal = set(letters) <= set(LEGAL_AXES) and len(set(letters)) == len(letters) and {"Y", "X"} <= set(letters)
    return "".join(letters) if legal else None


def _letters(names: Sequence[object]) -> list[str]:
    words = [str(name).lower() for name in names]
    return [_LETTERS.get(word, word.upper()) for word in words]


def axes_map_of(source: str | Path, axes: str, shape: Sequence[int]) -> AxesMap:
    """Return the `AxesMap` of a source with axes that were given or found; an error names the source.

    Raises
    ------
    AxesError
        If they are not letters of `STCZYX`, or not as many as the axes of the source.

    Examples
    --------
    >>> axes_map_of("cells.npy", "YX", (60, 256, 256))
    Traceback (most recent call last):
        ...
    patchloom.errors.AxesError: cells.npy: axes 'YX' name 2 axes, but the image has 3: shape
    (60, 256, 256); give one letter of 'STCZYX' for each
    """
    try:
        return AxesMap(axes, tuple(shape))
    except AxesError as error:
        raise AxesError(f"{source}: {error}") from error


def unknown_axes(source: str | Path, shape: Sequence[int], found: str = "", names: Sequence[object] = ()) -> AxesError:
    """Return the error for a source whose axes are not known; it shows the shape and an example.

    Parameters
    ----------
    source : str or Path
        Name of the source.
    shape : sequence of int
        Shape of the source.
    found : str
        Anything that the source contains about its axes, as a sentence; empty if it contains nothing.
    names : sequence
        The source's name of each axis, as in `axes_from_names`, if it has names; the example keeps letters of `STCZYX`.

    Examples
    --------
    >>> raise unknown_axes("array", (60, 256, 256))
    Traceback (most recent call last):
        ...
    patchloom.errors.AxesError: array has shape (60, 256, 256), but its axes are not known: give one letter of 'STCZYX' for
    each, such as axes='ZYX' (--axes ZYX)
    """
    sizes = tuple(int(size) for size in shape)
    example = _EXAMPLES.get(len(sizes))
    letters = _letters(names)
    if example and len(letters) == len(sizes) and {"Y", "X"} <= set(letters):
        example = _completed(letters)
    elif len(sizes) == 3 and sizes[-1] in (3, 4):
        example = "YXC"
    if example is None:
        return AxesError(f"{source} has shape {sizes}: an image must have 2 to 6 axes, Y and X among them")
    reason = f"and {found}" if found else "but its axes are not known"
    return AxesError(
        f"{source} has shape {sizes}, {reason}: give one letter of {LEGAL_AXES!r} for each, such as "
        f"axes={example!r} (--axes {example})"
    )


def _completed(letters: Sequence[str]) -> str:
    """Replace letters that are not axes, or occur again later, by others."""
    last = {letter: place for place, letter in enumerate(letters)}
    is_kept = [letter in LEGAL_AXES and last[letter] == place for place, letter in enumerate(letters)]
    kept = {letter for letter, keep in zip(letters, is_kept, strict=True) if keep}
    free = [letter for letter in ("STZC" if len(kept) > 2 else "ZCTS") if letter not in kept]
    axes = []
    for letter, keep in zip(reversed(letters), reversed(is_kept), strict=True):
        axes.append(letter if keep else free.pop(0))
    return "".join(reversed(axes))
