"""Scores for every cell of a series, and patchings that draw or exclude patches by them."""

from patchloom.filters.background import downweight_below, exclude_below
from patchloom.filters.cell_filters import (
    CellFilter,
    CustomFilter,
    EntropyFilter,
    HasIdentity,
    MaskFilter,
    MaxFilter,
    MeanFilter,
    PercentileFilter,
    ScoresMany,
    StdFilter,
)
from patchloom.filters.labels import label_weights
from patchloom.filters.score_map import ScoreMap
from patchloom.filters.scoring import score_cells

__all__ = [
    "CellFilter",
    "CustomFilter",
    "EntropyFilter",
    "HasIdentity",
    "MaskFilter",
    "MaxFilter",
    "MeanFilter",
    "PercentileFilter",
    "ScoreMap",
    "ScoresMany",
    "StdFilter",
    "downweight_below",
    "exclude_below",
    "label_weights",
    "score_cells",
]
