"""Statistics of the differences between an output and the predictions of regions, in memory that does not grow with them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_SHIFT = 12
"""Bits of a float32 that are left out of its bin: 11 of 23 bits of the fraction remain, so a bin is 1 in 2,048 wide."""

_N_BINS = 2 ** (31 - _SHIFT)

NOT_COMPARABLE = float(np.finfo(np.float32).max)
"""The difference of a number and NaN, and the largest difference that is distinguished: JSON has no infinity."""


class WorstVoxel(NamedTuple):
    """The voxel that differs most."""

    difference: float
    region: int
    """Index of the region."""

    position: tuple[int, ...]
    """Its position in the part of the output that was compared, `(z,) y, x`."""


class DifferenceStatistics:
    """Collects the differences of one output.

    Parameters
    ----------
    is_labels : bool
        Whether only equality counts.

    Examples
    --------
    >>> seen = DifferenceStatistics(is_labels=False)
    >>> seen.add(0, np.array([[[1.0, 2.0]]]), np.array([[[1.0, 2.5]]]))
    >>> seen.worst, seen.n_voxels, seen.n_over(0.1)
    (WorstVoxel(difference=0.5, region=0, position=(0, 1)), 2, 1)
    """

    def __init__(self, *, is_labels: bool) -> None:
        self.is_labels = is_labels
        self.n_voxels = 0
        self.worst: WorstVoxel | None = None
        self._counts = np.zeros(_N_BINS, np.int64)
        self._lowest, self._highest = np.inf, -np.inf

    def add(self, region: int, found: NDArray[Any], expected: NDArray[Any]) -> None:
        """Add the voxels of one region.

        Parameters
        ----------
        region : int
            Index of the region.
        found, expected : array
            The output and the prediction of the region, `C(Z)YX`. NaN is equal to NaN.
        """
        differences = _differences(found, expected, is_labels=self.is_labels)
        self.n_voxels += differences.size
        bins = differences.astype(np.float32).view(np.uint32).ravel() >> _SHIFT
        self._counts += np.bincount(bins, minlength=_N_BINS)
        finite = expected[np.isfinite(expected)]
        if finite.size:
            self._lowest = min(self._lowest, float(np.abs(finite).min() if np.iscomplexobj(finite) else finite.min()))
            self._highest = max(self._highest, float(np.abs(finite).max() if np.iscomplexobj(finite) else finite.max()))
        place = np.unravel_index(int(differences.argmax()), differences.shape)
        largest = float(differences[place])
        if largest > 0 and (self.worst is None or largest > self.worst.difference):
            self.worst = WorstVoxel(largest, region, tuple(map(int, place[1:])))

    @property
    def largest(self) -> float:
        """The largest difference."""
        return 0.0 if self.worst is None else self.worst.difference

    @property
    def value_range(self) -> float:
        """Largest minus smallest finite value of the predictions of regions."""
        return min(max(0.0, self._highest - self._lowest), NOT_COMPARABLE)

    def n_over(self, tolerance: float) -> int:
        """Count the differences that are larger than a tolerance, whose own bin does not count."""
        own = int(np.float32(tolerance).view(np.uint32)) >> _SHIFT
        counted = int(self._counts[own + 1 :].sum())
        return max(counted, int(self.largest > tolerance))

    def percentile(self, percent: float) -> float:
        """Return a percentile of the differences, rounded down to the border of its bin; the largest of them is exact."""
        if not self.n_voxels:
            return 0.0
        rank = min(self.n_voxels - 1, int(self.n_voxels * percent / 100))
        found = int(np.searchsorted(self._counts.cumsum(), rank, side="right"))
        return min(self.largest, float(np.uint32(found << _SHIFT).view(np.float32)))


def _differences(found: NDArray[Any], expected: NDArray[Any], *, is_labels: bool) -> NDArray[np.float64]:
    if is_labels:
        return np.asarray(found != expected, np.float64)
    wide = np.complex128 if "c" in (found.dtype.kind, expected.dtype.kind) else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        differences = np.abs(found.astype(wide) - expected.astype(wide))
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    differences[same] = 0
    differences[~(differences <= NOT_COMPARABLE)] = NOT_COMPARABLE
    return np.asarray(differences)
