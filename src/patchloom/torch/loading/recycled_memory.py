"""Memory for batches that is used again as soon as nothing refers to it.

Fresh memory costs a page fault for every four kilobytes, which for small patches takes longer than filling it.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class RecycledMemory:
    """Makes tensors; an `Allocate`.

    A tensor's memory is free when the tensor is gone, and all its views, and all arrays that share its memory. So nothing is
    ever overwritten that somebody still holds.

    Parameters
    ----------
    keep : int
        How many free pieces of each shape are kept, at most.
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
        # The tensor's storage holds this array, which is no one else's, for as long as there is the storage.
        lease = memory[:]
        weakref.finalize(lease, free.append, memory).atexit = False
        tensor = torch.from_numpy(lease)
        return tensor if tensor.dtype == dtype else tensor.view(dtype)

    def forget(self) -> None:
        """Let go of what is free."""
        self._free.clear()


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Say which dtype of NumPy it is: integers as wide where there is none, as for bfloat16."""
    try:
        array: NDArray[Any] = torch.empty(0, dtype=dtype).numpy()
    except TypeError:
        return np.dtype(f"i{dtype.itemsize}")
    return array.dtype


def pinned(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Make a page-locked tensor, which an accelerator copies while it computes; an `Allocate`.

    PyTorch keeps such memory and uses it again itself, once all copies from it are done.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=True)
