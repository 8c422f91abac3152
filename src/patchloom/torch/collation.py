"""Collation: from patches to a batch, and from a batch back to exactly the specifications that it was made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from patchloom.argument_checks import function, listed, shown
from patchloom.errors import SpecError
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.patches import PatchBatch, spec_tensors
from patchloom.torch.tensor_memory import Allocate, new_tensor


def collate(patches: Sequence[Any], allocate: Allocate = new_tensor) -> Any:
    """Collate patches to a batch; this is the `collate_fn` of a `torch.utils.data.DataLoader`.

    Parameters
    ----------
    patches : sequence of Patch or PatchPair
        Items of a dataset of Patchloom, with specifications of one kind. Patches that already form a batch in memory are not
        copied.
    allocate : callable, optional
        Makes a tensor, given its shape and dtype. If None, tensors are in fresh memory.

    Returns
    -------
    Patch or PatchPair
        `(B, C, (Z), Y, X)` tensors. `specs` is a dictionary of `int64` tensors, from which `decollate` restores the
        specifications.

    Raises
    ------
    SpecError
        If patches differ in shape or in the kind of their specifications, or `patches` is empty.

    Examples
    --------
    >>> from patchloom.torch import Patch, collate, decollate
    >>> spec = {"data_idx": 0, "sample_idx": 0, "coords": (4, 6), "patch_size": (1, 2)}
    >>> batch = collate([Patch(torch.zeros(1, 1, 2), spec), Patch(torch.ones(1, 1, 2), spec | {"coords": (5, 7)})])
    >>> batch.input.shape, batch.specs["coords"].tolist()
    (torch.Size([2, 1, 1, 2]), [[4, 6], [5, 7]])
    >>> decollate(batch.specs)[1]
    {'data_idx': 0, 'sample_idx': 0, 'coords': (5, 7), 'patch_size': (1, 2)}
    """
    if isinstance(patches, PatchBatch):
        return patches.whole
    patches = _listed_patches(patches)
    function("allocate", allocate)
    table = SpecTable.from_specs([patch.specs for patch in patches])
    fields = [field for field in patches[0]._fields if field != "specs"]
    stacked = {field: _stack(field, [getattr(patch, field) for patch in patches], table, allocate) for field in fields}
    return patches[0]._replace(**stacked, specs=spec_tensors(table))


def decollate(specs: Mapping[str, Any] | Sequence[PatchSpecs]) -> list[PatchSpecs]:
    """Restore the specifications of a batch, exactly as they were.

    Parameters
    ----------
    specs : mapping or sequence of PatchSpecs
        The `specs` of a batch from `collate`, or from PyTorch's `default_collate`, on any device.

    Returns
    -------
    list of PatchSpecs
        One for each patch of the batch: `PatchSpecs`, `TileSpecs` or `UncorrelatedPatchSpecs`, as before collation.

    Raises
    ------
    SpecError
        If `specs` is not the specifications of a batch.

    Examples
    --------
    >>> decollate({"data_idx": torch.tensor([0]), "sample_idx": torch.tensor([2]), "coords": torch.tensor([[4, 6]]),
    ...            "patch_size": torch.tensor([[1, 2]])})
    [{'data_idx': 0, 'sample_idx': 2, 'coords': (4, 6), 'patch_size': (1, 2)}]
    """
    if not isinstance(specs, Mapping):
        return SpecTable.from_specs(specs).to_specs()
    return SpecTable({field: _column(value).cpu().numpy() for field, value in specs.items()}).to_specs()


def _listed_patches(patches: Any) -> list[Any]:
    given = listed("patches", patches, "a sequence of patches, as a dataset gives them")
    if not given:
        raise SpecError("patches is empty: a batch needs at least one patch")
    for place, patch in enumerate(given):
        if getattr(patch, "_fields", None) != getattr(given[0], "_fields", None) or not hasattr(patch, "specs"):
            raise SpecError(
                f"patches[{place}] is {shown(patch)}: it must be a Patch or PatchPair, the same kind as the others of the batch"
            )
    return given


def _column(value: Any) -> torch.Tensor:
    """Return one tensor for a field. `default_collate` turns tuples into a list with one tensor for each position."""
    if isinstance(value, torch.Tensor):
        return value
    if not isinstance(value, (list, tuple)):
        raise SpecError(
            f"a field of the specifications is {shown(value)}: it must be a tensor, or a list of tensors of one length, as collate returns"
        )
    columns = [_column(part) for part in value]
    if len({column.shape for column in columns}) != 1 or not columns[0].ndim:
        raise SpecError(
            f"a field of the specifications is {shown(value)}: it must be a tensor, or a list of tensors of one length, as collate returns"
        )
    return torch.stack(columns, dim=1)


def _stack(field: str, parts: Sequence[Any], table: SpecTable, allocate: Allocate) -> torch.Tensor:
    tensors = [_tensor(field, part) for part in parts]
    for tensor, spec in zip(tensors, table, strict=True):
        if tensor.shape != tensors[0].shape:
            raise SpecError(
                f"the patches of a batch differ in shape: {field} is {tuple(tensors[0].shape)} for {table[0]} and "
                f"{tuple(tensor.shape)} for {spec}; take patches of one size, or batches of one patch"
            )
    dtype = tensors[0].dtype
    return torch.stack(tensors, out=allocate((len(tensors), *tensors[0].shape), dtype))


def _tensor(field: str, part: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(part)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SpecError(f"{field} of a patch of the batch is {shown(part)}: it must be a tensor") from error
