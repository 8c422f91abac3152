"""Interpolation whose weights depend on the place in the image only, compared with PyTorch's."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.prediction.models.rescaling.resampling import Grid, nearest, resample

RATIOS = [
    Fraction(2),
    Fraction(1, 2),
    Fraction(3, 2),
    Fraction(2, 3),
    Fraction(11, 5),
    Fraction(2, 7),
    Fraction(5),
    Fraction(1),
]


def by_torch(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return an image at another size by PyTorch: linear, with anti-aliasing."""
    image = torch.from_numpy(pixels.astype(np.float64))[None, None]
    return torch.nn.functional.interpolate(image, size=shape, mode="bilinear", antialias=True)[0, 0].numpy()


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_like_torch(ratio: Fraction, rng: np.random.Generator) -> None:
    """A whole image is that of PyTorch, also at its ends."""
    n_rows, n_columns = 5 * ratio.numerator, 3 * ratio.numerator
    pixels = rng.random((n_rows, n_columns))
    shape = (5 * ratio.denominator, 3 * ratio.denominator)
    grids = [Grid(0, size, ratio) for size in shape]
    np.testing.assert_allclose(resample(pixels, grids), by_torch(pixels, shape), atol=1e-12)


@settings(max_examples=60)
@given(data=st.data(), ratio=st.sampled_from(RATIOS))
def test_tiles(data: st.DataObject, ratio: Fraction) -> None:
    """Away from its ends, a part that starts on the grid has the samples of the whole, bit for bit."""
    p, q = ratio.numerator, ratio.denominator
    n_periods = data.draw(st.integers(8, 14))
    start = data.draw(st.integers(0, 4))
    stop = data.draw(st.integers(start + 4, n_periods))
    pixels = np.random.default_rng(n_periods).random((3, n_periods * p), np.float32)
    whole = resample(pixels, [Grid(0, n_periods * q, ratio)])
    part = resample(pixels[:, start * p : stop * p], [Grid(0, (stop - start) * q, ratio)])
    reach = int(max(1, 1 / ratio)) + 1  # samples whose weights may lie outside
    first = 0 if start == 0 else reach
    last = part.shape[1] if stop == n_periods else part.shape[1] - reach
    np.testing.assert_array_equal(part[:, first:last], whole[:, start * q + first : start * q + last])


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_offset(ratio: Fraction, rng: np.random.Generator) -> None:
    """An array that starts elsewhere gives the samples of the whole that do not depend on what it lacks."""
    pixels = rng.random(20 * ratio.numerator)
    whole = resample(pixels, [Grid(0, 20 * ratio.denominator, ratio)])
    cut = 3 * ratio.numerator + 1
    first, last = 7 * ratio.denominator, 13 * ratio.denominator
    part = resample(pixels[cut:-cut], [Grid(first, last, ratio, Fraction(cut))])
    np.testing.assert_allclose(part, whole[first:last], atol=1e-12)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "float16", "float32", "float64", "complex64", "bool"]
)
def test_dtypes(dtype: str, rng: np.random.Generator) -> None:
    """The dtype stays: integers are rounded, floats and complex numbers interpolated, of truth values the nearest is taken."""
    pixels = (rng.random((12, 16)) * 100).astype(dtype) if dtype != "bool" else rng.random((12, 16)) > 0.5
    grids = [Grid(0, 18, Fraction(2, 3)), Grid(0, 8, Fraction(2))]
    result = resample(pixels, grids)
    assert result.dtype == pixels.dtype
    if dtype == "bool":
        np.testing.assert_array_equal(result, nearest(pixels, grids))
    elif dtype == "complex64":
        np.testing.assert_allclose(result.real, resample(pixels.real.copy(), grids), rtol=1e-6)
    else:
        exact = by_torch(pixels, (18, 8))
        error = {"float16": 0.1, "float32": 1e-4, "float64": 1e-10}.get(dtype, 0.501)
        assert np.abs(result.astype(np.float64) - exact).max() <= error


@pytest.mark.parametrize("ratio", RATIOS, ids=str)
def test_nearest(ratio: Fraction) -> None:
    """Each sample is the one in whose cell its center lies."""
    pixels = np.arange(6 * ratio.numerator)
    result = nearest(pixels, [Grid(0, 6 * ratio.denominator, ratio)])
    centers = (np.arange(6 * ratio.denominator) * 2 + 1) * ratio.numerator  # in halves of 1 / denominator
    np.testing.assert_array_equal(result, centers // (2 * ratio.denominator))


def test_constant() -> None:
    """A constant image stays constant, at the ends too."""
    for ratio in RATIOS:
        pixels = np.full((4 * ratio.numerator,) * 3, 7, np.uint8)
        assert (resample(pixels, [Grid(0, 4 * ratio.denominator, ratio)] * 3) == 7).all()
