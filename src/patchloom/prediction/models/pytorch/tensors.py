"""Batches to tensors, and what a network returns to tensors by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.errors import ModelError, ModelOutputError
from patchloom.tensors.deferred_checks import run_check
from patchloom.tensors.tensor_pixels import Pixels, Tensor, is_tensor


def to_tensor(batch: Pixels, dtype: Any, device: Any) -> Any:
    """Return a batch as a tensor, which shares its memory where possible.

    Parameters
    ----------
    batch : array or tensor
        `(B, C, (Z), Y, X)`.
    dtype : torch.dtype
        Dtype of the tensor.
    device : torch.device
        Where it has to be.

    Raises
    ------
    ModelError
        If a value is too large for float16.
    """
    torch = require("torch", extra="torch")
    tensor = batch if is_tensor(batch) else torch.from_numpy(_shareable(batch))
    if dtype == torch.float16 and not _fits_into_float16(torch, tensor.dtype):
        _check_range(torch, tensor)
    # What is smaller is copied to the device; its own integers and float64 do not exist on every device.
    if device.type == "mps" or dtype.itemsize < tensor.dtype.itemsize:
        tensor = tensor.to(dtype)
    return tensor.to(device, non_blocking=True).to(dtype)


def _shareable(batch: NDArray[Any]) -> NDArray[Any]:
    """Return an array that PyTorch can refer to: in native byte order, writable, without negative strides."""
    if not batch.dtype.isnative:
        batch = batch.astype(batch.dtype.newbyteorder("="))
    if batch.dtype == np.longdouble and np.dtype(np.longdouble) != np.dtype(np.float64):
        batch = batch.astype(np.float64)
    if not batch.flags.writeable or any(stride < 0 for stride in batch.strides):
        batch = batch.copy()
    return batch


def _fits_into_float16(torch: Any, dtype: Any) -> bool:
    """Return whether float16 holds the whole range of a dtype."""
    return dtype in (torch.bool, torch.uint8, torch.int8, torch.int16, torch.float16)


def _check_range(torch: Any, tensor: Any) -> None:
    wide = tensor.float() if not tensor.dtype.is_floating_point else tensor  # PyTorch has few operations on uint16
    if wide.numel():
        run_check(partial(_refuse_large, torch.stack(torch.aminmax(wide))))


def _refuse_large(ends: Tensor) -> None:
    limit = 65504  # of float16
    lowest, highest = ends.tolist()
    largest = max(-lowest, highest)
    if largest > limit and not np.isinf(largest):
        raise ModelError(
            f"the batch has the value {highest if highest > limit else lowest:g}, and float16 ends at {limit:g}: use normalize, or "
            "precision='bfloat16'"
        )


def channels_last(tensor: Any) -> Any:
    """Return a batch `(B, C, (Z), Y, X)` with its channels side by side in memory.

    One channel is stored in the same way in both formats; PyTorch distinguishes them by the strides.
    """
    torch = require("torch", extra="torch")
    moved = tensor.contiguous(memory_format=torch.channels_last if tensor.dim() == 4 else torch.channels_last_3d)
    _, n_channels, *space = moved.shape
    if n_channels > 1:
        return moved
    strides = [math.prod(space[axis + 1 :]) for axis in range(len(space))]
    return moved.as_strided(moved.shape, (math.prod(space), 1, *strides))


def from_network(returned: Any) -> Any:
    """Return what a network returned as one tensor, or as tensors by name.

    Parameters
    ----------
    returned : object
        A tensor, or tensors in mappings, sequences, named tuples and data classes, nested in any way.

    Returns
    -------
    torch.Tensor or dict of str to torch.Tensor
        Detached. Floats of 16 bits are float32. The name of a tensor is its key or index; of a nested one, its keys and indices joined
        by a dot. None is left out. Objects that are not tensors are returned as they are.

    Raises
    ------
    ModelOutputError
        If two tensors have the same name.

    Examples
    --------
    >>> import torch
    >>> zeros = torch.zeros(1)
    >>> list(from_network({"mask": zeros, "levels": [zeros, zeros], "loss": None}))
    ['mask', 'levels.0', 'levels.1']
    """
    torch = require("torch", extra="torch")
    inside = _items(returned)
    if inside is None:
        return _plain(torch, returned)
    named: dict[str, Any] = {}
    for name, leaf in _leaves(inside):
        if name in named:
            raise ModelOutputError(f"the network returned two outputs named {name!r}: return names that differ as text")
        named[name] = _plain(torch, leaf)
    return named


def _leaves(items: list[tuple[Any, Any]], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in items:
        inside = _items(value)
        if inside is not None:
            yield from _leaves(inside, f"{prefix}{key}.")
        elif value is not None:
            yield f"{prefix}{key}", value


def _items(value: Any) -> list[tuple[Any, Any]] | None:
    """Return the items of a container by key or index; None of anything else."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, (tuple, list)):
        return None if _is_array(value) else list(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(entry.name, getattr(value, entry.name)) for entry in dataclasses.fields(value)]
    return None


def _is_array(value: Any) -> bool:
    """Return whether a sequence contains numbers, so that it is one array."""
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return isinstance(value, (int, float, complex))


def _plain(torch: Any, value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach()
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.dtype in (torch.bfloat16, torch.float16):
        tensor = tensor.float()
    return tensor.contiguous() if tensor.layout == torch.strided else tensor
