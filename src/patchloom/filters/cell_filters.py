"""Filters of cells: functions from the pixels of a cell, `C(Z)YX`, to its score.

Any function from an array to a number is a filter. The filters of this module also score many cells of one shape at once
(`ScoresMany`) and have an identity (`HasIdentity`), by which scores in files are found again. No score depends on the number of
voxels, so a cell that is cut by the end of the image compares with whole cells.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import function, instance, real_number, shown
from patchloom.errors import ArgumentError, ArgumentTypeError

_EULER = 0.57721566490153286


class CellFilter(Protocol):
    """Any function from the pixels of a cell to a number."""

    def __call__(self, cell: NDArray[Any], /) -> float:
        """Score one cell.

        Parameters
        ----------
        cell : array
            `C(Z)YX` in the stack's dtype; read-only.

        Returns
        -------
        float
            The score; NaN if the cell has none.
        """


@runtime_checkable
class ScoresMany(Protocol):
    """A filter that scores many cells faster together than one by one."""

    def score_many(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Score cells of one shape.

        Parameters
        ----------
        cells : array
            `(N, C, (Z), Y, X)`; read-only.

        Returns
        -------
        array
            One score for each cell; NaN if the cell has none.
        """


@runtime_checkable
class HasIdentity(Protocol):
    """A filter whose scores are kept in files and found again."""

    @property
    def identity(self) -> str:
        """Name and parameters; filters with the same identity give the same scores."""


class _BuiltInFilter(ABC):
    """A filter that is identified by its parameters, and scores the voxels of all channels of a cell together."""

    @abstractmethod
    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""

    def score_many(self, cells: NDArray[Any]) -> NDArray[Any]:
        """Score cells of one shape; see `ScoresMany.score_many`."""
        return self.score_rows(cells.reshape(len(cells), -1))

    def __call__(self, cell: NDArray[Any], /) -> float:
        """Score one cell; see `CellFilter`."""
        _check_cell(cell)
        return float(self.score_rows(cell.reshape(1, -1))[0])

    @property
    def identity(self) -> str:
        """Name and parameters."""
        return repr(self)


def _check_cell(cell: Any) -> None:
    if not isinstance(cell, np.ndarray) or cell.dtype.kind not in "biuf" or not cell.size:
        raise ArgumentTypeError(f"cell is {shown(cell)}: it must be an array of real numbers, not empty")


@dataclass(frozen=True)
class MaxFilter(_BuiltInFilter):
    """The highest gray value.

    Examples
    --------
    >>> MaxFilter()(np.array([[[3, 1, 4]]]))
    4.0
    """

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        return np.asarray(voxels.max(axis=1))


@dataclass(frozen=True)
class MeanFilter(_BuiltInFilter):
    """The mean gray value.

    Examples
    --------
    >>> MeanFilter()(np.array([[[3, 1, 5]]]))
    3.0
    """

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        return np.asarray(voxels.mean(axis=1, dtype=np.float64))


@dataclass(frozen=True)
class StdFilter(_BuiltInFilter):
    """The standard deviation of the gray values.

    Examples
    --------
    >>> StdFilter()(np.array([[[1, 3, 3, 1]]]))
    1.0
    """

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        return np.asarray(voxels.std(axis=1, dtype=np.float64))


@dataclass(frozen=True)
class PercentileFilter(_BuiltInFilter):
    """A percentile of the gray values: a maximum that does not depend on a few hot pixels.

    Parameters
    ----------
    percent : float
        Percentage of voxels below the score, from 0 to 100.

    Raises
    ------
    ArgumentError
        If `percent` is not from 0 to 100.

    Examples
    --------
    >>> PercentileFilter(75)(np.array([[[1, 2, 3, 4, 1000]]]))
    4.0
    """

    percent: float

    def __post_init__(self) -> None:
        real_number("percent", self.percent, least=0, most=100)

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        numbers = voxels.view(np.uint8) if voxels.dtype == np.bool_ else voxels
        return np.asarray(np.percentile(numbers, self.percent, axis=1))


