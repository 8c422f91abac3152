"""From padded windows to boxes of the image that are read for a batch of patches.

A window inside its image is read directly into its place in the batch. A window across the border of the image consists of a few
boxes (one along an axis that is mirrored, two along an axis that wraps around). They are read into a small array, next to each
other, and the window is picked from it by position. Either way all boxes of one stack are read together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.box_reads import BoxReads, ReadBoxes
from patchloom.extraction.gather import Boxes, gather_boxes, rescale_parts
from patchloom.extraction.rescaling import Rescaling
from patchloom.geometry.padding import AxisSource, Padding, axis_source, source_runs
from patchloom.image_stacks import ImageStack

_MANY_RUNS = 8
"""An axis with more runs than this is filled voxel by voxel."""


class Windows(NamedTuple):
    """Windows of one image stack, all of one size, which may reach beyond the image."""

    corners: NDArray[np.int64]
    """`(n, axes)`, `SC(Z)YX`: first voxel of a window; it may be negative along the spatial axes."""

    extent: tuple[int, ...]
    """Size of each window along `C(Z)YX`."""

    places: NDArray[np.int64]
    """`(n, axes)`: place of the first voxel in the batch, `(B, C, (Z), Y, X)`."""

    def boxes(self) -> Boxes:
        """Return windows inside the image as boxes."""
        extents = np.empty((len(self.corners), len(self.extent)), np.int64)
        extents[:] = self.extent
        return Boxes(self.corners, self.places, extents)


class AxisPick(NamedTuple):
    """The voxels that make up a window along one axis."""

    inside: slice
    """The part of the window that is filled from the image; the rest is 0."""

    positions: NDArray[np.intp]
    """For each voxel of that part, its position among the voxels in memory."""


class PaddedWindow(NamedTuple):
    """A window of a padded image, and the voxels in memory that it is picked from."""

    pixels: NDArray[Any]
    """The voxels that it needs, `C(Z)YX`, and possibly others."""

    picks: Sequence[AxisPick]
    """For each spatial axis, which of the voxels go where."""

    target: NDArray[Any]
    """The window, `C(Z)YX`."""

    place: tuple[int, int]
    """Row and first channel of the window in the batch."""

    def fill(self) -> None:
        """Fill the window; runs of voxels are copied as boxes, forwards or backwards."""
        pixels = self.pixels
        runs = []
        for axis, (_, positions) in enumerate(self.picks, start=1):
            of_axis = source_runs(positions)
            if len(of_axis) > _MANY_RUNS:  # a window many times the size of the image
                pixels = pixels.take(positions, axis)
                of_axis = [(slice(0, len(positions)),) * 2]
            runs.append(of_axis)
        inside = self.target[(slice(None), *(pick.inside for pick in self.picks))]
        if inside.shape != self.target.shape:
            self.target[...] = 0
        for box in itertools.product(*runs):
            to, of = zip(*box, strict=True)
            inside[(slice(None), *to)] = pixels[(slice(None), *of)]


def read_windows(
    stack: ImageStack,
    windows: Windows,
    batch: NDArray[Any],
    read_boxes: ReadBoxes,
    *,
    padding: Padding,
    rescaling: Rescaling | None,
) -> None:
    """Fill a batch with windows of a padded image stack; all boxes are read together.

    Parameters
    ----------
    stack : ImageStack
        The image.
    windows : Windows
        The windows, and their places in the batch.
    batch : array
        `(B, C, (Z), Y, X)`, to be filled.
    read_boxes : callable
        Reads boxes of the stack.
    padding : {"constant", "reflect", "edge", "wrap"}
        How pixels outside the image are filled.
    rescaling : Rescaling, optional
        For the batch; from `Rescaling.astype`.

    Raises
    ------
    SourceError
        If pixels cannot be read.
    """
    inside, outside = _divide(windows, stack.data_shape)
    reads = [BoxReads(inside.boxes(), batch, rescaling)] if len(inside.corners) else []
    padded: list[PaddedWindow] = []
    if len(outside.corners):
        sources = _axis_sources(outside, stack.data_shape, padding)
        padded, staged = _staged_windows(outside, sources, batch, stack.data_dtype)
        reads.append(BoxReads(_boxes_of_runs(outside, sources), staged))
    read_boxes(reads)
    _fill(padded, rescaling)


def pick_windows(
    pixels: NDArray[Any],
    windows: Windows,
    batch: NDArray[Any],
    *,
    padding: Padding,
    rescaling: Rescaling | None,
) -> None:
    """Fill a batch with windows of a padded image that is in memory.

    Parameters
    ----------
    pixels : array
        The image, `SC(Z)YX`.
    windows, batch, padding, rescaling
        As for `read_windows`.
    """
    inside, outside = _divide(windows, pixels.shape)
    if len(inside.corners):
        gather_boxes(pixels, batch, inside.boxes(), rescaling)
    if len(outside.corners):
        _fill(_windows_of_pixels(pixels, outside, batch, padding), rescaling)


def _fill(padded: Iterable[PaddedWindow], rescaling: Rescaling | None) -> None:
    for window in padded:
        window.fill()
        if rescaling is not None:
            rescale_parts([window.target], np.array([window.place]), rescaling)


def _divide(windows: Windows, shape: Sequence[int]) -> tuple[Windows, Windows]:
    """Divide windows into those inside the image and the others."""
    first = windows.corners[:, 2:].view(np.uint64)  # a negative one is very large
    room = np.array([max(size - side + 1, 0) for size, side in zip(shape[2:], windows.extent[1:], strict=True)])
    fits = first < room.view(np.uint64)
    if fits.all():
        return windows, _chosen(windows, slice(0))
    is_inside = np.all(fits, axis=1)
    return _chosen(windows, is_inside), _chosen(windows, ~is_inside)


def _chosen(windows: Windows, chosen: NDArray[np.bool_] | slice) -> Windows:
    return Windows(windows.corners[chosen], windows.extent, windows.places[chosen])


def _axis_sources(windows: Windows, shape: Sequence[int], padding: Padding) -> list[list[AxisSource]]:
    """Return for each window and spatial axis the voxels of the image that it consists of."""
    sizes = list(zip(windows.extent[1:], shape[2:], strict=True))
    return [
        [axis_source(start, *size, padding) for start, size in zip(corner, sizes, strict=True)]
        for corner in windows.corners[:, 2:].tolist()
    ]


def _staged_windows(
    windows: Windows, sources: Sequence[Sequence[AxisSource]], batch: NDArray[Any], dtype: np.dtype[Any]
) -> tuple[list[PaddedWindow], NDArray[Any]]:
    """Return the windows, and the array that they are picked from once it is filled."""
    n_channels = windows.extent[0]
    shapes = [[sum(stop - start for start, stop in axis.runs) for axis in axes] for axes in sources]
    staged = np.empty((len(sources), n_channels, *map(max, zip(*shapes, strict=True))), dtype)
    padded = []
    for read, axes, shape, (row, channel, *_) in zip(staged, sources, shapes, windows.places.tolist(), strict=True):
        target = batch[row, channel : channel + n_channels]
        picks = [AxisPick(axis.inside, axis.positions) for axis in axes]
        padded.append(PaddedWindow(read[(slice(None), *map(slice, shape))], picks, target, (row, channel)))
    return padded, staged


def _windows_of_pixels(
    pixels: NDArray[Any], windows: Windows, batch: NDArray[Any], padding: Padding
) -> Iterator[PaddedWindow]:
    n_channels = windows.extent[0]
    places = zip(windows.corners.tolist(), windows.places.tolist(), strict=True)
    sources = _axis_sources(windows, pixels.shape, padding)
    for ((sample, channel, *_), (row, target_channel, *_)), axes in zip(places, sources, strict=True):
        first = [axis.runs[0][0] if axis.runs else 0 for axis in axes]
        last = [axis.runs[-1][1] if axis.runs else 0 for axis in axes]
        picks = [AxisPick(axis.inside, axis.indices - start) for axis, start in zip(axes, first, strict=True)]
        region = pixels[(sample, slice(channel, channel + n_channels), *map(slice, first, last))]
        target = batch[row, target_channel : target_channel + n_channels]
        yield PaddedWindow(region, picks, target, (row, target_channel))


def _boxes_of_runs(windows: Windows, sources: Sequence[Sequence[AxisSource]]) -> Boxes:
    """Return the boxes of all windows: from the image to the array that windows are picked from, one row for each window."""
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
    """Return each run of the image as its start, its position among the voxels read, and its size."""
    places = itertools.accumulate((stop - start for start, stop in runs), initial=0)
    return [(start, place, stop - start) for (start, stop), place in zip(runs, places, strict=False)]
