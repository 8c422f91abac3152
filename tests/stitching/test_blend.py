"""Blending: tiles of an image blend to the image, in one piece or block by block."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import StitchError
from patchloom.extraction import PatchExtractor
from patchloom.geometry.blend_weights import BlendWindow, TileWeights, tile_extents, window_profile
from patchloom.image_stacks import ArrayStack
from patchloom.patching import TiledPatching
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.stitching.blend import add_blended_tile

blend_module = importlib.import_module("patchloom.stitching.blend")
WINDOWS: list[BlendWindow] = ["hann", "gaussian", "linear", "mean"]


def weights(window: BlendWindow, tiling: TiledPatching, spec: PatchSpecs) -> TileWeights:
    axes = zip(tiling.rules, tiling.data_shapes[0][2:], spec["coords"], strict=True)
    extents = tuple(tile_extents(window, rule, size, start) for rule, size, start in axes)
    return TileWeights(window, tiling.patch_size, extents)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), window=st.sampled_from(WINDOWS), n_dims=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_identity(data: st.DataObject, window: BlendWindow, n_dims: int, seed: int) -> None:
    """Tiles of an image blend to the image, whole or in two blocks."""
    shape = data.draw(st.tuples(st.just(1), st.integers(1, 2), *[st.integers(1, 17)] * n_dims))
    patch_size = data.draw(st.tuples(*[st.integers(1, 9)] * n_dims))
    overlaps = [data.draw(st.integers(0, size - 1)) for size in patch_size]
    image = np.random.default_rng(seed).uniform(-1e3, 1e3, shape)
    tiling = TiledPatching([shape], patch_size, overlaps, seams=data.draw(st.sampled_from(["centered", "grid"])))
    tiles = PatchExtractor([ArrayStack(image, axes="SCYX" if n_dims == 2 else "SCZYX")]).extract_batch(tiling[:])
    cut = data.draw(st.integers(0, shape[2] - 1))
    blended = np.zeros(shape[1:])
    for rows in (slice(0, cut), slice(cut, shape[2])):
        part = (rows, *(slice(0, size) for size in shape[3:]))
        for tile, spec in zip(tiles, tiling, strict=True):
            add_blended_tile(tile, spec["coords"], weights(window, tiling, spec), blended[:, rows], part)
    np.testing.assert_allclose(blended, image[0], rtol=1e-13, atol=1e-10)


@pytest.mark.parametrize("window", WINDOWS)
def test_definition(window: BlendWindow, rng: np.random.Generator) -> None:
    """Tiles that disagree blend to the sum of window times value over the sum of windows.

    No tile is moved inside this image; at its borders windows do not fall off.
    """
    tiling = TiledPatching([(1, 1, 23, 31)], (8, 10), (3, 3))
    total, weight, blended = np.zeros((23, 31)), np.zeros((23, 31)), np.zeros((1, 23, 31))
    for spec in tiling:
        tile = rng.random((1, 8, 10))
        (y, x) = spec["coords"]
        along = []
        for start, size, length in ((y, 8, 23), (x, 10, 31)):
            before, after = size * (start == 0), size * (start + size == length)
            context = np.minimum(np.arange(size) + before, np.arange(size)[::-1] + after)
            along.append(window_profile(window, size)[np.minimum(context, (size - 1) // 2)])
        profile = np.multiply.outer(*along)
        total[y : y + 8, x : x + 10] += profile * tile[0]
        weight[y : y + 8, x : x + 10] += profile
        add_blended_tile(tile, (y, x), weights(window, tiling, spec), blended, (slice(0, 23), slice(0, 31)))
    np.testing.assert_allclose(blended[0], total / weight, rtol=1e-12)


def test_zero_weight() -> None:
    """NaN where a tile weighs nothing does not reach the image."""
    extents = (((-1, 2),), ((2, 8), (-4, 4)))
    tile, block = np.array([[[np.nan, np.nan, 1.0, 1.0, 1.0, 1.0]]]), np.zeros((1, 1, 6))
    add_blended_tile(tile, (0, 0), TileWeights("hann", (1, 6), extents), block, (slice(0, 1), slice(0, 6)))
    assert block[0, 0, :2].tolist() == [0, 0]
    assert np.isfinite(block).all()


LAYOUTS = {
    "plain": np.zeros,
    "part of a larger one": lambda shape, dtype: np.zeros([n + 3 for n in shape], dtype)[(slice(1, -2),) * len(shape)],
    "turned": lambda shape, dtype: np.zeros(shape[::-1], dtype).T,
}


@pytest.mark.parametrize("how", ["compiled", "uncompiled"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "dtypes", [("f4", "f4"), ("f8", "f8"), ("u2", "f4"), ("?", "f4"), ("i4", "f8"), (">f4", "f4"), ("f2", "f4")]
)
@pytest.mark.parametrize("n_dims", [2, 3])
def test_compiled_loop(
    how: str,
    layout: str,
    dtypes: tuple[str, str],
    n_dims: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiled loop adds what NumPy adds, bit for bit."""
    if how == "compiled":
        pytest.importorskip("numba")
    else:
        monkeypatch.setattr(blend_module, "compiled_loop", lambda kernel: kernel)

    def laid_out(values: np.ndarray, dtype: str) -> np.ndarray:
        array: np.ndarray = LAYOUTS[layout](values.shape, dtype)
        array[...] = values
        return array

    size, whole = (5, 6, 7)[-n_dims:], (9, 8, 11)[-n_dims:]
    tile = laid_out(rng.uniform(0, 100, (2, *size)), dtypes[0])
    extents = (((0, 5), (-2, 3), (3, 8)), ((-6, 6), (4, 10)), ((2, 14), (-3, 4)))
    factors = TileWeights("hann", size, extents[-n_dims:])
    start = rng.random((2, *whole)).astype(dtypes[1])
    window = tuple(slice(4, 4 + side) for side in whole)
    for coords in ((4, 4, 4)[-n_dims:], (1, 7, 9)[-n_dims:], (8, 7, 2)[-n_dims:]):
        blocks = []
        for least in (0, 2**60):
            blocks.append(laid_out(start, dtypes[1]))
            add_blended_tile(tile, coords, factors, blocks[-1], window, min_compiled_voxels=least)
        assert np.array_equal(*blocks)
        assert not np.array_equal(blocks[0], start)


@pytest.mark.parametrize("least", [0, 2**60])
def test_read_only_block(least: int) -> None:
    """A tile is not added to read-only memory."""
    block = np.zeros((1, 8, 8))
    block.flags.writeable = False
    factors = TileWeights("hann", (8, 8), (((0, 8),), ((0, 8),)))
    with pytest.raises(StitchError, match="read-only"):
        add_blended_tile(
            np.ones((1, 8, 8)), (0, 0), factors, block, (slice(0, 8), slice(0, 8)), min_compiled_voxels=least
        )
    assert not block.any()