@dataclass(frozen=True)
class EntropyFilter(_BuiltInFilter):
    """The Shannon entropy of the gray values, in bits.

    Gray values are equal if they are in the same bin. Bins have a fixed width, the same for all cells and images, so the entropy
    depends neither on the range of the dtype nor on hot pixels elsewhere. The estimate [1]_ is corrected for the number of
    voxels, which is small in a cell at the edge.

    Parameters
    ----------
    bin_width : float
        Width of a bin in gray values. With 1, all values of an integer image are distinct, and all values between 0 and 1 are
        equal. The standard deviation of the noise is a good choice: with much narrower bins, noise alone makes values distinct.

    Raises
    ------
    ArgumentError
        If `bin_width` is not above 0.

    Examples
    --------
    >>> checkers = np.indices((1, 64, 64)).sum(axis=0) % 2
    >>> round(EntropyFilter()(checkers), 3), EntropyFilter(bin_width=2)(checkers)
    (1.0, 0.0)

    References
    ----------
    .. [1] P. Grassberger, "Entropy Estimates from Insufficient Samplings" (2003), arXiv:physics/0307138
    """

    bin_width: float = 1

    def __post_init__(self) -> None:
        if real_number("bin_width", self.bin_width) <= 0:
            raise ArgumentError(f"bin_width is {self.bin_width}: it must be above 0, in gray values")

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        n_cells, n_voxels = voxels.shape
        ordered = np.sort(self._bins(voxels), axis=1)
        begins = np.ones(ordered.shape, dtype=np.bool_)
        np.not_equal(ordered[:, 1:], ordered[:, :-1], out=begins[:, 1:])
        starts = np.flatnonzero(begins)
        counts = np.diff(starts, append=ordered.size)
        logarithms = np.bincount(
            starts // n_voxels, weights=counts * _log_estimates(n_voxels)[counts], minlength=n_cells
        )
        entropy = np.maximum(np.log(n_voxels) - logarithms / n_voxels, 0) / np.log(2)
        entropy[ordered[:, 0] == ordered[:, -1]] = 0  # also of a single voxel
        entropy[np.isnan(ordered[:, -1])] = np.nan
        return np.asarray(entropy)

    def _bins(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Return the index of each voxel's bin: integers for integers, which are sorted many times faster."""
        width = self.bin_width
        if voxels.dtype.kind in "iu" and width == int(width) <= np.iinfo(voxels.dtype).max:
            return voxels if width == 1 else voxels // int(width)
        return np.asarray(np.floor(voxels / width))


@dataclass(frozen=True)
class MaskFilter(_BuiltInFilter):
    """The share of voxels that are not 0, for image stacks of masks or labels.

    Examples
    --------
    >>> MaskFilter()(np.array([[[0, 7, 7, 0]]]))
    0.5
    """

    def score_rows(self, voxels: NDArray[Any]) -> NDArray[Any]:
        """Score cells given as `(N, voxels)`."""
        return np.asarray(np.count_nonzero(voxels, axis=1) / voxels.shape[1])


@dataclass(frozen=True)
class CustomFilter:
    """Your own function, with a name under which its scores are kept.

    Parameters
    ----------
    identity : str
        Everything that the scores depend on, such as `"gradient, sigma 2"`. Change it whenever you change the function.
    function : callable
        From the pixels of one cell, `C(Z)YX`, to a number.

    Examples
    --------
    >>> CustomFilter("range", lambda cell: np.ptp(cell))(np.array([[[3, 1, 5]]]))
    4.0
    """

    identity: str
    function: CellFilter

    def __post_init__(self) -> None:
        if not instance("identity", self.identity, str):
            raise ArgumentError(
                "identity is '': name everything that the scores depend on, such as 'gradient, sigma 2'"
            )
        function("function", self.function)

    def __call__(self, cell: NDArray[Any], /) -> float:
        """Score one cell; see `CellFilter`."""
        return float(self.function(cell))


@lru_cache(maxsize=16)  # of cells cut by the ends of an image there are eight shapes at most
def _log_estimates(n_voxels: int) -> NDArray[np.float64]:
    """Return Grassberger's G(n) for n up to a number of voxels, which replaces log n if n was counted in a sample."""
    odd_reciprocals = np.cumsum(2 / np.arange(1, n_voxels + 1, 2))
    pairs = np.arange(n_voxels + 1) // 2
    return np.asarray(np.concatenate([[0.0], odd_reciprocals])[pairs] - _EULER - np.log(2))
