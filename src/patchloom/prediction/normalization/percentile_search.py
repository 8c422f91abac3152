"""Exact percentiles of values that are added in portions, in one or several passes.

Every value has a key, an unsigned integer of the same number of bits, and keys have the order of the values. The first pass counts
the values by the first 16 bits of their keys. The counts show the class, out of 65,536, of each value that is sought, and its rank
in this class. The next pass counts the next 16 bits within that class, until all bits are known: one pass for 8 and 16 bits, two
for 32, four for 64.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import floor, isfinite
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_DIGIT_BITS = 16


class _Sought(NamedTuple):
    """A value that is sought by its rank."""

    prefix: int
    """The bits of its key that are known."""

    rank: int
    """Number of values with this prefix that come before it."""


def n_passes(dtype: np.dtype[Any]) -> int:
    """Return how often all values have to be added to a `PercentileSearch`.

    Examples
    --------
    >>> [n_passes(np.dtype(name)) for name in ("uint8", "int16", "float32", "float64")]
    [1, 1, 2, 4]
    """
    return -(-8 * dtype.itemsize // _DIGIT_BITS)


class PercentileSearch:
    """Exact percentiles, as `numpy.percentile` defines them by default, without a copy of the values.

    A percentile between two values is interpolated in float64. Two values are sought for each percentile, and each takes at most
    512 KiB of memory.

    Parameters
    ----------
    dtype : numpy dtype
        Dtype of the values: bool, integers or floats of at most 64 bits.
    percents : sequence of float
        The percentiles, from 0 to 100.

    Examples
    --------
    >>> values = np.array([3.5, -1, 0, 10])
    >>> search = PercentileSearch(values.dtype, (0, 50, 100))
    >>> passes = 1
    >>> search.add(values)
    >>> while search.end_pass():
    ...     search.add(values)
    ...     passes += 1
    >>> search.result(), passes
    ((-1.0, 1.75, 10.0), 4)
    """

    def __init__(self, dtype: np.dtype[Any], percents: Sequence[float]) -> None:
        self._dtype = dtype
        self._percents = tuple(percents)
        self._digit_bits = min(_DIGIT_BITS, 8 * dtype.itemsize)
        self._shift = 8 * dtype.itemsize - self._digit_bits
        self._sought: list[_Sought] = []
        self._counts = {0: np.zeros(2**self._digit_bits, np.int64)}
        self.count = 0

    def add(self, values: NDArray[Any]) -> None:
        """Add a portion of values, none of which is NaN."""
        keys = ordered_keys(values)
        if not self._sought:
            self.count += len(values)
            self._count(0, keys)
            return
        prefixes = keys >> (self._shift + self._digit_bits)
        for prefix in self._counts:
            self._count(prefix, keys[prefixes == prefix])

    def _count(self, prefix: int, keys: NDArray[Any]) -> None:
        digits = ((keys >> self._shift) & (2**self._digit_bits - 1)).astype(np.intp)
        counted = np.bincount(digits)
        self._counts[prefix][: len(counted)] += counted

    def end_pass(self) -> bool:
        """End a pass; return True if all values have to be added again, in any order."""
        if not self._sought:
            self._sought = [_Sought(0, rank) for rank in self._ranks()]
        self._sought = [self._narrow(sought) for sought in self._sought]
        self._counts = {}
        if not self._shift:
            return False
        self._shift -= self._digit_bits
        self._counts = {sought.prefix: np.zeros(2**self._digit_bits, np.int64) for sought in self._sought}
        return True

    def _ranks(self) -> list[int]:
        """Return the ranks of the two values around each percentile."""
        last = self.count - 1
        below = [floor(self._position(percent)) for percent in self._percents]
        return [rank for lower in below for rank in (lower, min(lower + 1, last))]

    def _position(self, percent: float) -> float:
        return percent / 100 * (self.count - 1)

    def _narrow(self, sought: _Sought) -> _Sought:
        until = self._counts[sought.prefix].cumsum()
        digit = int(np.searchsorted(until, sought.rank, side="right"))
        before = int(until[digit - 1]) if digit else 0
        return _Sought(sought.prefix << self._digit_bits | digit, sought.rank - before)

    def result(self) -> tuple[float, ...]:
        """Return the percentiles, after the last pass."""
        values = [value_of_key(sought.prefix, self._dtype) for sought in self._sought]
        percentiles = []
        for percent, lower, upper in zip(self._percents, values[::2], values[1::2], strict=True):
            share, gap = self._position(percent) % 1, upper - lower
            percentiles.append(lower + gap * share if share < 0.5 else upper - gap * (1 - share))
        return tuple(percentiles)

    def exact(self) -> tuple[float | Fraction, ...]:
        """Return the percentiles as fractions, so that those of 64-bit integers are not rounded; as floats if one is infinite."""
        rounded = self.result()
        if not all(map(isfinite, rounded)):
            return rounded
        values = [Fraction(_exact_value_of_key(sought.prefix, self._dtype)) for sought in self._sought]
        shares = [Fraction(self._position(percent) % 1) for percent in self._percents]
        return tuple(
            lower + (upper - lower) * share
            for share, lower, upper in zip(shares, values[::2], values[1::2], strict=True)
        )


def ordered_keys(values: NDArray[Any]) -> NDArray[Any]:
    """Return unsigned integers of the same size and order as the values.

    Examples
    --------
    >>> ordered_keys(np.array([-2, -1, 0, 1], np.int8)).tolist()
    [126, 127, 128, 129]
    >>> keys = ordered_keys(np.array([-np.inf, -1.5, -0.0, 0.0, 1e-45, 1.5], np.float32)).tolist()
    >>> keys == sorted(keys)
    True
    """
    size = values.dtype.itemsize
    bits: NDArray[Any] = values.view(f"u{size}")
    if values.dtype.kind not in "if":
        return bits
    flips = np.array(1 << (8 * size - 1), bits.dtype)
    if values.dtype.kind == "f":  # sign and magnitude: all bits of negative values are flipped
        flips = (values.view(f"i{size}") >> (8 * size - 1)).view(bits.dtype) | flips
    keys: NDArray[Any] = bits ^ flips
    return keys


def value_of_key(key: int, dtype: np.dtype[Any]) -> float:
    """Return the value of a key.

    Examples
    --------
    >>> value_of_key(126, np.dtype("int8")), value_of_key(2**15, np.dtype("float16"))
    (-2.0, 0.0)
    """
    return float(_exact_value_of_key(key, dtype))


def _exact_value_of_key(key: int, dtype: np.dtype[Any]) -> int | float:
    sign = 1 << (8 * dtype.itemsize - 1)
    if dtype.kind == "f":
        key = key ^ sign if key & sign else key ^ (2 * sign - 1)
    elif dtype.kind == "i":
        key ^= sign
    value: int | float = np.array([key], f"u{dtype.itemsize}").view(dtype)[0].item()
    return value
