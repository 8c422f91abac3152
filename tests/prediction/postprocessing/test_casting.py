"""Casts: every pair of dtypes, whatever the value, and cropped tiles like blended ones."""

from __future__ import annotations

import warnings
from fractions import Fraction
from math import inf, isinf, isnan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import ModelOutputError
from patchloom.prediction import predict
from patchloom.prediction.postprocessing.casting import to_dtype

INTEGERS = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"]
FLOATS = ["float16", "float32", "float64"]
REAL = ["bool", *INTEGERS, *FLOATS]
EDGES = [0, 1, -1, 0.25, 0.5, 0.75, 1.5, 2.5, -0.5, -3, 255, 256, 65504, 65536, -129, 2**24 + 1, 1e30, -1e30, inf, -inf]
EDGES += [sign * (2**bits + step) for bits in (7, 8, 15, 16, 31, 32, 53, 63) for step in (-1, 0, 1) for sign in (1, -1)]


def values_of(dtype: str) -> st.SearchStrategy[Any]:
    """Values that the dtype holds exactly, those at the ends of all ranges above all."""
    if dtype == "bool":
        return st.booleans()
    if dtype in FLOATS:
        width: Any = 8 * np.dtype(dtype).itemsize
        edges = [float(np.float64(edge).astype(dtype)) for edge in EDGES if abs(edge) <= float(np.finfo(dtype).max)]
        return st.one_of(st.sampled_from([*edges, inf, -inf]), st.floats(allow_nan=False, width=width))
    limits = np.iinfo(dtype)
    held = [int(edge) for edge in EDGES if not isinf(edge) and limits.min <= edge <= limits.max]
    return st.one_of(st.sampled_from([*held, limits.min, limits.max]), st.integers(limits.min, limits.max))


def expected(value: Any, dtype: str) -> Any:
    """Convert one value in Python's own exact numbers."""
    if dtype == "bool":
        return value >= Fraction(1, 2) if not isinf(value) else value > 0
    limits = np.iinfo(dtype)
    if isinf(value):
        return limits.max if value > 0 else limits.min
    return min(max(round(Fraction(value)), limits.min), limits.max)


@settings(deadline=None, max_examples=400)
@given(st.sampled_from(REAL), st.sampled_from(["bool", *INTEGERS]), st.data())
def test_integers(source, target, data) -> None:
    """Every dtype is converted to every integer exactly, without a warning."""
    values = data.draw(st.lists(values_of(source), min_size=1, max_size=9))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        converted = to_dtype(np.array(values, source), np.dtype(target), [])
    assert converted.dtype == target
    assert converted.tolist() == [expected(value, target) for value in values]


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("target", FLOATS)
def test_floats(source: str, target: str) -> None:
    """Every dtype is converted to the nearest float, or to infinity, without a warning."""
    limits = (np.finfo if source in FLOATS else np.iinfo)(source) if source != "bool" else None
    values = np.array([0, 1] if limits is None else [limits.min, 0, 1, 100, limits.max], source)
    converted = to_dtype(values, np.dtype(target), [])
    eps, largest = float(np.finfo(target).eps), float(np.finfo(target).max)
    for value, found in zip(map(float, values), converted.tolist(), strict=True):
        if abs(value) <= largest:
            assert abs(found - value) <= eps * abs(value)
        else:
            assert abs(found) >= largest
            assert (found > 0) == (value > 0)


@pytest.mark.parametrize("target", ["bool", *INTEGERS])
@pytest.mark.parametrize("source", FLOATS)
def test_nan(source: str, target: str) -> None:
    """NaN is refused if the dtype has none, in cropped and blended predictions."""

    def broken(batch: np.ndarray) -> np.ndarray:
        return np.where(batch > 98, np.nan, batch).astype(source)

    image = np.arange(100, dtype=np.float32).reshape(10, 10)
    for blend in (None, "hann"):
        options: dict[str, Any] = {"axes": "YX", "patch_size": (6, 6), "overlaps": (2, 2), "blend": blend}
        with pytest.raises(ModelOutputError, match=rf"NaN for the tile at \(4, 4\) .*{target}"):
            predict(broken, image, postprocess=target, progress=False, **options)
        kept = predict(broken, image, postprocess="float32", progress=False, **options)
        assert [isnan(value) for value in kept.ravel()] == [False] * 99 + [True]


@settings(deadline=None, max_examples=120)
@given(st.sampled_from(REAL), st.sampled_from(REAL), st.sampled_from(["hann", "mean", "linear"]), st.data())
def test_cropped_and_blended(source, target, blend, data) -> None:
    """Tiles that agree give the same result cropped and blended; halves may be rounded to either side and are left out."""
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    image = np.rint(rng.choice([-1e5, -300, -3, 0, 1, 2, 100, 300, 7e4], (13, 15)) + rng.integers(0, 9, (13, 15)))
    if source in FLOATS:
        image = np.where(rng.random(image.shape) < 0.1, rng.choice([inf, -inf], image.shape), image + 0.25)
    with np.errstate(over="ignore"):
        image = to_dtype(image, np.dtype(source), [])
    results = [
        predict(
            lambda batch: batch, image, axes="YX", patch_size=(6, 7), overlaps=(3, 2), blend=each, postprocess=target,
            progress=False,
        )
        for each in (None, blend)
    ]  # fmt: skip
    with np.errstate(invalid="ignore"):  # infinite values
        np.testing.assert_allclose(results[1], results[0], rtol=1e-3 if "float" in target else 0)
    if target not in FLOATS:
        assert results[0].tolist() == [[expected(value, target) for value in row] for row in image.tolist()]


def test_complex() -> None:
    """Complex predictions are converted to complex dtypes only."""
    image = np.ones((8, 8), np.complex64)
    for target in ("bool", "int16", "float32"):
        with pytest.raises(ModelOutputError, match=f"complex64, and {target} has no imaginary part"):
            to_dtype(image, np.dtype(target), [])
    assert to_dtype(image, np.dtype("complex128"), []).dtype == "complex128"
