"""Figures."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import patchloom as pl
from patchloom import figures

from . import world
from .entry import entry
from .hostile import ARRAY, OUTPUT_PATH, TEXT, instance, mapping, number, optional, slices, whole

DATA_IDX = whole().refusing_values(1)
UNIT = TEXT.accepting("empty text", because="a bar without unit")
PIXEL_SIZE = optional(number(least=0)).refusing_values(0, -1)


def axes() -> Axes:
    """Return axes that show the image."""
    axes = Figure().add_subplot()
    axes.imshow(world.image())
    return axes


def predictions() -> dict[str, np.ndarray]:
    """Return two predictions."""
    return {"one": world.image(), "other": world.image()}


entry(
    "draw_tiling",
    lambda: (figures.draw_tiling, {"axes": axes(), "tiling": world.tiling(), "data_idx": 0}),
    tiling=instance("tiling"),
    data_idx=DATA_IDX,
    free={"axes": "of matplotlib"},
)
entry(
    "draw_scores",
    lambda: (
        figures.draw_scores,
        {
            "axes": axes(),
            "score_map": world.score_map(),
            "data_idx": 0,
            "sample_idx": 0,
            "threshold": 5,
            "layer": 0,
        },
    ),
    score_map=instance("score map"),
    data_idx=DATA_IDX,
    sample_idx=whole().refusing_values(2),
    threshold=optional(number(inf=True)),
    layer=optional(whole().refusing_values(1)),
    free={"axes": "of matplotlib"},
)
entry(
    "draw_scale_bar",
    lambda: (figures.draw_scale_bar, {"axes": axes(), "pixel_size": 0.5, "unit": "nm"}),
    pixel_size=PIXEL_SIZE,
    unit=UNIT,
    free={"axes": "of matplotlib"},
)
entry(
    "prediction_figure",
    lambda: (
        figures.prediction_figure,
        {
            "image": world.image(),
            "predictions": predictions(),
            "tiling": world.tiling(),
            "zoom": (slice(0, 8), slice(0, 8)),
            "data_idx": 0,
            "pixel_size": 0.5,
            "unit": "nm",
        },
    ),
    image=ARRAY,
    predictions=mapping(predictions).accepting(
        "wrong keys", "one too few", because="any titles, and any number of them"
    ),
    tiling=instance("tiling"),
    zoom=slices(2),
    data_idx=DATA_IDX,
    pixel_size=PIXEL_SIZE,
    unit=UNIT,
)
entry(
    "save_figure",
    lambda: (figures.save_figure, {"figure": axes().figure, "path": "figure.png", "dpi": 50}),
    path=OUTPUT_PATH.accepting("unknown ending", because="it is .png"),
    dpi=whole(1),
    free={"figure": "of matplotlib"},
)
entry(
    "probe_figure",
    lambda: (figures.probe_figure, {"probe": pl.probe(world.model, n_dims=2, seconds=5)}),
    probe=instance("probe"),
)
