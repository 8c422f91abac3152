"""The arithmetic of pixels on tensors of PyTorch: what NumPy does on arrays, to the same bits.

A tensor is stitched on its device only if PyTorch has all operations on its dtype there, and they give the bits of NumPy. Other
tensors are copied to the host first. PyTorch is never imported here before a model has returned a tensor.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require

Tensor = Any
"""A `torch.Tensor`; PyTorch is optional."""

Pixels = NDArray[Any] | Tensor
"""Pixels as an array, or as a tensor on a device."""

_DTYPES = frozenset({"bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"})
"""Dtypes of tensors that are stitched on their device; they have the same name in NumPy."""

_STORED_DTYPES = _DTYPES | {"uint16", "uint32"}
"""Dtypes that results may have on the device: PyTorch converts to these too, and copies them."""

_WIDENED = ("torch.bfloat16", "torch.float8")
"""Dtypes that NumPy does not have; they become float32, which represents them exactly."""


def load_torch() -> Any:
    """Return the module `torch`."""
    return require("torch", extra="torch")


def is_tensor(value: object) -> TypeGuard[Tensor]:
    """Return whether an object is a tensor of PyTorch, without importing it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, getattr(torch, "Tensor", ()))


def kept_on_device(value: object, device: str | None = None) -> Tensor | None:
    """Return a tensor as it is stitched on its device; None if the object has to be copied to the host.

    Parameters
    ----------
    value : object
        One output of a model.
    device : str, optional
        A device, such as `"cpu"`, whose tensors are kept too. If None, those on a GPU are kept only.
    """
    if not is_tensor(value) or not _is_plain(value):
        return None
    if value.device.type != "cuda" and (device is None or value.device != load_torch().device(device)):
        return None
    tensor = value.detach()
    if str(tensor.dtype).startswith(_WIDENED):
        tensor = tensor.float()
    return tensor if str(tensor.dtype).removeprefix("torch.") in _DTYPES else None


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout == load_torch().strided and not tensor.is_quantized


def pixel_dtype_of(pixels: Pixels) -> np.dtype[Any]:
    """Return the dtype of an array or a tensor, as one of NumPy.

    Examples
    --------
    >>> pixel_dtype_of(np.zeros(2, "uint16"))
    dtype('uint16')
    """
    return np.dtype(str(pixels.dtype).removeprefix("torch.")) if is_tensor(pixels) else pixels.dtype


def torch_dtype(dtype: np.dtype[Any]) -> Any:
    """Return the dtype of PyTorch of the same name."""
    return getattr(load_torch(), dtype.name)


def is_known_dtype(dtype: np.dtype[Any]) -> bool:
    """Return whether tensors of a dtype are stitched and postprocessed on their device."""
    return dtype.isnative and dtype.name in _DTYPES


def has_tensors_of(dtype: np.dtype[Any]) -> bool:
    """Return whether arrays of a dtype share their memory with tensors."""
    return dtype.isnative and dtype.name in _STORED_DTYPES | {"uint64", "complex64", "complex128"}


