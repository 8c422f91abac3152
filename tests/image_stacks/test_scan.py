"""A scan reads every voxel once, within memory, and decodes as few chunks as possible."""

from __future__ import annotations

import itertools
from collections import Counter
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack
from patchloom.errors import SourceError
from patchloom.image_stacks import Region, scan_stack
from patchloom.image_stacks.scan import block_extent, scan_batches


@st.composite
def divisions(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    n_dims = draw(st.integers(2, 3))
    shape = (draw(st.integers(1, 5)), 1, *draw(st.tuples(*[st.integers(1, 40)] * n_dims)))
    cell = draw(st.tuples(*[st.integers(1, 13)] * n_dims))
    chunk = (draw(st.integers(1, 3)), 1, *draw(st.tuples(*[st.integers(1, 20)] * n_dims)))
    return shape, cell, chunk, draw(st.integers(1, 5000))


@settings(deadline=None, max_examples=100)
@given(divisions())
def test_blocks_partition(division) -> None:
    """Blocks consist of whole cells, cover every voxel once, and fit into memory together."""
    shape, cell, chunk, max_voxels = division
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


@pytest.mark.parametrize(
    ("cell", "chunk"), [((64, 64), (64, 64)), ((32, 32), (128, 64)), ((128, 128), (64, 64)), ((48, 48), (64, 64))]
)
def test_chunks_of_cells(cell, chunk):
    """Each chunk is decoded once if cells and chunks have a common multiple that fits into memory."""
    shape = (1, 1, 1000, 900)
    touched = Counter()
    for batch in scan_batches(shape, cell, (1, 1, *chunk), max_voxels=100_000):
        for block in batch:
            spans = [
                range(part.start // side, -(-part.stop // side)) for part, side in zip(block.window, chunk, strict=True)
            ]
            touched.update(itertools.product(*spans))
    assert set(touched.values()) == {1}


def test_strips():
    """A page that is stored in strips is read in strips."""
    assert block_extent((4000, 3000), (64, 64), (16, 3000), max_voxels=64 * 3000 * 2)[1] == 3000


def test_whole_image():
    """An image that fits into memory is one block."""
    assert block_extent((10, 4000, 3000), (5, 64, 64), (1, 1, 1), max_voxels=10**9) == (10, 4000, 3000)


def test_billion_cells():
    """Blocks are computed as they are needed."""
    first = next(scan_batches((1, 1, 40_000, 40_000, 40_000), (40, 40, 40), (1, 1, 64, 64, 64), 2**26))
    assert len(first) >= 1


class ChunkedStack(ArrayStack):
    """An array that claims to be stored in chunks, and remembers which batches of them were read."""

    def __init__(self, array: np.ndarray, chunk_shape: tuple[int, ...]) -> None:
        super().__init__(array, axes="SCZYX" if array.ndim == 5 else "SCYX")
        self.chunk_shape = self.shard_shape = chunk_shape
        self.bytes_read: list[int] = []
        self.decoded: Counter[tuple[int, ...]] = Counter()

    def read_regions(self, regions: list[Region], out: list[np.ndarray]) -> None:
        self.bytes_read.append(sum(target.nbytes for target in out))
        batch = set()
        for region, target in zip(regions, out, strict=True):
            box = (slice(region.sample_idx, region.sample_idx + 1), region.channels, *region.window)
            sides = zip(box, self.chunk_shape, strict=True)
            batch |= set(product(*(range(part.start // side, -(-part.stop // side)) for part, side in sides)))
            target[...] = self.read_region(region)
        self.decoded.update(batch)


@st.composite
def scans(draw: st.DrawFn) -> tuple[ChunkedStack, dict]:
    n_dims = draw(st.integers(2, 3))
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 3), *[st.integers(1, 20)] * n_dims))
    chunk = tuple(draw(st.integers(1, size)) for size in shape)
    box = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        box.append(slice(start, draw(st.integers(start + 1, size))))
    array = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2**16, shape, np.uint16)
    arguments = {
        "samples": range(box[0].start, box[0].stop),
        "channels": range(box[1].start, box[1].stop),
        "window": box[2:],
        "max_bytes": draw(st.integers(1, 2 * array.nbytes)),
    }
    return ChunkedStack(array, chunk), arguments


@settings(deadline=None, max_examples=150)
@given(scans())
def test_boxes(scan) -> None:
    """Every voxel of a box comes once, and never more than allowed are held."""
    stack, arguments = scan
    box = (
        *(slice(one.start, one.stop) for one in (arguments["samples"], arguments["channels"])),
        *arguments["window"],
    )
    values: list[list[int]] = [[] for _ in range(stack.data_shape[0])]

    for block, pixels in scan_stack(stack, **arguments):
        assert pixels.flags.c_contiguous
        values[block.sample_idx] += pixels.ravel().tolist()

    for sample_idx, sample in enumerate(stack.array):
        expected = sample[box[1:]].ravel().tolist() if sample_idx in arguments["samples"] else []
        assert sorted(values[sample_idx]) == sorted(expected)
    one_voxel = len(arguments["channels"]) * 2
    assert max(stack.bytes_read) <= max(arguments["max_bytes"], one_voxel)


@pytest.mark.parametrize("chunk", [(1, 1, 16, 16), (2, 3, 16, 8), (1, 1, 64, 1)])
def test_chunks(chunk, rng):
    """Each chunk is decoded once if a few fit into memory."""
    stack = ChunkedStack(rng.integers(0, 9, (3, 3, 61, 50), np.uint8), chunk)
    list(scan_stack(stack, max_bytes=prod(chunk) * 12))
    assert set(stack.decoded.values()) == {1}


def test_box_within_chunk(rng):
    """A box that begins within a chunk is cut where chunks are."""
    stack = ChunkedStack(rng.integers(0, 9, (1, 1, 64, 64), np.uint8), (1, 1, 16, 16))
    list(scan_stack(stack, window=(slice(9, 60), slice(5, 33)), max_bytes=16 * 32))
    assert set(stack.decoded.values()) == {1}
    assert len(stack.decoded) == 4 * 3


def test_samples_within_chunk(rng):
    """Samples that begin within a chunk are cut where chunks are."""
    stack = ChunkedStack(rng.integers(0, 9, (7, 1, 8, 8), np.uint8), (2, 1, 8, 8))
    list(scan_stack(stack, samples=range(1, 6), max_bytes=2 * 64))
    assert stack.decoded == {(chunk, 0, 0, 0): 1 for chunk in range(3)}


def test_unreadable(rng):
    """An error of the array that is read is an error of the source."""

    class Broken:
        shape, dtype = (4, 4), np.dtype("uint8")

        def __getitem__(self, index):
            raise OSError("disk on fire")

    with pytest.raises(SourceError, match="disk on fire"):
        list(scan_stack(ArrayStack(Broken(), axes="YX")))


def test_cells_in_a_box(rng):
    """In a box that begins within a cell, blocks are still cut where cells are."""
    stack = ChunkedStack(rng.integers(0, 9, (1, 1, 40, 40), np.uint8), (1, 1, 6, 40))
    box = (slice(9, 40), slice(5, 33))
    for block, pixels in scan_stack(stack, cell_size=(4, 4), window=box, max_bytes=200):
        for part, whole in zip(block.window, box, strict=True):
            assert part.start == whole.start or part.start % 4 == 0
            assert part.stop == whole.stop or part.stop % 4 == 0
        assert np.array_equal(pixels, stack.array[0][(slice(None), *block.window)])
    assert sum(stack.bytes_read) == 31 * 28
