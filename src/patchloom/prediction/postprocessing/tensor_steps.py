"""Postprocessing of blocks that lie on a device: Patchloom's own steps, to the bits that they have on arrays.

Steps are applied on the device as far as PyTorch has their dtypes there; the rest is applied to the copy on the host. So are
`Sigmoid` and `Softmax`, whose exponentials differ from library to library, and every step of the user's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np

from patchloom.errors import ModelOutputError
from patchloom.prediction.postprocessing import casting, steps
from patchloom.prediction.postprocessing.chain import PostprocessingChain
from patchloom.prediction.postprocessing.denormalization import Denormalize
from patchloom.prediction.postprocessing.steps import (
    Argmax,
    AsDtype,
    Postprocessing,
    SelectChannels,
    Threshold,
)
from patchloom.tensors.tensor_pixels import (
    Tensor,
    can_round,
    is_known_dtype,
    load_torch,
    new_pixels,
    pixel_dtype_of,
    round_tensor,
)

_SLAB_VOXELS = 2**24
"""Voxels that are processed at once: intermediate results take up to sixteen bytes each."""


def process_on_device(step: Postprocessing | None, block: Tensor) -> tuple[Tensor, list[Postprocessing]]:
    """Apply the steps of a postprocessing to a block as far as possible.

    Parameters
    ----------
    step : Postprocessing, optional
        The postprocessing.
    block : tensor
        `C(Z)YX`; it is not changed.

    Returns
    -------
    tensor
        The block after the steps that were applied.
    list of Postprocessing
        The steps that are still to be applied to its copy on the host.

    Raises
    ------
    ModelOutputError
        As the steps raise it.
    """
    singles = [] if step is None else list(step.steps) if isinstance(step, PostprocessingChain) else [step]
    if isinstance(step, PostprocessingChain):
        step.output(len(block), pixel_dtype_of(block))
    for number, single in enumerate(singles):
        processed = _applied(single, block)
        if processed is None:
            return block, singles[number:]
        block = processed
    return block, []


def convert_on_device(block: Tensor, dtype: np.dtype[Any]) -> Tensor | None:
    """Convert a block to a dtype as `to_dtype` does; return None if that is not possible on a device.

    Raises
    ------
    ModelOutputError
        If a voxel is NaN and the dtype has none.
    """
    source = pixel_dtype_of(block)
    if not can_round(source, dtype):
        return None
    if source.kind == "f" and dtype.kind in "uib":
        _refuse_unstorable(block, dtype)
    return block if source == dtype else _by_slabs(lambda slab: round_tensor(slab, dtype), block, len(block), dtype)


def has_nan(values: Tensor) -> bool:
    """Return whether a value is NaN; waits for the device."""
    return values.is_floating_point() and bool(values.isnan().any().item())


def _applied(step: Postprocessing, block: Tensor) -> Tensor | None:
    """Apply one step; return None if it has to be applied on the host."""
    apply = _ON_DEVICE.get(type(step))
    return None if apply is None or not is_known_dtype(pixel_dtype_of(block)) else apply(step, block)


def _argmax(step: Argmax, block: Tensor) -> Tensor:
    n_channels, dtype = step.output(len(block), pixel_dtype_of(block))
    _refuse_nan(step, block)
    torch = load_torch()
    widen = {torch.bool: torch.uint8, torch.float16: torch.float32}.get(block.dtype, block.dtype)

    def likeliest(slab: Tensor) -> Tensor:
        return slab.to(widen).argmax(dim=0, keepdim=True)

    return _by_slabs(likeliest, block, n_channels, dtype)


def _threshold(step: Threshold, block: Tensor) -> Tensor:
    source = pixel_dtype_of(block)
    n_channels, dtype = step.output(len(block), source)
    seen = block if step.channel is None else block[step.channel : step.channel + 1]
    _refuse_nan(step, seen)
    # NumPy compares floats in their own dtype, to which it rounds the value, and all others in float64.
    with np.errstate(over="ignore"):
        value = float(source.type(step.value)) if source.kind == "f" else step.value
    torch = load_torch()
    wide = torch.float32 if source in (np.float16, np.float32) else torch.float64
    return _by_slabs(lambda slab: slab.to(wide) > value, seen, n_channels, dtype)


def _select(step: SelectChannels, block: Tensor) -> Tensor:
    step.output(len(block), pixel_dtype_of(block))
    return block[list(step.channels)]


def _as_dtype(step: AsDtype, block: Tensor) -> Tensor | None:
    source = pixel_dtype_of(block)
    n_channels, dtype = step.output(len(block), source)
    if step.scale == 1:
        return convert_on_device(block, dtype)
    if not can_round(np.dtype(np.float64), dtype):
        return None
    if dtype.kind in "uib":
        _refuse_unstorable(block, dtype)

    def convert(slab: Tensor) -> Tensor:
        return round_tensor(slab.double() * step.scale, dtype)

    return _by_slabs(convert, block, n_channels, dtype)


def _denormalize(step: Denormalize, block: Tensor) -> Tensor:
    n_channels, dtype = step.output(len(block), pixel_dtype_of(block))
    if not step.scale or not block.is_floating_point():
        return block
    torch = load_torch()
    shape = (-1, *[1] * (block.ndim - 1))
    scale, offset = (
        torch.tensor(numbers, dtype=torch.float64, device=block.device).reshape(shape)
        for numbers in (step.scale, step.offset)
    )
    return _by_slabs(lambda slab: (slab.double() - offset) / scale, block, n_channels, dtype)


_ON_DEVICE: dict[type, Callable[[Any, Tensor], Tensor | None]] = {
    Argmax: _argmax,
    Threshold: _threshold,
    SelectChannels: _select,
    AsDtype: _as_dtype,
    Denormalize: _denormalize,
}


def _refuse_nan(step: Postprocessing, values: Tensor) -> None:
    if has_nan(values):
        raise ModelOutputError(steps.nan_refusal(step))


def _refuse_unstorable(block: Tensor, dtype: np.dtype[Any]) -> None:
    if has_nan(block):
        raise ModelOutputError(casting.nan_refusal([], dtype))


def _by_slabs(function: Callable[[Tensor], Tensor], block: Tensor, n_channels: int, dtype: np.dtype[Any]) -> Tensor:
    """Apply a function to a block, one slab of its first spatial axis at a time."""
    shape: Sequence[int] = tuple(block.shape)
    processed = new_pixels((n_channels, *shape[1:]), dtype, block)
    thickness = max(1, _SLAB_VOXELS // max(1, prod(shape) // shape[1]))
    for start in range(0, shape[1], thickness):
        processed[:, start : start + thickness] = function(block[:, start : start + thickness])
    return processed
