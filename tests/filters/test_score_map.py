"""Score maps: thresholds over the whole series, and weights."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from patchloom import ScoreMap, WeightedPatching
from patchloom.errors import ArgumentError


def score_map(
    *scores: object, cell_size: tuple[int, ...] = (4, 4), sizes: tuple[tuple[int, ...], ...] = ()
) -> ScoreMap:
    arrays = tuple(np.array(of_stack, float) for of_stack in scores)
    shapes = sizes or tuple((len(of_stack), 1, *(4 * n for n in of_stack.shape[1:])) for of_stack in arrays)
    return ScoreMap(arrays, cell_size, shapes, "test")


def test_quantile(rng):
    """A quantile is one threshold for all stacks."""
    scores = rng.normal(size=(2, 5, 6)), rng.normal(10, 1, size=(1, 10, 6))
    found = score_map(*scores)
    threshold = found.quantile(0.5)
    assert type(threshold) is float
    below = found.below(threshold)
    assert [part.mean() for part in below] == [1, 0]
    assert sum(part.sum() for part in found.below(found.quantile(0.25))) == 30


def test_nan():
    """A cell without a score is below every threshold, and no part of a quantile."""
    found = score_map([[[np.nan, 1, 2, 3]]])
    assert found.below(-np.inf)[0].tolist() == [[[True, False, False, False]]]
    assert found.quantile(0) == 1


def test_no_scores():
    """A quantile of no scores is an error."""
    with pytest.raises(ArgumentError, match="no cell of the series has a score of test"):
        score_map([[[np.nan]]]).quantile(0.5)
    with pytest.raises(ArgumentError, match="share is 1"):
        score_map([[[1]]]).quantile(1.5)


def test_weights():
    """Weights are proportional to the voxels of a cell."""
    found = score_map([[[3, 5, 5], [5, np.nan, 7]]], sizes=((1, 2, 6, 9),))
    assert found.weights(above=4)[0].tolist() == [[[0, 16, 4], [8, 0, 6]]]


def test_weighted_patching():
    """Weights draw patches from cells with high scores."""
    found = score_map([[[0, 0], [0, 1]]], [[[0, 0], [0, 0]]], cell_size=(8, 8), sizes=((1, 1, 16, 16),) * 2)
    patching = WeightedPatching(found.data_shapes, (8, 8), found.weights(), found.cell_size, seed=1, n_patches=20)
    assert {spec["data_idx"] for spec in patching} == {0}
    assert min(min(spec["coords"]) for spec in patching) >= 4


def test_pickle(rng):
    """A score map pickles."""
    found = score_map(rng.normal(size=(1, 2, 3)))
    again = pickle.loads(pickle.dumps(found))
    assert np.array_equal(again.scores[0], found.scores[0])
    assert (again.cell_size, again.data_shapes, again.name) == (found.cell_size, found.data_shapes, found.name)
