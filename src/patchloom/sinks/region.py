"""A block and the region it belongs to: checked before anything is written."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.axes import spatial_axes
from patchloom.errors import SinkError


def data_axes(n_axes: int) -> str:
    """Names of the axes of an image held as `SC(Z)YX`.

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
        What is to be written there.
    data_shape : tuple of int
        Shape of the image, `SC(Z)YX`.
    data_dtype : numpy dtype
        The image's dtype; the byte order may differ.

    Raises
    ------
    SinkError
        If the region is no box inside the image, or the block has another shape or dtype.
    """
    check_region(region, data_shape)
    if not isinstance(block, np.ndarray):
        raise SinkError(f"block is a {type(block).__name__}: it must be a NumPy array")
    shape = tuple(part.stop - part.start for part in region)
    if block.shape != shape:
        raise SinkError(f"block has shape {block.shape}, but its region has {shape}: {show(region)}")
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
        If it is no box inside the image.
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


def show(region: tuple[slice, ...]) -> str:
    """Write a region down for a message.

    Examples
    --------
    >>> show((slice(0, 1), slice(0, 2), slice(64, 128), slice(0, 64)))
    'S 0:1, C 0:2, Y 64:128, X 0:64'
    """
    parts = zip(data_axes(len(region)), region, strict=True)
    return ", ".join(f"{axis} {part.start}:{part.stop}" for axis, part in parts)


def _check_slices(region: Any, axes: str) -> None:
    if not isinstance(region, tuple) or not all(isinstance(part, slice) for part in region):
        raise SinkError(f"region is {shown(region)}: it must be a tuple of slices, one for each axis of {axes}")
    ends = [end for part in region for end in (part.start, part.stop) if end is not None]
    if not all(isinstance(end, (int, np.integer)) and not isinstance(end, bool) for end in ends):
        raise SinkError(f"region is {shown(region)}: each slice must start and stop at whole numbers")
