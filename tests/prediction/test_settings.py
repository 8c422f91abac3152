"""What a run can be told beyond its tiles: normalization, postprocessing, what to skip; and what its sources do wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorstore as ts

from patchloom.errors import SeriesError, SinkError, SourceError
from patchloom.image_stacks import ArrayStack
from patchloom.prediction import predict
from patchloom.prediction.normalization.measuring import measure_normalization
from patchloom.prediction.planning import fit
from patchloom.prediction.skip_rules import SkipDark, SkipOutside
from patchloom.stitching import block_grid


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


TILES: dict[str, Any] = {"patch_size": (12, 10), "overlaps": (4, 3)}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 10, 3: 4})


@pytest.mark.usefixtures("small_blocks")
def test_normalize(rng: np.random.Generator, tmp_path: Path) -> None:
    """Tiles are normalized by the whole image, also in a resumed run."""
    images = [rng.normal(100 * (i + 1), 20, (2, 40, 50)).astype(np.float32) for i in range(2)]
    results = quiet(identity, images, axes="SYX", normalize="mean_std", batch_size=5, **TILES)
    for image, result in zip(images, results, strict=True):
        np.testing.assert_allclose(result, (image - image.mean()) / image.std(), atol=1e-4)
    per_sample = measure_normalization(ArrayStack(images[0], "SYX"), "mean_std/sample")
    result = quiet(identity, images[0], axes="SYX", normalize=[per_sample], **TILES)
    np.testing.assert_allclose(result.mean(axis=(1, 2)), 0, atol=1e-4)
    # What was measured is kept for a run that goes on, and is the same.
    calls = iter(range(100))

    def fails(batch: np.ndarray) -> np.ndarray:
        if next(calls) == 25:
            raise RuntimeError
        return batch

    output, source = tmp_path / "out.ome.zarr", tmp_path / "image.npy"
    np.save(source, images[0])
    settings: dict[str, Any] = {"axes": "SYX", "normalize": "mean_std", **TILES}
    with pytest.raises(RuntimeError):
        quiet(fails, source, output, **settings)
    quiet(fails, source, output, **settings, resume_anyway=True)
    np.testing.assert_allclose(
        quiet(identity, output, patch_size=(64, 64)), (images[0] - images[0].mean()) / images[0].std(), atol=1e-4
    )


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("blend", [None, "hann"])
def test_postprocess(blend: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    """Postprocessing of blocks gives that of the image."""
    image = rng.random((3, 40, 50))
    result = quiet(identity, image, axes="CYX", postprocess="argmax", blend=blend, **TILES)
    assert result.dtype == np.uint8
    assert np.array_equal(result, image.argmax(axis=0)[None])
    written = quiet(
        identity, image, tmp_path / "out.ome.zarr", axes="CYX", postprocess="channels:2|uint8*255", blend=blend, **TILES
    )
    assert np.array_equal(quiet(identity, written, patch_size=(64, 64)), np.rint(image[2:] * 255).astype(np.uint8))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("blend", [None, "hann"])
def test_skip(blend: Any, rng: np.random.Generator) -> None:
    """Skipped tiles are filled, and the others stay as they are."""
    image = rng.integers(0, 10, (80, 90), np.uint8)
    image[50:70, 60:80] = 200
    seen = []

    def model(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return batch.astype(np.float32) + 1

    options: dict[str, Any] = {"axes": "YX", "blend": blend, **TILES}
    whole = quiet(model, image, **options)
    all_tiles = sum(seen)
    seen.clear()
    result = quiet(model, image, skip=SkipDark(threshold=20, fill=-5), **options)
    assert sum(seen) < all_tiles / 4
    # Only tiles that see the bright part run, so all of its voxels come from those, and none that is a tile away does.
    np.testing.assert_array_equal(result[50:70, 60:80], whole[50:70, 60:80])
    far = np.ones(image.shape, bool)
    far[50 - 12 : 70 + 12, 60 - 10 : 80 + 10] = False
    np.testing.assert_allclose(result[far], -5, rtol=1e-6)
    mask = np.zeros((8, 9), bool)
    mask[0, 0] = True
    outside = quiet(model, image, skip=SkipOutside([ArrayStack(mask, "YX")]), **options)
    assert outside[:10, :10].all()
    assert not outside[40:, 40:].any()


def corrupt_zarr(folder: Path, rng: np.random.Generator, place: str = "2/3") -> Path:
    """Make a Zarr with one chunk that is no chunk."""
    store = ts.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{folder}/bad.zarr"}},
        create=True,
        dtype=ts.uint8,
        domain=ts.IndexDomain(labels=["y", "x"], shape=[40, 50]),
        chunk_layout=ts.ChunkLayout(chunk_shape=[10, 10]),
        codec=ts.CodecSpec({"driver": "zarr3", "codecs": [{"name": "zstd"}]}),
    ).result()
    store.write(rng.integers(0, 255, (40, 50), np.uint8)).result()
    (folder / "bad.zarr" / "c" / place).write_bytes(b"this is no chunk")
    return folder / "bad.zarr"


@pytest.mark.usefixtures("small_blocks")
def test_corrupt_chunk(rng: np.random.Generator, tmp_path: Path) -> None:
    """A corrupt chunk is an error that names array, chunk, place and tile."""
    bad = corrupt_zarr(tmp_path, rng)
    chunk = bad / "c" / "2" / "3"
    named = (
        rf"bad\.zarr cannot be read at Y 20:30, X 30:40: (.|\n)*{chunk}(.|\n)*needed for the tile at \((\d+), (\d+)\)"
    )
    for settings in ({}, {"blend": "hann"}, {"batch_size": 4}):
        with pytest.raises(SourceError, match=named) as caught:
            quiet(identity, bad, **TILES | settings)
        y, x = map(int, str(caught.value).split("needed for the tile at (")[1].split(")")[0].split(", "))
        assert 20 - 12 < y < 30, "the tile reaches into the chunk"
        assert 30 - 10 < x < 40


@pytest.mark.usefixtures("small_blocks")
def test_keep_going_with_skip(rng: np.random.Generator, tmp_path: Path) -> None:
    """An image that a skip rule cannot read does not stop the others."""
    good = rng.integers(100, 255, (30, 30), np.uint8)
    np.save(tmp_path / "good.npy", good)
    options: dict[str, Any] = {"skip": SkipDark(threshold=20), "axes": [None, "YX"], **TILES}
    with pytest.raises(SeriesError, match=r"1 of 2 images failed(.|\n)*bad\.zarr cannot be read") as caught:
        quiet(identity, [corrupt_zarr(tmp_path, rng), tmp_path / "good.npy"], keep_going=True, **options)
    assert np.array_equal(caught.value.results[1], good)
    with pytest.raises(SourceError, match="cannot be read"):
        quiet(identity, tmp_path / "bad.zarr", skip=SkipDark(threshold=20), **TILES)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("place", ["0/0", "2/3"])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("settings", [{}, {"batch_size": 5, "blend": "hann"}])
def test_keep_going(
    settings: dict[str, Any], first: bool, place: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """The other images finish, for all places of a corrupt chunk."""
    good = rng.integers(0, 255, (30, 30), np.uint8)
    np.save(tmp_path / "good.npy", good)
    sources: list[tuple[Path, str | None]] = [(corrupt_zarr(tmp_path, rng, place), None), (tmp_path / "good.npy", "YX")]
    paths, axes = zip(*(sources if first else sources[::-1]), strict=True)
    for output in (None, tmp_path / "out"):
        with pytest.raises(SeriesError, match=r"1 of 2 images failed(.|\n)*bad\.zarr cannot be read at Y") as caught:
            quiet(identity, paths, output, axes=axes, keep_going=True, **TILES | settings)
        assert caught.value.results[1 - first] is None
        result = caught.value.results[int(first)]
        assert np.array_equal(result if output is None else quiet(identity, result, patch_size=(64, 64)), good)
    assert [path.name for path in (tmp_path / "out").iterdir() if path.suffix == ".zarr"] == ["good.ome.zarr"]


def test_all_fail(rng: np.random.Generator, tmp_path: Path) -> None:
    """If every image fails, the error is that of the first."""
    bad = corrupt_zarr(tmp_path, rng, "0/0")
    with pytest.raises(SourceError, match=r"bad\.zarr cannot be read"):
        quiet(identity, [bad, bad], tmp_path / "out", keep_going=True, **TILES)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(rng: np.random.Generator, tmp_path: Path) -> None:
    """A folder that is read-only is refused at once."""
    tmp_path.chmod(0o500)
    with pytest.raises(SinkError, match="cannot be written"):
        quiet(identity, rng.random((20, 20)), tmp_path / "out.ome.zarr", axes="YX", **TILES)


def test_nan(rng: np.random.Generator) -> None:
    """NaN stays NaN in floats."""
    image = rng.random((40, 50)).astype(np.float32)
    image[3, 4] = np.nan
    result = quiet(identity, image, axes="YX", **TILES)
    assert result.tobytes() == image.tobytes()
