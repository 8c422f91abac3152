"""Tiles whose borders are not used: cropped or blended, they give what the whole image gives."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import patchloom as pl
from patchloom.errors import GeometryError, SinkError
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

WINDOWS = ["hann", "gaussian", "linear", "mean"]


def quiet(*args: Any, **kwargs: Any) -> Any:
    return pl.predict(*args, **kwargs, progress=False)


class BoxFilter:
    """The sum over `2 · radius + 1` voxels along each axis, zeros outside: a network whose outputs see that far."""

    def __init__(self, radius: int, *, valid: int = 0, scale: int = 1) -> None:
        self.radius, self.valid, self.scale = radius, valid, scale

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        for axis in range(2, batch.ndim):
            around = [(self.radius, self.radius) if of == axis else (0, 0) for of in range(batch.ndim)]
            windows = np.lib.stride_tricks.sliding_window_view(np.pad(batch, around), 2 * self.radius + 1, axis=axis)
            weights = np.arange(1, 2 * self.radius + 2) ** 2 % 7 - 2.0  # not symmetric
            batch = windows @ weights
            batch = batch[(slice(None),) * axis + (slice(self.valid, batch.shape[axis] - self.valid),)]
            batch = batch.repeat(self.scale, axis=axis)
        return batch


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_tiled_equals_whole(data: st.DataObject, n_dims: int) -> None:
    """A network that sees no further than the halo gives what it gives on the whole image, for all tiles, windows and blocks."""
    radius = data.draw(st.integers(0, 2))
    halo = data.draw(st.tuples(*[st.integers(radius, radius + 2)] * n_dims))
    overlaps = [data.draw(st.integers(2 * lost, 2 * lost + 4)) for lost in halo]
    multiple = data.draw(st.integers(1, 3))
    patch_size = [overlap + 2 * multiple - 1 + data.draw(st.integers(0, 4)) for overlap in overlaps]
    shape = data.draw(st.tuples(*[st.integers(1, 24 if n_dims == 2 else 12)] * n_dims))
    blend = data.draw(st.sampled_from([None, *WINDOWS]))
    image = np.random.default_rng(data.draw(st.integers(0, 9))).integers(0, 9, shape).astype(np.float64)
    options: dict[str, Any] = {
        "axes": "ZYX"[-n_dims:],
        "patch_size": patch_size,
        "overlaps": overlaps,
        "halo": halo,
        "blend": blend,
        "seams": data.draw(st.sampled_from([None, "centered", "grid"])),
        "origin_multiple": multiple,
        "padding": "constant",  # as the network pads
        "batch_size": data.draw(st.integers(1, 4)),
    }
    network = BoxFilter(radius)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BLOCK_SIZES", [data.draw(st.integers(20, 2000)), 50])
        patch.setattr(block_grid, "CHUNK_SIZE", {2: 6, 3: 4})
        result = quiet(network, image, **options)
    np.testing.assert_allclose(result, network(image[None, None])[0, 0], rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("blend", [None, *WINDOWS])
@pytest.mark.parametrize("seams", ["centered", "grid"])
@pytest.mark.parametrize("kind", ["valid", "larger", "smaller", "valid and larger"])
def test_outputs_of_other_sizes(kind: str, seams: Any, blend: Any, rng: np.random.Generator) -> None:
    """The same for networks that lack a margin, enlarge images or make them smaller, also where a halo is no multiple."""
    image, scale, margin = rng.integers(0, 9, (53, 41)).astype(np.float64), 2 if "larger" in kind else 1, 0
    network = BoxFilter(3, valid=1 if "valid" in kind else 0, scale=scale)
    margin = network.valid
    expected = BoxFilter(3, scale=scale)(image[None, None])[0, 0]

    def model(batch: np.ndarray) -> np.ndarray:
        predicted = network(batch)
        return predicted[:, :, ::2, ::2] if kind == "smaller" else predicted

    if kind == "smaller":
        seams, expected = "grid", expected[::2, ::2]
    result = quiet(
        model, image, axes="YX", patch_size=24, overlaps=14, halo=3, blend=blend, seams=seams, padding="constant"
    )
    inside = (slice(scale * margin, len(expected) - scale * margin), slice(scale * margin, -scale * margin or None))
    np.testing.assert_allclose(result[inside], expected[inside], rtol=1e-12, atol=1e-9)
    assert result.shape == expected.shape


@pytest.mark.parametrize("seams", ["centered", "grid"])
@pytest.mark.parametrize("blend", [None, *WINDOWS])
@pytest.mark.parametrize("size", [(50, 37), (20, 64), (16, 16), (70, 23)])
def test_halo_is_not_used(size: tuple[int, int], blend: Any, seams: Any, rng: np.random.Generator) -> None:
    """No voxel of a halo has any influence, not even a NaN, except at the ends of the image."""
    image = rng.random(size)

    def spoiled(batch: np.ndarray) -> np.ndarray:
        predicted = np.full_like(batch, np.nan)
        predicted[..., 3:-3, 3:-3] = batch[..., 3:-3, 3:-3]
        return predicted

    result = quiet(spoiled, image, axes="YX", patch_size=16, overlaps=9, halo=3, blend=blend, seams=seams)
    np.testing.assert_allclose(result[3:-3, 3:-3], image[3:-3, 3:-3], rtol=1e-12)
    result[3:-3, 3:-3] = np.nan
    assert np.isnan(result).all()


@pytest.mark.parametrize("n_dims", [2, 3])
def test_inner_tiling(n_dims: int, rng: np.random.Generator) -> None:
    """With `"mean"`, a voxel is the mean of all tiles that have it outside their halo: sliding windows, by plain loops."""
    image = rng.random((23, 31, 26)[-n_dims:])
    patch, overlap, halo = 12, 9, 2

    def model(batch: np.ndarray) -> np.ndarray:  # depends on the position in the tile, as border effects do
        return batch * np.arange(batch.size / len(batch)).reshape(batch.shape[1:])

    def starts(size: int) -> list[int]:
        return sorted({min(start, size - patch) for start in range(0, size - overlap, patch - overlap)})

    total, count = np.zeros_like(image), np.zeros_like(image)
    for corner in itertools.product(*map(starts, image.shape)):
        tile = tuple(slice(start, start + patch) for start in corner)
        predicted = model(image[tile][None, None])[0, 0]
        for voxel in itertools.product(range(patch), repeat=n_dims):
            places = list(zip(voxel, corner, image.shape, strict=True))
            before = all(at >= halo or start == 0 for at, start, _ in places)
            after = all(at < patch - halo or start + patch == size for at, start, size in places)
            if before and after:
                place = tuple(start + at for at, start, _ in places)
                total[place] += predicted[voxel]
                count[place] += 1
    result = quiet(
        model,
        image,
        axes="ZYX"[-n_dims:],
        patch_size=patch,
        overlaps=overlap,
        halo=halo,
        blend="mean",
        seams="centered",
    )
    np.testing.assert_allclose(result, total / count, rtol=1e-6)
    assert count.max() > 4


def test_equal_to_smaller_tiles(rng: np.random.Generator) -> None:
    """Inside the image, tiles with a halo are blended as the smaller tiles without it."""
    image = rng.random((64, 4))
    halo, options = 4, {"axes": "YX", "blend": "hann", "seams": "centered"}

    def model(batch: np.ndarray) -> np.ndarray:
        return batch * np.hanning(24)[:, None][(24 - batch.shape[2]) // 2 :][: batch.shape[2]]

    result = quiet(model, image, patch_size=(24, 4), overlaps=(16, 0), halo=(halo, 0), **options)
    smaller = quiet(model, image[halo:-halo], patch_size=(16, 4), overlaps=(8, 0), **options)
    np.testing.assert_allclose(result[16:-16], smaller[12:-12], rtol=1e-6)


@pytest.mark.parametrize("blend", [None, "hann"])
def test_region(blend: Any, rng: np.random.Generator) -> None:
    """The prediction of a region is that part of the prediction of the whole image."""
    image = rng.random((60, 70))

    def model(batch: np.ndarray) -> np.ndarray:
        return batch * np.arange(256.0).reshape(16, 16)

    options: dict[str, Any] = {"axes": "YX", "patch_size": 16, "overlaps": 9, "halo": 3, "blend": blend}
    whole = quiet(model, image, **options)
    for window in ((slice(20, 31), slice(0, 70)), (slice(0, 3), slice(64, 70)), (slice(5, 60), slice(33, 34))):
        text = ",".join(f"{axis}={part.start}:{part.stop}" for axis, part in zip("YX", window, strict=True))
        region = quiet(model, image, **options, region=text)
        np.testing.assert_allclose(region, whole[window], rtol=1e-12)


@pytest.mark.parametrize("blend", [None, "mean"])
@pytest.mark.parametrize("pixel_size", [2.0, 0.75, (1.0, 1.5)])
def test_pixel_size(pixel_size: Any, blend: Any, rng: np.random.Generator) -> None:
    """A halo is in pixels of the network: what is inside it has no influence on voxels further inside the image."""
    image = rng.random((90, 80))

    def spoiled(batch: np.ndarray) -> np.ndarray:
        predicted = np.full_like(batch, 1e6)
        predicted[..., 4:-4, 4:-4] = batch[..., 4:-4, 4:-4]
        return predicted

    options: dict[str, Any] = {"axes": "YX", "patch_size": 32, "halo": 4, "voxel_size": 1.0, "pixel_size": pixel_size}
    results = [quiet(model, image, **options, blend=blend) for model in (np.copy, spoiled)]
    inside = (slice(20, -20), slice(20, -20))
    np.testing.assert_allclose(results[0][inside], results[1][inside], rtol=1e-12)
    assert results[1].max() > 1e5


@pytest.mark.parametrize("blend", WINDOWS)
def test_own_loop(blend: Any, rng: np.random.Generator) -> None:
    """Tiles with a halo can be stitched by one's own loop, too."""
    image = rng.random((50, 40)).astype(np.float32)
    tiling = pl.TiledPatching([(1, 1, 50, 40)], 16, 9, halo=3)
    tiles = [
        image[tuple(slice(at, at + 16) for at in spec["coords"])] * np.arange(256, dtype=np.float32).reshape(16, 16)
        for spec in tiling
    ]

    def model(batch: np.ndarray) -> np.ndarray:
        return batch * np.arange(256, dtype=np.float32).reshape(16, 16)

    expected = quiet(model, image, axes="YX", patch_size=16, overlaps=9, halo=3, blend=blend, seams="centered")
    stitched = pl.stitch_tiles([tile[None] for tile in tiles], list(tiling), blend=blend, tiling=tiling)
    np.testing.assert_allclose(stitched[0, 0], expected, rtol=1e-5)


