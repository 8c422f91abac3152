"""Plans that heed scores: what is set aside is never touched, and what is thinned out is drawn as seldom as said."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ScoreMap, StratifiedPatching, downweight_below, exclude_below
from patchloom.errors import GeometryError

CELL = (8, 6)


@st.composite
def scored_series(draw: st.DrawFn) -> tuple[StratifiedPatching, ScoreMap]:
    seed = draw(st.integers(0, 2**31))
    shapes = draw(
        st.lists(
            st.tuples(st.integers(1, 2), st.just(1), st.integers(8, 50), st.integers(6, 50)), min_size=1, max_size=3
        )
    )
    rng = np.random.default_rng(seed)
    scores = tuple(rng.random((shape[0], -(-shape[2] // CELL[0]), -(-shape[3] // CELL[1]))) for shape in shapes)
    return StratifiedPatching(shapes, CELL, seed=seed), ScoreMap(scores, CELL, tuple(shapes), "test")


def cells_touched(spec) -> tuple[slice, ...]:
    return tuple(
        slice(start // side, (start + side - 1) // side + 1) for start, side in zip(spec["coords"], CELL, strict=True)
    )


def scores_touched(spec, score_map: ScoreMap) -> np.ndarray:
    return score_map.scores[spec["data_idx"]][spec["sample_idx"]][cells_touched(spec)]


@settings(deadline=None, max_examples=60)
@given(scored_series(), st.floats(0, 1))
def test_excluded(series, threshold) -> None:
    """No patch contains voxels of excluded cells."""
    patching, score_map = series
    exclude_below(patching, score_map, threshold)
    for epoch in range(3):
        assert all((scores_touched(spec, score_map) >= threshold).all() for spec in patching.at_epoch(epoch))


@settings(deadline=None, max_examples=60)
@given(scored_series(), st.floats(0, 1))
def test_probability_0(series, threshold) -> None:
    """At probability 0 every patch starts within one cell of the foreground."""
    patching, score_map = series
    downweight_below(patching, score_map, threshold, probability=0)
    for spec in patching.at_epoch(1):
        first = [start // side for start, side in zip(spec["coords"], CELL, strict=True)]
        reach = tuple(slice(cell, cell + 2) for cell in first)
        assert score_map.scores[spec["data_idx"]][spec["sample_idx"]][reach].max() >= threshold


def test_downweighted_and_excluded():
    """A patch may extend from background into foreground, but not into excluded cells."""
    scores = np.zeros((1, 4, 4))
    scores[0, 2, 2] = 1
    shapes = [(1, 1, 32, 24)]
    thinned, excluded = StratifiedPatching(shapes, CELL, seed=3), StratifiedPatching(shapes, CELL, seed=3)
    score_map = ScoreMap((scores,), CELL, tuple(shapes), "test")
    downweight_below(thinned, score_map, 1, probability=0)
    exclude_below(excluded, score_map, 1)
    drawn = {spec["coords"] for epoch in range(200) for spec in thinned.at_epoch(epoch)}
    assert (16, 12) in drawn or len(drawn) > 1
    assert {tuple(part.start for part in cells_touched({"coords": coords})) for coords in drawn} == {
        (1, 1), (1, 2), (2, 1), (2, 2),
    }  # fmt: skip
    assert [spec["coords"] for spec in excluded] == [(16, 12)]


def test_probability():
    """Background is drawn with the given probability."""
    scores = np.zeros((1, 40, 40))
    scores[0, :, 20:] = 1
    score_map = ScoreMap((scores,), CELL, ((1, 1, 320, 240),), "test")
    patching = StratifiedPatching(score_map.data_shapes, CELL, seed=11)
    before = len(patching)
    downweight_below(patching, score_map, 0.5, probability=0.2)
    starts = np.concatenate(
        [patching.at_epoch(epoch).specs(range(len(patching))).columns["coords"] for epoch in range(5)]
    )
    background = starts[:, 1] < 19 * CELL[1]
    assert len(patching) == pytest.approx(before * (19 * 0.2 + 21) / 40, rel=0.01)
    assert background.mean() == pytest.approx(19 * 0.2 / (19 * 0.2 + 20.8), rel=0.1)


def test_background_image():
    """An image of background gives no patch and does not change the others."""
    scores = (np.zeros((1, 4, 4)), np.ones((1, 4, 4)))
    score_map = ScoreMap(scores, CELL, ((1, 1, 32, 24),) * 2, "test")
    for thin_out in (exclude_below, lambda *args: downweight_below(*args, probability=0)):
        patching = StratifiedPatching(score_map.data_shapes, CELL, seed=1)
        thin_out(patching, score_map, 0.5)
        assert (len(patching.get_patch_indices(0)), len(patching.get_patch_indices(1))) == (0, 16)


def test_two_filters():
    """Two filters add up, even if no cell is left."""
    left, right = np.ones((1, 4, 4)), np.ones((1, 4, 4))
    left[..., 2:] = right[..., :3] = 0
    patching = StratifiedPatching([(1, 1, 32, 24)], CELL, seed=1)
    for scores in (left, right):
        downweight_below(patching, ScoreMap((scores,), CELL, ((1, 1, 32, 24),), "test"), 0.5, probability=0)
    assert len(patching) == 0 or {spec["coords"][1] // CELL[1] for spec in patching} <= {2}


def test_three_dimensions(rng):
    """Cells in 3D are excluded as well."""
    scores = rng.random((2, 3, 4, 5))
    score_map = ScoreMap((scores,), (4, 8, 8), ((2, 1, 12, 32, 37),), "test")
    patching = StratifiedPatching(score_map.data_shapes, (4, 8, 8), seed=5)
    exclude_below(patching, score_map, 0.3)
    for spec in patching:
        reach = tuple(
            slice(start // side, (start + side - 1) // side + 1)
            for start, side in zip(spec["coords"], (4, 8, 8), strict=True)
        )
        assert scores[spec["sample_idx"]][reach].min() >= 0.3


@pytest.mark.parametrize(
    ("cell_size", "shapes", "message"),
    [
        ((8, 8), ((1, 1, 32, 24),), r"call score_cells with cell_size=\(8, 6\)"),
        (CELL, ((1, 1, 32, 25),), r"image stack 0 has shape S\(Z\)YX \(1, 32, 25\) in score_map"),
        (CELL, ((2, 1, 32, 24),), "image stack 0 has shape"),
        (CELL, ((1, 1, 32, 24),) * 2, "score_map has 2 image stacks, and patching has 1"),
    ],
)
def test_other_scores(cell_size, shapes, message):
    """Scores of other images or cells are refused."""
    scores = tuple(np.zeros((shape[0], 4, 4)) for shape in shapes)
    patching = StratifiedPatching([(1, 1, 32, 24)], CELL, seed=1)
    for heed in (exclude_below, downweight_below):
        with pytest.raises(GeometryError, match=message):
            heed(patching, ScoreMap(scores, cell_size, shapes, "test"), 1)
    assert len(patching) == 16


def test_channels():
    """Masks may have other channels than the images."""
    score_map = ScoreMap((np.ones((1, 4, 4)),), CELL, ((1, 1, 32, 24),), "mask")
    patching = StratifiedPatching([(1, 3, 32, 24)], CELL, seed=1)
    exclude_below(patching, score_map, 0.5)
    assert len(patching) == 16


@pytest.mark.parametrize("probability", [-0.1, 1.1, float("nan")])
def test_bad_probability(probability):
    """Numbers that are not probabilities are refused."""
    patching = StratifiedPatching([(1, 1, 32, 24)], CELL, seed=1)
    score_map = ScoreMap((np.ones((1, 4, 4)),), CELL, ((1, 1, 32, 24),), "test")
    with pytest.raises(GeometryError, match="probability is"):
        downweight_below(patching, score_map, 0.5, probability=probability)
