"""From padded windows to boxes of the image: what to read for a batch of patches, and where it goes.

A window that lies inside its image is read straight into its place in the batch. One that passes the image's end is made
of a few boxes (a mirror needs one, a wrap around two an axis): they are read side by side into a small array, from which
the window is then picked by position. Either way all boxes of one stack are read together.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.box_reads import BoxReads, ReadBoxes
from patchloom.extraction.gather import Boxes, normalise
from patchloom.geometry.padding import AxisSource, Padding, axis_source
from patchloom.image_stacks import ImageStack


class Windows(NamedTuple):
    """Windows of one image stack, all of one size, that may pass the image's end."""

    corners: NDArray[np.int64]
    """`(n, axes)`, `SC(Z)YX`: the first voxel inside, which may be negative along the spatial axes."""

    extent: tuple[int, ...]
    """`C(Z)YX`."""

    places: NDArray[np.int64]
    """`(n, axes)`: where the first voxel goes in the batch, `(N, C, (Z), Y, X)`."""


class Normalisation(NamedTuple):
    """What becomes of the voxels of a batch: `voxel * scale + offset`, one number a channel, in the batch's dtype."""

    scale: NDArray[Any]
    offset: NDArray[Any]


class _PaddedWindow(NamedTuple):
    """A window that is picked from boxes read side by side."""

    boxes: NDArray[Any]
    """The boxes read, `C(Z)YX`, as one array."""
    sources: Sequence[AxisSource]
    """For each spatial axis, which voxel of `boxes` goes where."""
    target: NDArray[Any]
    """The window."""
    first_channel: int
    """Which channel of the batch its first one is."""

    def fill(self) -> None:
        """Pick the window from its boxes."""
        pixels = self.boxes
        for axis, source in enumerate(self.sources, start=1):
            if not np.array_equal(source.positions, np.arange(pixels.shape[axis])):
                pixels = pixels.take(source.positions, axis)
        inside = (slice(None), *(source.inside for source in self.sources))
        if self.target[inside].shape != self.target.shape:
            self.target[...] = 0
        self.target[inside] = pixels


def read_windows(
    stack: ImageStack,
    windows: Windows,
    batch: NDArray[Any],
    read_boxes: ReadBoxes,
    *,
    padding: Padding,
    normalisation: Normalisation | None,
) -> None:
    """Fill windows of a padded image stack, all of its boxes read together.

    Parameters
    ----------
    stack : ImageStack
        The image.
    windows : Windows
        What to read, and where it goes.
    batch : array
        `(N, C, (Z), Y, X)`, to be filled.
    read_boxes : callable
        Reads boxes of the stack.
    padding : {"constant", "reflect", "edge", "wrap"}
        What stands outside.
    normalisation : Normalisation, optional
        What becomes of the voxels.

    Raises
    ------
    SourceError
        If pixels cannot be read.
    """
    inside = _lie_inside(windows, stack.data_shape)
    reads: list[BoxReads] = []
    padded: list[_PaddedWindow] = []
    if inside.any():
        chosen = slice(None) if inside.all() else inside
        corners, places = windows.corners[chosen], windows.places[chosen]
        extents = np.empty((len(corners), len(windows.extent)), np.int64)
        extents[:] = windows.extent
        reads.append(BoxReads(Boxes(corners, places, extents), batch, *(normalisation or ())))
    if not inside.all():
        outside = Windows(windows.corners[~inside], windows.extent, windows.places[~inside])
        padded, boxes = _padded_windows(stack, outside, batch, padding)
        reads.append(boxes)
    read_boxes(reads)
    for window in padded:
        window.fill()
        normalise(window.target, window.first_channel, *(normalisation or (None, None)))


def _lie_inside(windows: Windows, shape: Sequence[int]) -> NDArray[np.bool_]:
    first = windows.corners[:, 2:]
    highest = np.array(shape[2:]) - windows.extent[1:]
    inside: NDArray[np.bool_] = np.all((first >= 0) & (first <= highest), axis=1)
    return inside


def _padded_windows(
    stack: ImageStack, windows: Windows, batch: NDArray[Any], padding: Padding
) -> tuple[list[_PaddedWindow], BoxReads]:
    channels, *size = windows.extent
    sources = [
        [axis_source(*axis, padding) for axis in zip(corner, size, stack.data_shape[2:], strict=True)]
        for corner in windows.corners[:, 2:].tolist()
    ]
    shapes = np.array([[sum(stop - start for start, stop in axis.runs) for axis in axes] for axes in sources])
    staged = np.empty((len(sources), channels, *shapes.max(axis=0).tolist()), stack.data_dtype)
    padded = []
    for boxes, axes, extent, (place, channel, *_) in zip(
        staged, sources, shapes.tolist(), windows.places.tolist(), strict=True
    ):
        read = boxes[(slice(None), *map(slice, extent))]
        padded.append(_PaddedWindow(read, axes, batch[place, channel : channel + channels], channel))
    return padded, BoxReads(_boxes_side_by_side(windows, sources), staged)


def _boxes_side_by_side(windows: Windows, sources: Sequence[Sequence[AxisSource]]) -> Boxes:
    """Boxes of all windows: from the image to where they lie beside each other, a row of the target for each window."""
    corners, places, extents = [], [], []
    for number, (axes, corner) in enumerate(zip(sources, windows.corners.tolist(), strict=True)):
        for runs in itertools.product(*(_numbered_runs(axis.runs) for axis in axes)):
            corners.append([*corner[:2], *(start for start, _, _ in runs)])
            places.append([number, 0, *(place for _, place, _ in runs)])
            extents.append([windows.extent[0], *(size for _, _, size in runs)])
    n_axes = windows.corners.shape[1]
    columns = zip((corners, places, extents), (n_axes, n_axes, n_axes - 1), strict=True)
    return Boxes(*(np.array(column, np.int64).reshape(-1, width) for column, width in columns))


def _numbered_runs(runs: Sequence[tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Each run of the image as its start, its place among the voxels read, and its size."""
    places = itertools.accumulate((stop - start for start, stop in runs), initial=0)
    return [(start, place, stop - start) for (start, stop), place in zip(runs, places, strict=False)]
