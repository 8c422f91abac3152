"""Random numbers without a generator: each is a pure function of (seed, epoch, stream, index).

No state is carried from one number to the next. So the numbers can be drawn in any order, by any worker, alone or a
million at once, and they are the same. The function is Philox4x32-10 [1]_, which passes the tests of TestU01 and is used by
PyTorch, TensorFlow and cuRAND: the seed is its key; epoch, stream and index are its counter. A number below a bound is
computed by multiplication, and the few draws that would favor some numbers are rejected [2]_: the numbers are exactly
uniform for every bound.

References
----------
.. [1] J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11 (2011),
   doi:10.1145/2063384.2063405
.. [2] D. Lemire, "Fast random integer generation in an interval", ACM TOMACS 29 (2019), doi:10.1145/3230636
"""

from __future__ import annotations

import itertools
import secrets
from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number

Words = NDArray[np.uint64]

_WORD = 2**64 - 1
_HALF = 2**32 - 1
_SHIFT, _MASK = np.uint64(32), np.uint64(_HALF)
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_BLOCK = 2**14
"""Numbers computed at a time: the scratch arrays then stay in the processor's cache."""

_CHANCES = 2**53
"""Resolution of a probability: that of a `float`."""


class Stream(IntEnum):
    """The purpose of a random number. Numbers of different streams are independent."""

    PLACE = 0
    """The position of a patch in its sample."""
    SPREAD = 1
    """The distribution of patches over samples."""
    CELL = 2
    """The cell of a weight map that a patch is drawn from."""
    UNCORRELATED = 3
    """Whether the channels of a patch are drawn independently."""
    REDRAW = 5
    """The position of a patch whose stratum reaches past the last position."""
    HELD_OUT = 4
    """The cells that are set aside for validation."""

    POSITION = 32
    """The flips and turns of a patch in training."""
    TRANSFORM = 33
    """The random numbers of a transform."""
    SUBSTITUTE = 34
    """The patch that replaces one with a NaN."""
    ORDER = 35
    """The order of the patches of an epoch."""
    BLOCK_ORDER = 36
    """The order of the storage blocks of an epoch."""
    MIXTURE = 37
    """The weight of each channel in a sum of channels."""
    REGION = 38
    """The regions of a prediction that are compared with larger tiles."""

    CHANNEL = 256
    """The first of the streams of the channels: the patch that a channel is taken from."""