def test_defaults() -> None:
    """A halo that a model declares is used, makes overlaps large enough, and gives way to one that is given."""

    class Declaring:
        description = pl.ModelDescription(halo=(10, 6), patch_size=(64, 64))

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return batch

    image = np.zeros((200, 200), np.uint8)

    def tiling(**options: Any) -> Any:
        return pl.plan(image, axes="YX", model=Declaring(), **options).tiling

    assert (tiling().halo, tiling().overlaps) == ((10, 6), (20, 16))
    assert tiling(blend="mean").overlaps == (20 + 44 // 4, 12 + 52 // 4)
    assert (tiling(halo=0, overlaps=4).halo, tiling(halo=0).overlaps) == ((0, 0), (16, 16))
    small = pl.plan(image[:64], axes="YX", model=Declaring())
    assert small.tiling.halo == (0, 6)  # one tile covers the axis
    assert small.summary()["halo"] == [0, 6]
    assert "halo 10 × 6" in str(pl.plan(image, axes="YX", model=Declaring()))
    again = pl.PredictionPlan.from_json(pl.plan(image, axes="YX", model=Declaring()).to_json())
    assert again.tiling.halo == (10, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halo": 9, "overlaps": 17}, r"halo is 9 along Y, and overlaps is 17: .* take overlaps of 18 or more"),
        ({"halo": 32}, "halo is 32 along Y, and patch_size is 64: nothing would be left"),
        ({"halo": -1}, "halo is -1"),
        ({"halo": (1, 2, 3)}, "halo"),
    ],
)
def test_wrong_halo(options: dict[str, Any], message: str) -> None:
    """A halo that does not fit is refused, with numbers."""
    with pytest.raises(GeometryError, match=message):
        pl.plan(np.zeros((200, 200)), axes="YX", patch_size=64, **options)


def test_resume(rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unfinished run is not resumed with another halo."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})
    np.save(tmp_path / "image.npy", rng.random((50, 40)))
    calls = iter(range(10**6))

    def fails(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 12:
            raise RuntimeError
        return batch

    options: dict[str, Any] = {"axes": "YX", "patch_size": 16, "overlaps": 8, "resume_anyway": True}
    with pytest.raises(RuntimeError):
        quiet(fails, tmp_path / "image.npy", tmp_path / "out.ome.zarr", **options, halo=4)
    with pytest.raises(SinkError, match=r"halo: \[4, 4\] before, \[3, 3\] now"):
        quiet(fails, tmp_path / "image.npy", tmp_path / "out.ome.zarr", **options, halo=3)
    quiet(fails, tmp_path / "image.npy", tmp_path / "out.ome.zarr", **options, halo=(4, 4))
