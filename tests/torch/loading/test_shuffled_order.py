"""A shuffled order is a permutation, and all are equally likely."""

from __future__ import annotations

from collections import Counter
from math import factorial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.patching.counter_random import CounterRandom
from patchloom.torch.loading.shuffled_order import ShuffledOrder


@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_permutation(n, seed):
    """A shuffled order has every number once."""
    order = ShuffledOrder(n, CounterRandom(seed)).at(np.arange(n))

    assert np.array_equal(np.sort(order), np.arange(n))


def test_uniform_orders():
    """All orders of a few numbers are equally likely."""
    n, each = 3, 60

    seen = Counter(
        tuple(ShuffledOrder(n, CounterRandom(seed)).at(np.arange(n)).tolist()) for seed in range(factorial(n) * each)
    )

    assert len(seen) == factorial(n)
    assert (
        sum((count - each) ** 2 / each for count in seen.values()) < 20.5
    )  # chi-square of 5 degrees, one in a thousand


@pytest.mark.parametrize("n", [64, 100, 129])  # of even and odd numbers of bits
def test_uniform_positions(n):
    """Every number is equally likely at every position."""
    orders = np.stack([ShuffledOrder(n, CounterRandom(seed)).at(np.arange(0, n, n // 4)) for seed in range(300)])

    standard_error = n / 12**0.5 / 300**0.5
    assert (np.abs(orders.mean(axis=0) - (n - 1) / 2) < 4.5 * standard_error).all()
    assert (np.abs(np.corrcoef(orders.T)[np.triu_indices(orders.shape[1], 1)] + 1 / n) < 4.5 / 300**0.5).all()


def test_huge_order():
    """Single positions of a huge order are computed alone."""
    order = ShuffledOrder(10**12, CounterRandom(3))

    numbers = order.at(np.array([5, 10**11, 7]))

    assert (numbers < 10**12).all()
    assert order.at(np.array([7]))[0] == numbers[2]
