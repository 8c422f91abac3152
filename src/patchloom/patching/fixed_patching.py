"""Patches given as an explicit list."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed
from patchloom.errors import PatchIndexError, SpecError
from patchloom.geometry.checks import whole_number
from patchloom.patching.flat_index import check_indices
from patchloom.patching.patching import SpecSequence
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable


class FixedPatching(SpecSequence[PatchSpecs]):
    """Given patches in the given order, the same in every epoch.

    Parameters
    ----------
    fixed_patch_specs : iterable of PatchSpecs
        Specifications of one kind, or a `SpecTable`; may be empty.

    Raises
    ------
    SpecError
        If the specifications differ in their kind, dimensions or number of channels.

    Examples
    --------
    >>> spec = {"data_idx": 1, "sample_idx": 0, "coords": (3, 5), "patch_size": (8, 8)}
    >>> patching = FixedPatching([spec])
    >>> patching[0], patching.get_patch_indices(1), patching.get_patch_indices(0)
    ({'data_idx': 1, 'sample_idx': 0, 'coords': (3, 5), 'patch_size': (8, 8)}, range(0, 1), range(0, 0))
    """

    def __init__(self, fixed_patch_specs: Iterable[PatchSpecs]) -> None:
        rows = fixed_patch_specs
        if not isinstance(rows, SpecTable):
            rows = listed("fixed_patch_specs", rows, "a sequence of patch specifications, or a SpecTable")
        self._table = SpecTable.from_specs(rows) if len(rows) else _no_specs()
        stacks = self._table.columns["data_idx"]
        for field, least in (("data_idx", 0), ("sample_idx", 0), ("patch_size", 1)):
            smallest = int(self._table.columns[field].min(initial=least))
            if smallest < least:
                raise SpecError(
                    f"a specification of fixed_patch_specs has {field} {smallest}: it must be at least {least}"
                )
        self._by_stack = bool((stacks[1:] >= stacks[:-1]).all())

    def __len__(self) -> int:
        return len(self._table)

    def _spec_at(self, index: int) -> PatchSpecs:
        return self._table[index]

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications; see `Patching.specs`."""
        return self._table[check_indices(indices, len(self))]

    def get_patch_indices(self, data_idx: int) -> Sequence[int]:
        """Return the indices of all patches of one image stack, a `range` where patches are listed stack by stack.

        Raises
        ------
        PatchIndexError
            If `data_idx` is negative. The number of stacks is not known from a list of patches: a stack without patches has
            no indices.
        """
        number = whole_number("data_idx", data_idx)
        if number < 0:
            raise PatchIndexError(f"data_idx is {number}: it must be at least 0")
        stacks = self._table.columns["data_idx"]
        if self._by_stack:
            first, last = np.searchsorted(stacks, (number, number + 1)).tolist()
            return range(first, last)
        indices: list[int] = np.flatnonzero(stacks == number).tolist()
        return indices


def _no_specs() -> SpecTable:
    numbers, coords = np.empty(0, dtype=np.int64), np.empty((0, 2), dtype=np.int64)
    return SpecTable({"data_idx": numbers, "sample_idx": numbers, "coords": coords, "patch_size": coords})
