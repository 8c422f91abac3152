"""Normalization of large gray values: as exact as Python's own numbers, whatever their size."""

from __future__ import annotations

from fractions import Fraction
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack, PatchExtractor
from patchloom.extraction.rescaling import Rescaling, difference, rescale, rescale_exactly
from patchloom.prediction import predict
from patchloom.prediction.normalization.measuring import measure_normalization
from patchloom.prediction.normalization.normalization import Normalization

DTYPES = ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "float32", "float64"]
LARGE = [
    ("uint32", 2**31, 10), ("int32", -(2**31) + 200, 10), ("uint32", 2**32 - 200, 10), ("int64", 2**63 - 200, 10),
    ("int64", -(2**63) + 200, 10), ("uint64", 2**63, 10), ("uint64", 2**64 - 200, 10), ("int64", 2**40, 3),
    ("float64", 1e8, 1), ("float64", -1e12, 1), ("float64", 2.0**52, 30), ("float32", 1e6, 1), ("float32", -5e6, 3),
    ("uint16", 60000, 2), ("float16", 2000, 2), ("float32", 1e30, 1e25),
]  # fmt: skip


def large_image(rng: np.random.Generator, dtype: str, mean: Any, deviation: Any, shape: tuple[int, ...]) -> np.ndarray:
    steps = deviation * np.clip(rng.standard_normal(shape), -6, 6)
    if np.dtype(dtype).kind == "f":
        return (mean + steps).astype(dtype)
    exact = [mean + round(step) for step in steps.ravel().tolist()]
    return np.array(exact, dtype).reshape(shape)


def normalized(image: np.ndarray, zero: Fraction, spread: float) -> np.ndarray:
    """The whole image in Python's exact numbers, rounded at the end."""
    of_pixel = {pixel: float((Fraction(pixel) - zero) / Fraction(spread)) for pixel in set(image.ravel().tolist())}
    return np.array([of_pixel[pixel] for pixel in image.ravel().tolist()]).reshape(image.shape)


def exact_moments(image: np.ndarray) -> tuple[Fraction, float]:
    pixels = [Fraction(pixel) for pixel in image.ravel().tolist()]
    mean = sum(pixels, Fraction(0)) / len(pixels)
    return mean, fmean(float((pixel - mean) ** 2) for pixel in pixels) ** 0.5


@pytest.mark.parametrize(("dtype", "mean", "deviation"), LARGE)
@pytest.mark.parametrize("blend", [None, "hann"])
def test_mean_and_deviation(dtype, mean, deviation, blend, rng) -> None:
    """Differences of large pixels survive normalization by mean and deviation."""
    image = large_image(rng, dtype, mean, deviation, (60, 70))
    seen = predict(
        lambda batch: batch, image, axes="YX", patch_size=(32, 32), normalize="mean_std", blend=blend, progress=False
    )
    expected = normalized(image, *exact_moments(image))
    np.testing.assert_allclose(seen, expected, atol=4e-6, rtol=1e-6)
    if blend is None:
        assert len(np.unique(seen)) == len(np.unique(image))


@pytest.mark.parametrize(("dtype", "mean", "deviation"), LARGE)
def test_percentiles(dtype, mean, deviation, rng) -> None:
    """Differences of large pixels survive normalization by percentiles."""
    image = large_image(rng, dtype, mean, deviation, (41, 61))
    seen = predict(
        lambda batch: batch, image, axes="YX", patch_size=(32, 32), normalize="percentiles:10,90",
        progress=False,
    )  # fmt: skip
    low, high = (Fraction(sorted(image.ravel().tolist())[round(share * (image.size - 1))]) for share in (0.1, 0.9))
    np.testing.assert_allclose(seen, normalized(image, low, float(high - low)), atol=4e-6, rtol=1e-6)


@pytest.mark.parametrize(("dtype", "mean", "deviation"), LARGE)
@pytest.mark.parametrize("pooled", [False, True])
def test_extractor(dtype, mean, deviation, pooled, rng) -> None:
    """An extractor keeps them too, with an offset in float64."""
    image = large_image(rng, dtype, mean, deviation, (1, 2, 30, 30))

    class Stored(ArrayStack):
        chunk_shape = shard_shape = (1, 1, 16, 16)
        pixels = None

    stack = (Stored if pooled else ArrayStack)(image, axes="SCYX")
    scale, offset = 1 / deviation, -float(mean) / deviation
    specs = [
        {"data_idx": 0, "sample_idx": 0, "coords": (y, x), "patch_size": (9, 9)} for y in (-2, 5) for x in range(12)
    ]
    batch = PatchExtractor([stack], padding="reflect").extract_batch(specs, scale=scale, offset=offset)
    assert batch.dtype == np.float32
    padded = np.pad(image[0], [(0, 0), (9, 9), (9, 9)], mode="reflect")
    zero = -Fraction(offset) / Fraction(scale)
    for spec, patch in zip(specs, batch, strict=True):
        y, x = (start + 9 for start in spec["coords"])
        expected = normalized(padded[:, y : y + 9, x : x + 9], zero, float(1 / Fraction(scale)))
        np.testing.assert_allclose(patch, expected, atol=4e-6, rtol=1e-6)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), dtype=st.sampled_from(DTYPES))
