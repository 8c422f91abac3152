"""Checks of arrays and dtypes that callers pass for pixels."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError

PIXEL_KINDS = "buifc"
"""Kinds of dtype that pixels may have: bool, unsigned and signed integers, floats, complex numbers."""

_MAX_OVERLAP_WORK = 10_000
"""Limit of `numpy.shares_memory` for the search for an overlap of two arrays."""


def pixel_dtype(name: str, dtype: DTypeLike) -> np.dtype[Any]:
    """Return a dtype after checking that pixels may have it.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    dtype : dtype-like
        The argument.

    Raises
    ------
    GeometryError
        If NumPy does not have this dtype, or it is not a dtype of numbers.

    Examples
    --------
    >>> pixel_dtype("dtype", "datetime64[s]")
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: dtype is datetime64[s]: it must be a dtype of numbers, such as 'float32' or 'uint16'
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # for names that are refused below
            # NumPy also converts None, arrays and other objects, which are mistakes here.
            known = np.dtype(dtype) if isinstance(dtype, (str, type, np.dtype)) else None
    except (TypeError, ValueError, SyntaxError):
        known = None
    if known is None or known.kind not in PIXEL_KINDS:
        given = shown(dtype) if known is None else known
        raise GeometryError(f"{name} is {given}: it must be a dtype of numbers, such as 'float32' or 'uint16'")
    return known


def check_fillable(name: str, array: object, shape: tuple[int, ...]) -> None:
    """Refuse an array that pixels cannot be written to.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    array : object
        The argument.
    shape : tuple of int
        The required shape.

    Raises
    ------
    GeometryError
        If it is not a NumPy array of numbers of that shape, is read-only, or has voxels that share memory.

    Examples
    --------
    >>> check_fillable("out", np.broadcast_to(np.zeros(3), (2, 3)), (2, 3))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: out is read-only: give an array that can be written to, such as a copy of it
    """
    if not isinstance(array, np.ndarray):
        raise GeometryError(f"{name} is a {type(array).__name__}: it must be a NumPy array of shape {shape}")
    if array.shape != shape:
        raise GeometryError(f"{name} has shape {array.shape}, but the batch has shape {shape}")
    if array.dtype.kind not in PIXEL_KINDS:
        raise GeometryError(
            f"{name} is an array of {array.dtype}: it must be one of numbers, such as float32 or uint16"
        )
    if not array.flags.writeable:
        raise GeometryError(f"{name} is read-only: give an array that can be written to, such as a copy of it")
    if not array.flags.c_contiguous and _voxels_share_memory(array):
        raise GeometryError(
            f"{name} has voxels that share memory, as np.broadcast_to makes them: give an array with memory for each voxel, "
            "such as a copy of it"
        )


def share_memory(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether two arrays share memory; true also if finding out would take too long."""
    if not np.may_share_memory(one, other):
        return False
    try:
        return np.shares_memory(one, other, max_work=_MAX_OVERLAP_WORK)  # type: ignore[arg-type]  # any number is accepted
    except np.exceptions.TooHardError:
        return True


def _voxels_share_memory(array: NDArray[Any]) -> bool:
    """Return whether two voxels may share memory: if the stride of an axis is less than the extent of the axes inside it."""
    covered = array.itemsize
    steps = sorted((abs(step), size) for step, size in zip(array.strides, array.shape, strict=True) if size > 1)
    for step, size in steps:
        if step < covered:
            return array.size > 0
        covered += step * (size - 1)
    return False


def round_to(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert numbers to a dtype: the nearest that it holds.

    Integers are rounded, halves to even, and stop at the ends of the range; True begins at 0.5. Floats beyond the range become
    infinite.

    Parameters
    ----------
    values : array
        Numbers; without NaN if integers or bools are asked for.
    dtype : numpy dtype
        The dtype asked for.

    Examples
    --------
    >>> round_to(np.array([1.5, 260.0, -3.0]), np.dtype("uint8")).tolist()
    [2, 255, 0]
    """
    if values.dtype == dtype:
        return values
    if dtype.kind == "b":
        return np.asarray(values >= 0.5)
    if dtype.kind in "ui":
        return _saturated(values, dtype)
    with np.errstate(over="ignore", under="ignore"):  # a number beyond the range of a smaller float is infinite
        return values.astype(dtype)


def _saturated(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Round numbers that are not NaN to integers that stop at the ends of their range."""
    if values.dtype.kind == "b":
        return values.astype(dtype)
    if values.dtype == np.float16:
        values = values.astype(np.float32)  # in float16, the ends of most ranges are infinite
    lowest, highest = values.min(), values.max()
    if values.dtype.kind == "f":
        values = np.rint(values)
    limits = np.iinfo(dtype)
    if limits.min < lowest and highest < limits.max:
        return values.astype(dtype)
    converted: NDArray[Any]
    with np.errstate(invalid="ignore"):  # the voxels this warns of are set right below
        converted = values.astype(dtype)
    # A float cannot hold the ends of a 64-bit range: compare so that what rounds up to the end counts as past it.
    converted[values >= limits.max] = limits.max
    converted[values <= limits.min] = limits.min
    return converted


def dtype_of_labels(dtype: np.dtype[Any], source_dtype: np.dtype[Any]) -> bool:
    """Return whether a model that returns this dtype returns labels, most likely.

    Truth values are labels; so are integers, unless they have 8 or 16 bits and the dtype of the image itself, as those of a
    filter or of a denoised image do.

    Parameters
    ----------
    dtype : numpy dtype
        Dtype that the model returns.
    source_dtype : numpy dtype
        Dtype of the batches that it is given.

    Examples
    --------
    >>> image = np.dtype("uint16")
    >>> [dtype_of_labels(np.dtype(name), image) for name in ("bool", "int64", "uint8", "uint16", "float32")]
    [True, True, True, False, False]
    """
    if dtype.kind in "iu":
        return dtype.itemsize >= 4 or dtype != source_dtype
    return dtype.kind == "b"
