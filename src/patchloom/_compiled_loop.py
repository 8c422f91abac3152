"""Loops over voxels, compiled where numba is installed (the extra `speed`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

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
