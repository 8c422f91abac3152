"""A test suite for image stacks, to inherit."""

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
    """Tests for an image stack. Inherit it in a class that pytest collects, and define how a stack is made.

    Use an image of random values, with several samples and channels if the source can contain them, and with several chunks if
    the source has chunks.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> class TestMovie(ImageStackConformance):
    ...     def make_stack(self, folder):
    ...         movie = np.random.default_rng(0).integers(0, 65535, (5, 40, 30, 2), dtype="uint16")
    ...         return ArrayStack(movie, axes="TYXC"), movie.transpose(0, 3, 1, 2)
    >>> TestMovie().test_random_patches(Path("unused"))
    """

    def make_stack(self, folder: Path) -> tuple[ImageStack, NDArray[Any]]:
        """Return a stack (of a file in the folder, if it reads files) and the whole image as `SC(Z)YX`."""
        raise NotImplementedError

    def test_protocol(self, tmp_path: Path) -> None:
        """The stack has the members of the protocol; its shape, dtype and axes are those of the image, as plain numbers."""
        stack, image = self.make_stack(tmp_path)
        np.testing.assert_equal(isinstance(stack, ImageStack), desired=True, err_msg="a member is missing")
        np.testing.assert_equal(tuple(stack.data_shape), image.shape)
        np.testing.assert_equal(np.dtype(stack.data_dtype), image.dtype)
        own = AxesMap(stack.original_axes, tuple(stack.original_data_shape))
        np.testing.assert_equal(own.data_shape, image.shape)
        np.testing.assert_equal({type(size) for size in (*stack.data_shape, *stack.original_data_shape)}, {int})

    def test_random_patches(self, tmp_path: Path) -> None:
        """Random patches equal the image bit for bit, in the dtype of the source; pixels outside the image are 0."""
        stack, image = self.make_stack(tmp_path)
        for wanted in _random_patches(image.shape, reach=7, n_patches=40):
            patch = stack.extract_patch(*wanted)
            np.testing.assert_equal(patch.dtype, image.dtype)
            np.testing.assert_array_equal(patch, _cut(image, wanted), str(wanted))

    def test_whole_samples(self, tmp_path: Path) -> None:
        """Whole samples equal the image."""
        stack, image = self.make_stack(tmp_path)
        for sample_idx, sample in enumerate(image):
            whole = stack.extract_patch(sample_idx, None, [0] * (image.ndim - 2), image.shape[2:])
            np.testing.assert_array_equal(whole, sample)

    def test_pixels(self, tmp_path: Path) -> None:
        """If the stack has its pixels in memory, they equal the image."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HoldsPixels) and stack.pixels is not None:
            np.testing.assert_array_equal(stack.pixels, image)

    def test_channels(self, tmp_path: Path) -> None:
        """Channels can be read in any order, and one channel twice."""
        stack, image = self.make_stack(tmp_path)
        origin, size = [0] * (image.ndim - 2), [1] * (image.ndim - 3) + [image.shape[-1]]
        backwards = list(range(image.shape[1]))[::-1]
        for channels in (backwards, backwards[:1], [*backwards, *backwards]):
            wanted = _Patch(0, channels, origin, size)
            np.testing.assert_array_equal(stack.extract_patch(*wanted), _cut(image, wanted))

    def test_patches_outside(self, tmp_path: Path) -> None:
        """A patch outside the image, on either side, is 0."""
        stack, image = self.make_stack(tmp_path)
        size = [3] * (image.ndim - 2)
        for coords in ([-3] * len(size), list(image.shape[2:]), [-(10**6)] * len(size)):
            np.testing.assert_equal(stack.extract_patch(0, None, coords, size).any(), desired=False)

    def test_patches_are_copies(self, tmp_path: Path) -> None:
        """A caller can change a patch without changing the source or the next patch."""
        stack, image = self.make_stack(tmp_path)
        origin, size = [0] * (image.ndim - 2), image.shape[2:]
        stack.extract_patch(0, None, origin, size)[...] = 1
        np.testing.assert_array_equal(stack.extract_patch(0, None, origin, size), image[0])

    def test_pickle(self, tmp_path: Path) -> None:
        """A pickled stack reads the same patches, and its pickle does not contain pixels that were read."""
        stack, image = self.make_stack(tmp_path)
        fresh = pickle.dumps(stack)
        origin, size = [0] * (image.ndim - 2), image.shape[2:]
        for pickled in (fresh, None):
            stack.extract_patch(0, None, origin, size)
            pickled = pickled or pickle.dumps(stack)  # noqa: PLW2901  # the second is made after the first read
            np.testing.assert_array_less(len(pickled), len(fresh) + 256, "the pickle is larger after reading")
            again = pickle.loads(pickled)  # noqa: S301  # our own pickle
            np.testing.assert_equal(tuple(again.data_shape), image.shape)
            np.testing.assert_array_equal(again.extract_patch(0, None, origin, size), image[0])

    def test_threads(self, tmp_path: Path) -> None:
        """Several threads can read one stack at the same time."""
        stack, image = self.make_stack(tmp_path)
        patches = _random_patches(image.shape, reach=0, n_patches=40)
        with ThreadPoolExecutor(4) as threads:
            for wanted, patch in zip(patches, threads.map(lambda p: stack.extract_patch(*p), patches), strict=True):
                np.testing.assert_array_equal(patch, _cut(image, wanted))

    def test_regions(self, tmp_path: Path) -> None:
        """If the stack reads regions, they equal the image, also in arrays of other dtypes and memory orders."""
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

    def test_missing_voxels_are_refused(self, tmp_path: Path) -> None:
        """Samples, channels and dimensions that the image does not have are refused."""
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

    def test_storage_grid(self, tmp_path: Path) -> None:
        """If the stack has a storage grid, chunks fit into shards, and shards into the image."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HasStorageGrid):
            np.testing.assert_array_less(0, stack.chunk_shape)
            np.testing.assert_array_less(stack.chunk_shape, np.add(stack.shard_shape, 1))
            np.testing.assert_array_less(stack.shard_shape, np.add(image.shape, 1))
            np.testing.assert_equal([len(stack.chunk_shape), len(stack.shard_shape)], [image.ndim] * 2)

    def test_metadata(self, tmp_path: Path) -> None:
        """If the stack has metadata, sizes belong to axes of the image, and names and colors to its channels."""
        stack, image = self.make_stack(tmp_path)
        if isinstance(stack, HasMetadata):
            metadata = stack.metadata
            np.testing.assert_equal(set(metadata.units) - set(metadata.voxel_size), set())
            np.testing.assert_equal(set(metadata.voxel_size) - (set(stack.original_axes) & set("TZYX")), set())
            for one_a_channel in (metadata.channel_names, metadata.channel_colors):
                np.testing.assert_equal(len(one_a_channel), image.shape[1] if one_a_channel else 0)


class _Patch(NamedTuple):
    sample_idx: int
    channels: Sequence[int]
    coords: Sequence[int]
    patch_size: Sequence[int]


def _random_patches(shape: Sequence[int], *, reach: int, n_patches: int) -> list[_Patch]:
    """Return random patches that begin inside the image, or at most `reach` voxels before it."""
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
    """Shorten a patch to its part inside the image."""
    limits = zip(wanted.coords, wanted.patch_size, shape[2:], strict=True)
    return wanted._replace(patch_size=[min(size, limit - start) for start, size, limit in limits])


def _cut(image: NDArray[Any], wanted: _Patch) -> NDArray[Any]:
    """Cut a patch out of the whole image, voxel by voxel as defined."""
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
