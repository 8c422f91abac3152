"""Copying many boxes from one array to another in one call, with the cast and the rescaling done on the way.

For small patches, calls cost more than bytes. If numba is installed (the extra `speed`), one compiled loop goes through all
boxes, row by row along X. Rows are contiguous in memory on both sides, so the processor converts whole registers from `uint16` to
rescaled `float32` at once. The loop runs without the interpreter's lock, in the calling thread. Without numba, NumPy copies box by
box, with the same result bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._compiled_loop import as_rows, compiled_loop, has_rows
from patchloom.extraction.cpu_prefetch import prefetch, teach_prefetch
from patchloom.extraction.rescaling import Rescaling, rescale_plainly

_MIN_BOXES = 8
"""Below this number of boxes NumPy copies them: loading the compiled loop takes half a second once."""

_SOURCE_KINDS = frozenset("buif")
_UNSIGNED = np.uint64


class Boxes(NamedTuple):
    """Boxes in one array and their places in another; one row for each box, all `int64`."""

    corners: NDArray[np.int64]
    """`(n, axes of the source)`: first voxel of a box in the source."""

    places: NDArray[np.int64]
    """`(n, axes of the target)`: the same voxel in the target."""

    extents: NDArray[np.int64]
    """`(n, 3)` or `(n, 4)`: size along `C(Z)YX`, the last axes of both arrays; it is 1 along the axes before."""


def gather_boxes(
    source: NDArray[Any],
    target: NDArray[Any],
    boxes: Boxes,
    rescaling: Rescaling | None = None,
    min_boxes: int = _MIN_BOXES,
) -> None:
    """Copy boxes; values are cast as by assignment.

    Parameters
    ----------
    source, target : array
        Any axes, then `C(Z)YX`. They share no memory.
    boxes : Boxes
        The boxes; they must lie inside both arrays, which is not checked.
    rescaling : Rescaling, optional
        The target, `(B, C, (Z), Y, X)`, gets `voxel * scale + offset`, computed in its dtype; from `Rescaling.astype`.
    min_boxes : int
        Number of boxes from which on the compiled loop copies them.

    Examples
    --------
    >>> image, batch = np.arange(20, dtype=np.uint8).reshape(1, 4, 5), np.zeros((2, 1, 2, 3), np.float32)
    >>> boxes = Boxes(np.array([[0, 0, 0], [0, 2, 1]]), np.array([[0, 0, 0, 0], [1, 0, 0, 0]]), np.array([[1, 2, 3]] * 2))
    >>> gather_boxes(image, batch, boxes, Rescaling(np.float32([[2], [2]]), np.float32([[1], [1]])))
    >>> batch[1].tolist()
    [[[23.0, 25.0, 27.0], [33.0, 35.0, 37.0]]]
    """
    compiled = compiled_loop(gather_rows) if len(boxes.extents) >= min_boxes and _is_rows(source, target) else None
    if compiled is None:
        gather_by_numpy(source, target, boxes, rescaling)
        return
    teach_prefetch()
    compiled(as_rows(source), as_rows(target), boxes, None if rescaling is None else rescaling[:2])


def gather_by_numpy(
    source: NDArray[Any],
    target: NDArray[Any],
    boxes: Boxes,
    rescaling: Rescaling | None = None,
) -> None:
    """Copy boxes one by one: the reference for `gather_boxes`."""
    parts = parts_of(target, boxes.places, boxes.extents)
    for part, pixels in zip(parts, parts_of(source, boxes.corners, boxes.extents), strict=True):
        part[...] = pixels
    if rescaling is None:
        return
    if boxes.extents.prod(axis=1).sum() == target.size:  # the whole batch: one pass is fastest
        rescale_plainly(target, rescaling)
    else:
        rescale_parts(parts, boxes.places, rescaling)


def rescale_parts(parts: Iterable[NDArray[Any]], places: NDArray[np.int64], rescaling: Rescaling) -> None:
    """Rescale boxes of a batch in place.

    Parameters
    ----------
    parts : iterable of array
        The boxes, `C(Z)YX`.
    places : array of int64
        `(n, axes of the batch)`: the first voxel of each box in the batch, `(B, C, (Z), Y, X)`.
    rescaling : Rescaling
        From `Rescaling.astype`.
    """
    for (row, first, *_), part in zip(places.tolist(), parts, strict=True):
        scale, offset, _ = rescaling.of_rows(slice(row, row + 1))
        channels = slice(first, first + len(part))
        rescale_plainly(part[np.newaxis], Rescaling(scale[:, channels], offset[:, channels]))


def as_slices(first: NDArray[np.int64], extents: NDArray[np.int64]) -> list[tuple[slice, ...]]:
    """Return boxes as indices of an array that has no other axes.

    Examples
    --------
    >>> as_slices(np.array([[0, 10, 20]]), np.array([[2, 5, 6]]))
    [(slice(0, 2, None), slice(10, 15, None), slice(20, 26, None))]
    """
    stops = (first + extents).tolist()
    return [tuple(map(slice, start, stop)) for start, stop in zip(first.tolist(), stops, strict=True)]


def parts_of(array: NDArray[Any], first: NDArray[np.int64], extents: NDArray[np.int64]) -> list[NDArray[Any]]:
    """Return boxes of an array as views; along axes before those of `extents` their size is 1."""
    n_leading = first.shape[1] - extents.shape[1]
    stops = (first[:, n_leading:] + extents).tolist()
    return [
        array[(*start[:n_leading], *map(slice, start[n_leading:], stop))]
        for start, stop in zip(first.tolist(), stops, strict=True)
    ]


def _is_rows(source: NDArray[Any], target: NDArray[Any]) -> bool:
    """Return whether both arrays consist of rows that a compiled loop can process."""
    known = source.dtype.kind in _SOURCE_KINDS and source.dtype != np.float16
    known = known and (target.dtype == source.dtype or target.dtype in (np.float32, np.float64))
    # NumPy refuses to write to read-only memory; the loop would not.
    return known and target.flags.writeable and all(map(has_rows, (source, target)))


# Constants are taken out of the inner loops by hand, which saves a quarter of the time. Voxels have unsigned indices: signed ones
# could be negative, which the compiled loop would check at every voxel instead of using vector instructions. In 2D there is one
# slice, whose step does not matter. Each row of a box lies elsewhere in memory, and waiting for the memory takes longer than
# copying the row. So the rows of the next box are prefetched meanwhile.


def gather_rows(source: Any, target: Any, boxes: Any, rescaling: Any) -> None:  # noqa: C901  # one loop is compiled as a whole
    """Copy boxes row by row, each voxel times the scale of its patch and channel plus the offset, if there are any.

    It is compiled twice, for a `rescaling` of None and for scales and offsets, so that neither carries the other's code.
    """
    pixels, steps = source
    batch, batch_steps = target
    corners, places, extents = boxes
    rank = extents.shape[1]
    row_step, batch_row_step = _UNSIGNED(steps[-2]), _UNSIGNED(batch_steps[-2])
    for box in range(len(extents)):
        following = min(box + 1, len(extents) - 1)
        corner, next_corner, place = 0, 0, 0
        for axis in range(len(steps)):
            corner += corners[box, axis] * steps[axis]
            next_corner += corners[following, axis] * steps[axis]
        for axis in range(len(batch_steps)):
            place += places[box, axis] * batch_steps[axis]
        n_rows, width = extents[box, rank - 2], _UNSIGNED(extents[box, rank - 1])
        half, last = _UNSIGNED(extents[box, rank - 1] // 2), _UNSIGNED(extents[box, rank - 1] - 1)
        first = places[box, -rank]
        for channel in range(extents[box, 0]):
            if rescaling is not None:
                scales, offsets = rescaling
                row = places[box, 0] if len(scales) > 1 else 0
                scale, offset = scales[row, first + channel], offsets[row, first + channel]
            for section in range(extents[box, 1] if rank == 4 else 1):
                start = _UNSIGNED(corner + channel * steps[-rank] + section * steps[-3])
                next_start = _UNSIGNED(next_corner + channel * steps[-rank] + section * steps[-3])
                batch_start = _UNSIGNED(place + channel * batch_steps[-rank] + section * batch_steps[-3])
                for _ in range(n_rows):
                    prefetch(pixels, next_start)
                    prefetch(pixels, next_start + half)
                    prefetch(pixels, next_start + last)
                    if rescaling is None:
                        for x in range(width):
                            batch[batch_start + x] = pixels[start + x]
                    else:
                        for x in range(width):
                            batch[batch_start + x] = batch.dtype.type(pixels[start + x]) * scale + offset
                    start += row_step
                    next_start += row_step
                    batch_start += batch_row_step
