"""How large blocks are: what goes through the model for one is bounded, so that a kill loses little."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.prediction import plan, predict
from patchloom.prediction.planning import blocks
from patchloom.prediction.planning.blocks import largest_block


def test_at_least_four() -> None:
    """An image of several blocks has at least four, so that writing overlaps with computing."""
    for voxels in (2**25 + 1, 2**26, 2**30):
        assert largest_block([(1, 1, 1, voxels)], (1, 1), (32, 32)) <= voxels / 4
    options: dict[str, Any] = {"axes": "ZYX", "patch_size": (64,) * 3, "overlaps": (16,) * 3, "blend": "hann"}
    assert plan(np.zeros((384, 384, 384), np.uint8), **options).n_blocks >= 4
    large = plan(np.zeros((1500, 1000, 1000), np.uint8), memory_limit=2**32, **options)
    larger = plan(np.zeros((2500, 1000, 1000), np.uint8), memory_limit=2**33, **options)
    assert large.blocks[0].block_shape == larger.blocks[0].block_shape, "blocks do not grow with the image"


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_dims=st.integers(2, 3), blend=st.sampled_from([None, "hann"]))
def test_bounded_work(data: st.DataObject, n_dims: int, blend: Any) -> None:
    """The work of a block is bounded, unless files would get too small."""
    side = {2: 1024, 3: 128}[n_dims]
    patch_size = [data.draw(st.integers(side // 16, side)) for _ in range(n_dims)]
    overlaps = [data.draw(st.integers(0, size // 2)) for size in patch_size]
    shape = [data.draw(st.integers(size, {2: 9000, 3: 600}[n_dims])) for size in patch_size]
    image = np.broadcast_to(np.uint8(0), shape)
    prepared = plan(
        image, axes="ZYX"[-n_dims:], patch_size=patch_size, overlaps=overlaps, blend=blend, memory_limit=2**34
    )
    steps = [rule.step for rule in prepared.tiling.rules]
    bound = blocks.MODEL_VOXELS[n_dims] / prod(patch_size)
    for number in range(prepared.n_blocks):
        block = prepared.blocks[0][number]
        # Those whose own part of the image it is; tiles that reach into it from others are shared with those.
        n_tiles = prod(size / step for size, step in zip(block.shape, steps, strict=True))
        small = prod(block.shape) <= blocks.LEAST_BLOCK_VOXELS[n_dims]
        assert small or n_tiles <= max(1, min(bound, blocks.MODEL_TILES)) * (1 + 1e-9)


@pytest.mark.parametrize("blend", [None, "hann"])
def test_loss_of_a_kill(blend: Any, tmp_path: Path) -> None:
    """A run that is killed loses a fraction of its work."""
    image = np.random.default_rng(0).integers(0, 255, (2100, 1600), np.uint8)
    np.save(tmp_path / "image.npy", image)
    options: dict[str, Any] = {
        "axes": "YX",
        "patch_size": (64, 64),
        "overlaps": (16, 16),
        "blend": blend,
        "batch_size": 4,
    }
    seen = stop_at = 0

    def model(batch: np.ndarray) -> np.ndarray:
        nonlocal seen
        seen += len(batch)
        if 0 < stop_at <= seen:
            raise RuntimeError
        return batch

    n_tiles = plan(image, **options).n_tiles
    stop_at = int(0.9 * n_tiles)
    with pytest.raises(RuntimeError):
        predict(model, tmp_path / "image.npy", tmp_path / "out.ome.zarr", progress=False, **options)
    stopped_at, seen, stop_at = stop_at, 0, 0
    options["resume_anyway"] = True  # the model's counters are others
    predict(model, tmp_path / "image.npy", tmp_path / "out.ome.zarr", progress=False, **options)
    assert n_tiles - stopped_at <= seen <= n_tiles - stopped_at + 1.3 * blocks.MODEL_TILES
