"""What the statistical tests share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import ArrayLike


@pytest.fixture(scope="session")
def departure() -> Callable[[ArrayLike, ArrayLike], float]:
    """How many standard deviations counts depart from what is expected; draws and seeds are fixed, so a test is too."""

    def departure(counts: ArrayLike, expected: ArrayLike) -> float:
        observed = np.asarray(counts, dtype=float).ravel()
        wanted = np.broadcast_to(np.asarray(expected, dtype=float), np.shape(counts)).ravel()
        assert (wanted > 5).all(), "too few draws for a chi-square test"
        degrees = len(wanted) - 1
        statistic = float(((observed - wanted) ** 2 / wanted).sum())
        # Wilson and Hilferty, doi:10.1073/pnas.17.12.684: the cube root of a chi-square is nearly normal.
        spread = 2 / (9 * degrees)
        return ((statistic / degrees) ** (1 / 3) - (1 - spread)) / spread**0.5

    return departure
