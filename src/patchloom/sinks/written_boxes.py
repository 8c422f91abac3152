"""Which parts of an image are written, for sinks that take blocks of any size."""

from __future__ import annotations

import numpy as np

from patchloom.errors import SinkError
from patchloom.sinks.region import show


class WrittenBoxes:
    """Boxes of which no two share a voxel.

    Each new one is compared with all before it: a few microseconds for a thousand of them.

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
        """Check that no voxel of a region is in a box.

        Raises
        ------
        SinkError
            If one is; the message has the box.
        """
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

    def add(self, region: tuple[slice, ...]) -> None:
        """Add a box that is free."""
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
            raise SinkError(f"{size - self.volume} of {size} voxels were never written: the image is not complete")
