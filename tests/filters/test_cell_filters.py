"""Filters: what each measures, and that cut cells compare with whole ones."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.errors import ArgumentError
from patchloom.filters import (
    CustomFilter,
    EntropyFilter,
    HasIdentity,
    MaskFilter,
    MaxFilter,
    MeanFilter,
    PercentileFilter,
    ScoresMany,
    StdFilter,
)

BUILT_IN = [MaxFilter(), MeanFilter(), StdFilter(), PercentileFilter(90), EntropyFilter(), MaskFilter()]


@pytest.mark.parametrize("cell_filter", BUILT_IN, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32", "float64", "bool"])
def test_many_cells(cell_filter, dtype, rng):
    """Many cells together have the scores of each alone."""
    cells = rng.integers(0, 50, (7, 2, 3, 5, 4)).astype(dtype)
    singly = [cell_filter(cell) for cell in cells]
    assert cell_filter.score_many(cells).tolist() == singly
    assert all(type(score) is float for score in singly)


def test_numpy(rng):
    """Scores are those of NumPy's functions."""
    cell = rng.normal(100, 20, (2, 9, 11)).astype("float32")
    exact = cell.astype("float64")
    assert MaxFilter()(cell) == cell.max()
    assert MeanFilter()(cell) == pytest.approx(exact.mean(), rel=1e-12)
    assert StdFilter()(cell) == pytest.approx(exact.std(), rel=1e-12)
    assert PercentileFilter(30)(cell) == pytest.approx(np.percentile(exact, 30), rel=1e-6)
    assert MaskFilter()(cell > 100) == np.mean(cell > 100)


def test_large_integers(rng):
    """Means and deviations of large integers are exact."""
    cell = rng.integers(60_000, 65_535, (1, 64, 64)).astype("uint16")
    assert MeanFilter()(cell) == pytest.approx(cell.astype(float).mean())
    assert StdFilter()(cell) == pytest.approx(cell.astype(float).std())


def test_entropy():
    """Entropy is measured in bits."""
    values = np.repeat(np.arange(8), 4096)
    assert EntropyFilter()(values.reshape(1, 128, -1)) == pytest.approx(3, abs=1e-3)
    assert EntropyFilter(bin_width=4)(values.reshape(1, 128, -1)) == pytest.approx(1, abs=1e-3)
    assert EntropyFilter(bin_width=100)(values.reshape(1, 128, -1)) == 0


def test_entropy_of_constant():
    """The entropy of a constant is 0 in cells of any size."""
    assert [EntropyFilter()(np.full((1, side, side), 9)) for side in (1, 2, 16)] == [0, 0, 0]


def test_entropy_of_small_cells(rng):
    """Entropy does not depend on the number of voxels."""
    noise = rng.poisson(50, (1, 400, 512, 8)).astype("uint16")
    whole, cut = (EntropyFilter().score_many(noise[0, :, : width * 8].reshape(400, 1, -1)) for width in (64, 8))
    plain = np.mean([_plug_in_entropy(part[:64].ravel()) for part in noise[0]])
    assert abs(whole.mean() - cut.mean()) < 0.15 * abs(whole.mean() - plain)


def _plug_in_entropy(values: np.ndarray) -> float:
    shares = np.unique(values, return_counts=True)[1] / len(values)
    return float(-(shares * np.log2(shares)).sum())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint32"])
@pytest.mark.parametrize("width", [1, 2, 7, 127, 255, 300])
def test_entropy_of_bins(dtype, width, rng):
    """The entropy of integers is that of their bins."""
    cell = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (1, 32, 32), dtype, endpoint=True)
    bins = np.floor(cell.astype("float64") / width)
    assert EntropyFilter(width)(cell) == EntropyFilter(1)(bins)


def test_entropy_of_fractions():
    """Negative and fractional values have bins as well."""
    cell = np.repeat([-1.5, -0.5, 0.5, 1.5], 1024).reshape(1, 64, 64)
    assert EntropyFilter(bin_width=1)(cell) == pytest.approx(2, abs=1e-3)
    assert EntropyFilter(bin_width=2)(cell) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("cell_filter", BUILT_IN[:-1], ids=str)
def test_nan(cell_filter):
    """A cell with NaN has no score."""
    cells = np.ones((2, 1, 4, 4))
    cells[1, 0, 2, 3] = np.nan
    assert np.isnan(cell_filter.score_many(cells)).tolist() == [False, True]


def test_identity():
    """Filters with the same identity give the same scores."""
    filters = [*BUILT_IN, PercentileFilter(91), EntropyFilter(2), CustomFilter("mine", np.ptp)]
    assert len({cell_filter.identity for cell_filter in filters}) == len(filters)
    assert EntropyFilter(2.0).identity == EntropyFilter(bin_width=2.0).identity


def test_custom_filter():
    """A plain function has no identity, and a `CustomFilter` has one."""
    assert not isinstance(np.ptp, HasIdentity)
    assert isinstance(CustomFilter("range", np.ptp), HasIdentity)
    assert not isinstance(CustomFilter("range", np.ptp), ScoresMany)


@pytest.mark.parametrize(
    "make", [lambda: PercentileFilter(101), lambda: PercentileFilter(-1), lambda: EntropyFilter(0)]
)
def test_bad_parameters(make):
    """Invalid parameters are refused."""
    with pytest.raises(ArgumentError, match="must be"):
        make()
