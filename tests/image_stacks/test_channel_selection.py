"""Some channels of an image stack: what is read, and that the others are not."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

import patchloom as pl
from patchloom.image_stacks import HasFiles, HasMetadata, HasStorageGrid, HoldsPixels, ImageStack, ReadsRegions, Region
from patchloom.image_stacks.channel_selection import select_channels


@pytest.fixture
def image(rng) -> np.ndarray:
    return rng.integers(0, 2**16, (2, 5, 30, 40), np.uint16)


@pytest.fixture(params=["array", "zarr"])
def stack(request, image, tmp_path) -> ImageStack:
    if request.param == "array":
        return pl.ArrayStack(image, axes="SCYX")
    path = tmp_path / "cells.ome.zarr"
    pl.predict(lambda batch: batch, image[0], path, axes="CYX", patch_size=(16, 16), progress=False)
    return pl.open_stacks(path)[0]


@pytest.mark.parametrize("channels", [[3], [4, 0, 1], [1, 2], range(5)])
def test_order(stack, image, channels):
    """Patches and regions have the chosen channels in order."""
    chosen = select_channels(stack, channels)

    assert isinstance(chosen, ImageStack)
    assert chosen.data_shape == (stack.data_shape[0], len(channels), 30, 40)
    expected = image[0, list(channels), 2:12, 5:25]
    np.testing.assert_array_equal(chosen.extract_patch(0, None, (2, 5), (10, 20)), expected)
    np.testing.assert_array_equal(chosen.extract_patch(0, [len(channels) - 1], (2, 5), (10, 20)), expected[-1:])
    batch = np.empty((1, len(channels), 10, 20), np.float32)
    np.testing.assert_array_equal(
        pl.PatchExtractor([chosen]).extract_batch(
            [{"data_idx": 0, "sample_idx": 0, "coords": (2, 5), "patch_size": (10, 20)}], out=batch
        )[0],
        expected,
    )


def test_part(stack, image):
    """A part of the chosen channels is read as a region."""
    chosen = select_channels(stack, [4, 0, 1, 3])
    out = np.empty((2, 5, 5), np.uint16)

    assert isinstance(chosen, ReadsRegions)
    chosen.read_regions([Region(0, slice(1, 3), (slice(0, 5), slice(3, 8)))], [out])

    np.testing.assert_array_equal(out, image[0, [0, 1], :5, 3:8])


def test_capabilities(stack, image):
    """A selection has the capabilities of the whole stack."""
    chosen = select_channels(stack, [1, 2])

    assert isinstance(chosen, HasStorageGrid) == isinstance(stack, HasStorageGrid)
    assert isinstance(chosen, HasMetadata)
    assert isinstance(chosen, HasFiles)
    assert isinstance(chosen, HoldsPixels)
    if isinstance(stack, pl.ArrayStack):
        np.testing.assert_array_equal(chosen.pixels, image[:, 1:3])
        assert np.shares_memory(chosen.pixels, image)
        for regular in ([2, 1], [4, 2, 0], [1, 3], [0]):
            np.testing.assert_array_equal(select_channels(stack, regular).pixels, image[:, regular])
        np.testing.assert_array_equal(select_channels(stack, [3, 3], repeats=True).pixels, image[:, [3, 3]])
        assert select_channels(stack, [2, 1, 3]).pixels is None
    else:
        assert chosen.pixels is None
        assert chosen.files == stack.files
        assert chosen.chunk_shape == (stack.chunk_shape[0], 1, *stack.chunk_shape[2:])
        assert chosen.metadata.voxel_size == stack.metadata.voxel_size


def test_all_channels(stack):
    """All channels in order are the stack itself."""
    assert select_channels(stack, range(5)) is stack


def test_pickle(stack, image):
    """A selection pickles."""
    chosen = pickle.loads(pickle.dumps(select_channels(stack, [3])))

    np.testing.assert_array_equal(chosen.extract_patch(0, None, (0, 0), (30, 40)), image[0, 3:4])


@pytest.mark.parametrize("channels", [[5], [-1], [], [1, 1], [1.0], [True]])
def test_bad_channels(stack, channels):
    """Missing and repeated channels are refused."""
    with pytest.raises(pl.GeometryError, match="channels"):
        select_channels(stack, channels)
    with pytest.raises(pl.GeometryError, match="channels"):
        select_channels(stack, [0, 1]).extract_patch(0, [2], (0, 0), (4, 4))
