"""Items of a dataset: a patch, or many as one batch, each with the specification of its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

BatchSpecs = dict[str, torch.Tensor]
"""The specifications of a batch, one `int64` tensor for each field: `(B,)`, `(B, dims)`, `(B, channels)` or
`(B, channels, dims)`."""


class Patch(NamedTuple):
    """A patch, or a batch of patches, without a target.

    Examples
    --------
    >>> from patchloom.torch import Patch
    >>> spec = {"data_idx": 0, "sample_idx": 0, "coords": (4, 6), "patch_size": (1, 2)}
    >>> patch = Patch(input=torch.zeros(3, 1, 2), specs=spec)
    >>> brighter = patch._replace(input=patch.input + 1)                       # as a transform does
    """

    input: torch.Tensor
    """`C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    specs: PatchSpecs | BatchSpecs
    """Where the patch lies. In a batch, a dictionary of tensors; see `decollate`."""


class PatchPair(NamedTuple):
    """A patch, or a batch of patches, with its target.

    Examples
    --------
    >>> from patchloom.torch import PatchPair
    >>> spec = {"data_idx": 0, "sample_idx": 0, "coords": (4, 6), "patch_size": (1, 2)}
    >>> source, target, specs = PatchPair(torch.zeros(3, 1, 2), torch.ones(1, 1, 2), spec)
    """

    input: torch.Tensor
    """`C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    target: torch.Tensor
    """The target at the same place: `C(Z)YX`; `(B, C, (Z), Y, X)` in a batch."""

    specs: PatchSpecs | BatchSpecs
    """Where the patch lies. In a batch, a dictionary of tensors; see `decollate`."""


class PatchBatch(Sequence[Patch | PatchPair]):
    """A sequence of patches that are one batch in memory.

    Parameters
    ----------
    pixels : Patch or PatchPair
        Tensors with the batch as first axis; its `specs` are ignored. Any named tuple with such fields can be given.
    table : SpecTable
        The specifications of the patches.
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
        """The batch as `collate` returns it; pixels are not copied."""
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
    """Return specifications as one tensor for each field."""
    return {field: torch.from_numpy(column.copy()) for field, column in table.columns.items()}
