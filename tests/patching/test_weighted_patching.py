"""Weighted patches: drawn where the weights are, as often as they say, from a map of weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.patching import WeightedPatching

Departure = Callable[..., float]


def coords_of(patching: WeightedPatching) -> np.ndarray:
    return patching.specs(range(len(patching))).columns["coords"]


def test_weights(departure: Departure) -> None:
    """Cells are drawn in proportion to their weights."""
    rng = np.random.default_rng(1)
    shapes = [(2, 1, 60, 50), (1, 1, 33, 47)]
    weights = [rng.random((2, 12, 10)) * (rng.random((2, 12, 10)) < 0.3), rng.random((1, 7, 10))]
    patching = WeightedPatching(shapes, (1, 1), weights, (5, 5), 3, n_patches=100_000)  # a patch is the voxel drawn
    table = patching.specs(range(len(patching))).columns
    counts = [np.zeros_like(of_stack) for of_stack in weights]
    for data_idx, of_stack in enumerate(counts):
        own = table["data_idx"] == data_idx
        np.add.at(of_stack, (table["sample_idx"][own], *(table["coords"][own] // 5).T), 1)
    drawn, expected = (np.concatenate([part.ravel() for part in parts]) for parts in (counts, weights))
    assert (drawn[expected == 0] == 0).all()
    likely = expected > 0.01
    expected = expected * 100_000 / expected.sum()
    assert departure(drawn[likely], expected[likely]) < 4
    biased = drawn[likely]
    biased[::2] = biased[::2] * 1.1
    assert departure(biased, expected[likely] * biased.sum() / expected[likely].sum()) > 6
    within = np.bincount((table["coords"] % 5)[table["data_idx"] == 0] @ [5, 1], minlength=25)
    assert departure(within, within.mean()) < 4, "all voxels of a cell are equally likely"


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_position(data: st.DataObject) -> None:
    """A patch contains the voxel that it was drawn for, and stays inside."""
    n_dims = data.draw(st.integers(2, 3))
    patch = data.draw(st.tuples(*[st.integers(1, 7)] * n_dims))
    shape = tuple(side + data.draw(st.integers(0, 12)) for side in patch)
    cell_size = data.draw(st.tuples(*[st.integers(1, 5)] * n_dims))
    weights = np.zeros((1, *(-(-size // cell) for size, cell in zip(shape, cell_size, strict=True))))
    cell = tuple(data.draw(st.integers(0, count - 1)) for count in weights.shape[1:])
    weights[0][cell] = data.draw(st.floats(1e-12, 1e12))
    coords = coords_of(WeightedPatching([(1, 1, *shape)], patch, [weights], cell_size, 5, n_patches=40))
    assert (coords >= 0).all()
    assert (coords + patch <= shape).all()
    low = np.array(cell) * cell_size
    high = np.minimum(low + cell_size, shape)
    assert ((coords < high) & (coords + patch > low)).all(), "it meets the cell"
    center = coords + np.array(patch) // 2
    moved = (coords == 0) | (coords + patch == shape)
    assert (moved | ((center >= low) & (center < high))).all(), "it is centered in the cell, unless moved inside"


def test_n_patches() -> None:
    """Patches are distributed over samples by weight, and epochs differ."""
    weights = [np.full((3, 4, 4), [[[1.0]], [[0.0]], [[3.0]]]), np.full((1, 4, 4), 4.0)]
    patching = WeightedPatching([(3, 1, 40, 40), (1, 1, 40, 40)], (8, 8), weights, (10, 10), 3)
    assert len(patching) == 4 * 25
    assert [len(patching.get_patch_indices(data_idx)) for data_idx in (0, 1)] == [50, 50]
    samples = patching.specs(patching.get_patch_indices(0)).columns["sample_idx"]
    assert np.abs(np.bincount(samples, minlength=3) - [12.5, 0, 37.5]).max() <= 1
    assert not np.array_equal(coords_of(patching), coords_of(patching.at_epoch(1)))
    drawn = [patching.at_epoch(epoch)[index]["coords"] for epoch, index in ((0, 0), (0, 80), (4, 1))]
    assert drawn == [(7, 17), (32, 13), (30, 11)], "on every machine"


@pytest.mark.parametrize(
    ("weights", "cell_size", "message"),
    [
        ([np.ones((1, 4, 5))], (10, 10), r"weights of image stack 0 have shape \(1, 4, 5\), but it has \(1, 4, 4\)"),
        ([np.ones((4, 4))], (10, 10), r"weights of image stack 0 have shape \(4, 4\)"),
        ([np.ones((1, 4, 4))] * 2, (10, 10), "there are 2 weight maps for 1 image stacks"),
        ([np.zeros((1, 4, 4))], (10, 10), "all weights are 0"),
        ([np.full((1, 4, 4), -1.0)], (10, 10), "a weight of image stack 0 is negative or not finite"),
        ([np.full((1, 4, 4), np.nan)], (10, 10), "a weight of image stack 0 is negative or not finite"),
        ([np.full((1, 4, 4), np.inf)], (10, 10), "a weight of image stack 0 is negative or not finite"),
        ([np.ones((1, 4, 4))], (10,), "cell_size is"),
        ([np.ones((1, 4, 4))], (10, 0), "cell_size is 0 along X"),
    ],
)
def test_bad_weights(weights: Any, cell_size: Any, message: str) -> None:
    """Values that are not weights are refused."""
    with pytest.raises(GeometryError, match=message):
        WeightedPatching([(1, 1, 40, 40)], (8, 8), weights, cell_size)
