"""Errors of models that ran out of memory, by whatever library they run on."""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterator

_CLASSES = {"OutOfMemoryError", "ResourceExhaustedError", "MemoryError"}
"""Names of classes: of PyTorch and CuPy, of TensorFlow, of Python and NumPy."""

_TEXT = re.compile(
    r"out of memory|failed to allocate memory|can't allocate memory|bad allocation|std::bad_alloc|RESOURCE_EXHAUSTED|"
    r"unable to find a valid cuDNN algorithm|unable to find an engine to execute|CUBLAS_STATUS_ALLOC_FAILED|CUDNN_STATUS_ALLOC_FAILED|E_OUTOFMEMORY|available memory of .* is smaller than requested",
    re.IGNORECASE,
)
"""Texts of libraries without such a class: onnxruntime, PyTorch on a CPU or an Apple GPU, JAX, libraries of CUDA. cuDNN finds no
algorithm if the memory is too small for all of them."""


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory was too small, by an error or by one that caused it.

    Parameters
    ----------
    error : BaseException
        An error that a model raised.

    Examples
    --------
    >>> is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")), is_out_of_memory(ValueError("no"))
    (True, False)
    """
    return any(
        any(kind.__name__ in _CLASSES for kind in type(cause).__mro__)
        or (isinstance(cause, Exception) and not isinstance(cause, OSError) and bool(_TEXT.search(str(cause))))
        for cause in _chain(error)
    )


def release_memory() -> None:
    """Give memory that PyTorch keeps for later back to the device."""
    gc.collect()  # what an error held has cycles
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
