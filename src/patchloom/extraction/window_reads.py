"""From padded windows to boxes of the image: what to read for a batch of patches, and where it goes.

A window that lies inside its image is read straight into its place in the batch. One that passes the image's end is made
of a few boxes (a mirror needs one, a wrap around two an axis): they are read side by side into a small array, from which
the window is then picked by position. Either way all boxes of a batch are read together, a stack at a time.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.padding import Padding, axis_source
from patchloom.image_stacks import ImageStack, ReadsRegions, Region


class Window(NamedTuple):
    """One window to fill: some channels of one sample, possibly passing the image's end."""

    data_idx: int
    sample_idx: int
    channels: slice
    coords: Sequence[int]
    target: NDArray[Any]
    """`C(Z)YX` array that the window is written to; its shape is the window's size."""


class _Read(NamedTuple):
    region: Region
    target: NDArray[Any]


class _PaddedWindow(NamedTuple):
    """A window that is picked from boxes read side by side."""

    boxes: NDArray[Any]
    """The boxes read, `C(Z)YX`, as one array."""
    positions: tuple[NDArray[np.intp], ...]
    """For each spatial axis, which voxel of `boxes` goes where."""
    target: NDArray[Any]
    """The part of the window that has a source."""

    def fill(self) -> None:
        """Pick the window from its boxes."""
        self.target[...] = self.boxes[np.ix_(np.arange(len(self.boxes)), *self.positions)]


def read_windows(stacks: Sequence[ImageStack], windows: Iterable[Window], padding: Padding) -> None:
    """Fill windows of the padded images, all reads of one stack issued together.

    Raises
    ------
    SourceError
        If pixels cannot be read.
    """
    reads: dict[int, list[_Read]] = defaultdict(list)
    padded: list[_PaddedWindow] = []
    for window in windows:
        spatial_shape = stacks[window.data_idx].data_shape[2:]
        stops = [start + size for start, size in zip(window.coords, window.target.shape[1:], strict=True)]
        if min(window.coords) >= 0 and all(stop <= limit for stop, limit in zip(stops, spatial_shape, strict=True)):
            box = tuple(map(slice, window.coords, stops))
            reads[window.data_idx].append(_Read(Region(window.sample_idx, window.channels, box), window.target))
        else:
            boxes, needed = _padded_window(window, spatial_shape, stacks[window.data_idx].data_dtype, padding)
            padded.append(boxes)
            reads[window.data_idx].extend(needed)
    for data_idx, stack_reads in reads.items():
        _read_regions(stacks[data_idx], stack_reads)
    for window_boxes in padded:
        window_boxes.fill()


def _padded_window(
    window: Window, spatial_shape: Sequence[int], dtype: Any, padding: Padding
) -> tuple[_PaddedWindow, list[_Read]]:
    sizes = window.target.shape[1:]
    sources = [
        axis_source(start, size, limit, padding)
        for start, size, limit in zip(window.coords, sizes, spatial_shape, strict=True)
    ]
    if padding == "constant":
        window.target[...] = 0
    boxes = np.empty(
        (len(window.target), *(sum(stop - start for start, stop in source.runs) for source in sources)), dtype
    )
    reads = []
    for runs in itertools.product(*(_numbered_runs(source.runs) for source in sources)):
        region = Region(window.sample_idx, window.channels, tuple(box for box, _ in runs))
        reads.append(_Read(region, boxes[(slice(None), *(place for _, place in runs))]))
    target = window.target[(slice(None), *(source.inside for source in sources))]
    return _PaddedWindow(boxes, tuple(source.positions for source in sources), target), reads


def _numbered_runs(runs: Iterable[tuple[int, int]]) -> Iterable[tuple[slice, slice]]:
    """Each run of the image beside its place among the voxels read."""
    place = 0
    for start, stop in runs:
        yield slice(start, stop), slice(place, place + stop - start)
        place += stop - start


def _read_regions(stack: ImageStack, reads: Sequence[_Read]) -> None:
    if isinstance(stack, ReadsRegions):
        stack.read_regions([read.region for read in reads], [read.target for read in reads])
        return
    for region, target in reads:
        coords = [part.start for part in region.window]
        sizes = [part.stop - part.start for part in region.window]
        channels = range(region.channels.start, region.channels.stop)
        target[...] = stack.extract_patch(region.sample_idx, list(channels), coords, sizes)
