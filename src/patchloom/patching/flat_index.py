"""Flat index ↔ (image stack, sample, local index): the only module that stores bin edges.

A patching numbers its patches consecutively: all patches of the first sample of the first stack, then those of its second
sample, and so on. If every sample of a stack has the same number of patches (`FlatIndex`), one bin edge per stack is
stored; if samples differ (`UnevenIndex`), one per sample. Runs of samples with one number of patches are *rows*.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError, NotIntegerError, PatchIndexError
from patchloom.geometry.checks import whole_number


class Place(NamedTuple):
    """The stack, sample and local index of one flat index."""

    data_idx: int
    sample_idx: int
    local: int
    """Number of the patch within its sample."""
    row: int
    """Index in `n_local` of the number of patches of that sample."""
    flat: int
    """The flat index itself."""


class Places(NamedTuple):
    """The stacks, samples and local indices of many flat indices, one `int64` array each."""

    data_idx: NDArray[np.int64]
    sample_idx: NDArray[np.int64]
    local: NDArray[np.int64]
    row: NDArray[np.int64]
    flat: NDArray[np.int64]

    one_stack: bool
    """Whether all places are known to lie in one image stack."""

    def of_stacks(self, table: NDArray[np.int64]) -> list[Any]:
        """Return the columns of a table that has one row per stack, for every place.

        If all places lie in one stack, the columns are plain numbers: they broadcast, and arithmetic with a number is several
        times faster than with an array.
        """
        if self.one_stack:
            row: list[int] = table[self.data_idx[0] if len(self.data_idx) else 0].tolist()
            return row
        return list(table[self.data_idx].T)


class PatchNumbering(ABC):
    """The numbering of the patches of a patching."""

    __slots__ = ()

    edges: array[int]
    """First flat index of each row; the last entry is the number of patches."""

    n_local: array[int]
    """Number of patches of each sample of a row."""

    def __len__(self) -> int:
        return self.edges[-1]

    def check(self, index: object, *, from_end: bool = False) -> int:
        """Return a flat index as a plain `int` inside the patching; see `check_index`."""
        return check_index(index, self.edges[-1], from_end=from_end)

    @abstractmethod
    def locate(self, index: int) -> Place:
        """Find the place of one flat index, checked by `check`."""

    @abstractmethod
    def locate_many(self, indices: Sequence[int] | NDArray[Any]) -> Places:
        """Find the places of many flat indices at once.

        Raises
        ------
        PatchIndexError
            If one of them is not in the patching.
        NotIntegerError
            If they are not integers.
        """

    @abstractmethod
    def of_sample(self, data_idx: int, sample_idx: int) -> int:
        """Count the patches of one sample, which exists."""

    @abstractmethod
    def of_stack(self, data_idx: int) -> range:
        """Return all flat indices of one image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """


@dataclass(frozen=True, slots=True)
class FlatIndex(PatchNumbering):
    """The numbering if all samples of a stack have the same number of patches; a row is a stack.

    Parameters
    ----------
    n_samples : sequence of int
        Number of samples of each image stack.
    n_local : sequence of int
        Number of patches of each sample of each image stack.

    Examples
    --------
    >>> index = FlatIndex(n_samples=(1, 2), n_local=(4, 3))
    >>> len(index), index.locate(8), index.of_stack(1)
    (10, Place(data_idx=1, sample_idx=1, local=1, row=1, flat=8), range(4, 10))
    """

    n_samples: Sequence[int]
    n_local: array[int]
    edges: array[int] = field(init=False)

    def __init__(self, n_samples: Sequence[int], n_local: Iterable[int]) -> None:
        object.__setattr__(self, "n_samples", n_samples)
        object.__setattr__(self, "n_local", _whole_array(n_local))
        totals = (samples * local for samples, local in zip(self.n_samples, self.n_local, strict=True))
        object.__setattr__(self, "edges", _whole_array(itertools.accumulate(totals, initial=0)))

    def locate(self, index: int) -> Place:
        """Find the place of one flat index; see `PatchNumbering.locate`."""
        data_idx = bisect_right(self.edges, index) - 1
        sample_idx, local = divmod(index - self.edges[data_idx], self.n_local[data_idx])
        return Place(data_idx, sample_idx, local, data_idx, index)

    def locate_many(self, indices: Sequence[int] | NDArray[Any]) -> Places:
        """Find the places of many flat indices; see `PatchNumbering.locate_many`."""
        numbers = check_indices(indices, len(self))
        if not len(numbers):
            return Places(numbers, numbers, numbers, numbers, numbers, one_stack=True)
        first = bisect_right(self.edges, int(numbers.min())) - 1
        last = bisect_right(self.edges, int(numbers.max())) - 1
        if first == last:
            data_idx = np.full(len(numbers), first, dtype=np.int64)
            sample_idx, local = _divide(numbers - self.edges[first], self.n_local[first])
        else:
            edges, n_local = np.frombuffer(self.edges, np.int64), np.frombuffer(self.n_local, np.int64)
            data_idx = np.searchsorted(edges, numbers, side="right") - 1
            sample_idx, local = _divide(numbers - edges[data_idx], n_local[data_idx])
        return Places(data_idx, sample_idx, local, data_idx, numbers, one_stack=first == last)

    def of_sample(self, data_idx: int, sample_idx: int) -> int:  # noqa: ARG002  # samples of a stack are alike
        """Count the patches of one sample; see `PatchNumbering.of_sample`."""
        return self.n_local[data_idx]

    def of_stack(self, data_idx: int) -> range:
        """Return all flat indices of one image stack; see `PatchNumbering.of_stack`."""
        number = check_data_idx(data_idx, len(self.n_local))
        return range(self.edges[number], self.edges[number + 1])


class UnevenIndex(PatchNumbering):
    """The numbering if every sample has its own number of patches; a row is a sample.

    Parameters
    ----------
    n_samples : sequence of int
        Number of samples of each image stack.
    n_local : iterable of int
        Number of patches of each sample, stack by stack; may be 0.

    Examples
    --------
    >>> index = UnevenIndex(n_samples=(2, 1), n_local=(4, 0, 3))
    >>> len(index), index.locate(5), index.of_stack(1)
    (7, Place(data_idx=1, sample_idx=0, local=1, row=2, flat=5), range(4, 7))
    """

    __slots__ = ("_patches", "_samples", "edges", "n_local")

    def __init__(self, n_samples: Sequence[int], n_local: Iterable[int]) -> None:
        # Two even numberings, one after the other: patch → sample of the series → stack and sample.
        self._samples = FlatIndex(n_samples, [1] * len(n_samples))
        self._patches = FlatIndex([1] * len(self._samples), n_local)
        self.edges, self.n_local = self._patches.edges, self._patches.n_local

    @classmethod
    def spread(cls, n_samples: Sequence[int], weights: NDArray[Any], n_patches: int, start: float) -> UnevenIndex:
        """Distribute a number of patches over samples in proportion to weights.

        The running sum of the weights, divided by its end, assigns an interval of [0, 1] to each sample. Patch `i` goes to the
        sample whose interval contains `(i + start) / n_patches` [1]_. So the number of patches of a sample differs from its
        exact share by less than one. If `start` is drawn uniformly from [0, 1), the expected number is the share: every sample
        gets patches in some epoch, even if there are few.

        Parameters
        ----------
        n_samples : sequence of int
            Number of samples of each image stack.
        weights : array
            One per sample, stack by stack; not negative, and not all zero unless there are no patches.
        n_patches : int
            Number of patches.
        start : float
            From 0 (included) to 1 (excluded).

        References
        ----------
        .. [1] W. G. Madow, "On the theory of systematic sampling, II", Ann. Math. Statist. 20 (1949),
           doi:10.1214/aoms/1177729988
        """
        if not n_patches:
            return cls(n_samples, [0] * len(weights))
        sums = np.cumsum(weights, dtype=np.float64)
        edges = np.clip(np.ceil(sums / sums[-1] * n_patches - start), 0, n_patches).astype(np.int64)
        edges[sums == sums[-1]] = n_patches
        return cls(n_samples, np.diff(edges, prepend=0).tolist())

    def locate(self, index: int) -> Place:
        """Find the place of one flat index; see `PatchNumbering.locate`."""
        row, _, local, _, _ = self._patches.locate(index)
        sample = self._samples.locate(row)
        return Place(sample.data_idx, sample.sample_idx, local, row, index)

    def locate_many(self, indices: Sequence[int] | NDArray[Any]) -> Places:
        """Find the places of many flat indices; see `PatchNumbering.locate_many`."""
        patches = self._patches.locate_many(indices)
        samples = self._samples.locate_many(patches.data_idx)
        return patches._replace(
            data_idx=samples.data_idx, sample_idx=samples.sample_idx, row=patches.data_idx, one_stack=samples.one_stack
        )

    def of_sample(self, data_idx: int, sample_idx: int) -> int:
        """Count the patches of one sample; see `PatchNumbering.of_sample`."""
        return self.n_local[self._samples.of_stack(data_idx)[sample_idx]]

    def of_stack(self, data_idx: int) -> range:
        """Return all flat indices of one image stack; see `PatchNumbering.of_stack`."""
        samples = self._samples.of_stack(data_idx)
        return range(self.edges[samples.start], self.edges[samples.stop])


def check_index(index: object, length: int, *, from_end: bool = False) -> int:
    """Check an index of a patching, and return it as a plain `int`.

    Parameters
    ----------
    index : int
        A whole number of any type.
    length : int
        Number of patches.
    from_end : bool
        Whether a negative index counts from the end.

    Raises
    ------
    PatchIndexError
        If there is no such patch.
    NotIntegerError
        If the index is not an integer.
    """
    number = whole_number("index", index)
    if from_end and -length <= number < 0:
        return number + length
    if not 0 <= number < length:
        raise PatchIndexError(f"index is {shown(number)}, but the patching has {length} patches")
    return number


def check_data_idx(data_idx: object, n_stacks: int) -> int:
    """Check the index of an image stack, and return it as a plain `int`.

    Raises
    ------
    PatchIndexError
        If there is no such stack.
    NotIntegerError
        If it is not an integer.
    """
    number = whole_number("data_idx", data_idx)
    if not 0 <= number < n_stacks:
        raise PatchIndexError(f"data_idx is {shown(number)}, but the series has {n_stacks} image stacks")
    return number


def check_sample(data_idx: object, sample_idx: object, data_shapes: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Check the indices of an image stack and of a sample in it, and return them as plain `int`.

    Raises
    ------
    PatchIndexError
        If there is no such stack or sample.
    NotIntegerError
        If one of them is not an integer.
    """
    stack, sample = check_data_idx(data_idx, len(data_shapes)), whole_number("sample_idx", sample_idx)
    if not 0 <= sample < data_shapes[stack][0]:
        raise PatchIndexError(
            f"sample_idx is {shown(sample)}, but image stack {stack} has {data_shapes[stack][0]} samples"
        )
    return stack, sample


