"""Pictures: what is drawn lies where it belongs."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom import ScoreMap
from patchloom.figures import draw_scores

figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def axes():
    return figure.Figure().add_subplot()


def test_scores_lie_over_their_voxels_and_end_with_the_image(axes):
    axes.imshow(np.zeros((20, 30)))
    limits = axes.get_xlim(), axes.get_ylim()
    scores = np.arange(6.0).reshape(1, 2, 3)
    mesh = draw_scores(axes, ScoreMap((scores,), (16, 12), ((1, 1, 20, 30),), "test"))
    assert mesh.get_array().tolist() == scores[0].tolist()
    corners = mesh.get_coordinates()
    assert corners[:, 0, 1].tolist() == [-0.5, 15.5, 19.5]
    assert corners[0, :, 0].tolist() == [-0.5, 11.5, 23.5, 29.5]
    assert (axes.get_xlim(), axes.get_ylim()) == limits


def test_cells_below_the_threshold_and_without_a_score_are_left_out(axes):
    score_map = ScoreMap((np.array([[[1, np.nan, 3]]]),), (8, 8), ((1, 1, 8, 24),), "test")
    assert draw_scores(axes, score_map).get_array().mask.tolist() == [[False, True, False]]
    assert draw_scores(axes, score_map, threshold=2).get_array().mask.tolist() == [[True, True, False]]


def test_of_a_volume_one_layer_of_cells_is_drawn(axes):
    scores = np.arange(24.0).reshape(2, 3, 2, 2)
    score_map = ScoreMap((scores,), (4, 8, 8), ((2, 1, 12, 16, 16),), "test")
    assert draw_scores(axes, score_map, sample_idx=1).get_array().tolist() == scores[1, 1].tolist()
    assert draw_scores(axes, score_map, layer=2).get_array().tolist() == scores[0, 2].tolist()
