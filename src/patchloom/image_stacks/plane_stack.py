"""2D image stacks of the Z slices of a 3D stack, for 2D networks.

Z slices become samples, as times do: slice `z` of sample `s` is sample `s * Z + z`. `plane_position` returns the place of such a
sample in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks.derived_stack import DerivedStack, HasDerivedGrid
from patchloom.image_stacks.protocols import (
    HasStorageGrid,
    HoldsPixels,
    ImageStack,
    Region,
    read_regions,
)


def as_planes(stack: ImageStack) -> ImageStack:
    """Make a 2D stack of the Z slices of an image; a 2D image is returned unchanged.

    Parameters
    ----------
    stack : ImageStack
        The image. The new stack has a storage grid (`HasStorageGrid`) if this one has one.

    Returns
    -------
    ImageStack
        `data_shape` is `(S * Z, C, Y, X)`. Source, original axes and original shape are those of the image.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> planes = as_planes(ArrayStack(np.arange(12).reshape(3, 2, 2), axes="ZYX"))
    >>> planes.data_shape, planes.extract_patch(2, None, (0, 0), (2, 2)).tolist()
    ((3, 1, 2, 2), [[[8, 9], [10, 11]]])
    """
    if len(stack.data_shape) == 4:
        return stack
    return _StoredPlanes(stack) if isinstance(stack, HasStorageGrid) else _Planes(stack)


def whole_stack(stack: ImageStack) -> ImageStack:
    """Return the image that a stack of slices was made of; any other stack is returned unchanged.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> image = ArrayStack(np.zeros((3, 2, 2)), axes="ZYX")
    >>> whole_stack(as_planes(image)) is image, whole_stack(image) is image
    (True, True)
    """
    return stack.whole if isinstance(stack, _Planes) else stack


class PlanePosition(NamedTuple):
    """Place of a sample of a stack in its image."""

    sample_idx: int
    """Index of the sample of the image."""

    z: tuple[int, ...]
    """Index of the Z slice; empty if the stack is the image itself."""


def plane_position(stack: ImageStack, sample_idx: int) -> PlanePosition:
    """Find the place of a sample of a stack in the image that the stack was made of.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> movie = ArrayStack(np.zeros((2, 3, 4, 4)), axes="TZYX")
    >>> plane_position(as_planes(movie), 5), plane_position(movie, 1)
    (PlanePosition(sample_idx=1, z=(2,)), PlanePosition(sample_idx=1, z=()))
    """
    if not isinstance(stack, _Planes):
        return PlanePosition(sample_idx, ())
    sample, z = divmod(sample_idx, stack.n_planes)
    return PlanePosition(sample, (z,))


class _Planes(DerivedStack):
    """Z slices of an image stack; an `ImageStack` that `ReadsRegions`."""

    def __init__(self, whole: ImageStack) -> None:
        n_samples, n_channels, self.n_planes, *plane = map(int, whole.data_shape)
        super().__init__(whole, (n_samples * self.n_planes, n_channels, *plane))

    @property
    def pixels(self) -> NDArray[Any] | None:
        """See `HoldsPixels.pixels`: a view, so None if samples and slices cannot become one axis without a copy."""
        pixels = self.whole.pixels if isinstance(self.whole, HoldsPixels) else None
        if pixels is None:
            return None
        by_plane = np.moveaxis(pixels, 2, 1)
        if min(by_plane.shape[:2]) > 1 and by_plane.strides[0] != by_plane.strides[1] * self.n_planes:
            return None
        return by_plane.reshape(self.data_shape)

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch; see `ImageStack.extract_patch`."""
        sample, z = divmod(sample_idx, self.n_planes)
        return self.whole.extract_patch(sample, channels, (z, *coords), (1, *patch_size))[:, 0]

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions together; see `ReadsRegions.read_regions`."""
        runs = self._runs(regions)
        parts = [self._in_whole(regions[run.start], run.stop - run.start) for run in runs]
        targets = [
            out[run.start][:, np.newaxis]
            if run.stop - run.start == 1
            else np.empty((len(out[run.start]), run.stop - run.start, *out[run.start].shape[1:]), self.data_dtype)
            for run in runs
        ]
        read_regions(self.whole, parts, targets)
        for run, target in zip(runs, targets, strict=True):
            if run.stop - run.start > 1:
                for place, plane in enumerate(out[run]):
                    plane[...] = target[:, place]

    def _in_whole(self, region: Region, n_planes: int) -> Region:
        """Return the region of the image with some slices, of which the first is given."""
        sample, z = divmod(region.sample_idx, self.n_planes)
        return Region(sample, region.channels, (slice(z, z + n_planes), *region.window))

    def _runs(self, regions: Sequence[Region]) -> list[slice]:
        """Group regions that are read from the image as one."""
        return [slice(number, number + 1) for number in range(len(regions))]

    def __repr__(self) -> str:
        return f"{self.whole!r}, slice by slice"


class _StoredPlanes(HasDerivedGrid, _Planes):
    """The same, of a stack that has a storage grid."""

    def derived_box(self, box: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of a chunk or shard, with as many slices as follow each other in every box of the grid."""
        samples, channels, depth, *plane = box
        n_samples = int(self.whole.data_shape[0])
        if depth >= self.n_planes:
            together = min(samples, n_samples) * self.n_planes
        else:
            together = depth if n_samples == 1 else gcd(depth, self.n_planes)
        return (together, channels, *plane)

    def _runs(self, regions: Sequence[Region]) -> list[slice]:
        """Group consecutive slices, so that the chunks in which they lie are decoded once."""
        runs: list[slice] = []
        for number, region in enumerate(regions):
            before = regions[number - 1] if number else None
            follows = before is not None and region == before._replace(sample_idx=before.sample_idx + 1)
            if follows and region.sample_idx % self.n_planes:
                runs[-1] = slice(runs[-1].start, number + 1)
            else:
                runs.append(slice(number, number + 1))
        return runs
