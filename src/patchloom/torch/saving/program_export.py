"""The export of a network as a program that needs no code."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from patchloom.errors import ModelError
from patchloom.prediction.models.model import ModelDescription, size_rule

_TOLERANCE = 1e-3
"""Largest difference between a network and its program, relative to the largest value."""


class _Attempt(NamedTuple):
    """Sizes that a program is exported for."""

    batch_size: int | None
    """None for any number of tiles."""

    has_free_size: bool
    """Whether tiles may have any size that the network accepts."""


def export_program(
    network: nn.Module, in_channels: int, tile: Sequence[int], description: ModelDescription
) -> tuple[Any, ModelDescription]:
    """Export a network, for tiles of any size if that is possible.

    Parameters
    ----------
    network : Module
        The network, in evaluation mode on the CPU.
    in_channels : int
        Number of channels of its input.
    tile : sequence of int
        A tile size that it accepts, `(z,) y, x`, in voxels.
    description : ModelDescription
        What is declared of it.

    Returns
    -------
    program : ExportedProgram
        The program.
    description : ModelDescription
        What holds for the program: it may accept only one size of tiles or batches.

    Raises
    ------
    ModelError
        If the network cannot be exported, or its program computes something else.
    """
    rule = size_rule(description)
    attempts = [_Attempt(None, has_free_size=rule is not None)]
    attempts += [_Attempt(batch_size, has_free_size=False) for batch_size in (None, 1)]
    failure: Exception | None = None
    for attempt in attempts:
        try:
            program = _export(network, in_channels, tile, attempt)
            for size in _sizes_to_try(tile, description, attempt):
                _check_equal(network, program, torch.rand(attempt.batch_size or 3, in_channels, *size))
        except Exception as error:  # noqa: BLE001  # PyTorch raises errors of many types
            failure = error
            continue
        if rule is not None and not attempt.has_free_size:
            description = replace(description, patch_size=tuple(tile), min_size=None, size_step=None)
        return program, replace(description, batch_size=attempt.batch_size)
    raise ModelError(
        f"the network cannot be exported as a program ({type(failure).__name__}: {str(failure).partition(chr(10))[0]}): save weights "
        "and the function that makes it, save_model('network.pt', ..., factory='module:name')"
    ) from failure


def _export(network: nn.Module, in_channels: int, tile: Sequence[int], attempt: _Attempt) -> Any:
    example = torch.rand(attempt.batch_size or 2, in_channels, *tile)
    free = [0] * (attempt.batch_size is None) + list(range(2, example.ndim)) * attempt.has_free_size
    dynamic = (dict.fromkeys(free, torch.export.Dim.AUTO),)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of PyTorch, on what it does itself
        return torch.export.export(network, (example,), dynamic_shapes=dynamic)


def _sizes_to_try(tile: Sequence[int], description: ModelDescription, attempt: _Attempt) -> Iterator[tuple[int, ...]]:
    yield tuple(tile)
    if attempt.has_free_size:
        for axis, (_, step) in enumerate(size_rule(description) or ()):
            yield tuple(size + step * (number == axis) for number, size in enumerate(tile))


def _check_equal(network: nn.Module, program: Any, batch: torch.Tensor) -> None:
    with torch.no_grad():
        expected, found = network(batch), program.module()(batch)
    for wanted, value in zip(_tensors(expected), _tensors(found), strict=True):
        if (wanted - value).abs().max() > _TOLERANCE * wanted.abs().max():
            raise ValueError("the program computes something else")


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    return list(output.values() if isinstance(output, dict) else output)
