"""Padding as an index map on one axis: each voxel outside the image is a copy of one inside.

Padding a window is the same as padding the whole image with `numpy.pad` and cutting the window out, except that only the
voxels needed are ever touched. On one axis a window `[start, start + size)` becomes an array of source positions; the
distinct positions form a few contiguous runs, and only those are read.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of

Padding = Literal["constant", "reflect", "edge", "wrap"]


class AxisSource(NamedTuple):
    """The voxels of the image that fill one axis of a padded window."""

    runs: tuple[tuple[int, int], ...]
    """Half-open windows of the image to read, ascending; their voxels are numbered consecutively."""

    positions: NDArray[np.intp]
    """For each voxel of the window that has a source, the number of the source among the voxels read."""

    inside: slice
    """The voxels of the window that have a source: all of them, except with `"constant"`."""

    indices: NDArray[np.intp]
    """As `positions`, but counted from the start of the image."""


def check_padding(padding: str) -> Padding:
    """Return a legal padding mode.

    Raises
    ------
    GeometryError
        If the mode is not one of `"constant"`, `"reflect"`, `"edge"`, `"wrap"`.
    """
    mode: Padding = one_of("padding", padding, get_args(Padding))
    return mode


def source_indices(start: int, size: int, image_size: int, padding: Padding) -> NDArray[np.intp]:
    """Return, for each voxel of a window, the voxel of the image that padding puts there.

    Parameters
    ----------
    start, size : int
        The window `[start, start + size)`; it may lie partly or entirely outside the image.
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
    period = max(2 * (image_size - 1), 1) if padding == "reflect" else image_size
    # A window far outside is moved by whole periods, so that its positions fit into 64 bits.
    start = start % period if padding in {"reflect", "wrap"} else min(max(start, -size), image_size)
    indices = np.arange(start, start + size, dtype=np.intp)
    if padding == "edge":
        return np.clip(indices, 0, image_size - 1)
    if padding == "wrap":
        return indices % image_size
    if padding == "reflect":
        # Mirrored at both ends, an axis repeats after twice its length; an axis of one voxel is its own mirror image.
        indices %= period
        return np.minimum(indices, period - indices) if image_size > 1 else np.zeros_like(indices)
    return np.where((indices >= 0) & (indices < image_size), indices, -1)


def axis_source(start: int, size: int, image_size: int, padding: Padding) -> AxisSource:
    """Find the voxels to read along one axis for a window of the padded image, and the places they fill.

    Examples
    --------
    >>> source = axis_source(-2, 6, 100, "wrap")
    >>> source.runs, source.positions.tolist(), source.inside, source.indices.tolist()
    (((0, 4), (98, 100)), [4, 5, 0, 1, 2, 3], slice(0, 6, None), [98, 99, 0, 1, 2, 3])
    """
    indices = source_indices(start, size, image_size, padding)
    if padding == "constant":
        first, last = min(max(-start, 0), size), min(max(image_size - start, 0), size)
        inside = slice(first, max(first, last))
    else:
        inside = slice(0, size)
    needed = indices[inside]
    if not needed.size:
        return AxisSource((), needed, inside, needed)
    lowest, highest = int(needed.min()), int(needed.max())
    split = start % image_size
    if padding == "wrap" and size < image_size < split + size:
        # From the split to the end of the image, and from its beginning: voxels between the two are not read.
        n_low = split + size - image_size
        positions = np.where(needed >= split, needed - split + n_low, needed)
        return AxisSource(((0, n_low), (split, image_size)), positions, inside, needed)
    return AxisSource(((lowest, highest + 1),), needed - lowest, inside, needed)


def source_runs(positions: NDArray[np.intp]) -> list[tuple[slice, slice]]:
    """Divide positions into runs that ascend, descend or repeat: for each, the slice that is filled and the slice that fills it.

    Examples
    --------
    >>> source_runs(np.array([1, 0, 1, 2, 2, 2]))
    [(slice(0, 2, None), slice(1, None, -1)), (slice(2, 4, None), slice(1, 3, 1)), (slice(4, 6, None), slice(2, 3, 1))]
    """
    steps = np.diff(positions)
    turns = [*(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(positions) - 1]
    runs = []
    first = 0
    while first < len(positions):
        step = int(steps[first]) if first < len(steps) else 1
        last = next((turn for turn in turns if turn > first), first) if abs(step) <= 1 else first
        begin, end = int(positions[first]), int(positions[last])
        # One voxel fills all of a run that repeats it.
        source = slice(begin, end - 1 if end else None, -1) if step == -1 and last > first else slice(begin, end + 1, 1)
        runs.append((slice(first, last + 1), source))
        first = last + 1
    return runs
