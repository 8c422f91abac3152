"""What is asked for by `normalize` is done to the letter, or refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom.errors import ArgumentError, SinkError, SourceError
from patchloom.image_stacks import ArrayStack
from patchloom.prediction import plan, predict
from patchloom.prediction.normalization import measuring
from patchloom.prediction.normalization.measuring import measure_normalization
from patchloom.prediction.normalization.methods import MeanStd, Percentiles, parse_method
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"patch_size": (12, 10), "overlaps": (4, 3)}
POOLED = {"source": (0, 1, 2, 3), "channel": (0, 2, 3), "sample": (1, 2, 3), "sample_channel": (2, 3)}


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


class Unread(ArrayStack):
    """An image of which no pixel may be read."""

    def read(self, selection: Any) -> np.ndarray:
        raise AssertionError("read")


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """Two samples of three channels, all of other gray values."""
    levels = np.arange(1, 7).reshape(2, 3, 1, 1)
    return (levels * rng.normal(100, 20, (2, 3, 40, 50))).astype(np.float32)


@pytest.mark.parametrize("per", POOLED)
def test_percentiles(per: Any, image: np.ndarray) -> None:
    """The two percentiles become 0 and 1, in each channel or sample if asked for."""
    result = quiet(identity, image, axes="SCYX", normalize=Percentiles(5, 90, per), **TILES)
    axis = POOLED[per]
    low, high = np.percentile(image.astype(np.float64), (5, 90), axis=axis, keepdims=True)
    np.testing.assert_allclose(result, (image - low) / (high - low), atol=1e-4)


@pytest.mark.parametrize("per", POOLED)
def test_mean_std(per: Any, image: np.ndarray) -> None:
    """Mean and deviation become 0 and 1, in each channel or sample if asked for."""
    result = quiet(identity, image, axes="SCYX", normalize=MeanStd(per), **TILES)
    np.testing.assert_allclose(result.mean(axis=POOLED[per]), 0, atol=1e-4)
    np.testing.assert_allclose(result.std(axis=POOLED[per]), 1, rtol=1e-4)


def test_eps(image: np.ndarray) -> None:
    """An eps is added to the deviation, or to the difference of the percentiles, before it divides."""
    wide = image.astype(np.float64)
    mean, std = (statistic(wide, axis=(0, 2, 3), keepdims=True) for statistic in (np.mean, np.std))
    low, high = np.percentile(wide, (5, 90), axis=(0, 2, 3), keepdims=True)
    for method, expected in (
        (MeanStd("channel", eps=7.0), (wide - mean) / (std + 7)),
        (Percentiles(5, 90, "channel", eps=7.0), (wide - low) / (high - low + 7)),
    ):
        result = quiet(identity, image, axes="SCYX", normalize=method, **TILES)
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_eps_of_flat_image() -> None:
    """An image without spread is divided by the eps."""
    measured = measure_normalization(ArrayStack(np.full((4, 4), 3.0), "YX"), MeanStd(eps=0.25))
    assert (measured.scale, measured.offset, measured.n_flat) == (((4.0,),), ((-12.0,),), 1)


def test_default_percentiles(image: np.ndarray) -> None:
    """Percentiles without numbers are 1 and 99.8."""
    usual, named = (
        plan(image, axes="SCYX", normalize=text, measure=True, **TILES).survey.normalizations
        for text in ("percentiles", "percentiles:1,99.8")
    )
    assert usual == named
    assert usual[0].method == Percentiles(1, 99.8)


@pytest.mark.parametrize(
    "method",
    [
        MeanStd(),
        MeanStd("sample"),
        MeanStd("channel", eps=1e-6),
        Percentiles(),
        Percentiles(0.1, 99.95, "channel"),
        Percentiles(0, 100, "sample", eps=0.01),
    ],
)
def test_text(method: Any) -> None:
    """The text of a method is parsed to the same method."""
    assert parse_method("normalize", str(method)) == method


@pytest.mark.parametrize("run", [plan, lambda *args, **kwargs: predict(identity, *args, **kwargs)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalize": "minmax"}, "normalize is 'minmax': it must be mean_std or percentiles:1,99.8"),
        ({"normalize": "mean_std:2,98"}, "normalize is 'mean_std:2,98': it must be"),
        ({"normalize": "mean_std/tile"}, "per is 'tile': it must be one of 'source', 'channel', 'sample'"),
        ({"normalize": "percentiles:98,2"}, "percentiles are 98.0 and 2.0: .* the lower one first"),
        ({"normalize": "percentiles:2"}, "give two percentiles after the colon"),
        ({"normalize": "percentiles:low,98"}, "give two percentiles after the colon"),
        ({"normalize": "percentiles:eps=1e-6"}, "give two percentiles after the colon"),
        ({"normalize": "mean_std:eps=-1"}, "eps is -1.0: it must be"),
        ({"normalize": "mean_std:eps=small"}, "give two percentiles after the colon, .* and eps=1e-6"),
        ({"normalize": []}, r"normalize is \[\]: give MeanStd\(\), .* a list of one Normalization for each image"),
        ({"normalize": 5}, r"normalize is 5: give MeanStd\(\), Percentiles\(1, 99.8\), or a list"),
        (
            {"normalize": [measure_normalization(ArrayStack(np.ones((2, 4, 4)), "CYX"))]},
            "normalize is of 1 samples and 2 channels, and array has 1 and 1: measure this image",
        ),
    ],
)
def test_refusals(run: Any, change: dict[str, Any], message: str) -> None:
    """A wrong method is refused before a pixel is read."""
    with pytest.raises(ArgumentError, match=message):
        run(Unread(np.zeros((40, 50)), "YX"), **TILES, **change)


def test_unmeasurable_image() -> None:
    """No image is measured if a later one cannot be."""
    stacks = [Unread(np.zeros((40, 50)), "YX"), Unread(np.zeros((40, 50), np.complex64), "YX")]
    with pytest.raises(SourceError, match="complex64"):
        plan(stacks, normalize="mean_std", **TILES)


def test_resume(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run keeps its measurements, and another method is refused."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})
    source, output = tmp_path / "image.npy", tmp_path / "out.ome.zarr"
    np.save(source, image)
    calls = iter(range(10_000))

    def fails_once(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 60:
            raise RuntimeError
        return batch

    settings: dict[str, Any] = {"axes": "SCYX", "normalize": "percentiles/channel", **TILES}
    with pytest.raises(RuntimeError):
        quiet(fails_once, source, output, **settings)
    settings["resume_anyway"] = True  # the model counts its calls

    def never(*args: Any, **kwargs: Any) -> None:
        pytest.fail("measured again")

    monkeypatch.setattr(measuring, "measure_normalization", never)
    before = "normalize: percentiles:1,99.8/channel before"
    for change, now in [
        ("percentiles/sample", "percentiles:1,99.8/sample"),
        ("percentiles:2,98/channel", "percentiles:2,98/channel"),
        (MeanStd("channel"), "mean_std/channel"),
        (None, "None"),
    ]:
        with pytest.raises(SinkError, match=f"{before}, {now} now"):
            quiet(fails_once, source, output, **settings | {"normalize": change})
    quiet(fails_once, source, output, **settings)
    low, high = np.percentile(image.astype(np.float64), (1, 99.8), axis=(0, 2, 3), keepdims=True)
    found = quiet(identity, output, patch_size=(64, 64))
    np.testing.assert_allclose(found, (image - low) / (high - low), atol=1e-4)


def test_resume_without(image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without normalization is not resumed with one."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})
    output = tmp_path / "out.ome.zarr"
    calls = iter(range(10_000))

    def fails(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 60:
            raise RuntimeError
        return batch

    with pytest.raises(RuntimeError):
        quiet(fails, image, output, axes="SCYX", **TILES)
    with pytest.raises(SinkError, match="normalize: None before, mean_std now"):
        quiet(fails, image, output, axes="SCYX", normalize="mean_std", resume_anyway=True, **TILES)
