"""Tiles → one image in memory: cropped tiles give it back bit for bit, and an image with a hole is never handed over."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, SpecError, StitchError
from patchloom.extraction import PatchExtractor
from patchloom.image_stacks import ArrayStack
from patchloom.patching import TiledPatching
from patchloom.prediction import predict
from patchloom.stitching import CropStitcher, paste_tile, stitch_tiles


def cut(image: np.ndarray, tiling: TiledPatching) -> tuple[np.ndarray, list[Any]]:
    extractor = PatchExtractor([ArrayStack(image, axes="SCYX" if image.ndim == 4 else "SCZYX")])
    return extractor.extract_batch(tiling[:]), list(tiling)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_dims=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_any_order(data: st.DataObject, n_dims: int, seed: int) -> None:
    """Tiles in any order give the image back."""
    rng = np.random.default_rng(seed)
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2), *[st.integers(1, 13)] * n_dims))
    patch_size = data.draw(st.tuples(*[st.integers(1, 8)] * n_dims))
    overlaps = [data.draw(st.integers(0, size - 1)) for size in patch_size]
    image = rng.integers(-(2**62), 2**62, shape)
    tiles, specs = cut(
        image, TiledPatching([shape], patch_size, overlaps, seams=data.draw(st.sampled_from(["centered", "grid"])))
    )
    order = rng.permutation(len(specs))
    stitched = stitch_tiles(tiles[order], [specs[i] for i in order])
    assert stitched.dtype == image.dtype
    assert np.array_equal(stitched, image)


@pytest.fixture
def torn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    image = rng.random((2, 1, 20, 30))
    return image, *cut(image, TiledPatching([image.shape], (8, 8), (2, 3)))


def test_missing_tile(torn: tuple[np.ndarray, np.ndarray, list[Any]]) -> None:
    """Whichever tile is missing, the image is not handed over."""
    image, tiles, specs = torn
    for lost in range(len(specs)):
        kept = [i for i in range(len(specs)) if i != lost]
        with pytest.raises(StitchError, match="missing"):
            stitch_tiles(tiles[kept], [specs[i] for i in kept], image.shape)


def test_repeated_tile(torn: Any) -> None:
    """A repeated tile is refused, and the image can still be finished."""
    image, tiles, specs = torn
    stitcher = CropStitcher(image.shape, image.dtype)
    for tile, spec in zip(tiles, specs, strict=True):
        stitcher.add(tile, spec)
        with pytest.raises(StitchError, match="repeated"):
            stitcher.add(np.zeros_like(tile), spec)
    assert np.array_equal(stitcher.finish(), image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_idx": 1}, "not of this image: the tiles so far are of image stack 0"),
        ({"total_tiles": 5}, "not of this image: the tiles so far are of image stack 0, which has 36 tiles"),
        ({"sample_idx": 2}, "not of this image: the image has 2 samples"),
        ({"coords": (0, 40), "stitch_coords": (0, 40)}, "its kept part is 40:46 along X, and the image has size 30"),
        ({"stitch_coords": (3, 3)}, r"has stitch_coords 3 along [YX]: it must be coords \+ crop_coords, \d"),
        ({"crop_size": (9, 9)}, "keeps 0:9 along Y, which is not inside the tile"),
        ({"patch_size": (8, 9)}, "has shape \\(1, 8, 8\\), and must have \\(1, 8, 9\\)"),
    ],
)
def test_foreign_tile(torn: Any, change: dict[str, Any], message: str) -> None:
    """A tile of another image, or outside this one, is refused."""
    image, tiles, specs = torn
    stitcher = CropStitcher(image.shape, image.dtype)
    stitcher.add(tiles[10], specs[10])
    with pytest.raises(StitchError, match=message):
        stitcher.add(tiles[0], specs[0] | change)


def test_hole(rng: np.random.Generator) -> None:
    """The right number of tiles is not enough if they overlap and leave a hole."""
    image = rng.random((1, 1, 8, 8))
    tiles, specs = cut(image, TiledPatching([image.shape], (4, 4), (0, 0)))
    moved = specs[3] | {"coords": (4, 3), "stitch_coords": (4, 3)}
    with pytest.raises(StitchError, match="overlap along X between"):
        stitch_tiles(tiles, [*specs[:3], moved], image.shape)
    narrow = [spec | {"crop_size": (4, 3)} for spec in specs]
    with pytest.raises(StitchError, match="leave a hole along X"):
        stitch_tiles(tiles, narrow, image.shape)


def test_numbers_of_tiles_and_specs(torn: Any) -> None:
    """There is one specification for each tile, at least one, and each is that of a tile."""
    _, tiles, specs = torn
    with pytest.raises(StitchError, match="36 tiles and 35 specifications"):
        stitch_tiles(tiles, specs[:-1])
    with pytest.raises(StitchError, match="at least one"):
        stitch_tiles([], [])
    plain = {key: specs[0][key] for key in ("data_idx", "sample_idx", "coords", "patch_size")}
    with pytest.raises(StitchError, match="has no crop_coords, crop_size, stitch_coords, total_tiles: give"):
        CropStitcher((1, 1, 8, 8), float).add(tiles[0], plain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tile", [[[[1.0] * 8] * 8], "tile", None, np.zeros((1, 8, 8), object), np.zeros((1, 8, 8), "M8[s]")]
)
def test_tile_type(tile: Any, torn: Any) -> None:
    """A tile is an array of numbers."""
    image, tiles, specs = torn
    stitcher = CropStitcher(image.shape, image.dtype)
    with pytest.raises(StitchError, match="must be a NumPy array of numbers"):
        stitcher.add(tile, specs[0])
    with pytest.raises(StitchError, match="must be a NumPy array of numbers"):
        stitch_tiles([tile, *tiles[1:]], specs, image.shape)
    assert np.array_equal(stitch_tiles(tiles, specs, image.shape), image)


@pytest.mark.parametrize("field", ["data_idx", "sample_idx", "coords", "crop_coords", "crop_size", "stitch_coords"])
@pytest.mark.parametrize("number", [0.5, 1.0, True, "0", None, float("nan")])
def test_whole_numbers(field: str, number: Any, torn: Any) -> None:
    """A tile with a coordinate that is not an integer is refused, and the image stays as it is."""
    image, tiles, specs = torn
    stitcher = CropStitcher(image.shape, image.dtype)
    wrong = specs[0] | {field: number if isinstance(specs[0][field], int) else (specs[0][field][0], number)}
    with pytest.raises(SpecError, match=field):
        stitcher.add(tiles[0], wrong)
    for data_shape in (None, image.shape):
        with pytest.raises(SpecError, match=field):
            stitch_tiles(tiles, [wrong, *specs[1:]], data_shape)
    assert not stitcher._image.any()


@pytest.mark.parametrize("dtype", [object, "U5", "M8[s]", "no such dtype"])
def test_dtype(dtype: Any) -> None:
    """An image has a dtype of numbers."""
    with pytest.raises(GeometryError, match="must be a dtype of numbers"):
        CropStitcher((1, 1, 8, 8), dtype)


def test_read_only_block(torn: Any) -> None:
    """A tile is not pasted into read-only memory."""
    _, tiles, specs = torn
    block = np.zeros((1, 20, 30))
    block.flags.writeable = False
    with pytest.raises(StitchError, match="read-only"):
        paste_tile(tiles[0], specs[0], block, (slice(0, 20), slice(0, 30)))
    assert not block.any()


def twice_the_tile_number(tiles: np.ndarray) -> np.ndarray:
    """A model whose tiles disagree where they overlap: the second voxel of a tile decides."""
    return tiles + tiles[..., 1:2, 1:2] % 7


@pytest.mark.parametrize("blend", ["hann", "gaussian", "linear", "mean"])
@pytest.mark.parametrize("dtype", ["float32", "uint16", "bool"])
def test_blend(blend: Any, dtype: str, rng: np.random.Generator) -> None:
    """Tiles that disagree are blended to the bytes of `predict`, and in another order to the same up to rounding."""
    image = rng.integers(0, 2 if dtype == "bool" else 1000, (2, 1, 30, 41)).astype(dtype)
    tiling = TiledPatching([image.shape], (12, 10), (5, 6))

    def model(tiles: np.ndarray) -> np.ndarray:
        return tiles ^ tiles[..., 1:2, 1:2] if dtype == "bool" else twice_the_tile_number(tiles)

    tiles, specs = cut(image, tiling)
    tiles = model(tiles)
    expected = predict(model, image, axes="SCYX", patch_size=(12, 10), overlaps=(5, 6), blend=blend, progress=False)
    assert stitch_tiles(tiles, specs, image.shape, blend=blend, tiling=tiling).tobytes() == expected.tobytes()
    order = rng.permutation(len(specs))
    shuffled = stitch_tiles(tiles[order], [specs[i] for i in order], blend=blend, tiling=tiling)
    if dtype == "float32":
        np.testing.assert_allclose(shuffled, expected, rtol=1e-6)
    else:
        assert np.count_nonzero(shuffled != expected) < 0.01 * expected.size, "a half that is rounded to the other side"


def test_blend_needs_the_tiling(torn: Any) -> None:
    """Blending without the tiling, with that of another image, or with a tile that it does not have is refused."""
    image, tiles, specs = torn
    with pytest.raises(StitchError, match="give the tiling"):
        CropStitcher(image.shape, image.dtype, blend="hann")
    other = CropStitcher(image.shape, image.dtype, blend="hann", tiling=TiledPatching([(2, 1, 20, 31)], (8, 8), (2, 3)))
    with pytest.raises(StitchError, match="the tiling is for an image of shape"):
        other.add(tiles[0], specs[0] | {"total_tiles": 48} | other._tiling[0])
    finer = CropStitcher(image.shape, image.dtype, blend="hann", tiling=TiledPatching([image.shape], (8, 8), (4, 4)))
    with pytest.raises(SpecError, match="is not a tile of this tiling"):
        finer.add(tiles[0], specs[0])
