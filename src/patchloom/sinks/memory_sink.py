"""A sink that keeps the image in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import instance
from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.pixel_arrays import pixel_dtype
from patchloom.sinks.regions import WrittenBoxes, check_block, check_region


class MemorySink:
    """An `ImageSink` that keeps the image in memory and returns it in its own axes.

    Regions may start anywhere, as long as they do not overlap. `buffer` returns the memory of a region, to be filled in place.
    If `T` is outside of `S`, or another axis is between them, samples cannot be stored one after the other, and `finalize`
    copies the image once.

    Parameters
    ----------
    axes_map : AxesMap
        The axes and shape of the finished image.
    dtype : dtype-like
        The dtype to store.

    Raises
    ------
    GeometryError
        If the dtype is not numeric.

    Examples
    --------
    >>> sink = MemorySink(AxesMap("YXC", (2, 4, 3)), "uint8")
    >>> sink.data_shape
    (1, 3, 2, 4)
    >>> sink.write((slice(0, 1), slice(0, 3), slice(0, 2), slice(0, 4)), np.ones((1, 3, 2, 4), "uint8"))
    >>> sink.finalize().shape
    (2, 4, 3)
    """

    def __init__(self, axes_map: AxesMap, dtype: DTypeLike) -> None:
        self.axes_map = instance("axes_map", axes_map, AxesMap, "such as AxesMap('YX', (64, 64))")
        self.data_shape = axes_map.data_shape
        self.data_dtype = pixel_dtype("dtype", dtype)
        self._image: NDArray[Any] | None = np.empty(axes_map.shape, self.data_dtype)
        data = axes_map.to_data(self._image)
        if not np.may_share_memory(data, self._image):
            self._image = None
        self._data: NDArray[Any] | None = data
        self._boxes = WrittenBoxes(len(self.data_shape))

    def buffer(self, region: tuple[slice, ...]) -> NDArray[Any]:
        """Return the memory of a region, to be filled and passed to `write`; see `HasBuffer.buffer`."""
        data = self._open_data()
        check_region(region, self.data_shape)
        self._boxes.check_free(region)
        return data[region]

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write one block; see `ImageSink.write`."""
        data = self._open_data()
        check_block(region, block, self.data_shape, self.data_dtype)
        self._boxes.check_free(region)
        if not _is_same_memory(data[region], block):
            data[region] = block
        self._boxes.add(region)

    def finalize(self) -> NDArray[Any]:
        """Return the image in its own axes, contiguous; see `ImageSink.finalize`."""
        data = self._open_data()
        self._boxes.check_complete(self.data_shape)
        image = self._image
        self._data = self._image = None
        return np.ascontiguousarray(self.axes_map.from_data(data)) if image is None else image

    def abort(self) -> None:
        """Release the memory; see `ImageSink.abort`."""
        self._data = self._image = None

    def _open_data(self) -> NDArray[Any]:
        if self._data is None:
            raise SinkError("the sink is closed, as finalize or abort was called: make a new one")
        return self._data


def _is_same_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two arrays of one shape are the same memory."""
    # The stride of an axis of size 1 has no meaning.
    steps = [
        tuple(step for step, size in zip(array.strides, array.shape, strict=True) if size > 1) for array in (one, other)
    ]
    return one.ctypes.data == other.ctypes.data and steps[0] == steps[1] and one.dtype == other.dtype