def check_indices(indices: Sequence[int] | NDArray[Any], length: int) -> NDArray[np.int64]:
    """Check many indices of a patching as `check_index` checks one, and return them as an array."""
    if isinstance(indices, range):
        numbers = np.arange(indices.start, indices.stop, indices.step, dtype=np.int64)
    else:
        values = _as_column(indices)
        if not np.issubdtype(values.dtype, np.integer):
            # The check of each names the wrong one. An empty list passes, and integers that NumPy stores as objects.
            values = np.array([check_index(value, length) for value in values.tolist()])
        numbers = values.astype(np.int64, copy=False)
    if len(numbers):
        check_index(int(numbers.min()), length)
        check_index(int(numbers.max()), length)
    return numbers


def _as_column(indices: Any) -> NDArray[Any]:
    try:
        values = np.asarray(indices)
    except ValueError:  # lists of different lengths
        values = np.empty(())
    if values.ndim != 1:
        raise NotIntegerError(f"indices is {shown(indices)}: it must be a sequence of whole numbers, such as [0, 1]")
    return values


def _whole_array(numbers: Iterable[int]) -> array[int]:
    """Return an array with eight bytes per number, whose items are plain `int`."""
    try:
        return array("q", numbers)
    except OverflowError:
        raise GeometryError("a patching has at most 2**63 - 1 patches: take fewer, or larger ones") from None


def _divide(numbers: NDArray[np.int64], by: int | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return quotient and remainder; several times faster than `numpy.divmod` if `by` is one number."""
    quotient = numbers // by
    return quotient, numbers - quotient * by
