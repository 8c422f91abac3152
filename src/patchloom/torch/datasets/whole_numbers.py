"""Checks that whole numbers, such as labels, keep their value in the dtype of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def holds_all(source: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether a dtype holds all numbers of another one.

    Rounding of floats to narrower floats is accepted, and so is the conversion to a mask (not 0).

    Examples
    --------
    >>> holds_all(np.dtype("uint16"), np.dtype("float32")), holds_all(np.dtype("uint32"), np.dtype("float32"))
    (True, False)
    >>> holds_all(np.dtype("float64"), np.dtype("float32")), holds_all(np.dtype("float32"), np.dtype("int64"))
    (True, False)
    """
    if target.kind == "b" or (source.kind in "fc" and target.kind in "fc"):
        return True
    if source.kind in "iu" and target.kind in "fc":
        return source.itemsize * 8 - (source.kind == "i") <= np.finfo(target).nmant + 1
    return bool(np.can_cast(source, target, "safe"))


def may_be_rounded(batch: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return whether a batch of floats, cast from whole numbers, has numbers that another dtype of floats may round.

    Examples
    --------
    >>> may_be_rounded(np.array([2.0**24 - 1]), np.dtype("float32")), may_be_rounded(np.array([2.0**24 + 1]), np.dtype("float32"))
    (False, True)
    """
    limit = 2.0 ** (np.finfo(dtype).nmant + 1)
    if not batch.size:
        return False
    # Non-negative floats are ordered as their bits are, and negative ones have higher bits: one pass is enough for most batches.
    bits = f"u{batch.itemsize}"
    if batch.view(bits).max() < np.array(limit, batch.dtype).view(bits):
        return False
    return not bool(-limit < batch.min() <= batch.max() < limit)


def cast(pixels: NDArray[Any], out: NDArray[Any]) -> tuple[int, ...] | None:
    """Cast pixels, and return the index of the first one that changes, or None.

    Examples
    --------
    >>> out = np.zeros(3, np.int32)
    >>> cast(np.array([7, 2**32 - 1, 2**31 - 1], np.uint32), out), out.tolist()
    ((1,), [7, -1, 2147483647])
    """
    with np.errstate(invalid="ignore", over="ignore"):
        out[...] = pixels
        if pixels.dtype.kind == "u" and out.dtype.kind == "f" and _fit_together(pixels, out.dtype):
            return None
        # Cast there and back, a number may be the same although it was infinite or had another sign in between.
        changed = (out.real.astype(pixels.dtype) != pixels) | (out != pixels)
    return tuple(np.argwhere(changed)[0].tolist()) if changed.any() else None


def _fit_together(pixels: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Return whether a dtype of floats holds each number made of the bits that are set in any of them.

    Examples
    --------
    >>> _fit_together(np.array([2**31, 2**8], np.uint32), np.dtype("float32"))
    True
    >>> _fit_together(np.array([2**31, 1], np.uint32), np.dtype("float32"))
    False
    """
    bits = int(np.bitwise_or.reduce(pixels, axis=None))
    highest, lowest = bits.bit_length(), (bits & -bits).bit_length()
    limits = np.finfo(dtype)
    return highest - lowest <= limits.nmant and highest <= limits.maxexp
