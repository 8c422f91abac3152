"""Which patches are worth having: a score for every cell of a series, and plans that heed it."""

from patchloom.filters.background import exclude_below, thin_out_below
from patchloom.filters.cell_filters import (
    CellFilter,
    EntropyFilter,
    HasIdentity,
    MaskFilter,
    MaxFilter,
    MeanFilter,
    NamedFilter,
    PercentileFilter,
    ScoresMany,
    StdFilter,
)
from patchloom.filters.score_cells import score_cells
from patchloom.filters.score_map import ScoreMap

__all__ = [
    "CellFilter",
    "EntropyFilter",
    "HasIdentity",
    "MaskFilter",
    "MaxFilter",
    "MeanFilter",
    "NamedFilter",
    "PercentileFilter",
    "ScoreMap",
    "ScoresMany",
    "StdFilter",
    "exclude_below",
    "score_cells",
    "thin_out_below",
]
