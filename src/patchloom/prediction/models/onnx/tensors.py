"""The tensors that a network declares: their names, sizes and dtypes, and batches in these dtypes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import ModelError
from patchloom.prediction.models.tensor_layout import shape_text

Scale = float | Literal["dtype"] | None
"""As in `OnnxModel`."""

DTYPES = {f"tensor({name})": name for name in ("float16", "uint8", "int8", "uint16", "int16", "uint32", "int32")} | {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint64)": "uint64",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
"""The tensor types of ONNX that NumPy has, by onnxruntime's names."""


def declared_sizes(tensor: Any) -> tuple[int | None, ...]:
    """Return the declared sizes, with None for symbolic ones; an empty tuple if the file does not declare the shape."""
    return tuple(size if isinstance(size, int) and size > 0 else None for size in tensor.shape)


def declared_names(tensor: Any) -> tuple[str, ...]:
    """Return the names of symbolic sizes, with an empty text for a size that is fixed or has no name."""
    return tuple(size if isinstance(size, str) else "" for size in tensor.shape)


def tensor_dtype(tensor: Any, name: str) -> np.dtype[Any]:
    """Return the dtype of a tensor of a network.

    Raises
    ------
    ModelError
        If NumPy does not have it.
    """
    if tensor.type not in DTYPES:
        raise ModelError(
            f"{name}: {tensor.name!r} is of type {tensor.type}, which NumPy does not have: export the network with floats"
        )
    return np.dtype(DTYPES[tensor.type])


def tensor_names(tensors: Sequence[Any]) -> str:
    """Return the names of tensors as text."""
    return ", ".join(repr(tensor.name) for tensor in tensors)


def tensor_texts(tensors: Sequence[Any]) -> str:
    """Return the names, shapes and types of tensors as text."""
    return ", ".join(
        f"{tensor.name!r} {shape_text(declared_sizes(tensor))} of {DTYPES.get(tensor.type, tensor.type)}"
        for tensor in tensors
    )


def check_scale(scale: object, dtype: np.dtype[Any], name: str) -> None:
    """Check the factor by which batches are multiplied.

    Raises
    ------
    ModelError
        If it is not a finite number or `"dtype"`, or the network takes integers.
    """
    if scale is None:
        return
    is_number = isinstance(scale, (int, float)) and not isinstance(scale, bool) and math.isfinite(scale)
    if not is_number and not (isinstance(scale, str) and scale == "dtype"):
        raise ModelError(f"scale is {shown(scale)}: it must be a finite number or 'dtype'")
    if dtype.kind != "f":
        raise ModelError(
            f"scale is {scale!r}, which is for networks that take floats: leave it out, as {name} takes {dtype}"
        )


def cast_batch(batch: NDArray[Any], dtype: np.dtype[Any], scale: Scale, name: str) -> NDArray[Any]:
    """Scale a batch and cast it to the dtype of a network.

    Raises
    ------
    ModelError
        If the dtype of the batch does not fit, or a value would overflow.
    """
    fits = batch.dtype.kind in "biuf" if dtype.kind == "f" else np.can_cast(batch.dtype, dtype, "safe")
    if not fits:
        raise ModelError(
            f"batch has dtype {batch.dtype}, which does not fit into {dtype}, the input of {name}: convert the image first"
        )
    try:
        with np.errstate(over="raise"):
            return _scaled(batch, scale, np.result_type(dtype, np.float32)).astype(dtype, copy=False)
    except FloatingPointError:
        raise ModelError(f"batch has values that are too large for {dtype}, the input of {name}: use scale=") from None


def _scaled(batch: NDArray[Any], scale: Scale, dtype: np.dtype[Any]) -> NDArray[Any]:
    if scale == "dtype":
        return np.divide(batch, float(np.iinfo(batch.dtype).max), dtype=dtype) if batch.dtype.kind in "iu" else batch
    return batch if scale is None else np.multiply(batch, scale, dtype=dtype)
