"""Figures: shapes, scores and scale bars are drawn at the right positions."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom import ArgumentError, GeometryError, ScoreMap, TiledPatching
from patchloom.figures import draw_scale_bar, draw_scores, draw_tiling, prediction_figure, save_figure

figure = pytest.importorskip("matplotlib.figure")


@pytest.fixture
def axes():
    return figure.Figure().add_subplot()


def box(patch):
    """Return the first and one past the last pixel of a rectangle: `(y, x), (y, x)`."""
    (left, bottom), (right, top) = patch.get_bbox().get_points() + 0.5
    return (bottom, left), (top, right)


def test_scores_positions(axes):
    """Scores lie over their voxels and end with the image."""
    axes.imshow(np.zeros((20, 30)))
    limits = axes.get_xlim(), axes.get_ylim()
    scores = np.arange(6.0).reshape(1, 2, 3)
    mesh = draw_scores(axes, ScoreMap((scores,), (16, 12), ((1, 1, 20, 30),), "test"))
    assert mesh.get_array().tolist() == scores[0].tolist()
    corners = mesh.get_coordinates()
    assert corners[:, 0, 1].tolist() == [-0.5, 15.5, 19.5]
    assert corners[0, :, 0].tolist() == [-0.5, 11.5, 23.5, 29.5]
    assert (axes.get_xlim(), axes.get_ylim()) == limits


def test_scores_threshold(axes):
    """Cells below the threshold and cells without a score are not drawn."""
    score_map = ScoreMap((np.array([[[1, np.nan, 3]]]),), (8, 8), ((1, 1, 8, 24),), "test")
    assert draw_scores(axes, score_map).get_array().mask.tolist() == [[False, True, False]]
    assert draw_scores(axes, score_map, threshold=2).get_array().mask.tolist() == [[True, True, False]]


def test_scores_layer(axes):
    """One layer of cells of a 3D image is drawn, the middle one by default."""
    scores = np.arange(24.0).reshape(2, 3, 2, 2)
    score_map = ScoreMap((scores,), (4, 8, 8), ((2, 1, 12, 16, 16),), "test")
    assert draw_scores(axes, score_map, sample_idx=1).get_array().tolist() == scores[1, 1].tolist()
    assert draw_scores(axes, score_map, layer=2).get_array().tolist() == scores[0, 2].tolist()


def test_tiling_positions(axes):
    """The frames are the kept parts of all tiles of the first sample, and the last rectangle is a whole tile."""
    tiling = TiledPatching([(1, 1, 20, 20), (2, 1, 50, 70)], patch_size=(32, 32), overlaps=(8, 8))
    draw_tiling(axes, tiling, data_idx=1)
    of_sample = [spec for spec in tiling if (spec["data_idx"], spec["sample_idx"]) == (1, 0)]
    kept = [(spec["stitch_coords"], tuple(np.add(spec["stitch_coords"], spec["crop_size"]))) for spec in of_sample]
    *frames, tile = map(box, axes.patches)
    assert sorted(frames) == sorted(kept)
    assert tile in [(spec["coords"], tuple(np.add(spec["coords"], 32))) for spec in of_sample]


def test_tiling_3d(axes):
    """A 3D tiling is refused."""
    with pytest.raises(GeometryError, match="tiling is 3D"):
        draw_tiling(axes, TiledPatching([(1, 1, 8, 8, 8)], patch_size=(4, 4, 4), overlaps=(0, 0, 0)))


@pytest.mark.parametrize(
    ("width", "pixel_size", "n_pixels", "label"),
    [
        (400, None, 100, "100 px"),
        (399, None, 50, "50 px"),
        (400, 0.25, 80, "20 µm"),
        (3675, 0.227, 200 / 0.227, "200 µm"),
    ],
)
def test_scale_bar_length(axes, width, pixel_size, n_pixels, label):
    """The bar is the longest of 1, 2 or 5 times a power of ten that fits into a quarter of the width."""
    axes.set(xlim=(-0.5, width - 0.5), ylim=(99.5, -0.5))
    draw_scale_bar(axes, pixel_size)
    (bar,) = axes.artists
    assert bar.txt_label.get_text() == label
    assert bar.size_bar.get_children()[0].get_width() == pytest.approx(n_pixels)


@pytest.mark.parametrize("pixel_size", [0, -1, np.nan, np.inf])
def test_scale_bar_pixel_size(axes, pixel_size):
    """A pixel size that is not a positive number is refused."""
    with pytest.raises(ArgumentError, match="pixel_size is"):
        draw_scale_bar(axes, pixel_size)


def test_prediction_figure_panels(rng):
    """The close-ups show the same region of the image and of every prediction, on one color scale."""
    image, other, last = rng.random((3, 100, 150))
    tiling = TiledPatching([(1, 1, 100, 150)], patch_size=(64, 64), overlaps=(16, 16))
    zoom = (slice(30, 70), slice(40, 90))
    drawn = prediction_figure(image, {"other": other, "last": last}, tiling, zoom=zoom, pixel_size=0.5)
    panels = [axes.images[0] for axes in drawn.axes[:5]]
    expected = [image, last, image[zoom], other[zoom], last[zoom]]
    for panel, values in zip(panels, expected, strict=True):
        assert (panel.get_array() == values).all()
    assert len({panel.get_clim() for panel in (panels[1], panels[3], panels[4])}) == 1
    assert [axes.artists[0].txt_label.get_text() for axes in drawn.axes[:5]] == ["10 µm"] * 2 + ["5 µm"] * 3


def test_save_figure_repeats(tmp_path, axes):
    """The same figure gives the same bytes."""
    axes.imshow(np.eye(8))
    for name in ("a.png", "b.png"):
        save_figure(axes.figure, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
