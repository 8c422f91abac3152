"""The base of patchings whose patches are drawn at random, anew each epoch."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.checks import series_shapes, size_in_series, whole_number
from patchloom.patching.counter_random import CounterRandom, Stream, checked_epoch, checked_seed
from patchloom.patching.flat_index import PatchNumbering, Place, Places, UnevenIndex
from patchloom.patching.patching import IndexedPatching
from patchloom.specs.patch_specs import PatchSpecs

_MOST_PATCHES = 2**63 - 1


class RandomizedPatching(IndexedPatching[PatchSpecs]):
    """The base of patchings in which every patch is a pure function of (seed, epoch, index).

    A strategy computes the numbering of the patches (`_numbering`) and their coordinates (`_coords`, `_many_coords`).
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        seed: int | None,
        n_patches: int | None,
    ) -> None:
        self.patch_size = size_in_series("patch_size", patch_size, data_shapes, least=1)
        self.data_shapes = series_shapes(data_shapes, len(self.patch_size))
        self.seed = checked_seed(seed)
        self._requested = (
            None if n_patches is None else whole_number("n_patches", n_patches, least=1, most=_MOST_PATCHES)
        )
        self._begin_epoch(0)

    @abstractmethod
    def _numbering(self) -> PatchNumbering:
        """Compute the numbering of this epoch."""

    @abstractmethod
    def _coords(self, place: Place) -> Sequence[int]:
        """Compute the coordinates of one patch."""

    @abstractmethod
    def _many_coords(self, places: Places) -> Sequence[NDArray[np.int64]]:
        """Compute the coordinates of many patches, one array per axis."""

    @cached_property
    def _index(self) -> PatchNumbering:  # type: ignore[override]  # computed when it is first needed
        return self._numbering()

    @property
    def epoch(self) -> int:
        """The epoch of this patching."""
        return self._draws.epoch

    def at_epoch(self, epoch: int) -> Self:
        """Return the patching at another epoch; see `Patching.at_epoch`. Later changes of one do not reach the other."""
        patching = copy.copy(self)
        patching._begin_epoch(checked_epoch(epoch))  # noqa: SLF001  # of the same class
        return patching

    def _begin_epoch(self, epoch: int) -> None:
        self._draws = CounterRandom(self.seed, epoch, Stream.PLACE)
        if self._requested is not None:
            self._forget_numbering()

    def _forget_numbering(self) -> None:
        self.__dict__.pop("_index", None)

    def _spread(self, weights: NDArray[np.float64], n_patches: int) -> UnevenIndex:
        """Distribute patches over the samples of the series in proportion to weights, and number them."""
        start = CounterRandom(self.seed, self.epoch, Stream.SPREAD).fraction(0)
        return UnevenIndex.spread([shape[0] for shape in self.data_shapes], weights, n_patches, start)

    def _spec(self, place: Place) -> PatchSpecs:
        return {
            "data_idx": place.data_idx,
            "sample_idx": place.sample_idx,
            "coords": tuple(self._coords(place)),
            "patch_size": self.patch_size,
        }

    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        coords = np.empty((len(places.local), len(self.patch_size)), dtype=np.int64)
        for axis, column in enumerate(self._many_coords(places)):
            coords[:, axis] = column
        return {"coords": coords, "patch_size": np.broadcast_to(np.array(self.patch_size), coords.shape)}
