"""Strata: every unit is drawn equally often, exactly, and every largest cell has strata of its own."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.geometry.strata import Stratum, stratum_of


def line(cells: list[int]) -> tuple[int, int]:
    return sum(cells), max(cells)


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 40), st.lists(st.integers(1, 9), min_size=1, max_size=9))
def test_uniform(n_draws: int, cells: list[int]) -> None:
    """Every unit is drawn equally often on average."""
    n_units, largest = line(cells)
    expected = [Fraction(0)] * n_units
    anywhere = Fraction(0)
    for number in range(n_draws):
        stratum = stratum_of(number, n_draws, n_units, largest)
        for draw in range(stratum.n_parts):
            unit = stratum.unit(draw)
            if unit < n_units:
                expected[unit] += Fraction(1, stratum.n_parts)
            else:
                anywhere += Fraction(1, stratum.n_parts)
    assert {count + anywhere / n_units for count in expected} == {Fraction(n_draws, n_units)}


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 60), st.integers(1, 9), st.lists(st.integers(1, 9), max_size=9))
def test_own_strata(n_draws: int, n_largest: int, others: list[int]) -> None:
    """The largest cells have strata of their own."""
    largest = max(others, default=4) + 1
    n_units = n_largest * largest + sum(others)
    if n_draws * largest < n_units:
        return  # too few to go round
    a_cell = n_draws * largest // n_units
    for cell in range(n_largest):
        for number in range(cell * a_cell, (cell + 1) * a_cell):
            stratum = stratum_of(number, n_draws, n_units, largest)
            units = [stratum.unit(draw) for draw in range(stratum.n_parts)]
            assert cell * largest <= min(units)
            assert max(units) < (cell + 1) * largest


def test_arrays() -> None:
    """Arrays and large numbers give the results of plain numbers."""
    rng = np.random.default_rng(0)
    n_draws = rng.integers(1, 3 * 10**9, 300)
    n_units, largest = rng.integers(2**40, 2**60, 300), rng.integers(1, 2**30, 300)
    numbers = rng.integers(0, n_draws)
    together = stratum_of(numbers, n_draws, n_units, largest)
    draws = rng.integers(0, together.n_parts)
    units = together.unit(draws)
    for row, plain in enumerate(zip(*(a.tolist() for a in (numbers, n_draws, n_units, largest)), strict=True)):
        stratum = stratum_of(*plain)
        assert stratum == Stratum(*(int(column[row]) for column in together))
        exact = (stratum.number * stratum.n_parts + int(draws[row])) // stratum.n_strata
        assert stratum.unit(int(draws[row])) == units[row] == exact


@pytest.mark.parametrize(
    ("n_draws", "strata"),
    [
        (3, ["aaaa", "bbbb", "cccd"]),
        (7, ["aa", "aa", "bb", "bb", "cc", "cd", "aaaabbbbcccd"]),
        (2, ["aaaabb", "bbcccd"]),
    ],
)
def test_picture(n_draws: int, strata: list[str]) -> None:
    """Strata are those drawn in the docstring."""
    units = "aaaabbbbcccd"
    drawn = []
    for number in range(n_draws):
        stratum = stratum_of(number, n_draws, n_units=12, largest=4)
        drawn.append(sorted({stratum.unit(draw) for draw in range(stratum.n_parts)}))
    assert ["".join(units[unit] for unit in stratum) for stratum in drawn] == strata
