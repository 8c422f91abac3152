"""Z slices as samples: every pixel is that of the image, and a chunk of many slices is decoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from pylibCZIrw import czi

from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import (
    ArrayStack,
    HasStorageGrid,
    HoldsPixels,
    as_planes,
    open_stacks,
    plane_position,
    whole_stack,
)
from patchloom.patching import TiledPatching
from patchloom.testing.stack_conformance import ImageStackConformance


def by_plane(data: np.ndarray) -> np.ndarray:
    """`SCZYX` as `(S * Z, C, Y, X)`, by NumPy alone."""
    return np.concatenate([np.moveaxis(sample, 1, 0) for sample in data])


class PlanesConformance(ImageStackConformance):
    def test_protocol(self, tmp_path: Path) -> None:
        """Its original axes are those of the image, so that they are not those of its own shape."""
        stack, image = self.make_stack(tmp_path)
        np.testing.assert_equal(tuple(stack.data_shape), image.shape)
        np.testing.assert_equal(np.dtype(stack.data_dtype), image.dtype)


class TestArrayThatFolds(PlanesConformance):
    def make_stack(self, folder: Path) -> Any:
        movie = np.random.default_rng(0).integers(0, 65535, (3, 4, 30, 20), np.uint16)
        stack = as_planes(ArrayStack(movie, axes="TZYX"))
        assert isinstance(stack, HoldsPixels)
        assert np.shares_memory(stack.pixels, movie)
        return stack, by_plane(movie[:, np.newaxis])


class TestArrayThatDoesNotFold(PlanesConformance):
    def make_stack(self, folder: Path) -> Any:
        movie = np.random.default_rng(0).integers(0, 65535, (3, 2, 4, 30, 20), np.uint16)
        stack = as_planes(ArrayStack(movie, axes="TCZYX"))
        assert isinstance(stack, HoldsPixels)
        assert stack.pixels is None
        return stack, by_plane(movie)


class TestZarr(PlanesConformance):
    def make_stack(self, folder: Path) -> Any:
        movie = np.random.default_rng(0).integers(0, 65535, (2, 2, 7, 30, 20), np.uint16)
        array = zarr.create_array(folder / "movie.zarr", shape=movie.shape, chunks=(1, 1, 3, 16, 16), dtype="uint16")
        array[...] = movie
        return as_planes(open_stacks(folder / "movie.zarr", "TCZYX")[0]), by_plane(movie)


class TestCzi(PlanesConformance):
    def make_stack(self, folder: Path) -> Any:
        image = np.random.default_rng(0).integers(0, 250, (2, 4, 30, 40), np.uint16)  # C, Z
        with czi.create_czi(str(folder / "cells.czi")) as file:
            for c, z in np.ndindex(2, 4):
                file.write(image[c, z, ..., np.newaxis], plane={"C": c, "Z": z})
        return as_planes(open_stacks(folder / "cells.czi")[0]), by_plane(image[np.newaxis])


def test_2d_image() -> None:
    """A 2D image is returned unchanged."""
    image = ArrayStack(np.zeros((3, 8, 8)), axes="TYX")
    assert as_planes(image) is image is whole_stack(image)
    assert plane_position(image, 2) == (2, ())


@settings(deadline=None, max_examples=40)
@given(
    n_samples=st.integers(1, 3),
    n_planes=st.integers(1, 9),
    chunk=st.tuples(st.integers(1, 3), st.integers(1, 9)),
    seed=st.integers(0, 99),
)
def test_chunk_cache(n_samples: int, n_planes: int, chunk: tuple[int, int], seed: int) -> None:
    """Chunks of slices give every pixel through a chunk cache."""
    data = np.random.default_rng(seed).integers(0, 255, (n_samples, 1, n_planes, 6, 5), np.uint8)

    class Stored(ArrayStack):
        chunk_shape = shard_shape = (chunk[0], 1, chunk[1], 4, 4)

    stack = as_planes(Stored(data, axes="SCZYX"))
    assert isinstance(stack, HasStorageGrid)
    assert stack.shard_shape[0] % stack.chunk_shape[0] == 0
    tiling = TiledPatching([stack.data_shape], (4, 4), (1, 1))
    with ChunkCache(1000) as cache:
        tiles = PatchExtractor([stack], cache=cache).extract_batch(tiling[:])
    np.testing.assert_array_equal(
        tiles, PatchExtractor([ArrayStack(by_plane(data), axes="SCYX")]).extract_batch(tiling[:])
    )


@pytest.mark.parametrize(("n_samples", "n_planes", "depth"), [(1, 12, 4), (1, 10, 4), (3, 8, 4), (3, 6, 64)])
def test_chunk_of_slices(n_samples: int, n_planes: int, depth: int) -> None:
    """A chunk of many slices is read once."""
    data = np.random.default_rng(0).integers(0, 255, (n_samples, 1, n_planes, 32, 32), np.uint8)
    reads: list[tuple[int, slice]] = []

    class Stored(ArrayStack):
        chunk_shape = shard_shape = (1, 1, depth, 16, 16)

        def read(self, selection: Any) -> np.ndarray:
            reads.append(selection[:3])
            return super().read(selection)

    stack = as_planes(Stored(data, axes="SCZYX"))
    tiling = TiledPatching([stack.data_shape], (16, 16), (4, 4))
    with ChunkCache(1 << 20) as cache:
        extractor = PatchExtractor([stack], cache=cache)
        for index in range(len(tiling)):
            extractor.extract(tiling[index])
    assert len(reads) == n_samples * -(-n_planes // min(depth, n_planes)) * 4
