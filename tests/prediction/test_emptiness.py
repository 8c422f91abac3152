"""Skipping: a block is skipped when and only when nothing in it, or in sight of it, asks for the model."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack, open_stacks
from patchloom.errors import GeometryError
from patchloom.prediction.blocks import Block
from patchloom.prediction.emptiness import SkipDark, SkipOutside, coarse_window, fitting_factors


def stack_of(array: np.ndarray) -> ArrayStack:
    return ArrayStack(array, axes="SCZYX" if array.ndim == 5 else "SCYX")


@st.composite
def blocks_of_images(draw: st.DrawFn) -> tuple[tuple[int, ...], Block, np.random.Generator]:
    n_dims = draw(st.integers(2, 3))
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), *[st.integers(1, 14)] * n_dims))
    window = []
    for size in shape[2:]:
        start = draw(st.integers(0, size - 1))
        window.append(slice(start, draw(st.integers(start + 1, size))))
    return (
        shape,
        Block(draw(st.integers(0, shape[0] - 1)), tuple(window)),
        np.random.default_rng(draw(st.integers(0, 999))),
    )


@settings(deadline=None, max_examples=150)
@given(blocks_of_images(), st.data())
def test_a_block_is_skipped_where_its_voxels_of_the_mask_are_all_zero(case, data) -> None:
    shape, block, rng = case
    factors = [data.draw(st.integers(1, size), label="factor") for size in shape[2:]]
    rounding = data.draw(st.sampled_from(["up", "down"]))
    coarse = [size // f if rounding == "down" else -(-size // f) for size, f in zip(shape[2:], factors, strict=True)]
    mask = rng.random((data.draw(st.sampled_from([1, shape[0]])), 1, *coarse)) < 0.15
    rule, series = SkipOutside([stack_of(mask)]), [stack_of(np.ones(shape))]
    rule.check(series)

    exact = [size % side == 0 for size, side in zip(shape[2:], coarse, strict=True)]
    sample = mask[min(block.sample_idx, len(mask) - 1)].any(axis=0)
    for axis, (f, size) in enumerate(zip(factors, shape[2:], strict=True)):  # the mask as large as its image
        factor = size // coarse[axis] if exact[axis] else f
        sample = sample.take(np.minimum(np.arange(size) // factor, coarse[axis] - 1), axis=axis)
    wanted = bool(sample[block.window].any())

    skipped = rule.skips(series, 0, block, [0] * len(coarse))
    assert not (skipped and wanted)
    if all(exact):
        assert skipped is not wanted


@settings(deadline=None, max_examples=150)
@given(blocks_of_images(), st.integers(0, 4), st.floats(0, 100), st.sampled_from(["uint8", "float32"]))
def test_a_block_is_skipped_where_no_voxel_in_sight_is_bright(case, reach, threshold, dtype) -> None:
    shape, block, rng = case
    image = np.where(rng.random(shape) < 0.05, rng.integers(1, 100, shape), 0).astype(dtype)
    if dtype == "float32":
        image[rng.random(shape) < 0.1] = np.nan
    seen = tuple(slice(max(part.start - reach, 0), part.stop + reach) for part in block.window)
    for channels in (None, (shape[1] - 1,)):
        rule, series = SkipDark(threshold, channels), [stack_of(image)]
        rule.check(series)
        pixels = image[block.sample_idx][slice(None) if channels is None else list(channels)]
        bright = bool(np.nan_to_num(pixels[(slice(None), *seen)], nan=-1).max() > threshold)
        assert rule.skips(series, 0, block, [reach] * len(seen)) is not bright


@given(st.integers(1, 300), st.integers(1, 300))
def test_factors_are_all_that_round_to_the_coarse_size(size, factor) -> None:
    for coarse in {size // factor or 1, -(-size // factor)}:
        fitting = fitting_factors(size, coarse)
        rounded = [f for f in range(1, size + 1) if coarse in (size // f, -(-size // f))]
        assert list(fitting) == ([size // coarse] if size % coarse == 0 else rounded)
        for start, stop in [(0, 1), (size - 1, size), (0, size), (size // 3, size // 3 + 1)]:
            window = coarse_window(slice(start, stop), size, coarse)
            assert 0 <= window.start < window.stop <= coarse


def test_a_mask_of_another_image_or_of_no_whole_scale_is_refused_with_both_shapes():
    image = stack_of(np.zeros((2, 1, 20, 30)))
    for shape, message in [
        ((1, 1, 20, 17), "along X no whole number scales 17 to 30"),
        ((1, 1, 40, 30), "along Y no whole number scales 40 to 20"),
        ((3, 1, 20, 30), "as many samples as its image, or one for all"),
        ((1, 1, 2, 20, 30), "both must be 2D or both 3D"),
    ]:
        with pytest.raises(GeometryError, match=message):
            SkipOutside([stack_of(np.zeros(shape))]).check([image])
    with pytest.raises(GeometryError, match="there are 1 masks and 2 images"):
        SkipOutside([image]).check([image, image])


def test_thresholds_and_channels_that_make_no_sense_are_refused():
    for arguments in [(float("nan"),), (0, ()), (0, (-1,)), (0, (0.5,))]:
        with pytest.raises(GeometryError):
            SkipDark(*arguments)
    with pytest.raises(GeometryError, match="channels has 2, but array has 1, counted from 0"):
        SkipDark(0, (2,)).check([stack_of(np.zeros((1, 1, 4, 4)))])
    with pytest.raises(GeometryError, match="complex"):
        SkipDark(0).check([stack_of(np.zeros((1, 1, 4, 4), complex))])


def test_rules_are_told_apart_by_all_that_matters(rng, tmp_path: Path):
    masks = [rng.random((1, 1, 8, 8)) > 0.5 for _ in range(2)]
    identities = [SkipOutside([stack_of(mask)]).identity for mask in (*masks, masks[0].copy())]
    assert identities[0] == identities[2] != identities[1]
    np_file = tmp_path / "mask.tif"
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(np_file, masks[0][0, 0].astype(np.uint8))
    before = SkipOutside(open_stacks(np_file, axes="YX")).identity
    tifffile.imwrite(np_file, np.zeros((8, 8), np.uint8), description="changed")
    after = SkipOutside(open_stacks(np_file, axes="YX")).identity
    dark = [SkipDark(*arguments).identity for arguments in [(1,), (2,), (1, (0,)), (1.0,)]]
    assert dark[0] == dark[3]
    assert len({*identities, before, after, *dark}) == 2 + 2 + 3
    assert all(json.loads(identity)["skip"] for identity in (*identities, before, *dark))


def test_the_reading_stops_at_the_first_bright_piece():
    class Counting(ArrayStack):
        n_reads = 0

        def read(self, selection):
            Counting.n_reads += 1
            return super().read(selection)

    image = Counting(np.ones((3000, 4000)), axes="YX")  # 96 MB: more than is held at once
    assert not SkipDark(0).skips([image], 0, Block(0, (slice(0, 3000), slice(0, 4000))), (0, 0))
    assert Counting.n_reads == 1


def test_pixels_that_are_there_already_are_judged_alike(rng):
    pixels = rng.integers(0, 9, (3, 4, 5))
    for threshold, channels in product(range(-1, 10), [None, (1,), (0, 2)]):
        bright = pixels[slice(None) if channels is None else list(channels)].max() > threshold
        assert SkipDark(threshold, channels).is_dark(pixels) is not bool(bright)
