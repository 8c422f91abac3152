"""Patches that are asked for again by keys without an epoch: then every epoch has the same ones."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

_MAX_REMEMBERED = 4096
"""Number of patches by which a second epoch is recognized."""


class RepeatWatch:
    """Remembers which patches were asked for.

    Examples
    --------
    >>> import numpy as np
    >>> watch = RepeatWatch()
    >>> watch.is_repeated(np.array([3, 1])), watch.is_repeated(np.array([2])), watch.is_repeated(np.array([0, 1]))
    (False, False, True)
    """

    def __init__(self) -> None:
        self._remembered: set[int] = set()

    def is_repeated(self, indices: NDArray[Any], n_before: int = 1) -> bool:
        """Return whether one of some patches was asked for before, and remember them.

        Parameters
        ----------
        indices : array of int64
            The patches.
        n_before : int
            Least number of patches that must have been asked for before.
        """
        numbers = indices.tolist()
        again = len(self._remembered) >= min(n_before, _MAX_REMEMBERED) and not self._remembered.isdisjoint(numbers)
        self._remembered.update(numbers[: _MAX_REMEMBERED - len(self._remembered)])
        return again
