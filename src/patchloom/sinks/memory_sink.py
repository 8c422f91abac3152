"""A sink that is an array in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks.region import check_block, show


class MemorySink:
    """An `ImageSink` that keeps the image in memory and hands it over in its own axes.

    Any region may be written, whatever its start, as long as it meets no region written before.

    Parameters
    ----------
    axes_map : AxesMap
        The axes and shape that the image is to have in the end.
    dtype : dtype-like
        The dtype stored.

    Notes
    -----
    Each `write` is compared with all regions before it: a few microseconds for a thousand of them.

    Examples
    --------
    >>> sink = MemorySink(AxesMap("YXC", (2, 4, 3)), "uint8")
    >>> sink.data_shape
    (1, 3, 2, 4)
    >>> sink.write((slice(0, 1), slice(0, 3), slice(0, 2), slice(0, 4)), np.ones((1, 3, 2, 4), "uint8"))
    >>> sink.finalise().shape
    (2, 4, 3)
    """

    def __init__(self, axes_map: AxesMap, dtype: DTypeLike) -> None:
        self.axes_map = axes_map
        self.data_shape = axes_map.data_shape
        self.data_dtype = np.dtype(dtype)
        self._data: NDArray[Any] | None = np.empty(self.data_shape, self.data_dtype)
        self._boxes = _DisjointBoxes(len(self.data_shape))

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write one block; see `ImageSink.write`."""
        data = self._open_data()
        check_block(region, block, self.data_shape, self.data_dtype)
        self._boxes.add(region)
        data[region] = block

    def finalise(self) -> NDArray[Any]:
        """Give the image in its own axes, contiguous; see `ImageSink.finalise`."""
        data = self._open_data()
        missing = data.size - self._boxes.volume
        if missing:
            raise SinkError(f"{missing} of {data.size} voxels were never written: the image is not complete")
        self._data = None
        return np.ascontiguousarray(self.axes_map.from_data(data))

    def abort(self) -> None:
        """Let go of the memory; see `ImageSink.abort`."""
        self._data = None

    def _open_data(self) -> NDArray[Any]:
        if self._data is None:
            raise SinkError("the sink is closed: finalise or abort was called")
        return self._data


class _DisjointBoxes:
    """Boxes of which no two share a voxel."""

    def __init__(self, n_axes: int) -> None:
        self.count = 0
        self.volume = 0
        self._starts = np.empty((n_axes, 64), np.int64)
        self._stops = np.empty((n_axes, 64), np.int64)

    def add(self, region: tuple[slice, ...]) -> None:
        """Add a box, or say which earlier one it meets."""
        meets = np.ones(self.count, bool)
        for part, starts, stops in zip(region, self._starts, self._stops, strict=True):
            meets &= (starts[: self.count] < part.stop) & (stops[: self.count] > part.start)
        if meets.any():
            earlier = int(np.flatnonzero(meets)[0])
            bounds = zip(self._starts[:, earlier].tolist(), self._stops[:, earlier].tolist(), strict=True)
            raise SinkError(
                f"region {show(region)} meets one that was written already, "
                f"{show(tuple(slice(*pair) for pair in bounds))}: each voxel is written once"
            )
        if self.count == self._starts.shape[1]:
            self._starts = np.tile(self._starts, 2)
            self._stops = np.tile(self._stops, 2)
        self._starts[:, self.count] = [part.start for part in region]
        self._stops[:, self.count] = [part.stop for part in region]
        self.count += 1
        self.volume += int(np.prod([part.stop - part.start for part in region], dtype=np.int64))
