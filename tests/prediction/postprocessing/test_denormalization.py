"""The normalization of an image is undone in predictions, whatever blocks and tiles they consist of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"patch_size": (12, 10), "overlaps": (4, 3), "progress": False}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})


class Denoiser:
    """A model that declares how its images are normalized, and that its predictions are normalized like them."""

    description = pl.ModelDescription(normalize="mean_std", denormalize=True)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return 2 * batch + 1


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("per", ["source", "channel", "sample", "sample_channel"])
@pytest.mark.parametrize("method", [pl.MeanStd, pl.Percentiles])
def test_identity(method: Any, per: str, blend: Any, rng: np.random.Generator) -> None:
    """A model that returns its input gives back the gray values, also slice by slice, for each image its own."""
    brightness = rng.integers(20, 4000, (2, 3, 2, 1, 1, 1))
    images = [rng.poisson(mean, (3, 2, 4, 30, 25)).astype(np.uint16) for mean in brightness]
    results = pl.predict(
        lambda batch: batch,
        images,
        axes="TCZYX",
        normalize=method(per=per),
        denormalize=True,
        postprocess="uint16",
        blend=blend,
        **TILES,
    )
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, image)


def test_declared(rng: np.random.Generator) -> None:
    """What the model declares is the default; each of the two can be turned off."""
    image = rng.normal(300, 40, (30, 25)).astype(np.float32)
    mean, deviation = image.mean(dtype=float), image.std(dtype=float)
    doubled = 2 * (image - mean) / deviation + 1

    result = pl.predict(Denoiser(), image, axes="YX", **TILES)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, doubled * deviation + mean, rtol=1e-5)
    result = pl.predict(Denoiser(), image, axes="YX", denormalize=False, **TILES)
    np.testing.assert_allclose(result, doubled, atol=1e-4)
    result = pl.predict(Denoiser(), image, axes="YX", normalize="none", **TILES)
    np.testing.assert_allclose(result, 2 * image + 1, rtol=1e-5)


def test_other_outputs(rng: np.random.Generator) -> None:
    """Labels beside a denoised image stay what they are, and steps after it get gray values."""
    image = rng.integers(100, 200, (30, 25)).astype(np.uint8)

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"denoised": batch, "labels": (batch > 0).astype(np.int16)}

    options: dict[str, Any] = {"axes": "YX", "normalize": "mean_std", "denormalize": True, **TILES}
    results = pl.predict(model, image, **options)
    np.testing.assert_allclose(results["denoised"], image, rtol=1e-5)
    np.testing.assert_array_equal(results["labels"], image > image.mean())
    mask = pl.predict(lambda batch: batch, image, postprocess="threshold:150.5", **options)
    np.testing.assert_array_equal(mask, image > 150)


@pytest.mark.parametrize("n_channels", [1, 3])
def test_other_channels(n_channels: int, rng: np.random.Generator, tmp_path: Path) -> None:
    """With other channels than the image has, all have to be normalized alike; otherwise nothing is written."""
    image = rng.normal(5, 2, (2, 30, 25)).astype(np.float32)

    def model(batch: np.ndarray) -> np.ndarray:
        return np.repeat(batch[:, :1], n_channels, axis=1)

    options: dict[str, Any] = {"axes": "CYX", "denormalize": True, **TILES}
    result = pl.predict(model, image, normalize="mean_std", **options)
    np.testing.assert_allclose(result, np.repeat(image[:1], n_channels, axis=0), rtol=1e-5, atol=1e-5)
    with pytest.raises(pl.ModelOutputError, match=f"returns {n_channels} channel.* image of 2"):
        pl.predict(model, image, tmp_path / "out.ome.zarr", normalize="mean_std/channel", **options)
    assert not list(tmp_path.iterdir())


def test_nothing_to_undo() -> None:
    """Without a normalization, there is nothing to undo."""
    with pytest.raises(pl.GeometryError, match=r"denormalize is True.*give normalize"):
        pl.predict(np.negative, np.zeros((30, 25)), axes="YX", denormalize=True, **TILES)


@pytest.mark.parametrize("blend", [None, "hann"])
def test_skipped(blend: Any) -> None:
    """Skipped tiles get the fill itself, which is a gray value."""
    image = np.full((40, 40), 100, np.float32)
    image[:20] = np.arange(20)[:, None] + 200
    options: dict[str, Any] = {"axes": "YX", "normalize": "mean_std", "denormalize": True, "blend": blend, **TILES}
    result = pl.predict(lambda batch: batch, image, skip=pl.SkipDark(150, fill=7), **options)
    assert (result[30:] == 7).all()
    np.testing.assert_allclose(result[:12], image[:12], rtol=1e-5)
