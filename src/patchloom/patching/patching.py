"""What a patching strategy is, and the part that all strategies share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.patching.counter_random import checked_epoch
from patchloom.patching.flat_index import PatchNumbering, Place, Places, check_index
from patchloom.patching.storage_order import storage_order
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

Spec_co = TypeVar("Spec_co", bound=PatchSpecs, covariant=True)

_ITERATION_BATCH = 1024


@runtime_checkable
class Patching(Protocol[Spec_co]):
    """A plan of patches: a sequence of specifications that are worked out when asked for."""

    def __len__(self) -> int:
        """Count the patches."""

    @overload
    def __getitem__(self, index: int, /) -> Spec_co: ...
    @overload
    def __getitem__(self, index: slice, /) -> SpecTable: ...
    def __getitem__(self, index: int | slice, /) -> Spec_co | SpecTable:
        """Give one specification, or a table of them; negative indices count from the end."""

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Give many specifications as a table, without a loop over patches.

        Raises
        ------
        PatchIndexError
            If an index is negative or not in the plan.
        NotIntegerError
            If the indices are no integers.
        """

    @property
    def n_patches(self) -> int:
        """The number of patches, as `len`."""

    def get_patch_spec(self, index: int) -> Spec_co:
        """Give one specification.

        Raises
        ------
        PatchIndexError
            If the index is negative or not in the plan.
        NotIntegerError
            If the index is a `float` or a `bool`.
        """

    def get_patch_indices(self, data_idx: int) -> Sequence[int]:
        """Give the indices of all patches of one image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """

    def at_epoch(self, epoch: int) -> Self:
        """Give the same plan at another epoch; the plan itself where its patches are the same at every epoch.

        Raises
        ------
        GeometryError
            If the epoch is negative or has more than 32 bits.
        NotIntegerError
            If it is no integer.
        """

    def storage_order(self, grid: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Give all indices in the order in which stored chunks are visited best.

        Parameters
        ----------
        grid : sequence of int, or sequence of sequence of int
            Shape of a stored chunk, `SC(Z)YX`: one for all image stacks, or one for each.

        Raises
        ------
        GeometryError
            If a chunk shape makes no sense, or there are fewer of them than image stacks.
        """


class SpecSequence(Sequence[Spec_co], Generic[Spec_co]):
    """The part of a `Patching` that all strategies share: everything that follows from one specification and many."""

    @abstractmethod
    def _spec_at(self, index: int) -> Spec_co:
        """Work out one specification; the index has been checked."""

    @abstractmethod
    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Give many specifications; see `Patching.specs`."""

    @overload  # type: ignore[override]  # a table is a sequence of specifications of this plan's kind
    def __getitem__(self, index: int, /) -> Spec_co: ...
    @overload
    def __getitem__(self, index: slice, /) -> SpecTable: ...
    def __getitem__(self, index: int | slice, /) -> Spec_co | SpecTable:
        if isinstance(index, slice):
            return self.specs(range(len(self))[index])
        return self._spec_at(check_index(index, len(self), from_end=True))

    def __iter__(self) -> Iterator[Spec_co]:
        # In batches: many times faster than one by one, and still lazy.
        for start in range(0, len(self), _ITERATION_BATCH):
            yield from self[start : start + _ITERATION_BATCH]  # type: ignore[misc]  # rows are of this plan's kind

    @property
    def n_patches(self) -> int:
        """The number of patches, as `len`."""
        return len(self)

    def get_patch_spec(self, index: int) -> Spec_co:
        """Give one specification; see `Patching.get_patch_spec`."""
        return self._spec_at(check_index(index, len(self)))

    def at_epoch(self, epoch: int) -> Self:
        """Give the plan at an epoch; see `Patching.at_epoch`."""
        checked_epoch(epoch)
        return self

    def storage_order(self, grid: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Give all indices in the order in which stored chunks are visited best; see `Patching.storage_order`."""
        return storage_order(self.specs(range(len(self))), grid)


class IndexedPatching(SpecSequence[Spec_co]):
    """A `Patching` whose patches are numbered sample by sample.

    A strategy says what the patch at a place is (`_spec`), and the same for many places at once (`_columns`).
    """

    def __init__(self, index: PatchNumbering) -> None:
        self._index = index

    @abstractmethod
    def _spec(self, place: Place) -> Spec_co:
        """Work out one specification."""

    @abstractmethod
    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        """Work out the columns of a `SpecTable`, other than `data_idx` and `sample_idx`."""

    def __len__(self) -> int:
        return len(self._index)

    def _spec_at(self, index: int) -> Spec_co:
        return self._spec(self._index.locate(index))

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Give many specifications; see `Patching.specs`."""
        places = self._index.locate_many(indices)
        return SpecTable({"data_idx": places.data_idx, "sample_idx": places.sample_idx, **self._columns(places)})

    def get_patch_indices(self, data_idx: int) -> range:
        """Give the indices of all patches of one image stack; see `Patching.get_patch_indices`."""
        return self._index.of_stack(data_idx)