def can_round(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether `round_tensor` converts between two dtypes to the bits of NumPy."""
    # PyTorch rounds float64 to float16 by way of float32, that is twice.
    is_rounded_twice = target == np.float16 and source == np.float64
    return (source == target or (is_known_dtype(source) and target.name in _STORED_DTYPES)) and not is_rounded_twice


def round_tensor(values: Tensor, dtype: np.dtype[Any]) -> Tensor:
    """Convert numbers to a dtype as `pixel_arrays.round_to` does; what NaN becomes is undefined if the dtype has none.

    Parameters
    ----------
    values : tensor
        Numbers.
    dtype : numpy dtype
        The dtype asked for, which `can_round` allows.
    """
    source = pixel_dtype_of(values)
    if source == dtype:
        return values
    if dtype.kind == "b":
        return values >= 0.5
    if dtype.kind == "f" or source.kind == "b":
        return values.to(torch_dtype(dtype))
    limits = np.iinfo(dtype)
    if source.kind in "iu":
        wide = values.to(load_torch().int64)
        return wide.clamp(int(limits.min), int(limits.max)).to(torch_dtype(dtype))
    return _saturated(values, dtype, limits)


def _saturated(values: Tensor, dtype: np.dtype[Any], limits: np.iinfo[Any]) -> Tensor:
    """Round floats to integers that stop at the ends of their range."""
    torch = load_torch()
    rounded = torch.round(values.float() if values.dtype == torch.float16 else values)
    if dtype.itemsize <= 2:  # floats hold both ends exactly
        return rounded.clamp_(int(limits.min), int(limits.max)).to(torch_dtype(dtype))
    # A float cannot hold the ends of a wider range: what rounds up to the end counts as past it.
    lowest, highest = (float(pixel_dtype_of(rounded).type(end)) for end in (limits.min, limits.max))
    whole = rounded.to(torch.int64)
    whole = torch.where(rounded >= highest, int(limits.max), whole)
    return torch.where(rounded <= lowest, int(limits.min), whole).to(torch_dtype(dtype))


def new_pixels(shape: tuple[int, ...], dtype: np.dtype[Any], like: Pixels) -> Pixels:
    """Allocate uninitialized pixels where other pixels lie.

    Parameters
    ----------
    shape : tuple of int
        Their shape.
    dtype : numpy dtype
        Their dtype.
    like : array or tensor
        Pixels in the memory of the host, or on a device.
    """
    if is_tensor(like):
        return load_torch().empty(shape, dtype=torch_dtype(dtype), device=like.device)
    return np.empty(shape, dtype)


def concatenate(parts: Sequence[Pixels]) -> Pixels:
    """Concatenate arrays, or tensors on one device, along the first axis."""
    return load_torch().cat(list(parts)) if is_tensor(parts[0]) else np.concatenate(parts)


def copied(pixels: Pixels, dtype: np.dtype[Any] | None = None) -> Pixels:
    """Copy pixels, with their last axis contiguous.

    Parameters
    ----------
    pixels : array or tensor
        The pixels.
    dtype : numpy dtype, optional
        The dtype of the copy, into which NumPy converts to the same bits. If None, that of the pixels.
    """
    if not is_tensor(pixels):
        return pixels.astype(dtype or pixels.dtype, order="C")
    kind = pixels.dtype if dtype is None else torch_dtype(dtype)
    return pixels.to(kind, copy=True, memory_format=load_torch().contiguous_format)


def converted(pixels: Pixels, dtype: np.dtype[Any]) -> Pixels:
    """Convert pixels to a dtype as `astype`; return the same object if they have it."""
    return pixels.to(torch_dtype(dtype)) if is_tensor(pixels) else pixels.astype(dtype, copy=False)


def flipped(pixels: Pixels, axes: tuple[int, ...]) -> Pixels:
    """Return pixels with some axes reversed: a view of an array, or a copy of a tensor."""
    if not is_tensor(pixels):
        return np.flip(pixels, axes)
    signed = getattr(load_torch(), str(pixels.dtype).removeprefix("torch.u"), None)  # PyTorch does not flip uint16
    return pixels.flip(axes) if signed is None else pixels.view(signed).flip(axes).view(pixels.dtype)


def divided(pixels: Pixels, number: int, out: Pixels | None = None) -> Pixels:
    """Divide floats by a whole number.

    Parameters
    ----------
    pixels : array or tensor
        Floats.
    number : int
        The divisor, which their dtype represents exactly.
    out : array or tensor, optional
        Where the result is put. If None, new memory.
    """
    if not is_tensor(pixels):
        return np.divide(pixels, number, out=out)
    # By a tensor: a GPU multiplies by the inverse of a number, which rounds twice.
    return load_torch().div(pixels, pixels.new_full((1,), number), out=out)


def rounded(pixels: Pixels) -> Pixels:
    """Round floats to whole numbers, halves to even."""
    return pixels.round() if is_tensor(pixels) else np.rint(pixels)


def square_root(pixels: Pixels) -> Pixels:
    """Return the square root of each pixel."""
    if is_tensor(pixels) and pixels.device.type == "cpu":  # MKL rounds some roots to the wrong neighbor
        return load_torch().from_numpy(np.sqrt(pixels.numpy()))
    return pixels.sqrt() if is_tensor(pixels) else np.sqrt(pixels)


def at_least(pixels: Pixels, bound: Pixels) -> Pixels:
    """Replace pixels below a bound by it; both of one kind and dtype."""
    # Of zeros of both signs, the bound is taken, as NumPy does.
    return load_torch().where(pixels <= bound, bound, pixels) if is_tensor(pixels) else np.clip(pixels, bound, None)


def at_most(pixels: Pixels, bound: Pixels) -> Pixels:
    """Replace pixels above a bound by it; both of one kind and dtype."""
    return load_torch().where(pixels >= bound, bound, pixels) if is_tensor(pixels) else np.clip(pixels, None, bound)


def in_one_place(one: Pixels, other: Pixels) -> tuple[Pixels, Pixels]:
    """Return two sets of pixels where they are if that is the same memory, else both as arrays."""
    is_same = is_tensor(one) == is_tensor(other) and (not is_tensor(one) or one.device == other.device)
    return (one, other) if is_same else (to_host(one), to_host(other))


def moved(pixels: Pixels, like: Pixels) -> Pixels:
    """Return pixels in the memory where others lie: the same object if they are there, else a copy."""
    if not is_tensor(like):
        return to_host(pixels)
    if not is_tensor(pixels):
        pixels = load_torch().from_numpy(np.ascontiguousarray(pixels))
    return pixels.to(like.device, non_blocking=True)


def on_device(array: NDArray[Any], device: str | None) -> Pixels:
    """Return an array as a tensor on a device; the array itself if `device` is None, or tensors do not have its dtype."""
    if device is None or not has_tensors_of(array.dtype):
        return array
    torch = load_torch()
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.device(device))


def free_bytes(device: Any) -> int | None:
    """Return the number of free bytes of a GPU, without the memory that PyTorch keeps for the model; None for other devices."""
    return int(load_torch().cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def to_host(pixels: Pixels) -> NDArray[Any]:
    """Return pixels as an array in the memory of the host."""
    array: NDArray[Any] = pixels.cpu().numpy() if is_tensor(pixels) else pixels
    return array
