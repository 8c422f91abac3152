"""Batches: the same whatever is done already, and none that no block needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from patchloom.image_stacks import ArrayStack
from patchloom.prediction import PredictionPlan, plan
from patchloom.prediction.planning import fit
from patchloom.prediction.running.batching import BlockEnd, TileBatch, TileItem, batches
from patchloom.stitching import block_grid


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> PredictionPlan:
    """Return the plan of two images of one dtype and one of another, of several blocks that share tiles."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [400])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    images = [np.zeros((50, 60), dtype) for dtype in ("uint8", "uint8", "uint16")]
    stacks = [ArrayStack(image, "YX") for image in images]
    return plan(stacks, patch_size=(12, 12), overlaps=(4, 4), blend="hann", batch_size=5)


def all_batches(
    prepared: PredictionPlan, done: frozenset[tuple[int, int]] = frozenset(), **options: Any
) -> list[TileBatch]:
    return list(batches(prepared, is_done=lambda *block: block in done, **options))


def blocks(prepared: PredictionPlan) -> list[tuple[int, int]]:
    return [(data_idx, block_idx) for data_idx, grid in enumerate(prepared.blocks) for block_idx in range(len(grid))]


def test_everything(prepared: PredictionPlan) -> None:
    """Each tile is run once and each block ends once, after its tiles; batches are full while images are alike."""
    found = all_batches(prepared)
    items = [item for batch in found for item in batch.items]
    assert sorted(tile for batch in found for tile in batch.tiles) == list(range(prepared.n_tiles))
    assert [tuple(item) for item in items if isinstance(item, BlockEnd)] == blocks(prepared)
    ended: set[tuple[int, int]] = set()
    for item in items:
        if isinstance(item, BlockEnd):
            ended.add(tuple(item))
        else:
            assert not {(item.data_idx, block_idx) for block_idx in item.open_blocks} & ended
    n_alike = len(prepared.tiling.get_patch_indices(0)) + len(prepared.tiling.get_patch_indices(1))
    sizes = [len(batch.tiles) for batch in found]
    assert sizes[: n_alike // 5] == [5] * (n_alike // 5)
    assert sum(batch.n_needed for batch in found) == prepared.n_tiles


def test_resumed(prepared: PredictionPlan, rng: np.random.Generator) -> None:
    """Whatever is done, the batches are some of those of a whole run, and all that a block needs."""
    whole = {tuple(batch.tiles) for batch in all_batches(prepared)}
    for share in (0.3, 0.9, 1):
        done = frozenset(block for block in blocks(prepared) if rng.random() < share)
        found = all_batches(prepared, done)
        assert {tuple(batch.tiles) for batch in found if batch.tiles} <= whole
        assert all(batch.n_needed or not batch.tiles for batch in found)
        ends = [tuple(item) for batch in found for item in batch.items if isinstance(item, BlockEnd)]
        assert ends == [block for block in blocks(prepared) if block not in done]
        needed = {
            (data_idx, tile)
            for data_idx, block_idx in blocks(prepared)
            if (data_idx, block_idx) not in done
            for tile in prepared.tiling.get_patch_indices(data_idx)
            if block_idx in prepared.schedules[data_idx].blocks_of(tile)
        }
        run = {(item.data_idx, item.tile_idx) for batch in found for item in batch.items if isinstance(item, TileItem)}
        assert needed <= run


def test_skipped(prepared: PredictionPlan) -> None:
    """If tiles may be skipped, a batch ends with the turn of a block, and a rule decides on each tile once."""
    asked: list[int] = []

    def skips(data_idx: int, block_idx: int, tiles: Sequence[int]) -> list[bool]:
        asked.extend(tiles)
        assert len(tiles) <= 5
        return [tile % 3 == 0 for tile in tiles]

    found = all_batches(prepared, skips=skips)
    assert sorted(asked) == list(range(prepared.n_tiles))
    assert [tile for batch in found for tile in batch.tiles] == [tile for tile in asked if tile % 3]
    assert sorted(tile for batch in found for tile in batch.skipped) == list(range(0, prepared.n_tiles, 3))
    for batch in found:
        ends = [number for number, item in enumerate(batch.items) if isinstance(item, BlockEnd)]
        assert ends in ([], [len(batch.items) - 1])


def test_separate_images(prepared: PredictionPlan) -> None:
    """Images that may fail one by one share no batch."""
    assert all(len(batch.images) == 1 for batch in all_batches(prepared, share_images=False))
    assert any(len(batch.images) == 2 for batch in all_batches(prepared))
