"""Percentiles found in several passes are NumPy's, for every dtype and any portions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from patchloom.prediction.normalization.percentile_search import PercentileSearch, ordered_keys, value_of_key

DTYPES = [
    "bool",
    *(f"{kind}int{8 * size}" for size in (1, 2, 4, 8) for kind in ("", "u")),
    *map("float{}".format, (16, 32, 64)),
]


def search(values: np.ndarray, percents: list[float], n_portions: int) -> tuple[tuple[float, ...], int]:
    found = PercentileSearch(values.dtype, percents)
    for n_passes in range(1, 9):
        for portion in np.array_split(values, n_portions)[:: 1 if n_passes % 2 else -1]:
            if len(portion):
                found.add(portion)
        if not found.end_pass():
            return found.result(), n_passes
    raise AssertionError("no end of passes")


@settings(deadline=None, max_examples=200)
@given(st.data(), st.sampled_from(DTYPES), st.lists(st.floats(0, 100), min_size=1, max_size=4), st.integers(1, 5))
def test_percentiles(data, dtype, percents, n_portions) -> None:
    """Percentiles of any values in any portions equal those of NumPy."""
    elements = {"allow_nan": False, "allow_infinity": False} if "float" in dtype else {}
    if dtype == "float64":  # between the two ends of its range lies more than a float64 can say
        elements |= {"min_value": -1e307, "max_value": 1e307}
    values = data.draw(hnp.arrays(dtype, st.integers(1, 40), elements=hnp.from_dtype(np.dtype(dtype), **elements)))

    found, n_passes = search(values, percents, n_portions)

    expected = np.percentile(values.astype(np.float64), percents)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)
    assert n_passes == max(1, np.dtype(dtype).itemsize // 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_exact(dtype, rng):
    """A percentile that is one of the values is exact."""
    bits = rng.integers(0, 256, 10_001 * np.dtype(dtype).itemsize, np.uint8)
    values = bits > 99 if dtype == "bool" else bits.view(dtype)
    values = values[np.isfinite(values)]
    values = values[: 100 * ((len(values) - 1) // 100) + 1]

    found, _ = search(values, [0, 1, 50, 99, 100], 7)

    ranked = np.sort(values)
    expected = [float(ranked[(len(values) - 1) // 100 * percent]) for percent in (0, 1, 50, 99, 100)]
    assert list(found) == expected


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys(dtype, rng):
    """Keys have the order of the values, and are converted back to them."""
    bits = rng.integers(0, 256, 1000 * np.dtype(dtype).itemsize, np.uint8)
    values = bits > 99 if dtype == "bool" else bits.view(dtype)
    values = values[~np.isnan(values)]
    keys = ordered_keys(values)
    assert (values[np.argsort(keys, kind="stable")] == np.sort(values)).all()
    assert [value_of_key(int(key), np.dtype(dtype)) for key in keys[:50]] == values[:50].astype(float).tolist()
