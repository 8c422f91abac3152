"""Loops over voxels that numba compiles if it is installed (the extra `speed`), and their view of an array."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require


@cache
def compiled_loop(kernel: Callable[..., None]) -> Callable[..., None] | None:
    """Compile a loop and cache it on disk; return None if numba is not installed or cannot be loaded.

    It runs in the calling thread, without the interpreter's lock.
    """
    try:
        numba = require("numba", extra="speed")
    except ImportError:
        return None
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # there is no folder for the cache
        compiled = numba.njit(nogil=True)(kernel)
    return compiled


class Rows(NamedTuple):
    """An array as rows along X."""

    memory: NDArray[Any]
    """All memory from the first element to the last, as one row."""
    steps: NDArray[np.int64]
    """Stride of each axis, as a number of elements."""


def as_rows(array: NDArray[Any]) -> Rows:
    """Return a view of an array as rows; it must meet `has_rows`."""
    steps = np.array([step // array.itemsize for step in _steps(array)])
    if array.flags.c_contiguous:
        return Rows(array.reshape(-1), steps)
    last = int((np.array(array.shape) - 1) @ steps)
    return Rows(np.lib.stride_tricks.as_strided(array, (last + 1,), (array.itemsize,)), steps)


def has_rows(array: NDArray[Any]) -> bool:
    """Return whether the rows of an array along X are contiguous in memory, in the machine's byte order."""
    is_plain = array.flags.aligned and array.dtype.isnative and array.size > 0
    if not is_plain or array.flags.c_contiguous:
        return is_plain
    *steps, last = _steps(array)
    return min(steps) >= 0 and last in (0, array.itemsize) and all(step % array.itemsize == 0 for step in steps)


def _steps(array: NDArray[Any]) -> list[int]:
    """Return the stride of each axis in bytes, 0 for an axis of size 1, whose own stride is arbitrary."""
    return [step if size > 1 else 0 for size, step in zip(array.shape, array.strides, strict=True)]
