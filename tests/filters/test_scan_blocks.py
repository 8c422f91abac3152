"""Blocks of a scan: every voxel once, within memory, and as few decoded chunks as can be."""

from __future__ import annotations

import itertools
from collections import Counter
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.filters.scan_blocks import block_extent, cell_rows, scan_batches


@st.composite
def scans(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    n_dims = draw(st.integers(2, 3))
    shape = (draw(st.integers(1, 5)), 1, *draw(st.tuples(*[st.integers(1, 40)] * n_dims)))
    cell = draw(st.tuples(*[st.integers(1, 13)] * n_dims))
    chunk = (draw(st.integers(1, 3)), 1, *draw(st.tuples(*[st.integers(1, 20)] * n_dims)))
    return shape, cell, chunk, draw(st.integers(1, 5000))


@settings(deadline=None, max_examples=100)
@given(scans())
def test_blocks_partition_every_sample_into_whole_cells_within_memory(scan) -> None:
    shape, cell, chunk, max_voxels = scan
    voxels = np.zeros((shape[0], *shape[2:]), int)
    cells = np.zeros((shape[0], *(-(-size // side) for size, side in zip(shape[2:], cell, strict=True))), int)
    for batch in scan_batches(shape, cell, chunk, max_voxels):
        assert sum(prod(block.shape) for block in batch) <= max_voxels or (
            len(batch) == 1 and all(extent <= side for extent, side in zip(batch[0].shape, cell, strict=True))
        )
        for block in batch:
            voxels[block.sample_idx][block.window] += 1
            cells[block.sample_idx][block.cells(cell)] += 1
    assert (voxels == 1).all()
    assert (cells == 1).all()


@settings(deadline=None, max_examples=60)
@given(scans())
def test_cells_of_a_block_are_its_own_voxels(scan) -> None:
    shape, cell, _, _ = scan
    pixels = np.arange(2 * prod(shape[2:])).reshape(2, *shape[2:])
    seen = Counter()
    for cells, row in cell_rows(pixels, cell):
        assert np.shares_memory(row, pixels)
        for number, pixels_of_cell in zip(range(cells[-1].start, cells[-1].stop), row, strict=True):
            place = (*cells[:-1], number)
            window = tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, cell, strict=True))
            assert np.array_equal(pixels_of_cell, pixels[(slice(None), *window)])
            seen[place] += 1
    grid = [range(-(-size // side)) for size, side in zip(shape[2:], cell, strict=True)]
    assert seen == Counter(itertools.product(*grid))


@pytest.mark.parametrize(
    ("cell", "chunk"), [((64, 64), (64, 64)), ((32, 32), (128, 64)), ((128, 128), (64, 64)), ((48, 48), (64, 64))]
)
def test_each_chunk_is_decoded_once_where_cells_and_chunks_meet_within_memory(cell, chunk):
    shape = (1, 1, 1000, 900)
    touched = Counter()
    for batch in scan_batches(shape, cell, (1, 1, *chunk), max_voxels=100_000):
        for block in batch:
            spans = [
                range(part.start // side, -(-part.stop // side)) for part, side in zip(block.window, chunk, strict=True)
            ]
            touched.update(itertools.product(*spans))
    assert set(touched.values()) == {1}


def test_a_page_stored_in_strips_is_read_in_strips():
    assert block_extent((4000, 3000), (64, 64), (16, 3000), max_voxels=64 * 3000 * 2)[1] == 3000


def test_blocks_are_large_where_memory_is():
    assert block_extent((10, 4000, 3000), (5, 64, 64), (1, 1, 1), max_voxels=10**9) == (10, 4000, 3000)


def test_blocks_of_a_billion_cells_are_not_listed():
    first = next(scan_batches((1, 1, 40_000, 40_000, 40_000), (40, 40, 40), (1, 1, 64, 64, 64), 2**26))
    assert len(first) >= 1
