"""The layout of a network's input, by what its file shows: its first convolution, the names of its axes, its sizes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from patchloom.errors import ModelError
from patchloom.prediction.models.onnx.graph import FirstConvolution
from patchloom.prediction.models.tensor_layout import TensorLayout, infer_layout, possible_layouts

_WORDS = {
    "N": {"batch", "batchsize", "bs"},
    "C": {"channel", "channels", "ch"},
    "S": {"depth", "height", "width", "rows", "cols", "columns", "slices"},
}
"""Words in the names of axes: batch, channels, space."""

_LETTERS = {"N": {"n", "b"}, "C": {"c"}, "S": {"d", "z", "h", "y", "w", "x"}}
"""Names of one letter. They are names of axes only if two axes of space are named so; else they may be any symbols."""


def find_layout(
    given: str | None, sizes: Sequence[int | None], names: Sequence[str], convolution: FirstConvolution | None
) -> TensorLayout:
    """Return the layout that is given, or else the one that the file shows.

    Parameters
    ----------
    given : str, optional
        The layout that the user gives.
    sizes : sequence of int or None
        Declared sizes of the input; None for a symbolic size.
    names : sequence of str
        Names of the symbolic sizes; empty for the others.
    convolution : FirstConvolution, optional
        The first convolution that the input reaches.

    Raises
    ------
    ModelError
        If none is given and several are possible.

    Examples
    --------
    >>> find_layout(None, (None, 64, None, None), ("batch", "", "width", "channels"), None).letters
    'NHWC'
    """
    if given is not None:
        return TensorLayout(given)
    if convolution is not None:
        return convolution.layout
    by_names = [layout for layout in possible_layouts(len(sizes)) if _fits(layout, names)]
    return by_names[0] if len(by_names) == 1 else infer_layout(sizes)


def _fits(layout: TensorLayout, names: Sequence[str]) -> bool:
    """Return whether no axis has the name of another one."""
    kinds = [_kind_of(name, _WORDS) for name in names]
    letters = [_kind_of(name, _LETTERS) for name in names]
    if letters.count("S") >= 2:
        kinds = [kind or letter for kind, letter in zip(kinds, letters, strict=True)]
    expected = ["S" if letter in "DHW" else letter for letter in layout.letters]
    return all(kind in ("", own) for kind, own in zip(kinds, expected, strict=True))


def _kind_of(name: str, words: dict[str, set[str]]) -> str:
    """Return the kind of axis that a name stands for; an empty text if it is not known."""
    parts = [name.lower()] if words is _LETTERS else re.split(r"[^a-z]+", name.lower())
    kinds = {kind for kind, known in words.items() if known & set(parts)}
    return kinds.pop() if len(kinds) == 1 else ""


def check_layout(layout: TensorLayout, sizes: Sequence[int | None], convolution: FirstConvolution | None) -> None:
    """Check that a layout fits the network.

    Parameters
    ----------
    layout : TensorLayout
        The layout.
    sizes : sequence of int or None
        Declared sizes of the input; empty if the shape is not declared.
    convolution : FirstConvolution, optional
        The first convolution that the input reaches.

    Raises
    ------
    ModelError
        If it has another number of axes, or the convolution takes its channels from another axis.
    """
    if sizes and len(sizes) != len(layout.letters):
        shape = ", ".join("?" if size is None else str(size) for size in sizes)
        raise ModelError(
            f"layout is {layout.letters}, which does not fit the input of shape ({shape}): name each of its axes once"
        )
    if convolution is not None and convolution.layout != layout:
        raise ModelError(
            f"layout is {layout.letters}, but the first convolution of the network takes {convolution.layout.letters}: leave "
            "layout out"
        )
