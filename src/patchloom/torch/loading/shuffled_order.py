"""A random order of any number of items, of which each position is computed when it is needed.

The order is not stored: it is a permutation of numbers, a Feistel network [1]_ on their bits. A result that is too large is permuted
again until it is not [2]_, which takes less than two passes on average. Each round changes one half of the bits by a hash of the
other half: a product with a factor from (seed, epoch), mixed as in SplitMix64 [3]_, of which the upper bits are used.

References
----------
.. [1] M. Luby, C. Rackoff, "How to construct pseudorandom permutations from pseudorandom functions", SIAM J. Comput. 17
   (1988), doi:10.1137/0217022
.. [2] J. Black, P. Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002, doi:10.1007/3-540-45760-7_9
.. [3] G. L. Steele, D. Lea, C. H. Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
   doi:10.1145/2660193.2660195
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from patchloom.patching.counter_random import CounterRandom

_ROUNDS = 12
_FEWEST_BITS = 6  # with fewer, a network has too few different rounds to make all orders equally likely


class ShuffledOrder:
    """A random order of the numbers below `n`.

    Parameters
    ----------
    n : int
        Number of items.
    random : CounterRandom
        Random numbers; another seed, epoch or stream gives another order.

    Examples
    --------
    >>> ShuffledOrder(5, CounterRandom(seed=7)).at(np.arange(5)).tolist()
    [3, 0, 4, 2, 1]
    """

    def __init__(self, n: int, random: CounterRandom) -> None:
        self._n = np.uint64(n)
        bits = max((n - 1).bit_length(), _FEWEST_BITS)
        low_bits = bits // 2
        self._low_bits = np.uint64(low_bits)
        self._low = np.uint64((1 << low_bits) - 1)
        # Rounds change the upper and the lower half alternately; these bits of a hash are dropped.
        self._unwanted = np.uint64(64 - (bits - low_bits)), np.uint64(64 - low_bits)
        words = random.words(np.arange(2 * _ROUNDS))
        self._factors, self._terms = words[:_ROUNDS] | np.uint64(1), words[_ROUNDS:]

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers at some positions; each number has one position."""
        numbers = self._permuted(places.astype(np.uint64))
        outside = np.flatnonzero(numbers >= self._n)
        while len(outside):
            numbers[outside] = self._permuted(numbers[outside])
            outside = outside[numbers[outside] >= self._n]
        return numbers.astype(np.int64)

    def _permuted(self, numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
        halves = numbers >> self._low_bits, numbers & self._low
        for number, (factor, term) in enumerate(zip(self._factors, self._terms, strict=True)):
            words = halves[1 - number % 2] * factor
            words += term
            words ^= words >> np.uint64(32)
            words *= np.uint64(0xBF58476D1CE4E5B9)
            words >>= self._unwanted[number % 2]
            np.bitwise_xor(halves[number % 2], words, out=halves[number % 2])
        high, low = halves
        return high << self._low_bits | low
