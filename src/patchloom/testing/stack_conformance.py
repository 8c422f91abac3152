"""What every image stack must do, as a suite of tests to inherit."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import GeometryError
from patchloom.image_stacks import HasMetadata, HasStorageGrid, HoldsPixels, ImageStack, ReadsRegions, Region


class ImageStackConformance:
    """Tests for an image stack; inherit it in a class that pytest collects, and say how a stack is made.

    Give an image of random values that differ, of several samples and channels where the source can hold them, and cut
    into several chunks where it has any.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> class TestMovie(ImageStackConformance):
    ...     def make_stack(self, folder):
    ...         movie = np.random.default_rng(0).integers(0, 65535, (5, 40, 30, 2), dtype="uint16")
    ...         return ArrayStack(movie, axes="TYXC"), movie.transpose(0, 3, 1, 2)
    >>> TestMovie().test_random_patches_are_those_of_the_image(Path("unused"))
    """

    def make_stack(self, folder: Path) -> tuple[ImageStack, NDArray[Any]]:
        """Return a stack, over a file in the folder if it is one of files, and the whole image as `SC(Z)YX`."""
        raise NotImplementedError

    def test_the_stack_is_one(self, tmp_path: Path) -> None:
        """It has the members of the protocol, and shape, dtype and axes are the image's, in plain numbers."""
        stack, image = self.make_stack(tmp_path)
        np.testing.assert_equal(isinstance(stack, ImageStack), desired=True, err_msg="a member is missing")
        np.testing.assert_equal(tuple(stack.data_shape), image.shape)
        np.testing.assert_equal(np.dtype(stack.data_dtype), image.dtype)
        own = AxesMap(stack.original_axes, tuple(stack.original_data_shape))
        np.testing.assert_equal(own.data_shape, image.shape)
        np.testing.assert_equal({type(size) for size in (*stack.data_shape, *stack.original_data_shape)}, {int})

    def test_random_patches_are_those_of_the_image(self, tmp_path: Path) -> None:
        """Bit for bit, in the source's dtype; what lies outside the image is 0."""
        stack, image = self.make_stack(tmp_path)
        for wanted in _random_patches(image.shape, reach=7, n_patches=40):
            patch = stack.extract_patch(*wanted)
            np.testing.assert_equal(patch.dtype, image.dtype)
            np.testing.assert_array_equal(patch, _cut(image, wanted), str(wanted))

    def test_whole_samples_are_those_of_the_image(self, tmp_path: Path) -> None:
        """Every voxel can be read."""
        stack, image = self.make_stack(tmp_path)
        for sample_idx, sample in enumerate(image):
            whole = stack.extract_patch(sample_idx, None, [0] * (image.ndim - 2), image.shape[2:])
            np.testing.assert_array_equal(whole, sample)

    def test_pixels_in_memory_are_those_of_the_image(self, tmp_path: Path) -> None:
        """Where the stack holds them."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HoldsPixels) and stack.pixels is not None:
            np.testing.assert_array_equal(stack.pixels, image)

    def test_channels_come_as_asked_for(self, tmp_path: Path) -> None:
        """Some, in any order, or one twice."""
        stack, image = self.make_stack(tmp_path)
        origin, size = [0] * (image.ndim - 2), [1] * (image.ndim - 3) + [image.shape[-1]]
        backwards = list(range(image.shape[1]))[::-1]
        for channels in (backwards, backwards[:1], [*backwards, *backwards]):
            wanted = _Patch(0, channels, origin, size)
            np.testing.assert_array_equal(stack.extract_patch(*wanted), _cut(image, wanted))

    def test_a_patch_outside_the_image_is_zero(self, tmp_path: Path) -> None:
        """On either side."""
        stack, image = self.make_stack(tmp_path)
        size = [3] * (image.ndim - 2)
        for coords in ([-3] * len(size), list(image.shape[2:]), [-(10**6)] * len(size)):
            np.testing.assert_equal(stack.extract_patch(0, None, coords, size).any(), desired=False)

    def test_a_patch_is_the_callers(self, tmp_path: Path) -> None:
        """It can be changed, and that changes neither the source nor the next patch."""
        stack, image = self.make_stack(tmp_path)
        origin, size = [0] * (image.ndim - 2), image.shape[2:]
        stack.extract_patch(0, None, origin, size)[...] = 1
        np.testing.assert_array_equal(stack.extract_patch(0, None, origin, size), image[0])

    def test_a_pickled_stack_reads_the_same(self, tmp_path: Path) -> None:
        """Before and after something was read; and what was read does not travel along."""
        stack, image = self.make_stack(tmp_path)
        fresh = pickle.dumps(stack)
        origin, size = [0] * (image.ndim - 2), image.shape[2:]
        for pickled in (fresh, None):
            stack.extract_patch(0, None, origin, size)
            pickled = pickled or pickle.dumps(stack)  # noqa: PLW2901  # the second is made after the first read
            np.testing.assert_array_less(len(pickled), len(fresh) + 256, "reading makes the pickle larger")
            again = pickle.loads(pickled)  # noqa: S301  # our own
            np.testing.assert_equal(tuple(again.data_shape), image.shape)
            np.testing.assert_array_equal(again.extract_patch(0, None, origin, size), image[0])

    def test_threads_read_the_same(self, tmp_path: Path) -> None:
        """Several may read one stack at once."""
        stack, image = self.make_stack(tmp_path)
        patches = _random_patches(image.shape, reach=0, n_patches=40)
        with ThreadPoolExecutor(4) as threads:
            for wanted, patch in zip(patches, threads.map(lambda p: stack.extract_patch(*p), patches), strict=True):
                np.testing.assert_array_equal(patch, _cut(image, wanted))

    def test_regions_read_together_are_the_same(self, tmp_path: Path) -> None:
        """Into arrays of other dtypes and memory orders too, cast as by assignment; if the stack reads regions."""
        stack, image = self.make_stack(tmp_path)
        if not isinstance(stack, ReadsRegions):
            return
        for dtype in {image.dtype, np.dtype("float32"), np.dtype("float64")}:
            patches = [_inside(image.shape, wanted) for wanted in _random_patches(image.shape, reach=0, n_patches=20)]
            regions = [
                Region(wanted.sample_idx, slice(wanted.channels[0], wanted.channels[-1] + 1), _windows(wanted))
                for wanted in patches
            ]
            out = [np.empty(_cut(image, wanted).shape, dtype, order="F") for wanted in patches]
            stack.read_regions(regions, out)
            for wanted, read in zip(patches, out, strict=True):
                np.testing.assert_array_equal(read, _cut(image, wanted).astype(dtype), str(wanted))
        stack.read_regions([], [])

    def test_what_is_not_there_is_refused(self, tmp_path: Path) -> None:
        """Samples, channels and dimensions that the image does not have."""
        stack, image = self.make_stack(tmp_path)
        origin, size = [0] * (image.ndim - 2), [2] * (image.ndim - 2)
        wrong: list[tuple[int, Sequence[int] | None, Sequence[int], Sequence[int]]] = [
            (image.shape[0], None, origin, size),
            (-1, None, origin, size),
            (0, [image.shape[1]], origin, size),
            (0, [-1], origin, size),
            (0, None, origin[1:], size),
            (0, None, [*origin, 0], [*size, 2]),
            (0, None, origin, [*size[1:], 0]),
            (0, None, origin, [*size[1:], -1]),
        ]
        for arguments in wrong:
            with np.testing.assert_raises(GeometryError):
                stack.extract_patch(*arguments)

    def test_the_storage_grid_fits_the_image(self, tmp_path: Path) -> None:
        """A chunk is a box of a shard, and a shard of the image; if the stack knows of them."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HasStorageGrid):
            np.testing.assert_array_less(0, stack.chunk_shape)
            np.testing.assert_array_less(stack.chunk_shape, np.add(stack.shard_shape, 1))
            np.testing.assert_array_less(stack.shard_shape, np.add(image.shape, 1))
            np.testing.assert_equal([len(stack.chunk_shape), len(stack.shard_shape)], [image.ndim] * 2)

    def test_the_metadata_fit_the_image(self, tmp_path: Path) -> None:
        """Sizes are of axes that there are, and names and colors are as many as the channels; if the stack has any."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HasMetadata):
            told = stack.metadata
            np.testing.assert_equal(set(told.units) - set(told.voxel_size), set())
            np.testing.assert_equal(set(told.voxel_size) - (set(stack.original_axes) & set("TZYX")), set())
            for one_a_channel in (told.channel_names, told.channel_colors):
                np.testing.assert_equal(len(one_a_channel), image.shape[1] if one_a_channel else 0)


class _Patch(NamedTuple):
    sample_idx: int
    channels: Sequence[int]
    coords: Sequence[int]
    patch_size: Sequence[int]


def _random_patches(shape: Sequence[int], *, reach: int, n_patches: int) -> list[_Patch]:
    """Return random patches that begin at most `reach` voxels before the image, or inside of it."""
    rng = np.random.default_rng(20261122)
    patches = []
    for _ in range(n_patches):
        coords = [int(rng.integers(-reach, size)) for size in shape[2:]]
        sizes = [int(rng.integers(1, size + reach + 1)) for size in shape[2:]]
        first = int(rng.integers(shape[1]))
        channels = range(first, int(rng.integers(first, shape[1])) + 1)
        patches.append(_Patch(int(rng.integers(shape[0])), list(channels), coords, sizes))
    return patches


def _windows(wanted: _Patch) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(wanted.coords, wanted.patch_size, strict=True))


def _inside(shape: Sequence[int], wanted: _Patch) -> _Patch:
    """Shorten a patch to what lies in the image."""
    limits = zip(wanted.coords, wanted.patch_size, shape[2:], strict=True)
    return wanted._replace(patch_size=[min(size, limit - start) for start, size, limit in limits])


def _cut(image: NDArray[Any], wanted: _Patch) -> NDArray[Any]:
    """Cut a patch out of the whole image, voxel by voxel from the definition."""
    sample = image[wanted.sample_idx][list(wanted.channels)]
    inside = np.ones((), bool)
    positions = []
    for axis, (window, limit) in enumerate(zip(_windows(wanted), image.shape[2:], strict=True)):
        indices = np.arange(window.start, window.stop)
        shape = [-1 if axis == other else 1 for other in range(image.ndim - 2)]
        inside = inside & ((indices >= 0) & (indices < limit)).reshape(shape)
        positions.append(np.clip(indices, 0, limit - 1))
    cut = sample[np.ix_(np.arange(len(sample)), *positions)]
    return np.where(inside, cut, np.zeros((), image.dtype)).astype(image.dtype)
