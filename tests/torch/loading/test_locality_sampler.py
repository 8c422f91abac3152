"""The order of a LocalitySampler: its difference from a uniform order is as documented."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import patchloom as pl
from patchloom.torch import LocalitySampler

PLAN = pl.RandomPatching([(2, 1, 256, 320), (1, 1, 200, 100)], (16, 16), n_patches=400, seed=2)
CHUNKS = [(1, 1, 32, 32), (1, 1, 50, 50)]
GRID = 12
BLOCKS = pl.RandomPatching([(1, 1, GRID * 64, GRID * 64)], (1, 1), n_patches=40 * GRID**2, seed=4)


def same_block_share(window: int, apart: int = 1) -> float:
    """Return the share of pairs of patches of one block, among those that are `apart` positions apart."""
    sampler = LocalitySampler(BLOCKS, [(1, 1, 32, 32)], window=window, block=2, seed=1)
    blocks = sampler.blocks(0)[[key.index for key in sampler]]
    return float((blocks[apart:] == blocks[:-apart]).mean())


@pytest.mark.parametrize("window", [1, 4, 16, GRID**2, 10 * GRID**2])
def test_neighbors(window):
    """Successive patches are of one block with probability 1 / window."""
    expected = 1 / min(window, GRID**2)
    error = np.sqrt(expected / len(BLOCKS))

    assert same_block_share(window) == pytest.approx(expected, abs=6 * error)


def test_far_apart():
    """Patches more than `window` blocks apart in time are never of one block."""
    assert same_block_share(window=4, apart=1000) == 0


def test_full_window():
    """With a window of all blocks, the order is uniform."""
    sampler = LocalitySampler(BLOCKS, [(1, 1, 32, 32)], window=GRID**2, seed=1)
    blocks = sampler.blocks(0)
    counts = np.bincount(blocks[[key.index for key in itertools.islice(sampler, 2 * GRID**2)]], minlength=GRID**2)

    assert ((counts - 2) ** 2 / 2).sum() < 200  # chi-square of 143 degrees, one in a thousand


def test_any_moment():
    """A patch comes at every moment of an epoch with equal probability, for every window."""
    sampler = LocalitySampler(PLAN, CHUNKS, window=2, seed=3)
    moments = np.array([np.argsort([key.index for key in sampler])[0] for _ in range(300)])  # where patch 0 comes

    counts = np.bincount(moments * 5 // 400, minlength=5)

    assert ((counts - 60) ** 2 / 60).sum() < 18.5  # chi-square of 4 degrees, one in a thousand


def test_open_blocks():
    """Few blocks are open at a time."""
    for window in (2, 8):
        sampler = LocalitySampler(BLOCKS, [(1, 1, 32, 32)], window=window, seed=1)
        blocks = sampler.blocks(0)[[key.index for key in sampler]]
        in_batches = [len(set(blocks[start : start + 40].tolist())) for start in range(0, len(blocks), 40)]
        assert max(in_batches) <= window + 3