@dataclass(frozen=True, slots=True)
class CounterRandom:
    """An endless sequence of random numbers, each computed when it is asked for.

    Parameters
    ----------
    seed : int
        From 0 to 2⁶⁴ - 1.
    epoch : int
        From 0 to 2³² - 1.
    stream : int
        From 0 to 2¹⁶ - 1; see `Stream`.

    Examples
    --------
    >>> draws = CounterRandom(seed=7, epoch=1)
    >>> draws.below(100, index=12)
    95
    >>> draws.below_many(100, np.array([12, 10**15])).tolist()
    [95, 20]
    """

    seed: int
    epoch: int = 0
    stream: int = Stream.PLACE
    _keys: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stream", int(self.stream))
        low, high = self.seed & _HALF, self.seed >> 32
        keys = (((low + i * _KEY_STEPS[0]) & _HALF, (high + i * _KEY_STEPS[1]) & _HALF) for i in range(_ROUNDS))
        object.__setattr__(self, "_keys", tuple(keys))

    def word(self, index: int, attempt: int = 0) -> int:
        """Return 64 random bits."""
        a, b, c, d = index & _HALF, index >> 32, self.epoch, self.stream | attempt << 16
        multiplier_a, multiplier_c = _MULTIPLIERS
        for key_a, key_c in self._keys:
            product_a, product_c = multiplier_a * a, multiplier_c * c
            a, b, c, d = product_c >> 32 ^ b ^ key_a, product_c & _HALF, product_a >> 32 ^ d ^ key_c, product_a & _HALF
        return b << 32 | a

    def words(self, indices: NDArray[np.int64], attempt: int = 0) -> Words:
        """Return 64 random bits for each of many indices; equal to the results of `word`."""
        words = np.empty(len(indices), dtype=np.uint64)
        keys = np.array(self._keys, dtype=np.uint64)[..., np.newaxis]
        multipliers = np.array(_MULTIPLIERS, dtype=np.uint64)[:, np.newaxis]
        for start in range(0, len(indices), _BLOCK):
            block = slice(start, start + _BLOCK)
            index = indices[block].view(np.uint64)
            # The words a and c of `word` are the rows of one array, b and d those of another.
            ac, bd = np.empty((2, len(index)), dtype=np.uint64), np.empty((2, len(index)), dtype=np.uint64)
            ac[0], ac[1], bd[0], bd[1] = index & _HALF, self.epoch, index >> 32, self.stream | attempt << 16
            products = np.empty_like(ac)
            crossed = products[::-1]
            for key in keys:
                np.multiply(ac, multipliers, out=products)
                np.right_shift(crossed, 32, out=ac)
                ac ^= bd
                ac ^= key
                np.bitwise_and(crossed, _HALF, out=bd)
            np.bitwise_or(bd[0] << 32, ac[0], out=words[block])
        return words

    def below(self, bound: int, index: int) -> int:
        """Return a whole number from 0 to `bound - 1`, all equally likely; `bound` is 1 to 2⁶³ - 1."""
        for attempt in itertools.count():
            product = self.word(index, attempt) * bound
            rest = product & _WORD
            if rest >= bound or rest >= 2**64 % bound:  # the second test is seldom needed, and costs a division
                return product >> 64
        raise AssertionError("a sequence of attempts does not end")

    def below_many(
        self, bound: int | NDArray[np.int64], indices: NDArray[np.int64], attempt: int = 0
    ) -> NDArray[np.int64]:
        """Return a whole number below a bound for each of many indices; equal to the results of `below`."""
        words = self.words(indices, attempt)
        bounds = np.asarray(bound, dtype=np.uint64)
        numbers = _high_product(words, bounds).view(np.int64)
        rest = words * bounds
        suspects = np.flatnonzero(rest < bounds)
        if len(suspects):
            bounds = np.broadcast_to(bounds, words.shape)[suspects]
            unfair = rest[suspects] < (np.uint64(0) - bounds) % bounds
            suspects, bounds = suspects[unfair], bounds[unfair]
        if len(suspects):
            numbers[suspects] = self.below_many(bounds.view(np.int64), indices[suspects], attempt + 1)
        return numbers

    def fraction(self, index: int) -> float:
        """Return a number from 0 (included) to 1 (excluded)."""
        return self.below(_CHANCES, index) / _CHANCES

    def chance(self, probability: float, index: int) -> bool:
        """Return True with a probability."""
        return self.below(_CHANCES, index) < round(probability * _CHANCES)

    def chances(self, probability: float, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return True with a probability, for each of many indices; equal to the results of `chance`."""
        return self.below_many(_CHANCES, indices) < round(probability * _CHANCES)


def checked_seed(seed: int | None) -> int:
    """Return a seed that `CounterRandom` takes. If None, a seed is drawn from the system's entropy.

    Raises
    ------
    GeometryError
        If the seed is negative or has more than 64 bits.
    NotIntegerError
        If it is not an integer.
    """
    if seed is None:
        return secrets.randbits(63)
    number = whole_number("seed", seed)
    if not 0 <= number <= _WORD:
        raise GeometryError(f"seed is {number}: it must be at least 0 and below 2**64")
    return number


def checked_epoch(epoch: int) -> int:
    """Return an epoch that `CounterRandom` takes.

    Raises
    ------
    GeometryError
        If it is negative or has more than 32 bits.
    NotIntegerError
        If it is not an integer.
    """
    number = whole_number("epoch", epoch)
    if not 0 <= number <= _HALF:
        raise GeometryError(f"epoch is {number}: it must be at least 0 and below 2**32")
    return number


def _high_product(words: Words, bounds: Words) -> Words:
    """Return the upper 64 of the 128 bits of each product, assembled from products of halves."""
    high, low = words >> _SHIFT, words & _MASK
    bound_high, bound_low = bounds >> _SHIFT, bounds & _MASK
    middle = low * bound_low >> _SHIFT
    across = high * bound_low
    middle += across & _MASK
    upper = across >> _SHIFT
    if bound_high.any():
        across = low * bound_high
        middle += across & _MASK
        upper += across >> _SHIFT
        upper += high * bound_high
    upper += middle >> _SHIFT
    return upper