def test_difference(data, dtype) -> None:
    """A difference is exact up to the rounding of its result."""
    if np.dtype(dtype).kind == "f":
        numbers: Any = st.floats(-1e300, 1e300, width=8 * np.dtype(dtype).itemsize)
        numbers = (
            st.floats(-60000, 60000, width=16) if dtype == "float16" else st.floats(-(2.0**100), 2.0**100, width=32)
        )
    else:
        limits = np.iinfo(dtype)
        ends = st.sampled_from([limits.min, limits.min + 1, limits.max - 1, limits.max])
        numbers = st.one_of(ends, st.integers(limits.min, limits.max))
    values, center = data.draw(st.lists(numbers, min_size=1, max_size=5)), data.draw(numbers)
    found = difference(np.array(values, dtype), center)
    exact = [float(Fraction(value) - Fraction(center)) for value in values]
    np.testing.assert_allclose(found, exact, rtol=2**-52, atol=0)


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from(DTYPES[:7]),
    st.floats(1e-9, 1e3),
    st.floats(-1e18, 1e18),
    st.floats(-1e-3, 1e-3),
    st.integers(0, 99),
)
def test_rescale_exactly(dtype, scale, offset, rest, seed) -> None:
    """Scale, offset and its rest are applied as exact numbers."""
    limits = np.iinfo(dtype)
    pixels = np.random.default_rng(seed).integers(limits.min, limits.max, (1, 3, 5), dtype, endpoint=True)
    out = np.empty(pixels.shape, np.float64)
    rescale_exactly(pixels, out, [scale], [offset], [rest])
    exact = [
        float(Fraction(pixel) * Fraction(scale) + Fraction(offset) + Fraction(rest))
        for pixel in pixels.ravel().tolist()
    ]
    bound = 2**-50 * max(map(abs, exact))
    np.testing.assert_allclose(out.ravel(), exact, rtol=2**-50, atol=bound)


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint32", "int32", "float32"])
def test_rescale_many_voxels(dtype, in_place, rng) -> None:
    """Large batches, which a compiled loop rescales, have the bytes that NumPy gives, also in the memory of their pixels."""
    high = 2 if dtype == "bool" else min(2**31, np.iinfo(dtype).max if dtype != "float32" else 2**24)
    pixels = rng.integers(0, high, (5, 2, 150, 97)).astype(dtype)
    scale, offset = [0.3, 1e-3], [-1.7e6, 4096.5]
    expected = np.empty(pixels.shape, np.float32)
    rescale_exactly(pixels.swapaxes(0, 1), expected.swapaxes(0, 1), scale, offset)
    out = np.empty(pixels.shape, np.float32)
    if in_place and pixels.itemsize == out.itemsize:
        pixels = out.view(dtype)
        pixels[...] = rng.integers(0, high, pixels.shape).astype(dtype)
        rescale_exactly(pixels.swapaxes(0, 1), expected.swapaxes(0, 1), scale, offset)
    rescale(pixels, out, Rescaling.of(scale, offset))
    np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))


def test_json(rng: np.random.Generator) -> None:
    """JSON keeps the rest of an offset, and normalizations without one can be read."""
    image = large_image(rng, "uint64", 2**63, 10, (20, 20))
    measured = measure_normalization(ArrayStack(image, "YX"))
    assert measured.offset_rest != ()
    assert Normalization.from_dict(measured.to_dict()) == measured
    older = {name: value for name, value in measured.to_dict().items() if name != "offset_rest"}
    assert Normalization.from_dict(older).offset == measured.offset


def test_undo(rng: np.random.Generator) -> None:
    """Gray values are restored up to the rounding of float32."""
    image = large_image(rng, "float32", 1e6, 1, (1, 30, 30))
    measured = measure_normalization(ArrayStack(image[0], "YX"))
    exact = normalized(image, *exact_moments(image)).astype(np.float32)
    restored = measured.undo(exact, sample_idx=0)
    assert restored.dtype == np.float32
    np.testing.assert_allclose(restored, image, rtol=2**-23)
