"""The order of work: every block gets each of its tiles before its end, and few blocks are open."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.patching import TiledPatching
from patchloom.stitching.block_grid import BlockGrid
from patchloom.stitching.tile_schedule import TileSchedule


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_order(data: st.DataObject, n_dims: int) -> None:
    """Every block gets each of its tiles once before its end, however many axes are shared."""
    shape = data.draw(st.tuples(st.integers(1, 2), st.just(1), *[st.integers(1, 13)] * n_dims))
    patch_size = data.draw(st.tuples(*[st.integers(1, 8)] * n_dims))
    overlaps = [data.draw(st.integers(0, size - 1)) for size in patch_size]
    tiling = TiledPatching(
        [(1, 1, *shape[2:]), shape], patch_size, overlaps, seams=data.draw(st.sampled_from(["centered", "grid"]))
    )
    block_shape = data.draw(st.tuples(*[st.integers(2, 9)] * n_dims))
    whole_tiles = data.draw(st.booleans())
    blocks = BlockGrid(shape[0], shape[2:], block_shape)

    needed = defaultdict(list)
    for number in range(len(blocks)):
        block = blocks[number]
        for tile in tiling.get_patch_indices(1):
            spec = tiling[tile]
            low, size = (
                (spec["coords"], spec["patch_size"]) if whole_tiles else (spec["stitch_coords"], spec["crop_size"])
            )
            meets = all(
                a < part.stop and a + s > part.start for a, s, part in zip(low, size, block.window, strict=True)
            )
            if spec["sample_idx"] == block.sample_idx and meets:
                needed[number].append(tile)

    for n_shared_axes in range(n_dims + 1):
        schedule = TileSchedule(tiling, 1, blocks, n_shared_axes, whole_tiles)
        got = defaultdict(list)
        open_blocks: set[int] = set()
        most_open = computed = 0
        for number in range(len(blocks)):
            for tile, blocks_served in zip(
                schedule.tiles_of(number).tolist(), schedule.blocks_served(number), strict=True
            ):
                computed += 1
                for served in blocks_served:
                    assert served >= number, "a block is open once it is passed"
                    got[served].append(tile)
                    open_blocks.add(served)
                most_open = max(most_open, len(open_blocks))
            open_blocks.discard(number)
        assert {number: sorted(tiles) for number, tiles in got.items()} == needed
        assert [schedule.n_serving(number) for number in range(len(blocks))] == [
            len(got[n]) for n in range(len(blocks))
        ]
        assert computed == schedule.n_computed
        for tile in tiling.get_patch_indices(1):
            assert schedule.blocks_of(tile) == sorted(number for number, tiles in needed.items() if tile in tiles)
        assert most_open <= schedule.n_open
        if n_shared_axes == n_dims:
            assert computed == len(tiling.get_patch_indices(1))
        assert schedule.n_open <= np.prod(blocks.grid_shape)
