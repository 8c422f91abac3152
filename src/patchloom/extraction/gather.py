"""Copying many boxes from one array to another in one call, with the cast and the normalisation done on the way.

A patch is small, so it is not the bytes that cost but the calls. Where numba is installed (the extra `speed`), one compiled
loop goes through all boxes, row by row along X: rows lie contiguous in memory on both sides, and the processor turns whole
registers of them from `uint16` to normalised `float32` at once. It runs without the interpreter's lock, on the thread that
called it. Elsewhere NumPy copies box by box, with the same result bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require

_FEW = 16
"""So many boxes NumPy copies before a compiled loop is even loaded, which takes half a second once."""

_SOURCE_KINDS = frozenset("buif")
_UNSIGNED = np.uint64


class Boxes(NamedTuple):
    """Where boxes lie in one array, and where they go in another; one row a box, all `int64`."""

    corners: NDArray[np.int64]
    """`(n, axes of the source)`: the first voxel inside."""

    places: NDArray[np.int64]
    """`(n, axes of the target)`: where that voxel goes."""

    extents: NDArray[np.int64]
    """`(n, 3)` or `(n, 4)`: size along `C(Z)YX`, the last axes of both arrays; along those before it is 1."""


def gather(
    source: NDArray[Any],
    target: NDArray[Any],
    boxes: Boxes,
    scale: NDArray[Any] | None = None,
    offset: NDArray[Any] | None = None,
) -> None:
    """Copy boxes; values are cast as by assignment.

    Parameters
    ----------
    source, target : array
        Any axes, then `C(Z)YX`. They share no memory.
    boxes : Boxes
        All inside both arrays: this is not checked.
    scale, offset : array, optional
        One value for each channel of the target, in its dtype: it holds `voxel * scale + offset`. Both or none.

    Examples
    --------
    >>> image, batch = np.arange(20, dtype=np.uint8).reshape(1, 4, 5), np.zeros((2, 1, 2, 3), np.float32)
    >>> boxes = Boxes(np.array([[0, 0, 0], [0, 2, 1]]), np.array([[0, 0, 0, 0], [1, 0, 0, 0]]), np.array([[1, 2, 3]] * 2))
    >>> gather(image, batch, boxes, scale=np.float32([2]), offset=np.float32([1]))
    >>> batch[1].tolist()
    [[[23.0, 25.0, 27.0], [33.0, 35.0, 37.0]]]
    """
    kernel = _copy_rows if scale is None else _normalise_rows
    compiled = _compiled(kernel) if len(boxes.extents) > _FEW and _is_rows(source, target) else None
    if compiled is None:
        gather_by_numpy(source, target, boxes, scale, offset)
        return
    corners, places, extents = boxes
    rows = _rows(source, corners, extents.shape[1]), _rows(target, places, extents.shape[1]), _with_slices(extents)
    if scale is None:
        compiled(*rows)
    else:
        compiled(*rows, places[:, -extents.shape[1]].copy(), (scale, offset))


def gather_by_numpy(
    source: NDArray[Any],
    target: NDArray[Any],
    boxes: Boxes,
    scale: NDArray[Any] | None = None,
    offset: NDArray[Any] | None = None,
) -> None:
    """Copy boxes one by one; the same as `gather`, for which it is the measure."""
    rank = boxes.extents.shape[1]
    for corner, place, extent in zip(*(column.tolist() for column in boxes), strict=True):
        part = target[_box(place, extent)]
        part[...] = source[_box(corner, extent)]
        normalise(part, place[-rank], scale, offset)


def normalise(part: NDArray[Any], first_channel: int, scale: NDArray[Any] | None, offset: NDArray[Any] | None) -> None:
    """Turn voxels into `voxel * scale + offset`, in place.

    Parameters
    ----------
    part : array
        `C(Z)YX`, some channels of a batch.
    first_channel : int
        Which channel of the batch the first of these is.
    scale, offset : array, optional
        One value for each channel of the batch; nothing is done where there are none.
    """
    if scale is not None and offset is not None:
        channels = slice(first_channel, first_channel + len(part))
        column = (-1, *(1,) * (part.ndim - 1))
        part *= scale[channels].reshape(column)
        part += offset[channels].reshape(column)


def _box(first: list[int], extent: list[int]) -> tuple[int | slice, ...]:
    leading = len(first) - len(extent)
    window = (slice(start, start + size) for start, size in zip(first[leading:], extent, strict=True))
    return (*first[:leading], *window)


def _is_rows(source: NDArray[Any], target: NDArray[Any]) -> bool:
    """Whether both arrays consist of rows that a compiled loop can go through."""
    known = source.dtype.kind in _SOURCE_KINDS and source.dtype != np.float16
    known = known and (target.dtype == source.dtype or target.dtype in (np.float32, np.float64))
    return known and all(map(_has_rows, (source, target)))


def _has_rows(array: NDArray[Any]) -> bool:
    *steps, last = _steps(array)
    whole = array.flags.c_contiguous or (min(steps) >= 0 and last in (0, array.itemsize))
    whole = whole and all(step % array.itemsize == 0 for step in steps)
    return whole and array.flags.aligned and array.dtype.isnative and array.size > 0


def _steps(array: NDArray[Any]) -> list[int]:
    """Give the bytes from one voxel to the next along each axis; what it says of an axis of size 1 may be anything."""
    return [step if size > 1 else 0 for size, step in zip(array.shape, array.strides, strict=True)]


class _Rows(NamedTuple):
    """An array as the rows of its boxes."""

    memory: NDArray[Any]
    """Everything from its first element to its last, as one row."""
    starts: NDArray[np.int64]
    """Where in it each box begins."""
    strides: tuple[int, int, int]
    """How far one channel, slice and row lies from the next."""


def _rows(array: NDArray[Any], first: NDArray[np.int64], rank: int) -> _Rows:
    strides = [step // array.itemsize for step in _steps(array)]
    if array.flags.c_contiguous:
        memory = array.reshape(-1)
    else:
        last = sum((size - 1) * stride for size, stride in zip(array.shape, strides, strict=True))
        memory = np.lib.stride_tricks.as_strided(array, (last + 1,), (array.itemsize,))
    return _Rows(memory, first @ np.array(strides), (strides[-rank], strides[-3], strides[-2]))


def _with_slices(extents: NDArray[np.int64]) -> NDArray[np.int64]:
    """Extents along `CZYX`: in 2D there is one slice."""
    whole = np.ones((len(extents), 4), np.int64)
    whole[:, 0], whole[:, 5 - extents.shape[1] :] = extents[:, 0], extents[:, 1:]
    return whole


@cache
def _compiled(kernel: Callable[..., None]) -> Callable[..., None] | None:
    """Compile a loop, which is kept on disk for the next process; None where numba is not there or does not load."""
    try:
        numba = require("numba", extra="speed")
    except ImportError:
        return None
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # there is no folder that it could be kept in
        compiled = numba.njit(nogil=True)(kernel)
    return compiled


# What does not change is taken out of the loops by hand, which gains a quarter of the time. Voxels are addressed by unsigned numbers: a signed one could be negative, which the compiled loop would have to look out
# for at every voxel, and then it would not use vector instructions.


def _copy_rows(source: Any, target: Any, extents: Any) -> None:
    pixels, batch = source.memory, target.memory
    row_step, place_step = _UNSIGNED(source.strides[2]), _UNSIGNED(target.strides[2])
    for box in range(extents.shape[0]):
        n_rows, width = extents[box, 2], _UNSIGNED(extents[box, 3])
        for channel in range(extents[box, 0]):
            for section in range(extents[box, 1]):
                start = _UNSIGNED(source.starts[box] + channel * source.strides[0] + section * source.strides[1])
                place = _UNSIGNED(target.starts[box] + channel * target.strides[0] + section * target.strides[1])
                for _ in range(n_rows):
                    for x in range(width):
                        batch[place + x] = pixels[start + x]
                    start += row_step
                    place += place_step


def _normalise_rows(source: Any, target: Any, extents: Any, first_channels: Any, normalisation: Any) -> None:
    pixels, batch = source.memory, target.memory
    row_step, place_step = _UNSIGNED(source.strides[2]), _UNSIGNED(target.strides[2])
    for box in range(extents.shape[0]):
        n_rows, width = extents[box, 2], _UNSIGNED(extents[box, 3])
        for channel in range(extents[box, 0]):
            scale = normalisation[0][first_channels[box] + channel]
            offset = normalisation[1][first_channels[box] + channel]
            for section in range(extents[box, 1]):
                start = _UNSIGNED(source.starts[box] + channel * source.strides[0] + section * source.strides[1])
                place = _UNSIGNED(target.starts[box] + channel * target.strides[0] + section * target.strides[1])
                for _ in range(n_rows):
                    for x in range(width):
                        batch[place + x] = batch.dtype.type(pixels[start + x]) * scale + offset
                    start += row_step
                    place += place_step
