"""Which voxel stands for one outside the image: padding as an index map on one axis.

Padding a window is the same as padding the whole image with `numpy.pad` and cutting the window out, except that only the
voxels needed are ever touched. On one axis a window `[start, start + size)` becomes an array of source positions; the
distinct positions form a few contiguous runs, and only those are read.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import GeometryError

Padding = Literal["constant", "reflect", "edge", "wrap"]


class AxisSource(NamedTuple):
    """What one axis of a padded window is made of."""

    runs: tuple[tuple[int, int], ...]
    """Half-open windows of the image to read, ascending; their voxels are numbered through."""

    positions: NDArray[np.intp]
    """For each voxel of the window that has a source, its number among the voxels read."""

    inside: slice
    """Which voxels of the window have a source: all of them, but for `"constant"`."""


def check_padding(padding: str) -> Padding:
    """Return a legal padding mode.

    Raises
    ------
    GeometryError
        If the mode is none of `"constant"`, `"reflect"`, `"edge"`, `"wrap"`.
    """
    for mode in get_args(Padding):
        if padding == mode:
            return mode  # type: ignore[no-any-return]  # get_args is untyped
    raise GeometryError(f"padding is {padding!r}: it must be one of {', '.join(map(repr, get_args(Padding)))}")


def source_indices(start: int, size: int, image_size: int, padding: Padding) -> NDArray[np.intp]:
    """For each voxel of a window, the image voxel that padding puts there.

    Parameters
    ----------
    start, size : int
        The window `[start, start + size)`; it may lie outside the image, wholly too.
    image_size : int
        Size of the axis, at least 1.
    padding : {"reflect", "edge", "wrap", "constant"}
        As in `numpy.pad`. With `"constant"` a voxel outside has no source and is -1.

    Examples
    --------
    >>> source_indices(-2, 6, 3, "reflect").tolist()
    [2, 1, 0, 1, 2, 1]
    >>> source_indices(-2, 6, 3, "constant").tolist()
    [-1, -1, 0, 1, 2, -1]
    """
    indices = np.arange(start, start + size, dtype=np.intp)
    if padding == "edge":
        return np.clip(indices, 0, image_size - 1)
    if padding == "wrap":
        return indices % image_size
    if padding == "reflect":
        # A mirror at both ends repeats after going there and back; an axis of one voxel is its own mirror image.
        period = max(2 * (image_size - 1), 1)
        indices %= period
        return np.minimum(indices, period - indices) if image_size > 1 else np.zeros_like(indices)
    return np.where((indices >= 0) & (indices < image_size), indices, -1)


def axis_source(start: int, size: int, image_size: int, padding: Padding) -> AxisSource:
    """Say what to read of one axis for a window of the padded image, and where it goes.

    Examples
    --------
    >>> source = axis_source(-2, 6, 100, "wrap")
    >>> source.runs, source.positions.tolist(), source.inside
    (((0, 4), (98, 100)), [4, 5, 0, 1, 2, 3], slice(0, 6, None))
    """
    indices = source_indices(start, size, image_size, padding)
    has_source = np.flatnonzero(indices >= 0)
    inside = slice(int(has_source[0]), int(has_source[-1]) + 1) if len(has_source) else slice(0, 0)
    needed, positions = np.unique(indices[inside], return_inverse=True)
    breaks = np.flatnonzero(np.diff(needed) > 1) + 1
    runs = tuple((int(run[0]), int(run[-1]) + 1) for run in np.split(needed, breaks) if len(run))
    return AxisSource(runs, positions, inside)
