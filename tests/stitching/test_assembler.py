"""Blocks from tiles in any order: complete ones come out right, others not at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import StitchError
from patchloom.extraction import PatchExtractor
from patchloom.geometry.blend_weights import tile_weights
from patchloom.image_stacks import ArrayStack
from patchloom.parallel import thread_runner
from patchloom.patching import TiledPatching
from patchloom.stitching.assembler import BlockAssembler
from patchloom.stitching.block_grid import BlockGrid
from patchloom.stitching.tile_schedule import TileSchedule


class Assembly:
    """An assembler, and all tiles of an image for it."""

    def __init__(self, image: np.ndarray, tiling: TiledPatching, block_shape: Any, blend: Any, **options: Any) -> None:
        self.image, self.tiling, self.blend = image, tiling, blend
        self.grid = BlockGrid(1, image.shape[2:], tuple(block_shape))
        self.schedule = TileSchedule(tiling, 0, self.grid, image.ndim - 2, whole_tiles=blend is not None)
        self.tiles = PatchExtractor([ArrayStack(image, "SCYX" if image.ndim == 4 else "SCZYX")]).extract_batch(
            tiling[:]
        )
        self.assembler = BlockAssembler(
            lambda block_idx: self.grid[block_idx].window,
            image.shape[1],
            image.dtype,
            n_blended_tiles=None if blend is None else self.schedule.n_serving,
            **options,
        )

    def add(self, tile_idx: int) -> None:
        spec, weights = self.tiling[tile_idx], None
        if self.blend is not None:
            weights = tile_weights(self.blend, self.tiling.rules, self.grid.spatial_shape, spec["coords"])
        for block_idx in self.schedule.blocks_of(tile_idx):
            self.assembler.add(block_idx, self.tiles[tile_idx], spec, weights)

    def expected(self, block_idx: int) -> np.ndarray:
        return np.asarray(self.image[0][(slice(None), *self.grid[block_idx].window)])


@settings(deadline=None, max_examples=25)
@given(data=st.data(), n_dims=st.integers(2, 3), blend=st.sampled_from([None, "hann"]), seed=st.integers(0, 2**32))
def test_any_order(data: st.DataObject, n_dims: int, blend: Any, seed: int) -> None:
    """Each block is complete with its last tile and not before, in any order of tiles."""
    rng = np.random.default_rng(seed)
    shape = (1, 2, *data.draw(st.tuples(*[st.integers(1, 13)] * n_dims)))
    patch_size = data.draw(st.tuples(*[st.integers(1, 8)] * n_dims))
    overlaps = [data.draw(st.integers(0, size - 1)) for size in patch_size]
    block_shape = data.draw(st.tuples(*[st.integers(2, 9)] * n_dims))
    tiling = TiledPatching([shape], patch_size, overlaps, seams=data.draw(st.sampled_from(["centered", "grid"])))
    with thread_runner() as runner:
        assembly = Assembly(rng.random(shape), tiling, block_shape, blend, runner=runner)
        left = dict.fromkeys(range(len(assembly.grid)), 0)
        for tile_idx in range(len(tiling)):
            for block_idx in assembly.schedule.blocks_of(tile_idx):
                left[block_idx] += 1
        for tile_idx in rng.permutation(len(tiling)).tolist():
            assembly.add(tile_idx)
            for block_idx in assembly.schedule.blocks_of(tile_idx):
                left[block_idx] -= 1
                assert assembly.assembler.is_complete(block_idx) == (not left[block_idx])
                if not left[block_idx]:
                    values = assembly.assembler.take(block_idx).values
                    np.testing.assert_allclose(values, assembly.expected(block_idx), rtol=1e-13 if blend else 0)
    assert assembly.assembler.n_open == 0


@pytest.mark.parametrize("blend", [None, "hann"])
def test_missing_tile(blend: Any, rng: np.random.Generator) -> None:
    """A block that lacks a tile is not taken out."""
    assembly = Assembly(rng.random((1, 1, 8, 9)), TiledPatching([(1, 1, 8, 9)], (4, 4), (1, 2)), (8, 9), blend)
    for tile_idx in range(1, len(assembly.tiling)):
        assembly.add(tile_idx)
    with pytest.raises(StitchError, match="block 0 lacks"):
        assembly.assembler.take(0)


@pytest.mark.parametrize("blend", [None, "mean"])
def test_skipped_tiles(blend: Any, rng: np.random.Generator) -> None:
    """Skipped tiles count as added and keep the initial value; it is known where others were added."""
    image = rng.random((1, 1, 1, 12))
    tiling = TiledPatching([image.shape], (1, 6), (0, 0))
    assembly = Assembly(image, tiling, (1, 12), blend, initial=0 if blend else -1, marks_predicted=True)
    assembly.assembler.skip(0, tiling[0])
    assert not assembly.assembler.has_memory(0), "no memory is allocated for blocks whose tiles are all skipped"
    assembly.add(1)
    block = assembly.assembler.take(0)
    assert block.values is not None
    assert block.is_predicted is not None
    assert block.is_predicted.tolist() == [[False] * 6 + [True] * 6]
    assert block.values[0, 0].tolist() == [0 if blend else -1] * 6 + image[0, 0, 0, 6:].tolist()
    assembly.assembler.skip(0, tiling[0])
    assembly.assembler.skip(0, tiling[1])
    assert assembly.assembler.take(0).values is None


def test_buffer(rng: np.random.Generator) -> None:
    """A block is put together in the memory that is given for it, unless that has another dtype."""
    image = rng.random((1, 1, 4, 4))
    assembly = Assembly(image, TiledPatching([image.shape], (4, 4), (0, 0)), (4, 4), None)
    for dtype, is_used in ((np.float64, True), (np.float32, False)):
        buffer = np.zeros((1, 4, 4), dtype)
        assembly.assembler.allocate(0, buffer)
        assembly.add(0)
        assert (assembly.assembler.take(0).values is buffer) == is_used
