"""Memory for the tensors of batches: fresh, page-locked, or used again as soon as nothing refers to it.

Fresh memory costs a page fault for every four kilobytes, which takes longer than filling it with small patches.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Allocate = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]
"""Makes an uninitialized tensor of a shape and dtype in main memory."""


def new_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor in fresh memory; an `Allocate`."""
    return torch.empty(shape, dtype=dtype)


def pinned_tensor(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make a page-locked tensor, which an accelerator copies while it computes; an `Allocate`.

    PyTorch keeps such memory and uses it again itself, once all copies from it are done.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=True)


class RecycledMemory:
    """Makes tensors in memory of earlier ones; an `Allocate`.

    The memory of a tensor is free once the tensor, all its views, and all arrays that share its memory are gone. So nothing is
    overwritten while it is in use.

    Parameters
    ----------
    keep : int
        Number of free pieces of memory that are kept for each shape, at most.
    """

    def __init__(self, keep: int) -> None:
        self._free: defaultdict[tuple[Any, ...], deque[NDArray[Any]]] = defaultdict(lambda: deque(maxlen=keep))

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Make an uninitialized tensor."""
        free = self._free[shape, dtype]
        try:
            memory = free.pop()
        except IndexError:  # nothing is free
            memory = np.empty(shape, _numpy_dtype(dtype))
        # The tensor's storage holds this array, alone, for as long as the storage exists.
        lease = memory[:]
        weakref.finalize(lease, free.append, memory).atexit = False
        tensor = torch.from_numpy(lease)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)

    def forget(self) -> None:
        """Release the memory that is free."""
        self._free.clear()


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the dtype in NumPy; if there is none, as for bfloat16, integers of the same width."""
    try:
        array: NDArray[Any] = torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return np.dtype(f"i{dtype.itemsize}")
    return array.dtype
