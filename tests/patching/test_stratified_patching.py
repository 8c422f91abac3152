"""Stratified patches: spread evenly in every epoch, off what is excluded, seldom where improbable."""

from __future__ import annotations

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, NotIntegerError, PatchIndexError
from patchloom.patching import RandomPatching, StratifiedPatching

Departure = Callable[..., float]


def coords_of(patching: StratifiedPatching, epochs: int) -> np.ndarray:
    """Coordinates of all patches of a plan of one sample over several epochs: `(epochs, patches, axes)`."""
    everything = range(len(patching))
    return np.stack([patching.at_epoch(epoch).specs(everything).columns["coords"] for epoch in range(epochs)])


@st.composite
def restricted(draw: st.DrawFn) -> tuple[StratifiedPatching, list[tuple[int, ...]]]:
    """Return a plan of one sample with excluded cells, cut ones among them, and these cells."""
    n_dims = draw(st.integers(2, 3))
    patch = draw(st.tuples(*[st.integers(1, 5)] * n_dims))
    shape = tuple(side + draw(st.integers(0, 14 if n_dims == 2 else 8)) for side in patch)
    patching = StratifiedPatching([(1, 1, *shape)], patch, draw(st.integers(0, 99)))
    cells = list(itertools.product(*(range(-(-size // side)) for size, side in zip(shape, patch, strict=True))))
    excluded = draw(st.lists(st.sampled_from(cells), max_size=6))
    patching.exclude_patches(0, 0, excluded)
    return patching, excluded


@settings(deadline=None, max_examples=80)
@given(restricted())
def test_excluded_cells(
    plan: tuple[StratifiedPatching, list[tuple[int, ...]]],
) -> None:
    """Patches stay inside and never touch an excluded cell."""
    patching, excluded = plan
    patch, shape = np.array(patching.patch_size), np.array(patching.data_shapes[0][2:])
    coords = coords_of(patching, epochs=3).reshape(-1, len(patch))
    assert (coords >= 0).all()
    assert (coords + patch <= shape).all()
    for cell in excluded:
        low, high = np.array(cell) * patch, (np.array(cell) + 1) * patch
        assert not ((coords < high) & (coords + patch > low)).all(axis=1).any()


@settings(deadline=None, max_examples=40)
@given(restricted())
def test_number(
    plan: tuple[StratifiedPatching, list[tuple[int, ...]]],
) -> None:
    """The number of patches follows from the voxels that patches may touch."""
    patching, excluded = plan
    shape, patch = patching.data_shapes[0][2:], patching.patch_size
    left = np.ones(shape, dtype=bool)
    for cell in excluded:
        left[tuple(slice(index * side, (index + 1) * side) for index, side in zip(cell, patch, strict=True))] = False
    windows = np.lib.stride_tricks.sliding_window_view(left, patch)
    possible = windows.reshape(*windows.shape[: len(patch)], -1).all(axis=-1)
    assert len(patching) == (ceil(left.sum() / prod(patch)) if possible.any() else 0)
    # All possible places are drawn in time, and no other.
    if possible.any():
        coords = coords_of(patching, epochs=12 * possible.size // len(patching) + 1).reshape(-1, len(patch))
        drawn = np.zeros(possible.shape, dtype=bool)
        drawn[tuple(coords.T)] = True
        assert (drawn <= possible).all()
        assert drawn.sum() >= 0.99 * possible.sum()


@pytest.mark.parametrize("shape", [(37, 29), (16, 24), (9, 14, 11)])
@pytest.mark.parametrize("excluded", [[], [(0, 1), (3, 2)]])
def test_uniform(shape: tuple[int, ...], excluded: list[tuple[int, ...]], departure: Departure) -> None:
    """Every allowed position is equally likely, by a chi-square test."""
    patch, n_samples = (6, 5, 4)[: len(shape)], 500
    patching = StratifiedPatching([(n_samples, 1, *shape)], patch, 7)
    cells = [(*cell, 0)[: len(shape)] for cell in excluded if cell[0] < shape[0] // patch[0]]
    for sample_idx in range(n_samples):
        patching.exclude_patches(0, sample_idx, cells)
    coords = coords_of(patching, epochs=120_000 // len(patching)).reshape(-1, len(patch))
    extents = [size - side + 1 for size, side in zip(shape, patch, strict=True)]
    places = np.bincount(np.ravel_multi_index(tuple(coords.T), extents), minlength=prod(extents))
    left = places[places > 0]
    assert departure(left, left.mean()) < 4  # strata make counts vary less than chance would, never more
    regions = np.array_split(left, 16)
    sizes = np.array([len(region) for region in regions])
    counts = np.array([region.sum() for region in regions])
    assert departure(counts, sizes * left.mean()) < 4
    counts[::2] = counts[::2] * 1.1  # a tenth more in every other region would be seen
    assert departure(counts, sizes * counts.sum() / sizes.sum()) > 6


def test_even_in_an_epoch() -> None:
    """An epoch omits no region and crowds none."""
    shape, patch = (1, 1, 160, 160), (16, 16)
    stratified, random = StratifiedPatching([shape], patch, 1), RandomPatching([shape], patch, 1)
    assert len(stratified) == len(random) == 100

    def per_region(patching: Any) -> np.ndarray:
        coords = coords_of(patching, epochs=200)
        cells = np.ravel_multi_index(tuple(np.moveaxis(coords // 16, 2, 0)), (10, 10))
        return np.stack([np.bincount(epoch, minlength=100) for epoch in cells])[
            :, np.arange(100).reshape(10, 10)[:9, :9]
        ]

    even, uneven = per_region(stratified), per_region(random)
    assert even.mean() == pytest.approx(uneven.mean(), rel=0.02)
    assert even.min() == 1, "every region has a stratum of its own"
    assert uneven.min() == 0
    assert even.var() < 0.3 < 1 < uneven.var()


@pytest.mark.parametrize("n_patches", [60, 175, 510])
def test_any_number(n_patches: int, departure: Departure) -> None:
    """Any number of patches is spread evenly."""
    patching = StratifiedPatching([(1, 1, 160, 160)], (16, 16), 1, n_patches=n_patches)
    coords = coords_of(patching, epochs=200)
    cells = np.ravel_multi_index(tuple(np.moveaxis(coords // 16, 2, 0)), (10, 10))
    counts = np.stack([np.bincount(epoch, minlength=100) for epoch in cells])
    expected = np.outer(np.append([16] * 9, 1), np.append([16] * 9, 1)).ravel() * n_patches / 145**2
    assert np.abs(counts.mean(axis=0) - expected).max() < 0.2
    assert counts[:, expected > 0.5].var(axis=0).mean() < 0.4 * expected.max() + 0.1
    places = np.bincount(np.ravel_multi_index(tuple(coords.reshape(-1, 2).T // 5), (29, 29)), minlength=29 * 29)
    assert departure(places, places.mean()) < 4


def test_region_of_a_patch() -> None:
    """Patch `i` starts in the same region in every epoch."""
    patching = StratifiedPatching([(1, 1, 320, 320)], (16, 16), 1)
    coords = coords_of(patching, epochs=50)
    spread = coords.max(axis=0) - coords.min(axis=0)
    assert (np.sort(spread[:, 0])[:-20] <= 32).all(), "but for those at the end of a row of cells"
    assert (spread.sum(axis=1) > 0).all(), "and yet it moves"


def test_once_per_epoch() -> None:
    """A voxel is in one patch per epoch on average."""
    patching = StratifiedPatching([(1, 1, 64, 48)], (16, 16), 3)
    drawn = np.zeros((64, 48))
    for y, x in coords_of(patching, epochs=300).reshape(-1, 2).tolist():
        drawn[y : y + 16, x : x + 16] += 1 / 300
    assert drawn.mean() == pytest.approx(1, rel=1e-9)
    amid = 12 * 16 * 16 / (49 * 33)
    assert drawn[16:48, 16:32].mean() == pytest.approx(amid, rel=0.02)
    assert drawn[0, 0] < 0.05 * amid


def test_probabilities() -> None:
    """Probabilities of cells are met."""
    patching = StratifiedPatching([(300, 1, 60, 60)], (10, 10), 5)
    cells = patching.get_all_grid_coords()[0, 0]
    seldom = {cell: 0.3 for cell in cells if cell[1] in (1, 2)} | {cell: 0.0 for cell in cells if cell[1] == 4}
    for sample_idx in range(300):
        patching.set_region_probs(0, sample_idx, seldom)
    assert len(patching) == 300 * 22  # of 36 - 12 * 0.7 - 6
    coords = coords_of(patching, epochs=10).reshape(-1, 2)
    columns = np.bincount(coords[:, 1] // 10, minlength=6)
    assert columns[4] == 0
    relative = columns / columns[0]
    assert relative[1] == pytest.approx(0.3, rel=0.05)
    assert relative[2] == pytest.approx(0.3, rel=0.05)
    assert relative[3] == pytest.approx(1.0, rel=0.03)
    whole = patching.at_epoch(0)
    whole.set_region_probs(0, 7, dict.fromkeys(cells, 1.0))
    assert len(whole.specs(range(len(whole)))) == 299 * 22 + 36
    assert len(patching) == 300 * 22, "the other plan keeps what was set"


def test_probability_array() -> None:
    """An array sets the probabilities of all cells."""
    one, other = (StratifiedPatching([(2, 1, 35, 47)], (10, 10), 5) for _ in range(2))
    probabilities = np.random.default_rng(0).random((3, 4))
    one.set_region_probs(0, 1, probabilities)
    other.set_region_probs(0, 1, {cell: float(probabilities[cell]) for cell in np.ndindex(3, 4)})
    assert list(one) == list(other)
    assert one.included_cells()[1].tolist() == [1.0] * 12 + probabilities.ravel().tolist()


def test_tiny_probability() -> None:
    """The smallest probability is possible, and sums of probabilities are not rounded up."""
    patching = StratifiedPatching([(1, 1, 100, 10)], (10, 10), 5)
    patching.set_region_probs(0, 0, {(row, 0): 0.1 for row in range(10)})
    assert len(patching) == 1
    patching.set_region_probs(0, 0, {(row, 0): 0.0 for row in range(1, 10)} | {(0, 0): 1e-30})
    assert patching[0]["coords"][0] < 10


def test_included_cells() -> None:
    """Cells are listed as included until they are excluded."""
    patching = StratifiedPatching([(2, 1, 30, 45), (1, 1, 20, 29)], (10, 15), 1)
    everything = patching.get_all_grid_coords()
    assert {key: len(cells) for key, cells in everything.items()} == {(0, 0): 9, (0, 1): 9, (1, 0): 2}
    assert patching.get_included_grid_coords() == everything
    patching.exclude_patches(0, 1, [(0, 0), (2, 1)])
    patching.exclude_patches(0, 1, np.array([[0, 0], [1, 1]]))
    patching.exclude_patches(1, 0, [(0, 1)])  # cut by the image's end
    included = patching.get_included_grid_coords()
    assert set(everything[0, 1]) - set(included[0, 1]) == {(0, 0), (2, 1), (1, 1)}
    assert included[0, 0] == everything[0, 0]
    assert included[1, 0] == everything[1, 0]
    cells, probabilities = patching.included_cells()
    assert [tuple(cell) for cell in cells.tolist()] == [(*key, *cell) for key, of in included.items() for cell in of]
    assert (probabilities == 1).all()


def test_copies() -> None:
    """Cells excluded later are excluded from one patching only."""
    patching = StratifiedPatching([(1, 1, 40, 40)], (10, 10), 1)
    other = patching.at_epoch(0)
    patching.exclude_patches(0, 0, [(0, 0)])
    assert (len(patching), len(other)) == (15, 16)
    third = patching.at_epoch(1)
    third.exclude_patches(0, 0, [(1, 1)])
    assert (len(patching), len(third)) == (15, 14)
    assert patching.get_included_grid_coords()[0, 0].count((1, 1)) == 1


@pytest.mark.parametrize("n_patches", [None, 50])
def test_all_excluded(n_patches: int | None) -> None:
    """Excluding all cells leaves an empty patching."""
    patching = StratifiedPatching([(2, 1, 40, 45)], (10, 10), 1, n_patches=n_patches)
    patching.exclude_patches(0, 0, patching.get_all_grid_coords()[0, 0])
    assert {spec["sample_idx"] for spec in patching} == {1}
    patching.exclude_patches(0, 1, patching.get_all_grid_coords()[0, 1])
    assert len(patching) == patching.n_patches == 0
    assert list(patching) == patching.specs([]).to_specs() == []
    assert patching.get_patch_indices(0) == range(0)
    with pytest.raises(PatchIndexError, match="the patching has 0 patches"):
        patching.get_patch_spec(0)


def test_memory() -> None:
    """A patching without excluded cells takes no memory per cell."""
    tracemalloc.start()
    patching = StratifiedPatching([(1, 1, 320_000, 320_000)], (32, 32), 1)
    assert len(patching) == 10**8
    assert patching[10**8 - 1] == patching.specs([10**8 - 1])[0]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


def test_memory_per_cell() -> None:
    """A patching with excluded cells takes few bytes per cell."""
    patching = StratifiedPatching([(1, 1, 3200, 3200)], (10, 10), 1)  # 102,400 cells
    excluded = np.argwhere(np.random.default_rng(0).random((320, 320)) < 0.1)
    tracemalloc.start()
    patching.exclude_patches(0, 0, excluded)
    assert len(patching) == 320 * 320 - len(excluded)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 20 * 320 * 320
    assert peak < 100 * 320 * 320


def test_n_patches() -> None:
    """A given number of patches is distributed in proportion to the allowed voxels."""
    patching = StratifiedPatching([(2, 1, 40, 40), (1, 1, 80, 40)], (10, 10), 1, n_patches=20)
    patching.exclude_patches(0, 1, [(row, column) for row in range(2) for column in range(4)])
    counts = np.zeros((2, 2))
    for epoch in range(300):
        table = patching.at_epoch(epoch).specs(range(20)).columns
        np.add.at(counts, (table["data_idx"], table["sample_idx"]), 1)
    shares = np.array([[16, 8], [32, 0]]) * 20 / 56
    assert np.abs(counts / 300 - shares).max() < 4 * (0.25 / 300) ** 0.5


def test_recorded_patches() -> None:
    """Patches are the same on every machine."""
    patching = StratifiedPatching([(1, 1, 500, 400), (2, 1, 300, 700)], (64, 32), 2024)
    drawn = [patching.at_epoch(epoch)[index]["coords"] for epoch, index in ((0, 0), (0, 150), (9, 1))]
    assert drawn == [(17, 6), (189, 414), (37, 37)]
    patching.exclude_patches(0, 0, [(0, 0), (3, 3)])
    patching.set_region_probs(0, 0, {(1, 1): 0.3})
    drawn = [patching.at_epoch(epoch)[index]["coords"] for epoch, index in ((0, 0), (0, 50), (9, 1))]
    assert drawn == [(18, 56), (375, 57), (39, 76)]


def test_too_many_patches() -> None:
    """More patches than can be numbered are refused."""
    patching = StratifiedPatching([(1, 1, 10**6, 10**6)], (10, 10), 1)
    with pytest.raises(
        GeometryError, match="a sample has 10000000000 patches of size \\(10, 10\\), which is more than"
    ):
        len(patching)
    assert len(StratifiedPatching([(1, 1, 10**6, 10**6)], (10, 10), 1, n_patches=10**6)) == 10**6


@pytest.mark.parametrize(
    ("place", "cells", "error", "message"),
    [
        (
            (0, 0),
            [(3, 0)],
            PatchIndexError,
            "cell \\(3, 0\\) does not exist: sample 0 of image stack 0 has \\(3, 5\\) cells",
        ),
        ((0, 0), [(0, 0), (0, -1)], PatchIndexError, "cell \\(0, -1\\) does not exist"),
        ((0, 0), [(0, 0, 0)], GeometryError, "one whole number for each of Y, X"),
        ((0, 0), [(0, 0), (1,)], GeometryError, "one whole number for each of Y, X"),
        ((0, 0), [(0.0, 1.0)], GeometryError, "one whole number for each of Y, X"),
        ((0, 0), (1, 1), GeometryError, "one whole number for each of Y, X"),
        ((1, 0), [(0, 0)], PatchIndexError, "data_idx is 1, but the series has 1 image stacks"),
        ((0, 2), [(0, 0)], PatchIndexError, "sample_idx is 2, but image stack 0 has 2 samples"),
        ((0, -1), [(0, 0)], PatchIndexError, "sample_idx is -1"),
        ((0.0, 0), [(0, 0)], NotIntegerError, "data_idx is 0.0"),
    ],
)
def test_bad_cells(place: tuple[int, int], cells: Sequence[Any], error: type[Exception], message: str) -> None:
    """Cells that do not exist are refused."""
    patching = StratifiedPatching([(2, 1, 30, 45)], (10, 10), 1)
    before = list(patching)
    with pytest.raises(error, match=message):
        patching.exclude_patches(*place, cells)
    if isinstance(cells, list):
        with pytest.raises(error):
            patching.set_region_probs(*place, dict.fromkeys(cells, 0.5))
    assert list(patching) == before


@pytest.mark.parametrize(
    ("probs", "error", "message"),
    [
        ({(0, 0): 1.5}, GeometryError, "probability is 1.5 for cell \\(0, 0\\) of sample 0 of image stack 0"),
        ({(0, 0): 0.5, (1, 1): -0.1}, GeometryError, "probability is -0.1 for cell \\(1, 1\\)"),
        ({(0, 0): float("nan")}, GeometryError, "probability is nan"),
        ({(0, 4): 0.5}, PatchIndexError, "cell \\(0, 4\\) does not exist: .* has \\(3, 4\\) cells"),
        (np.ones((3, 5)), GeometryError, "probs has shape \\(3, 5\\), but .* has \\(3, 4\\) whole cells"),
    ],
)
def test_bad_probabilities(probs: Any, error: type[Exception], message: str) -> None:
    """Values that are not probabilities are refused."""
    patching = StratifiedPatching([(2, 1, 30, 45)], (10, 10), 1)
    before = list(patching)
    with pytest.raises(error, match=message):
        patching.set_region_probs(0, 0, probs)
    assert list(patching) == before


@pytest.mark.parametrize("n_patches", [None, 17])
def test_all_probabilities_zero(n_patches: int | None) -> None:
    """A sample whose cells all have probability 0 has no patches."""
    shapes = [(2, 1, 35, 45), (1, 1, 20, 20)]
    patching = StratifiedPatching(shapes, (10, 10), 1, n_patches=n_patches)
    cells = patching.get_all_grid_coords()
    patching.set_region_probs(0, 1, dict.fromkeys(cells[0, 1], 0.0))
    for epoch in range(3):
        plan = patching.at_epoch(epoch)
        assert len(plan) == (n_patches or len(plan))
        assert {(spec["data_idx"], spec["sample_idx"]) for spec in plan} == {(0, 0), (1, 0)}
        assert plan[:].to_specs() == [plan.get_patch_spec(index) for index in range(len(plan))]
    for key, of_sample in cells.items():
        patching.set_region_probs(*key, np.zeros([max(axis) + 1 for axis in zip(*of_sample, strict=True)]))
    assert len(patching) == patching.n_patches == 0
    assert list(patching) == []
    assert list(patching.get_patch_indices(0)) == []
    assert patching.get_included_grid_coords() == cells, "they are not excluded"
    patching.set_region_probs(1, 0, {(1, 1): 1.0})
    assert all(spec["coords"] == (10, 10) for spec in patching)
    assert len(patching) == (n_patches or 1)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_image_patching(data: st.DataObject, n_dims: int) -> None:
    """`image_patching` counts the patches of each sample."""
    size = data.draw(st.tuples(*[st.integers(2, 5)] * n_dims))
    shapes = [
        (data.draw(st.integers(1, 3)), 1, *(side + data.draw(st.integers(0, 12)) for side in size)) for _ in range(3)
    ]
    patching = StratifiedPatching(shapes, size, 1, n_patches=data.draw(st.none() | st.integers(1, 50)))
    parts = patching.image_patching
    for _ in range(data.draw(st.integers(0, 3))):
        key, cells = data.draw(st.sampled_from(sorted(patching.get_all_grid_coords().items())))
        chosen = data.draw(st.lists(st.sampled_from(cells), max_size=9))
        if data.draw(st.booleans()):
            patching.exclude_patches(*key, chosen)
        else:
            patching.set_region_probs(*key, dict.fromkeys(chosen, data.draw(st.sampled_from([0.0, 0.3, 1.0]))))
    counted = Counter((spec["data_idx"], spec["sample_idx"]) for spec in patching)
    assert len(parts) == len(shapes)
    for data_idx, shape in enumerate(shapes):
        assert len(parts[data_idx]) == shape[0]
        for sample_idx, part in enumerate(parts[data_idx]):
            assert part.n_patches == counted[data_idx, sample_idx]
            assert type(part.n_patches) is int
            assert part.grid_shape == patching.grid_shape(data_idx)
    with pytest.raises(IndexError):
        parts[3]
    with pytest.raises(IndexError):
        parts[0][shapes[0][0]]
