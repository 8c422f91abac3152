"""A scan of a box: every voxel comes once, no more than allowed is held, and chunks are not cut without need."""

from __future__ import annotations

from collections import Counter
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack
from patchloom.errors import SourceError
from patchloom.image_stacks import Region
from patchloom.prediction.normalization.source_scan import scan_source


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
def test_the_voxels_of_a_box_come_once_and_never_more_than_allowed_together(scan) -> None:
    stack, arguments = scan
    box = (
        *(slice(one.start, one.stop) for one in (arguments["samples"], arguments["channels"])),
        *arguments["window"],
    )
    values: list[list[int]] = [[] for _ in range(stack.data_shape[0])]

    for sample_idx, pixels in scan_source(stack, **arguments):
        assert pixels.flags.c_contiguous
        values[sample_idx] += pixels.ravel().tolist()

    for sample_idx, sample in enumerate(stack.array):
        expected = sample[box[1:]].ravel().tolist() if sample_idx in arguments["samples"] else []
        assert sorted(values[sample_idx]) == sorted(expected)
    one_voxel = len(arguments["channels"]) * 2
    assert max(stack.bytes_read) <= max(arguments["max_bytes"], one_voxel)


@pytest.mark.parametrize("chunk", [(1, 1, 16, 16), (2, 3, 16, 8), (1, 1, 64, 1)])
def test_each_chunk_is_decoded_once_where_a_few_fit_into_memory(chunk, rng):
    stack = ChunkedStack(rng.integers(0, 9, (3, 3, 61, 50), np.uint8), chunk)
    list(scan_source(stack, max_bytes=prod(chunk) * 12))
    assert set(stack.decoded.values()) == {1}


def test_a_box_that_begins_within_a_chunk_is_cut_where_chunks_are(rng):
    stack = ChunkedStack(rng.integers(0, 9, (1, 1, 64, 64), np.uint8), (1, 1, 16, 16))
    list(scan_source(stack, window=(slice(9, 60), slice(5, 33)), max_bytes=16 * 32))
    assert set(stack.decoded.values()) == {1}
    assert len(stack.decoded) == 4 * 3


def test_samples_that_begin_within_a_chunk_are_cut_where_chunks_are(rng):
    stack = ChunkedStack(rng.integers(0, 9, (7, 1, 8, 8), np.uint8), (2, 1, 8, 8))
    list(scan_source(stack, samples=range(1, 6), max_bytes=2 * 64))
    assert stack.decoded == {(chunk, 0, 0, 0): 1 for chunk in range(3)}


def test_what_cannot_be_read_is_an_error_of_the_source(rng):
    class Broken:
        shape, dtype = (4, 4), np.dtype("uint8")

        def __getitem__(self, index):
            raise OSError("disk on fire")

    with pytest.raises(SourceError, match="disk on fire"):
        list(scan_source(ArrayStack(Broken(), axes="YX")))
