"""Checks of one argument: valid values are returned as plain values; the message for others contains name, value and remedy."""

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
def test_whole_number_types(value: Any) -> None:
    """Values that are not whole numbers are refused, and the message contains name and value."""
    with pytest.raises(NotIntegerError, match=r"batch_size is .*: it must be a whole number") as caught:
        whole_number("batch_size", value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


@given(st.integers(), st.integers(), st.integers())
def test_whole_number_bounds(value: int, least: int, most: int) -> None:
    """A whole number within its bounds is returned, any other is refused."""
    if least <= value <= most:
        assert whole_number("n", value, least=least, most=most) == value
    else:
        with pytest.raises(GeometryError, match=r"n is .*: it must be at (least|most)"):
            whole_number("n", value, least=least, most=most)


@pytest.mark.parametrize("value", [*STRANGERS, True, np.True_], ids=repr)
def test_real_number_types(value: Any) -> None:
    """Values that are not numbers are refused, and the message contains name and type."""
    with pytest.raises(ArgumentTypeError, match=f"fill is .* of type {type(value).__name__}: it must be a number"):
        real_number("fill", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -np.inf, 10**400, np.float32("nan")], ids=str)
def test_real_number_finite(value: Any) -> None:
    """Numbers must be finite, unless the caller allows others."""
    with pytest.raises(GeometryError, match=r"fill is "):
        real_number("fill", value)
    assert not np.isfinite(real_number("fill", value, finite=False, nan=True))


@pytest.mark.parametrize("value", [*STRANGERS, 0, 1, 1.0, "no", "False"], ids=repr)
def test_flag_types(value: Any) -> None:
    """Values that are not True or False are refused as flags."""
    with pytest.raises(ArgumentTypeError, match=r"overwrite is .*: it must be True or False"):
        flag("overwrite", value)


@pytest.mark.parametrize("value", [True, False, np.True_, np.False_])
def test_flag_is_plain(value: Any) -> None:
    """Flags are returned as Python's bool."""
    assert flag("overwrite", value) is bool(value)


@pytest.mark.parametrize("value", [*STRANGERS, "Mean", "mean ", ["mean"], np.array("mean"), b"mean"], ids=repr)
def test_one_of(value: Any) -> None:
    """Only the allowed words themselves are accepted."""
    with pytest.raises(GeometryError, match=r"pyramid is .*: it must be one of 'mean', 'nearest'"):
        one_of("pyramid", value, ("mean", "nearest"))


@pytest.mark.parametrize("value", [None, 3, "abc", b"abc", {"a": 1}, int, np.array(3)], ids=repr)
def test_listed_types(value: Any) -> None:
    """Texts, mappings and single values are refused as sequences."""
    with pytest.raises(ArgumentTypeError, match=r"channels is .*: it must be a sequence of whole numbers"):
        listed("channels", value, "a sequence of whole numbers")


@pytest.mark.parametrize("value", [[1, 2], (1, 2), range(1, 3), np.array([1, 2]), iter([1, 2])])
def test_listed(value: Any) -> None:
    """Sequences are returned as lists."""
    assert listed("channels", value, "a sequence") == [1, 2]


def test_instance() -> None:
    """A class is refused where one of its objects is needed."""
    with pytest.raises(ArgumentTypeError, match=r"window is <class 'slice'> of type type: it must be a slice"):
        instance("window", slice, slice)


@given(st.one_of(st.text(), st.binary(), st.lists(st.integers()), st.integers(), st.floats()))
def test_shown(value: object) -> None:
    """A value is shown in one short line."""
    text = shown(value)
    assert "\n" not in text
    assert len(text) <= 200


def test_shown_extremes() -> None:
    """Values that are very long, or have no representation, are shown as well."""

    class Unprintable:
        def __repr__(self) -> str:
            raise RuntimeError

    assert "Unprintable" in shown(Unprintable())
    assert len(shown(np.zeros((50, 50)))) <= 200
    assert len(shown([["a" * 10**6] * 10**3] * 10**3)) <= 200
    assert shown(10**5000) == "<int of 16610 bits>"
