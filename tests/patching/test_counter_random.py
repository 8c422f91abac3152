"""Random numbers: those that were published, the same one by one and together, exactly even, and independent."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, NotIntegerError
from patchloom.patching.counter_random import CounterRandom, Stream, checked_epoch, checked_seed

Departure = Callable[..., float]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E)),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0), (0xD16CFE09, 0x94FDCCEB)),
    ],
)
def test_published_values(counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, int]) -> None:
    """Words equal the values published for Philox4x32-10."""
    # Known answers of the Random123 library, first two of the four words.
    index = counter[1] << 32 | counter[0]
    stream, attempt = counter[3] & 0xFFFF, counter[3] >> 16
    draws = CounterRandom(key[1] << 32 | key[0], epoch=counter[2], stream=stream)
    word = draws.word(index, attempt)
    assert (word & 0xFFFFFFFF, word >> 32) == expected
    assert draws.words(np.array([index], dtype=np.uint64).view(np.int64), attempt).tolist() == [word]


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(1, 2**63 - 1)), min_size=1, max_size=20),
)
def test_one_equals_many(seed: int, epoch: int, stream: int, draws: list[tuple[int, int]]) -> None:
    """A number drawn alone equals the one drawn together with others."""
    random = CounterRandom(seed, epoch, stream)
    indices = np.array([index for index, _ in draws])
    bounds = np.array([bound for _, bound in draws])
    singly = [random.below(bound, index) for index, bound in draws]
    assert all(type(number) is int and 0 <= number < bound for number, (_, bound) in zip(singly, draws, strict=True))
    assert random.below_many(bounds, indices).tolist() == singly
    assert random.below_many(draws[0][1], indices).tolist() == [random.below(draws[0][1], index) for index, _ in draws]
    assert random.chances(0.3, indices).tolist() == [random.chance(0.3, index) for index, _ in draws]


@pytest.mark.parametrize("bound", [3 * 2**61, 5 * 2**60, 2**62 + 1])
def test_rejected_draws(bound: int) -> None:
    """Rejected draws are repeated in the same way for one number and for many."""
    random, indices = CounterRandom(4), np.arange(300)
    singly = [random.below(bound, index) for index in range(300)]
    assert random.below_many(bound, indices).tolist() == singly
    first_draws = [random.word(index) * bound >> 64 for index in range(300)]
    assert 10 < sum(one != other for one, other in zip(singly, first_draws, strict=True)) < 290


def test_blocks() -> None:
    """Blocks of scratch memory join without a gap."""
    random = CounterRandom(3)
    words = random.words(np.arange(40_000))
    assert words.tolist()[16_380:16_390] == [random.word(index) for index in range(16_380, 16_390)]
    assert random.words(np.arange(40_000)[::-1]).tolist() == words.tolist()[::-1]


def test_exactly_uniform(departure: Departure) -> None:
    """Numbers below a bound are exactly uniform."""
    # Of 2**64 words, a bound of 3 * 2**61 gets 2 or 3 each, by the remainder by 3, if none is rejected.
    random, bound, n_draws = CounterRandom(11), 3 * 2**61, 30_000
    indices = np.arange(n_draws)
    assert departure(np.bincount(random.below_many(bound, indices) % 3), n_draws / 3) < 4
    not_rejected = [word * bound >> 64 for word in random.words(indices).tolist()]
    assert departure(np.bincount(np.array(not_rejected) % 3), n_draws / 3) > 10


@pytest.mark.parametrize("bound", [2, 3, 7, 100, 257])
def test_uniform_by_chi_square(bound: int, departure: Departure) -> None:
    """Numbers below a small bound are uniform by a chi-square test."""
    numbers = CounterRandom(5, epoch=2).below_many(bound, np.arange(200_000))
    assert departure(np.bincount(numbers, minlength=bound), 200_000 / bound) < 4
    # A tenth more of the first half is seen at once.
    biased = np.concatenate([numbers, numbers[: len(numbers) // 10][numbers[: len(numbers) // 10] < (bound + 1) // 2]])
    assert departure(np.bincount(biased, minlength=bound), len(biased) / bound) > 8


def test_chance() -> None:
    """A probability is met, and those of 0 and 1 are certain."""
    random, indices = CounterRandom(2, stream=Stream.UNCORRELATED), np.arange(100_000)
    for probability in (0.1, 0.5, 0.93):
        spread = (probability * (1 - probability) / len(indices)) ** 0.5
        assert abs(random.chances(probability, indices).mean() - probability) < 4 * spread
    assert random.chances(1.0, indices).all()
    assert not random.chances(0.0, indices).any()


@pytest.mark.parametrize(
    "other",
    [
        CounterRandom(8, 0, 0),
        CounterRandom(7 + 2**32, 0, 0),
        CounterRandom(7, 1, 0),
        CounterRandom(7, 2**31, 0),
        CounterRandom(7, 0, 1),
        CounterRandom(7, 0, Stream.CHANNEL + 1),
    ],
)
def test_independent(other: CounterRandom, departure: Departure) -> None:
    """Numbers of different seeds, epochs and streams are independent."""
    indices = np.arange(64_000)
    pairs = CounterRandom(7).below_many(8, indices) * 8 + other.below_many(8, indices)
    assert departure(np.bincount(pairs, minlength=64), 1000) < 4
    neighbors = other.below_many(8, indices[:-1]) * 8 + other.below_many(8, indices[1:])
    assert departure(np.bincount(neighbors, minlength=64), 63_999 / 64) < 4


def test_recorded_values() -> None:
    """Values are the same on every machine."""
    random = CounterRandom(seed=2**63 + 5, epoch=3, stream=Stream.CELL)
    assert [random.below(1000, index) for index in (0, 1, 2**40)] == [277, 444, 139]
    assert random.below_many(10**15, np.array([0, 1, 2**40])).tolist() == [
        277664272471633,
        444496881525474,
        139113364856641,
    ]


def test_seed_of_none() -> None:
    """A seed of None is drawn."""
    assert len({checked_seed(None) for _ in range(5)}) == 5
    assert type(checked_seed(np.int64(4))) is int


@pytest.mark.parametrize(
    ("check", "value", "error", "message"),
    [
        (checked_seed, -1, GeometryError, "seed is -1: it must be at least 0 and below 2\\*\\*64"),
        (checked_seed, 2**64, GeometryError, "seed is 18446744073709551616"),
        (checked_seed, 1.0, NotIntegerError, "seed is 1.0"),
        (checked_epoch, -1, GeometryError, "epoch is -1: it must be at least 0 and below 2\\*\\*32"),
        (checked_epoch, 2**32, GeometryError, "epoch is 4294967296"),
        (checked_epoch, True, NotIntegerError, "epoch is True"),
    ],
)
def test_bad_seed_or_epoch(check: Callable[[object], int], value: object, error: type[Exception], message: str) -> None:
    """Values that are not a seed or an epoch are refused."""
    with pytest.raises(error, match=message):
        check(value)
