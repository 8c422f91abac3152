"""Checks of one argument: what passes comes out plain, and the message of what does not says name, value and what is allowed."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom import ArgumentTypeError, GeometryError, NotIntegerError
from patchloom.argument_checks import flag, instance, listed, one_of, real_number, shown, whole_number

STRANGERS: list[Any] = [None, "3", "", b"3", [], {}, Ellipsis, int, 1j, np.array([1, 2]), np.datetime64("2026-01-01")]


@pytest.mark.parametrize(
    "value", [*STRANGERS, True, np.True_, 1.0, np.float64(2.5), float("nan"), Fraction(1)], ids=repr
)
def test_what_is_not_a_whole_number_is_refused_by_name_and_value(value: Any) -> None:
    with pytest.raises(NotIntegerError, match=r"batch_size is .*: it must be a whole number") as caught:
        whole_number("batch_size", value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@given(st.integers(), st.integers(), st.integers())
def test_a_whole_number_passes_as_it_is_if_it_is_within_its_bounds(value: int, least: int, most: int) -> None:
    if least <= value <= most:
        assert whole_number("n", value, least=least, most=most) == value
    else:
        with pytest.raises(GeometryError, match=r"n is .*: it must be at (least|most)"):
            whole_number("n", value, least=least, most=most)


@pytest.mark.parametrize("value", [*STRANGERS, True, np.True_], ids=repr)
def test_what_is_not_a_number_is_refused_by_name_and_type(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=f"fill is .* of type {type(value).__name__}: it must be a number"):
        real_number("fill", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, 10**400, np.float32("nan")], ids=str)
def test_numbers_are_finite_unless_said_otherwise(value: Any) -> None:
    with pytest.raises(GeometryError, match=r"fill is "):
        real_number("fill", value)
    assert not np.isfinite(real_number("fill", value, finite=False, nan=True))


@pytest.mark.parametrize("value", [*STRANGERS, 0, 1, 1.0, "no", "False"], ids=repr)
def test_only_true_and_false_are_flags(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"overwrite is .*: it must be True or False"):
        flag("overwrite", value)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flags_come_out_plain(value: Any) -> None:
    assert flag("overwrite", value) is bool(value)


@pytest.mark.parametrize("value", [*STRANGERS, "Mean", "mean ", ["mean"], np.array("mean"), b"mean"], ids=repr)
def test_only_the_words_themselves_are_words(value: Any) -> None:
    with pytest.raises(GeometryError, match=r"pyramid is .*: it must be one of 'mean', 'nearest'"):
        one_of("pyramid", value, ("mean", "nearest"))


@pytest.mark.parametrize("value", [None, 3, "abc", b"abc", {"a": 1}, int, np.array(3)], ids=repr)
def test_texts_mappings_and_single_things_are_no_sequences(value: Any) -> None:
    with pytest.raises(ArgumentTypeError, match=r"channels is .*: it must be a sequence of whole numbers"):
        listed("channels", value, "a sequence of whole numbers")


@pytest.mark.parametrize("value", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), iter([1, 2])])
def test_sequences_come_out_as_lists(value: Any) -> None:
    assert listed("channels", value, "a sequence") == [1, 2]


def test_a_class_is_not_an_object_of_it() -> None:
    with pytest.raises(ArgumentTypeError, match=r"window is <class 'slice'> of type type: it must be a slice"):
        instance("window", slice, slice)


@given(st.one_of(st.text(), st.binary(), st.lists(st.integers()), st.integers(), st.floats()))
def test_a_value_is_shown_in_one_short_line(value: object) -> None:
    text = shown(value)
    assert "\n" not in text
    assert len(text) <= 200


def test_a_value_that_cannot_be_written_is_shown_too() -> None:
    class Silent:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Silent" in shown(Silent())
    assert len(shown(np.zeros((50, 50)))) <= 200
    assert len(shown([["a" * 10**6] * 10**3] * 10**3)) <= 200
    assert shown(10**5000) == "<int of 16610 bits>"
