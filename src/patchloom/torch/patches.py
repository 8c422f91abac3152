"""What a dataset gives: a patch, or many as one batch, each with the specification of where it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

BatchSpecs = dict[str, torch.Tensor]
"""The specifications of a batch, one `int64` tensor a field: `(B,)`, `(B, dims)`, `(B, channels)` or
`(B, channels, dims)`."""


class Patch(NamedTuple):
    """A patch, or a batch of them, without a target."""

    input: torch.Tensor
    """`C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    specs: PatchSpecs | BatchSpecs
    """Where it comes from; see `decollate` for a batch."""


class PatchPair(NamedTuple):
    """A patch, or a batch of them, with its target."""

    input: torch.Tensor
    """`C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    target: torch.Tensor
    """Of the same place: `C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    specs: PatchSpecs | BatchSpecs
    """Where it comes from; see `decollate` for a batch."""


class PatchBatch(Sequence[Patch | PatchPair]):
    """The patches of a batch that lie in memory one after the other: a sequence of them, and the batch at once.

    Parameters
    ----------
    pixels : Patch or PatchPair
        Tensors with the batch as first axis; `specs` does not count. Any named tuple with such fields will do.
    table : SpecTable
        The specifications.
    """

    def __init__(self, pixels: Any, table: SpecTable) -> None:
        self._pixels = pixels
        self.table = table

    @property
    def pixels(self) -> list[torch.Tensor]:
        """The tensors of the batch."""
        return [value for name, value in self._pixels._asdict().items() if name != "specs"]

    @property
    def whole(self) -> Any:
        """All patches as one batch, as `collate` makes it, without a copy of the pixels."""
        return self._pixels._replace(specs=spec_tensors(self.table))

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        spec = self.table[range(len(self))[index]]
        fields = {name: value[index] for name, value in self._pixels._asdict().items() if name != "specs"}
        return self._pixels._replace(**fields, specs=spec)


def spec_tensors(table: SpecTable) -> BatchSpecs:
    """Turn specifications into one tensor a field."""
    return {field: torch.from_numpy(column.copy()) for field, column in table.columns.items()}
