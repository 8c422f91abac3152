"""Blocks cover an image once, are whole shards of whole chunks, and on a grid share no tile."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.patching import TiledPatching
from patchloom.stitching import block_grid
from patchloom.stitching.block_grid import choose_blocks, choose_chunk


@settings(deadline=None, max_examples=80)
@given(data=st.data(), n_dims=st.integers(2, 3), limit=st.integers(1, 400))
def test_partition(data: st.DataObject, n_dims: int, limit: int) -> None:
    """Blocks cover every voxel once, and share no tile on a grid."""
    shape = data.draw(st.tuples(st.integers(1, 2), st.just(1), *[st.integers(1, 20)] * n_dims))
    patch_size = data.draw(st.tuples(*[st.integers(1, 9)] * n_dims))
    overlaps = [data.draw(st.integers(0, size - 1)) for size in patch_size]
    seams = data.draw(st.sampled_from(["centered", "grid"]))
    tiling = TiledPatching([shape], patch_size, overlaps, seams=seams)
    steps = [rule.step for rule in tiling.rules]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_grid, "CHUNK_SIZE", {2: 4, 3: 3})
        grid = choose_blocks(shape, steps, seams, limit)
    coverage = np.zeros((shape[0], *shape[2:]), int)
    owners = np.zeros(len(tiling), int)
    for number in range(len(grid)):
        block = grid[number]
        coverage[(block.sample_idx, *block.window)] += 1
        owners[tiling.tiles_touching(0, block.sample_idx, block.window)] += 1
    assert (coverage == 1).all()
    assert (owners >= 1).all()
    if seams == "grid" and all(size > patch for size, patch in zip(shape[2:], patch_size, strict=True)):
        assert (owners == 1).all()
    chunk_shape = choose_chunk(grid.block_shape)
    assert all(size % chunk == 0 for size, chunk in zip(grid.block_shape, chunk_shape, strict=True))
    unit = steps if seams == "grid" else [min(size, {2: 4, 3: 3}[n_dims]) for size in shape[2:]]
    assert prod(grid.block_shape) <= max(limit, prod(unit))


def test_index_error() -> None:
    """A block beyond the last is an index error."""
    grid = choose_blocks((1, 1, 10, 10), (4, 4), "grid")
    with pytest.raises(IndexError, match="block_idx is 1, but the image has 1 blocks"):
        grid[1]
