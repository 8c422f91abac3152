"""The scan: one pass, bounded memory, and scores that depend on the pixels only."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import pytest
import tensorstore as ts
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import (
    ArrayStack,
    CustomFilter,
    EntropyFilter,
    MaskFilter,
    MaxFilter,
    MeanFilter,
    StdFilter,
    open_stacks,
    score_cells,
)
from patchloom.errors import GeometryError, NotIntegerError
from patchloom.filters.scoring import cell_rows
from patchloom.image_stacks import ArrayStack as PlainStack
from patchloom.image_stacks import Region

FILTERS = [MaxFilter(), MeanFilter(), EntropyFilter(), np.ptp]


class WatchedStack(PlainStack):
    """An array that reads many regions together, says how it is stored, and remembers what was asked of it."""

    def __init__(self, array: Any, axes: str, chunk_shape: Sequence[int]) -> None:
        super().__init__(array, axes)
        self.chunk_shape = self.shard_shape = tuple(chunk_shape)
        self.batches: list[list[Region]] = []

    def read_regions(self, regions, out) -> None:
        self.batches.append(list(regions))
        for region, target in zip(regions, out, strict=True):
            target[...] = self.read_region(region)


@st.composite
def series(draw: st.DrawFn) -> tuple[list[np.ndarray], tuple[int, ...], int]:
    n_dims = draw(st.integers(2, 3))
    n_channels = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    dtype = draw(st.sampled_from(["uint8", "uint16", "float32"]))
    arrays = []
    for _ in range(draw(st.integers(1, 3))):
        size = draw(st.tuples(*[st.integers(1, 25)] * n_dims))
        arrays.append(rng.integers(0, 200, (draw(st.integers(1, 2)), n_channels, *size)).astype(dtype))
    return arrays, draw(st.tuples(*[st.integers(1, 9)] * n_dims)), draw(st.integers(1, 3000))


def naive_scores(array: np.ndarray, cell_size: Sequence[int], function) -> np.ndarray:
    counts = [-(-size // cell) for size, cell in zip(array.shape[2:], cell_size, strict=True)]
    scores = np.zeros((len(array), *counts))
    for place in np.ndindex(scores.shape):
        window = tuple(slice(at * cell, (at + 1) * cell) for at, cell in zip(place[1:], cell_size, strict=True))
        scores[place] = function(array[(place[0], slice(None), *window)])
    return scores


@settings(deadline=None, max_examples=60)
@given(series())
def test_scores(drawn) -> None:
    """Scores are those of each cell alone."""
    arrays, cell_size, max_bytes = drawn
    stacks = [ArrayStack(array, "SCZYX" if array.ndim == 5 else "SCYX") for array in arrays]
    for cell_filter, found in zip(FILTERS, score_cells(stacks, cell_size, FILTERS, max_bytes=max_bytes), strict=True):
        assert (found.cell_size, found.data_shapes) == (cell_size, tuple(array.shape for array in arrays))
        for array, scores in zip(arrays, found.scores, strict=True):
            assert scores.dtype == np.float64
            assert np.array_equal(scores, naive_scores(array, cell_size, cell_filter))


@pytest.mark.parametrize("chunk_shape", [(1, 1, 1, 1), (1, 2, 16, 16), (2, 1, 100, 7), (1, 1, 3, 128)])
def test_independence(chunk_shape, rng):
    """Scores depend neither on chunks, memory nor other filters."""
    array = rng.normal(100, 9, (3, 2, 100, 128)).astype("float32")
    filters = [MeanFilter(), StdFilter(), EntropyFilter()]
    whole = score_cells([ArrayStack(array, "SCYX")], (13, 16), filters)
    for max_bytes in (1, 20_000, 200_000):
        stack = WatchedStack(array, "SCYX", chunk_shape)
        parts = score_cells([stack], (13, 16), filters, max_bytes=max_bytes)
        alone = [score_cells([stack], (13, 16), [one], max_bytes=max_bytes)[0] for one in filters]
        for one, other, third in zip(whole, parts, alone, strict=True):
            assert np.array_equal(one.scores[0], other.scores[0])
            assert np.array_equal(one.scores[0], third.scores[0])


def test_reads(rng):
    """Every voxel is read once for all filters, in batches of regions."""
    array = rng.integers(0, 9, (4, 2, 70, 90)).astype("uint8")
    stack = WatchedStack(array, "SCYX", (1, 1, 32, 32))
    score_cells([stack], (16, 16), FILTERS, max_bytes=2**14)
    read = np.zeros(array.shape, int)
    for region in itertools.chain.from_iterable(stack.batches):
        read[(region.sample_idx, region.channels, *region.window)] += 1
    assert (read == 1).all()
    n_bytes = [
        sum(2 * prod(part.stop - part.start for part in region.window) for region in batch) for batch in stack.batches
    ]
    assert max(n_bytes) <= 2**14
    assert len(n_bytes) <= 2 * array.size / 2**14


def test_memory():
    """Memory does not grow with the image."""

    class Blank:
        shape, dtype = (1, 1, 6000, 5000), np.dtype("uint16")

        def __getitem__(self, selection):
            return np.broadcast_to(
                np.uint16(7), [part.stop - part.start for part in selection if isinstance(part, slice)]
            )

    tracemalloc.start()
    score_cells([ArrayStack(Blank(), "SCYX")], (64, 64), [MaxFilter(), StdFilter()], max_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20 < 60 * 10**6 / 10


def test_cut_cells():
    """Cells that are cut by the end of an image are not darker."""
    image = np.full((3, 65, 130), 7, "uint16")
    mean, spread, share = score_cells([ArrayStack(image, "SYX")], (64, 64), [MeanFilter(), StdFilter(), MaskFilter()])
    assert (mean.scores[0].shape, np.unique(mean.scores[0]).tolist()) == ((3, 2, 3), [7])
    assert np.unique(spread.scores[0]).tolist() == [0]
    assert np.unique(share.scores[0]).tolist() == [1]


def test_channels(rng):
    """Filters get only the channels wanted, in order."""
    image = rng.integers(0, 200, (4, 20, 30)).astype("uint8")
    stack = WatchedStack(image, "CYX", (1, 1, 20, 30))
    seen = []
    score_cells([stack], (8, 8), [lambda cell: seen.append(cell.copy()) or 0.0], channels=[3, 1])
    assert np.array_equal(seen[0], image[[3, 1], :8, :8])
    (reference,) = score_cells([stack], (8, 8), [MaxFilter()], channels=[2])
    assert np.array_equal(reference.scores[0], naive_scores(image[None, 2:3], (8, 8), np.max))
    assert stack.batches[-1][0].channels == slice(2, 3)


@pytest.mark.parametrize("kind", ["tiff", "zarr"])
def test_files(kind, rng, tmp_path):
    """Files have the scores of their arrays."""
    volume = rng.integers(0, 5000, (9, 70, 50)).astype("uint16")
    path = tmp_path / ("a.ome.tif" if kind == "tiff" else "a.zarr")
    if kind == "tiff":
        tifffile.imwrite(path, volume, metadata={"axes": "ZYX"}, tile=(32, 32), compression="zlib")
    else:
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
        layout = ts.ChunkLayout(chunk_shape=[4, 32, 32])
        ts.open(spec, create=True, dtype=ts.uint16, shape=volume.shape, chunk_layout=layout).result()[...] = volume
    stacks = open_stacks(path, axes="ZYX")
    for max_bytes in (10_000, 10**6):
        found = score_cells(stacks, (4, 16, 16), FILTERS, max_bytes=max_bytes, cache=False)
        for one, other in zip(found, score_cells([ArrayStack(volume, "ZYX")], (4, 16, 16), FILTERS), strict=True):
            assert np.array_equal(one.scores[0], other.scores[0])


def test_read_only(rng):
    """A filter cannot change the pixels for the next one."""

    def greedy(cell):
        cell -= cell.min()
        return 0.0

    with pytest.raises(ValueError, match="read-only"):
        score_cells([ArrayStack(rng.normal(size=(8, 8)), "YX")], (4, 4), [greedy])


def test_error_of_filter(rng):
    """An error of a filter has a note that names the cells."""

    def picky(cell):
        raise ZeroDivisionError("no such thing")

    with pytest.raises(ZeroDivisionError, match="no such thing") as caught:
        score_cells([ArrayStack(rng.normal(size=(3, 8, 8)), "SYX", source="cells.tif")], (4, 4), [picky])
    assert caught.value.__notes__ == ["while picky scored cells of size (4, 4) in sample 0 of cells.tif"]


def test_result_of_filter(rng):
    """A filter that returns another object than a number is refused."""
    stack = ArrayStack(rng.normal(size=(8, 8)), "YX")
    with pytest.raises(TypeError, match="NoneType"):
        score_cells([stack], (4, 4), [lambda cell: None])
    with pytest.raises(TypeError, match="complex"):
        score_cells([stack], (4, 4), [lambda cell: 1j])


def test_names(rng):
    """Score maps have the names of their filters."""
    stack = ArrayStack(rng.normal(size=(8, 8)), "YX")
    found = score_cells([stack], (4, 4), [EntropyFilter(4), CustomFilter("range", np.ptp), np.median])
    assert [one.name for one in found] == ["EntropyFilter(bin_width=4)", "range", "median"]
    assert "'range', 4 cells of (4, 4) in 1 image stacks" in repr(found[1])
    with pytest.raises(ValueError, match="read-only"):
        found[0].scores[0][...] = 0


def test_no_filters(rng):
    """No filters give no maps."""
    assert score_cells([ArrayStack(rng.normal(size=(8, 8)), "YX")], (4, 4), []) == ()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"cell_size": (4, 4, 4)}, GeometryError, "image stack 0 is 2D"),
        ({"cell_size": (0, 4)}, GeometryError, "cell_size is 0 along Y"),
        ({"cell_size": (4, 4.0)}, NotIntegerError, "cell_size"),
        ({"channels": [2]}, GeometryError, "channels has 2, but cells.tif has 2 channels"),
        ({"channels": [-1]}, GeometryError, "channels has -1"),
        ({"channels": []}, GeometryError, "channels is empty"),
        ({"max_bytes": 0}, GeometryError, "max_bytes is 0"),
        ({"image_stacks": []}, GeometryError, "empty"),
    ],
)
def test_bad_arguments(arguments, error, message):
    """Invalid arguments are refused."""
    stack = ArrayStack(np.zeros((2, 8, 8)), "CYX", source="cells.tif")
    with pytest.raises(error, match=message):
        score_cells(**{"image_stacks": [stack], "cell_size": (4, 4), "filters": [MaxFilter()], **arguments})


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_cell_rows(data) -> None:
    """The cells of a block are views of its voxels, each cell once."""
    n_dims = data.draw(st.integers(2, 3))
    shape = data.draw(st.tuples(*[st.integers(1, 40)] * n_dims))
    cell = data.draw(st.tuples(*[st.integers(1, 13)] * n_dims))
    pixels = np.arange(2 * prod(shape)).reshape(2, *shape)
    seen = Counter()
    for cells, row in cell_rows(pixels, cell):
        assert np.shares_memory(row, pixels)
        for number, pixels_of_cell in zip(range(cells[-1].start, cells[-1].stop), row, strict=True):
            place = (*cells[:-1], number)
            window = tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, cell, strict=True))
            assert np.array_equal(pixels_of_cell, pixels[(slice(None), *window)])
            seen[place] += 1
    grid = [range(-(-size // side)) for size, side in zip(shape, cell, strict=True)]
    assert seen == Counter(itertools.product(*grid))
