"""The protocol of patchings, and the part that all strategies share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Protocol, Self, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.patching.careamics_names import CareamicsNames
from patchloom.patching.counter_random import checked_epoch
from patchloom.patching.flat_index import PatchNumbering, Place, Places, check_index
from patchloom.patching.storage_order import storage_order
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

Spec_co = TypeVar("Spec_co", bound=PatchSpecs, covariant=True)

_ITERATION_BATCH = 1024


@runtime_checkable
class Patching(Protocol[Spec_co]):
    """A sequence of patch specifications, each computed when it is asked for."""

    def __len__(self) -> int:
        """Count the patches."""

    @overload
    def __getitem__(self, index: int, /) -> Spec_co: ...
    @overload
    def __getitem__(self, index: slice, /) -> SpecTable: ...
    def __getitem__(self, index: int | slice, /) -> Spec_co | SpecTable:
        """Return one specification, or a table of them; negative indices count from the end."""

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications as a table, without a loop over patches.

        Raises
        ------
        PatchIndexError
            If an index is negative or not in the patching.
        NotIntegerError
            If the indices are not integers.
        """

    @property
    def n_patches(self) -> int:
        """The number of patches, as `len`."""

    def get_patch_spec(self, index: int) -> Spec_co:
        """Return one specification.

        Raises
        ------
        PatchIndexError
            If the index is negative or not in the patching.
        NotIntegerError
            If the index is a `float` or a `bool`.
        """

    def get_patch_indices(self, data_idx: int) -> Sequence[int]:
        """Return the indices of all patches of one image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """

    def at_epoch(self, epoch: int) -> Self:
        """Return the same patching at another epoch; the patching itself if its patches are the same in every epoch.

        Raises
        ------
        GeometryError
            If the epoch is negative or has more than 32 bits.
        NotIntegerError
            If it is not an integer.
        """

    def storage_order(self, chunk_shape: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return all indices in an order that decodes each stored chunk once, with the fewest chunks in memory.

        Parameters
        ----------
        chunk_shape : sequence of int, or sequence of sequence of int
            Shape of a stored chunk, `SC(Z)YX`: one for all image stacks, or one for each.

        Raises
        ------
        GeometryError
            If a chunk shape is not valid, or there are fewer of them than image stacks.
        """


class SpecSequence(CareamicsNames, Sequence[Spec_co], Generic[Spec_co]):
    """The part of a `Patching` that all strategies share: everything that follows from one specification and many."""

    @abstractmethod
    def _spec_at(self, index: int) -> Spec_co:
        """Compute one specification; the index has been checked."""

    @abstractmethod
    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications; see `Patching.specs`."""

    @overload  # type: ignore[override]  # a table is a sequence of specifications of this patching's kind
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
            yield from self[start : start + _ITERATION_BATCH]  # type: ignore[misc]  # rows are of this patching's kind

    @property
    def n_patches(self) -> int:
        """The number of patches, as `len`."""
        return len(self)

    def get_patch_spec(self, index: int) -> Spec_co:
        """Return one specification; see `Patching.get_patch_spec`."""
        return self._spec_at(check_index(index, len(self)))

    def at_epoch(self, epoch: int) -> Self:
        """Return the patching at an epoch; see `Patching.at_epoch`."""
        checked_epoch(epoch)
        return self

    def storage_order(self, chunk_shape: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int64]:
        """Return all indices in an order that decodes each stored chunk once; see `Patching.storage_order`."""
        return storage_order(self.specs(range(len(self))), chunk_shape)


class IndexedPatching(SpecSequence[Spec_co]):
    """A `Patching` whose patches are numbered sample by sample.

    A strategy computes the specification at a place (`_spec`), and the columns of many at once (`_columns`).
    """

    def __init__(self, index: PatchNumbering) -> None:
        self._index = index

    @abstractmethod
    def _spec(self, place: Place) -> Spec_co:
        """Compute one specification."""

    @abstractmethod
    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        """Compute the columns of a `SpecTable`, other than `data_idx` and `sample_idx`."""

    def __len__(self) -> int:
        return len(self._index)

    def _spec_at(self, index: int) -> Spec_co:
        return self._spec(self._index.locate(index))

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications; see `Patching.specs`."""
        places = self._index.locate_many(indices)
        return SpecTable({"data_idx": places.data_idx, "sample_idx": places.sample_idx, **self._columns(places)})

    def get_patch_indices(self, data_idx: int) -> range:
        """Return the indices of all patches of one image stack; see `Patching.get_patch_indices`."""
        return self._index.of_stack(data_idx)
