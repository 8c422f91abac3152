"""The levels of a pyramid: shapes, and values held against exact arithmetic."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from patchloom.errors import ArgumentError
from patchloom.sinks.ome_zarr.pyramid import downsample, halved, halving, level_shapes, pyramid_method

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
FLOATS = ["float16", "float32", "float64"]


def neighborhoods(block, factors):
    """For each voxel of the result, its index and the list of voxels that it is computed from."""
    shape = [-(-size // factor) for size, factor in zip(block.shape, factors, strict=True)]
    for index in itertools.product(*map(range, shape)):
        window = tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))
        yield index, block[window].ravel().tolist()


@st.composite
def blocks_and_factors(draw, dtypes, **elements):
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    values = npst.from_dtype(dtype, **elements)
    if dtype.kind in "iu":  # sums of the largest and smallest values exceed the range of the dtype
        info = np.iinfo(dtype)
        values = st.one_of(values, st.sampled_from([info.min, info.min + 1, info.max - 1, info.max]))
    block = draw(npst.arrays(dtype, npst.array_shapes(min_dims=1, max_dims=4, max_side=5), elements=values))
    factors = draw(st.lists(st.sampled_from([1, 2]), min_size=block.ndim, max_size=block.ndim))
    return block, [factor if n >= block.ndim - 3 else 1 for n, factor in enumerate(factors)]


@given(blocks_and_factors(INTEGERS))
def test_integer_means(case):
    """Means of integers are exact and rounded half to even, and the block is not changed."""
    block, factors = case
    kept = block.copy()
    result = downsample(block, factors, "mean")
    assert result.dtype == block.dtype
    for index, values in neighborhoods(block, factors):
        assert int(result[index]) == round(Fraction(sum(values), len(values)))
    np.testing.assert_array_equal(block, kept)


@given(blocks_and_factors(FLOATS, allow_nan=False, allow_infinity=False, allow_subnormal=False))
def test_float_means(case):
    """Means of floats are correct to a few units in the last place of the largest neighbor, while sums fit the type."""
    block, factors = case
    block = block if block.dtype == np.float16 else block / 8
    result = downsample(block, factors, "mean")
    assert result.dtype == block.dtype
    info = np.finfo(block.dtype)
    for index, values in neighborhoods(block, factors):
        exact = sum(map(Fraction, values)) / len(values)
        bound = 4 * float(info.eps) * max(map(abs, values)) + 8 * float(info.smallest_normal)
        assert abs(Fraction(float(result[index])) - exact) <= Fraction(bound)


def test_half_precision_means(rng):
    """Means of float16 are rounded once."""
    block = rng.normal(size=(8, 32, 32)).astype("float16")
    exact = block.astype(float).reshape(4, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(downsample(block, (2, 2, 2), "mean"), exact.astype("float16"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_and_infinity(dtype):
    """NaN propagates, and infinities of both signs give NaN."""
    block = np.array([[1, np.nan, 3, 5, np.inf, -np.inf, np.inf]], dtype)
    np.testing.assert_array_equal(downsample(block, (1, 2), "mean"), np.array([[np.nan, 4, np.nan, np.inf]], dtype))


@given(blocks_and_factors(["bool", "uint8", "float32"]))
def test_nearest(case):
    """`"nearest"` takes every second voxel."""
    block, factors = case
    result = downsample(block, factors, "nearest")
    for index, values in neighborhoods(block, factors):
        np.testing.assert_equal(result[index].item(), values[0])


@given(blocks_and_factors(["bool", *INTEGERS, *FLOATS]))
def test_mode(case):
    """A mode is the most common value: of equally common ones the smallest, of floats the smallest by its bits."""
    block, factors = case
    result = downsample(block, factors, "mode")
    assert result.dtype == block.dtype
    if block.dtype.kind == "f":
        block, result = block.view(f"u{block.itemsize}"), result.view(f"u{block.itemsize}")
    for index, values in neighborhoods(block, factors):
        assert result[index] == min(values, key=lambda value: (-values.count(value), value))


def test_mode_of_labels():
    """The smallest of equally common labels is taken, also if it is negative."""
    assert downsample(np.array([[-1, 3], [3, -1]], "int32"), (2, 2), "mode").tolist() == [[-1]]


def test_booleans_have_no_mean():
    assert pyramid_method("mean", np.dtype(bool)) == "mode"


@pytest.mark.parametrize("method", ["mean", "mode"])
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
@pytest.mark.parametrize("swapped", [False, True])
def test_memory_layout(rng, swapped, dtype, method):
    """Blocks may have any memory order and byte order."""
    block = rng.integers(0, 3, (5, 6, 7)).astype(dtype)
    given_block = np.asfortranarray(block.astype(block.dtype.newbyteorder("S") if swapped else block.dtype))
    expected = downsample(block, (2, 2, 1), method)
    np.testing.assert_array_equal(downsample(given_block, (2, 2, 1), method), expected)


@given(
    blocks_and_factors(["uint8", "int64", "float32"], allow_nan=False),
    st.sampled_from(["mean", "mode", "nearest"]),
    st.data(),
)
def test_part_of_an_image(case, method, data):
    """A block at even coordinates gives the same values as the whole image."""
    image, factors = case
    whole = downsample(image, factors, method)
    window = []
    for size in whole.shape:
        start = data.draw(st.integers(0, size - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, size))))
    part = image[tuple(slice(w.start * f, w.stop * f) for w, f in zip(window, factors, strict=True))]
    np.testing.assert_array_equal(downsample(part, factors, method), whole[tuple(window)])


def test_unknown_method():
    with pytest.raises(ArgumentError, match="'median'"):
        pyramid_method("median", np.dtype("uint8"))


@given(
    st.lists(st.integers(1, 10**7), min_size=2, max_size=3),
    st.integers(1, 2000),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_level_shapes(shape, chunk, levels):
    """Each level is half of the one above it, and levels end where an image is small, or as asked for."""
    chunks = (chunk,) * len(shape)
    shapes = level_shapes(shape, chunks, levels)
    assert shapes[0] == tuple(shape)
    for upper, lower in itertools.pairwise(shapes):
        assert lower == halved(upper) == tuple(-(-n // f) for n, f in zip(upper, halving(upper), strict=True))
    if levels is None:
        small = [max(level) <= max(256, chunk) for level in shapes]
        assert small == [False] * (len(shapes) - 1) + [True]
    else:
        assert len(shapes) == levels or max(shapes[-1]) == 1
        assert len(shapes) <= levels
