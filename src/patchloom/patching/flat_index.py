"""Flat index ↔ (image stack, sample, local index): the only place that keeps bins.

A plan numbers its patches through: all patches of the first sample of the first stack, then its second sample, and so
on. Every sample of a stack has the same number of patches, so one bin edge a stack is all there is to keep.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PatchIndexError
from patchloom.geometry.checks import whole_number


class Place(NamedTuple):
    """Where a flat index points: numbers, or arrays of numbers."""

    data_idx: int
    sample_idx: int
    local: int
    """Number of the patch within its sample."""


class Places(NamedTuple):
    """Where many flat indices point, one `int64` array each."""

    data_idx: NDArray[np.int64]
    sample_idx: NDArray[np.int64]
    local: NDArray[np.int64]

    one_stack: bool
    """Whether all of them are known to lie in one image stack."""


@dataclass(frozen=True, slots=True)
class FlatIndex:
    """The numbering of a plan.

    Parameters
    ----------
    n_samples : sequence of int
        Samples of each image stack.
    n_local : sequence of int
        Patches of each sample of each image stack.

    Examples
    --------
    >>> index = FlatIndex(n_samples=(1, 2), n_local=(4, 3))
    >>> len(index), index.locate(8), index.of_stack(1)
    (10, Place(data_idx=1, sample_idx=1, local=1), range(4, 10))
    """

    n_samples: Sequence[int]
    n_local: Sequence[int]
    edges: tuple[int, ...] = field(init=False)
    """First flat index of each stack, and the length at the end."""

    def __post_init__(self) -> None:
        totals = (samples * local for samples, local in zip(self.n_samples, self.n_local, strict=True))
        object.__setattr__(self, "edges", tuple(itertools.accumulate(totals, initial=0)))

    def __len__(self) -> int:
        return self.edges[-1]

    def check(self, index: object, *, from_end: bool = False) -> int:
        """Return a flat index as a plain `int` inside the plan.

        Parameters
        ----------
        index : int
            A whole number of any make.
        from_end : bool
            Whether a negative index counts from the end.

        Raises
        ------
        PatchIndexError
            If there is no such patch.
        NotWholeError
            If the index is no integer.
        """
        number = whole_number("index", index)
        length = self.edges[-1]
        if from_end and -length <= number < 0:
            return number + length
        if not 0 <= number < length:
            raise PatchIndexError(f"index is {number}, but the plan has {length} patches")
        return number

    def locate(self, index: int) -> Place:
        """Find the place of one flat index, which `check` has passed."""
        data_idx = bisect_right(self.edges, index) - 1
        sample_idx, local = divmod(index - self.edges[data_idx], self.n_local[data_idx])
        return Place(data_idx, sample_idx, local)

    def locate_many(self, indices: Sequence[int] | NDArray[Any]) -> Places:
        """Find the places of many flat indices at once.

        Raises
        ------
        PatchIndexError
            If one of them is not in the plan.
        NotWholeError
            If they are no integers.
        """
        numbers = _as_int64(indices)
        if not len(numbers):
            return Places(numbers, numbers, numbers, one_stack=True)
        first = self.locate(self.check(int(numbers.min()))).data_idx
        last = self.locate(self.check(int(numbers.max()))).data_idx
        if first == last:
            data_idx = np.full(len(numbers), first, dtype=np.int64)
            sample_idx, local = _divide(numbers - self.edges[first], self.n_local[first])
        else:
            edges = np.asarray(self.edges, dtype=np.int64)
            data_idx = np.searchsorted(edges, numbers, side="right") - 1
            sample_idx, local = _divide(numbers - edges[data_idx], np.asarray(self.n_local, dtype=np.int64)[data_idx])
        return Places(data_idx, sample_idx, local, one_stack=first == last)

    def of_stack(self, data_idx: int) -> range:
        """Give all flat indices of one image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """
        number = whole_number("data_idx", data_idx)
        if not 0 <= number < len(self.n_local):
            raise PatchIndexError(f"data_idx is {number}, but the series has {len(self.n_local)} image stacks")
        return range(self.edges[number], self.edges[number + 1])


def _as_int64(indices: Sequence[int] | NDArray[Any]) -> NDArray[np.int64]:
    if isinstance(indices, range):
        return np.arange(indices.start, indices.stop, indices.step, dtype=np.int64)
    numbers = np.asarray(indices)
    if numbers.size and not np.issubdtype(numbers.dtype, np.integer):
        whole_number("index", numbers.ravel()[0].item())  # names the culprit where it is a float or a bool
    return numbers.astype(np.int64, copy=False).ravel()


def _divide(numbers: NDArray[np.int64], by: int | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Quotient and remainder; several times faster than `numpy.divmod` where `by` is one number."""
    quotient = numbers // by
    return quotient, numbers - quotient * by
