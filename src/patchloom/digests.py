"""Digests of arrays and files, equal for equal bytes in any process and on any machine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SLAB_BYTES = 8 << 20
"""Bytes that one thread hashes at a time; part of the digest, so it must not change."""

_MOST_THREADS = 4
_LENGTH = 32


def text_digest(text: str) -> str:
    """Return the digest of a text.

    Examples
    --------
    >>> text_digest("2 * image") == text_digest("2 * image"), len(text_digest("2 * image"))
    (True, 32)
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_LENGTH]


def array_digest(array: NDArray[Any]) -> str:
    """Return the digest of an array's dtype, shape and elements.

    It does not depend on the memory layout. Large arrays are hashed by several threads, at about the speed of memory.

    Parameters
    ----------
    array : array
        Any array of a dtype without Python objects.

    Examples
    --------
    >>> image = np.arange(12).reshape(3, 4)
    >>> array_digest(image) == array_digest(np.asfortranarray(image)), array_digest(image) == array_digest(image.T)
    (True, False)
    """
    plain = array.view(np.ndarray)
    head = f"{plain.dtype.str} {plain.dtype.descr if plain.dtype.names else ''} {plain.shape}"
    if plain.nbytes <= _SLAB_BYTES:
        return text_digest(f"{head} {_slab_digest(plain)}")
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        return text_digest(" ".join([head, *threads.map(_slab_digest, _slabs(plain))]))


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:_LENGTH]


def _slabs(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Split an array along its outermost axes, at positions that do not depend on its memory layout."""
    while array.ndim > 1 and len(array) == 1:
        array = array[0]
    row_bytes = array.nbytes // len(array)
    if array.nbytes <= _SLAB_BYTES:
        yield array
    elif row_bytes > _SLAB_BYTES:
        for row in array:
            yield from _slabs(row)
    else:
        step = _SLAB_BYTES // row_bytes
        yield from (array[start : start + step] for start in range(0, len(array), step))


def _slab_digest(slab: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(slab).reshape(-1).view(np.uint8).data).hexdigest()[:_LENGTH]
