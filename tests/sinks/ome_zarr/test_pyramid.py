import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from patchloom.errors import GeometryError
from patchloom.sinks.ome_zarr.pyramid import downsample, halved, halving, level_shapes, pyramid_method

INTEGERS = ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]


def neighborhoods(block, factors):
    """For each voxel of the result, the list of those it is made of."""
    shape = [-(-size // factor) for size, factor in zip(block.shape, factors, strict=True)]
    for index in itertools.product(*map(range, shape)):
        yield (
            index,
            block[tuple(slice(i * f, (i + 1) * f) for i, f in zip(index, factors, strict=True))].ravel().tolist(),
        )


@st.composite
def blocks_and_factors(draw, dtypes, **elements):
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(npst.array_shapes(min_dims=1, max_dims=4, max_side=5))
    values = npst.from_dtype(np.dtype(dtype), **elements)
    if np.dtype(dtype).kind in "iu":  # the ends of the range are where sums leave it
        info = np.iinfo(dtype)
        values = st.one_of(values, st.sampled_from([info.min, info.min + 1, info.max - 1, info.max]))
    block = draw(npst.arrays(dtype, shape, elements=values))
    factors = draw(st.lists(st.sampled_from([1, 2]), min_size=block.ndim, max_size=block.ndim))
    return block, [factor if n >= block.ndim - 3 else 1 for n, factor in enumerate(factors)]


@given(blocks_and_factors(INTEGERS))
def test_means_of_integers_are_exact_and_rounded_half_to_even(case):
    block, factors = case
    kept = block.copy()
    result = downsample(block, factors)
    assert result.dtype == block.dtype
    for index, values in neighborhoods(block, factors):
        assert int(result[index]) == round(Fraction(sum(values), len(values)))
    np.testing.assert_array_equal(block, kept)


@given(
    blocks_and_factors(["float16", "float32", "float64"], allow_nan=False, allow_infinity=False, allow_subnormal=False)
)
def test_means_of_floats_do_not_overflow(case):
    block, factors = case
    result = downsample(block, factors)
    assert result.dtype == block.dtype
    info = np.finfo(block.dtype)
    for index, values in neighborhoods(block, factors):
        exact = sum(map(Fraction, values)) / len(values)
        # Values of opposite sign cancel: the error is relative to the largest of them.
        bound = 4 * float(info.eps) * max(map(abs, values)) + 8 * float(info.smallest_normal)
        assert abs(Fraction(float(result[index])) - exact) <= Fraction(bound)


def test_means_of_half_precision_are_rounded_once(rng):
    block = rng.normal(size=(8, 32, 32)).astype("float16")
    exact = block.astype(float).reshape(4, 2, 16, 2, 16, 2).mean(axis=(1, 3, 5))
    np.testing.assert_array_equal(downsample(block, (2, 2, 2)), exact.astype("float16"))


@given(
    blocks_and_factors(
        ["bool", "uint8", "float32"],
    )
)
def test_nearest_takes_every_second_voxel(case):
    block, factors = case
    result = downsample(block, factors, "nearest")
    for index, values in neighborhoods(block, factors):
        np.testing.assert_equal(result[index].item(), values[0])


@given(blocks_and_factors(["bool", *INTEGERS, "float16", "float32", "float64"]))
def test_a_mode_is_the_commonest_value_and_of_equals_the_smallest(case):
    block, factors = case
    result = downsample(block, factors, "mode")
    bits = block.view(f"u{block.itemsize}")
    assert result.dtype == block.dtype
    for index, values in neighborhoods(bits, factors):
        assert result.view(bits.dtype)[index] == min(values, key=lambda value: (-values.count(value), value))


def test_truth_values_are_never_averaged():
    block = np.array([[True, False], [False, False]])
    assert pyramid_method("mean", block.dtype) == "mode"
    assert downsample(block, (2, 2), "mean").tolist() == [[False]]
    assert downsample(block, (2, 2), "nearest").tolist() == [[True]]


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mode_takes_blocks_of_any_layout_and_byte_order(rng, swapped):
    block = rng.integers(0, 3, (5, 6, 7)).astype("uint16")
    given_block = np.asfortranarray(block.astype(block.dtype.newbyteorder("S") if swapped else block.dtype))
    expected = downsample(block, (2, 2, 1), "mode")
    np.testing.assert_array_equal(downsample(given_block, (2, 2, 1), "mode"), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_propagates_and_infinities_of_both_signs_make_nan(dtype):
    block = np.array([[1, np.nan, 3, 5, np.inf, -np.inf, np.inf]], dtype)
    np.testing.assert_array_equal(downsample(block, (1, 2)), np.array([[np.nan, 4, np.nan, np.inf]], dtype))


@given(
    blocks_and_factors(["uint8", "int64", "float32"], allow_nan=False),
    st.sampled_from(["mean", "mode", "nearest"]),
    st.data(),
)
def test_a_block_at_even_coordinates_gives_what_the_whole_image_gives(case, method, data):
    image, factors = case
    whole = downsample(image, factors, method)
    window = []
    for size in whole.shape:
        start = data.draw(st.integers(0, size - 1))
        window.append(slice(start, data.draw(st.integers(start + 1, size))))
    part = image[tuple(slice(w.start * f, w.stop * f) for w, f in zip(window, factors, strict=True))]
    np.testing.assert_array_equal(downsample(part, factors, method), whole[tuple(window)])


@pytest.mark.parametrize("factors", [(2,), (2, 3), (0, 1), (2, 2, 2)])
def test_factors_that_make_no_sense_are_refused(factors):
    with pytest.raises(GeometryError, match="1 or 2 for each of 2 axes"):
        downsample(np.zeros((4, 4)), factors)


def test_an_unknown_method_is_refused():
    with pytest.raises(GeometryError, match="'median'"):
        downsample(np.zeros((4, 4)), (2, 2), "median")


@given(
    st.lists(st.integers(1, 10**7), min_size=2, max_size=3),
    st.integers(1, 2000),
    st.one_of(st.none(), st.integers(1, 40)),
)
def test_levels_end_where_an_image_is_small(shape, chunk, levels):
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
