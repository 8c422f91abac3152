"""The methods that find how far a model looks, the best first, and the comparison of two of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.prediction.probe.report import Reach, Undecided
from patchloom.prediction.probe.watched_model import WatchedModel


@dataclass(frozen=True, slots=True)
class Asked:
    """The tiles for which the reach is measured.

    Parameters
    ----------
    least, steps : tuple of int
        The smallest tile that the model accepts, and the step between two sizes, `(z,) y, x` in voxels.
    n_channels : int
        Number of channels.
    dtype : numpy dtype
        Dtype of the tiles.
    """

    least: tuple[int, ...]
    steps: tuple[int, ...]
    n_channels: int
    dtype: np.dtype[Any]


def measure_reach(run: WatchedModel, asked: Asked) -> tuple[Reach | None, Reach | None, tuple[str, ...]]:
    found: list[Reach | Undecided] = []
    return None, None, ()
