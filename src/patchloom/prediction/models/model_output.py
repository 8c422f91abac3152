"""What a model returned, as NumPy arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError

_TORCH_FLOATS_WITHOUT_NUMPY = ("torch.bfloat16", "torch.float8")
_REMEDY = "return a NumPy array or a tensor, or several of them in a tuple or by their names"

_ML_DTYPES = {"bfloat16", "float8_e4m3fn", "float8_e5m2"}
"""Floats that JAX and TensorFlow return as arrays of dtypes of their own."""


def as_outputs(returned: Any) -> dict[str, Any]:
    """Name what a model returned: one array, or several in a sequence of arrays or a mapping.

    Raises
    ------
    ModelOutputError
        If two keys of a mapping have the same text, such as `1` and `"1"`, or a mapping or list cannot be read.

    Examples
    --------
    >>> sorted(as_outputs({"mask": np.zeros(1), "flow": np.zeros(2)})), list(as_outputs((np.zeros(1), np.zeros(2))))
    (['flow', 'mask'], ['0', '1'])
    """
    try:
        return _named(returned)
    except ModelOutputError:
        raise
    except Exception as error:  # containers of other libraries have errors of their own
        raise ModelOutputError(
            f"the model returned {type(returned).__name__}, which cannot be read ({type(error).__name__}: {error}): {_REMEDY}"
        ) from error


def _named(returned: Any) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        named = {str(name): value for name, value in returned.items()}
        if len(named) < len(returned):
            raise ModelOutputError(
                f"the model returned outputs with the keys {list(returned)}: their names must differ"
            )
        return named
    if isinstance(returned, tuple) or (
        isinstance(returned, list) and all(hasattr(value, "shape") for value in returned)
    ):
        return {str(number): value for number, value in enumerate(returned)}
    return {"": returned}


def as_array(output: Any) -> NDArray[Any]:
    """Turn one output into an array of numbers.

    A tensor of PyTorch is detached and copied to the CPU. Floats that NumPy does not have, such as bfloat16, become float32,
    which holds all of their values.

    Parameters
    ----------
    output : array-like or tensor
        One output of a model.

    Raises
    ------
    ModelOutputError
        If it is not an array of numbers.

    Examples
    --------
    >>> as_array([[1, 2], [3]])
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelOutputError: the model returned list, which is not an array of numbers: return a NumPy array or a
    tensor, or several of them in a tuple or by their names
    """
    try:
        array = np.asarray(_off_the_graph(output))
    except Exception as error:  # each library has errors of its own for what NumPy cannot hold
        reason = "" if isinstance(output, list) else f" ({type(error).__name__}: {error})"
        raise ModelOutputError(
            f"the model returned {type(output).__name__}, which is not an array of numbers{reason}: {_REMEDY}"
        ) from error
    if array.dtype.isbuiltin == 2 and array.dtype.name in _ML_DTYPES:  # of another package
        array = array.astype(np.float32)
    if array.dtype.kind not in "buifc":
        raise ModelOutputError(
            f"the model returned {type(output).__name__}, which is not an array of numbers (dtype {array.dtype}): {_REMEDY}"
        )
    return array


def _off_the_graph(output: Any) -> Any:
    """Take a tensor of PyTorch off its graph and device, without importing PyTorch; others are returned as they are."""
    if not (hasattr(output, "detach") and hasattr(output, "cpu")):
        return output
    tensor = output.detach().cpu()
    return tensor.float() if str(tensor.dtype).startswith(_TORCH_FLOATS_WITHOUT_NUMPY) else tensor
