"""Loops over voxels, compiled where numba is installed (the extra `speed`), and arrays as such loops take them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require


@cache
def compiled_loop(kernel: Callable[..., None]) -> Callable[..., None] | None:
    """Compile a loop, which is kept on disk for the next process; None where numba is not there or does not load.

    It runs without the interpreter's lock, on the thread that calls it.
    """
    try:
        numba = require("numba", extra="speed")
    except ImportError:
        return None
    try:
        compiled: Callable[..., None] = numba.njit(nogil=True, cache=True)(kernel)
    except RuntimeError:  # there is no folder that it could be kept in
        compiled = numba.njit(nogil=True)(kernel)
    return compiled


class Rows(NamedTuple):
    """An array as rows along X."""

    memory: NDArray[Any]
    """Everything from its first element to its last, as one row."""
    steps: NDArray[np.int64]
    """How many elements lie from one to the next along each axis."""


def as_rows(array: NDArray[Any]) -> Rows:
    """See an array that `has_rows` as such; nothing is copied."""
    steps = np.array([step // array.itemsize for step in _steps(array)])
    if array.flags.c_contiguous:
        return Rows(array.reshape(-1), steps)
    last = int((np.array(array.shape) - 1) @ steps)
    return Rows(np.lib.stride_tricks.as_strided(array, (last + 1,), (array.itemsize,)), steps)


def has_rows(array: NDArray[Any]) -> bool:
    """Whether an array consists of rows along X that lie contiguous in memory, in the machine's byte order."""
    is_plain = array.flags.aligned and array.dtype.isnative and array.size > 0
    if not is_plain or array.flags.c_contiguous:
        return is_plain
    *steps, last = _steps(array)
    return min(steps) >= 0 and last in (0, array.itemsize) and all(step % array.itemsize == 0 for step in steps)


def _steps(array: NDArray[Any]) -> list[int]:
    """Give the bytes from one voxel to the next along each axis; what it says of an axis of size 1 may be anything."""
    return [step if size > 1 else 0 for size, step in zip(array.shape, array.strides, strict=True)]
