"""Regions of an image that is written in blocks: checked, cut into boxes, and counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.axes import spatial_axes
from patchloom.errors import SinkError

Slices = tuple[slice, ...]
"""A region: one slice for each axis of `SC(Z)YX`, start and stop given."""


def data_axes(n_axes: int) -> str:
    """Return the names of the axes of an image `SC(Z)YX`.

    Examples
    --------
    >>> data_axes(4), data_axes(5)
    ('SCYX', 'SCZYX')
    """
    return "SC" + spatial_axes(n_axes - 2)


def check_block(
    region: tuple[slice, ...], block: NDArray[Any], data_shape: tuple[int, ...], data_dtype: np.dtype[Any]
) -> None:
    """Check that a region lies inside an image, and that a block fills it.

    Parameters
    ----------
    region : tuple of slice
        One slice for each axis of `SC(Z)YX`, start and stop given.
    block : array
        The values to be written there, `SC(Z)YX`.
    data_shape : tuple of int
        Shape of the image, `SC(Z)YX`.
    data_dtype : numpy dtype
        Dtype of the image. The byte order of the block may differ.

    Raises
    ------
    SinkError
        If the region is not a box inside the image, or the block has another shape or dtype.
    """
    check_region(region, data_shape)
    if not isinstance(block, np.ndarray):
        raise SinkError(f"block is a {type(block).__name__}: it must be a NumPy array")
    shape = tuple(part.stop - part.start for part in region)
    if block.shape != shape:
        raise SinkError(f"block has shape {block.shape}, but its region has {shape}: {shown_region(region)}")
    if block.dtype.newbyteorder("=") != data_dtype.newbyteorder("="):
        raise SinkError(f"block is {block.dtype}, but the sink stores {data_dtype}: convert it first")


def check_region(region: tuple[slice, ...], data_shape: tuple[int, ...]) -> None:
    """Check that a region lies inside an image.

    Parameters
    ----------
    region : tuple of slice
        One slice for each axis of `SC(Z)YX`, start and stop given.
    data_shape : tuple of int
        Shape of the image, `SC(Z)YX`.

    Raises
    ------
    SinkError
        If it is not a box inside the image.
    """
    axes = data_axes(len(data_shape))
    _check_slices(region, axes)
    if len(region) != len(data_shape):
        raise SinkError(
            f"region has {len(region)} slices: it must have one for each axis of {axes}, shape {data_shape}"
        )
    for axis, part, size in zip(axes, region, data_shape, strict=True):
        given = part.start is not None and part.stop is not None and part.step in (None, 1)
        if not given or not 0 <= part.start < part.stop <= size:
            raise SinkError(
                f"region is {shown(part)} along {axis}: it must be a window inside [0, {size}), start and stop given"
            )


def shown_region(region: tuple[slice, ...]) -> str:
    """Format a region for a message.

    Examples
    --------
    >>> shown_region((slice(0, 1), slice(0, 2), slice(64, 128), slice(0, 64)))
    'S 0:1, C 0:2, Y 64:128, X 0:64'
    """
    parts = zip(data_axes(len(region)), region, strict=True)
    return ", ".join(f"{axis} {part.start}:{part.stop}" for axis, part in parts)


def boxes(region: Slices, shape: Sequence[int]) -> Iterator[Slices]:
    """Cut a region into boxes of one shape, in raster order. The last box along an axis may be smaller.

    Examples
    --------
    >>> list(boxes((slice(4, 11),), (4,)))
    [(slice(4, 8, None),), (slice(8, 11, None),)]
    """
    return itertools.product(
        *(
            [slice(start, min(start + step, part.stop)) for start in range(part.start, part.stop, step)]
            for part, step in zip(region, shape, strict=True)
        )
    )


class WrittenBoxes:
    """The boxes of an image that are written, for sinks that take blocks of any size. No two of them share a voxel.

    Each new box is compared with all earlier ones, which takes a few microseconds for a thousand boxes.

    Parameters
    ----------
    n_axes : int
        Number of axes of the image.

    Examples
    --------
    >>> boxes = WrittenBoxes(4)
    >>> boxes.add((slice(0, 1), slice(0, 3), slice(0, 10), slice(0, 10)))
    >>> boxes.volume
    300
    """

    def __init__(self, n_axes: int) -> None:
        self.count = 0
        self.volume = 0
        self._starts = np.empty((n_axes, 64), np.int64)
        self._stops = np.empty((n_axes, 64), np.int64)

    def check_free(self, region: tuple[slice, ...]) -> None:
        """Check that a region does not overlap a written box.

        Raises
        ------
        SinkError
            If it does. The message contains both.
        """
        overlaps = np.ones(self.count, bool)
        for part, starts, stops in zip(region, self._starts, self._stops, strict=True):
            overlaps &= (starts[: self.count] < part.stop) & (stops[: self.count] > part.start)
        if overlaps.any():
            earlier = int(np.flatnonzero(overlaps)[0])
            bounds = zip(self._starts[:, earlier].tolist(), self._stops[:, earlier].tolist(), strict=True)
            raise SinkError(
                f"region {shown_region(region)} overlaps one that was written already, "
                f"{shown_region(tuple(slice(*pair) for pair in bounds))}: each voxel is written once"
            )

    def add(self, region: tuple[slice, ...]) -> None:
        """Add a box that does not overlap any other."""
        if self.count == self._starts.shape[1]:
            self._starts = np.tile(self._starts, 2)
            self._stops = np.tile(self._stops, 2)
        self._starts[:, self.count] = [part.start for part in region]
        self._stops[:, self.count] = [part.stop for part in region]
        self.count += 1
        self.volume += int(np.prod([part.stop - part.start for part in region], dtype=np.int64))

    def check_complete(self, data_shape: tuple[int, ...]) -> None:
        """Check that the boxes cover an image.

        Raises
        ------
        SinkError
            If voxels are missing.
        """
        size = int(np.prod(data_shape, dtype=np.int64))
        if self.volume != size:
            raise SinkError(
                f"{size - self.volume} of {size} voxels were never written: write the missing blocks before finalize"
            )


def _check_slices(region: Any, axes: str) -> None:
    if not isinstance(region, tuple) or not all(isinstance(part, slice) for part in region):
        raise SinkError(f"region is {shown(region)}: it must be a tuple of slices, one for each axis of {axes}")
    ends = [end for part in region for end in (part.start, part.stop) if end is not None]
    if not all(isinstance(end, (int, np.integer)) and not isinstance(end, bool) for end in ends):
        raise SinkError(f"region is {shown(region)}: each slice must start and stop at whole numbers")
