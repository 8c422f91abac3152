"""Prediction: an identity model gives the image back bit for bit, through memory and through OME-Zarr, block by block."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.errors import (
    ArgumentError,
    AxesError,
    GeometryError,
    ModelError,
    ModelOutputError,
    OutputExistsError,
    SinkError,
    SourceNotFoundError,
)
from patchloom.image_stacks import open_stacks
from patchloom.patching import TiledPatching
from patchloom.prediction import plan, predict
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.planning import fit
from patchloom.sinks import OmeZarr
from patchloom.stitching import block_grid


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks so small that a test image has many."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 6, 3: 4})
    return


def random_image(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    bits = rng.integers(0, 256, (*shape[:-1], shape[-1] * np.dtype(dtype).itemsize), np.uint8)
    if dtype == "bool":
        return bits > 127
    values = bits.view(dtype)
    return np.nan_to_num(values) if values.dtype.kind == "f" else values


DTYPES = ["uint8", "uint16", "uint32", "int64", "float32", "float64", "bool"]
IMAGES = [
    ("YX", (29, 41), (8, 12), (3, 5)),
    ("SCYX", (2, 3, 20, 17), (9, 7), (1, 0)),
    ("YX", (5, 7), (16, 8), (4, 7)),
    ("TCZYX", (2, 2, 9, 14, 11), (4, 6, 5), (1, 3, 2)),
    ("XYZ", (13, 10, 3), (8, 8, 8), (7, 2, 1)),
]


@pytest.mark.parametrize(("dtype", "image"), list(product(DTYPES, IMAGES)))
@pytest.mark.usefixtures("small_blocks")
def test_identity(dtype: str, image: Any, rng: np.random.Generator) -> None:
    """An identity model returns the image bit for bit, for every batch size."""
    axes, shape, patch_size, overlaps = image
    array = random_image(rng, dtype, shape)
    before = array.copy()
    for batch_size, seams in [(1, None), (3, "centered"), (7, "grid")]:
        result = quiet(
            identity, array, axes=axes, patch_size=patch_size, overlaps=overlaps, batch_size=batch_size, seams=seams
        )
        assert result.dtype == array.dtype
        assert result.tobytes() == array.tobytes()
    assert np.array_equal(array, before)


@pytest.mark.parametrize(("dtype", "image"), list(product(DTYPES, IMAGES[:4])))
@pytest.mark.usefixtures("small_blocks")
def test_identity_through_ome_zarr(dtype: str, image: Any, rng: np.random.Generator, tmp_path: Path) -> None:
    """An identity model gives the image bit for bit through OME-Zarr."""
    axes, shape, patch_size, overlaps = image
    array = random_image(rng, dtype, shape)
    path = quiet(identity, array, tmp_path / "out.ome.zarr", axes=axes, patch_size=patch_size, overlaps=overlaps)
    assert path == tmp_path / "out.ome.zarr"
    stored = zarr.open_group(path, mode="r")["0"]
    assert stored.dtype == array.dtype
    assert stored[:].tobytes() == array.tobytes()
    # What was written reads as a source again.
    again = quiet(identity, path, patch_size=patch_size, overlaps=overlaps)
    assert again.tobytes() == array.tobytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_tiff_to_ome_zarr(rng: np.random.Generator, tmp_path: Path) -> None:
    """A TIFF becomes an OME-Zarr with its voxel sizes."""
    image = rng.integers(0, 2**16, (3, 70, 50), np.uint16)
    source = tmp_path / "b.ome.tif"
    tifffile.imwrite(
        source, image, metadata={"axes": "CYX", "PhysicalSizeX": 0.25, "PhysicalSizeXUnit": "µm"}, tile=(16, 16)
    )
    output = quiet(identity, source, tmp_path / "b_out.ome.zarr", patch_size=(32, 32), overlaps=(8, 8))
    group = zarr.open_group(output, mode="r")
    assert np.array_equal(group["0"][:], image)
    multiscale = group.attrs["ome"]["multiscales"][0]
    assert [axis["name"] for axis in multiscale["axes"]] == ["c", "y", "x"]
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"][2] == 0.25
    assert multiscale["axes"][2]["unit"] == "micrometer"


@pytest.mark.usefixtures("small_blocks")
def test_tiles_of_plan(rng: np.random.Generator) -> None:
    """Every tile is computed once, as many as planned."""
    image = rng.random((2, 60, 47))
    for seams in ("centered", "grid"):
        seen = []

        def counting(batch: np.ndarray, seen: list[int] = seen) -> np.ndarray:
            seen.append(len(batch))
            return batch

        options: dict[str, Any] = {
            "axes": "SYX",
            "patch_size": (10, 9),
            "overlaps": (3, 4),
            "seams": seams,
            "batch_size": 4,
        }
        prepared = plan(image, **options)
        assert prepared.n_blocks > 4
        assert np.array_equal(quiet(counting, image, **options), image)
        assert sum(seen) == prepared.n_tiles_computed + 1, (
            "one tile is run beforehand, to see what the model makes of it"
        )
        if seams == "grid":
            assert prepared.n_tiles_computed == prepared.n_tiles


def test_channels_and_dtype(rng: np.random.Generator) -> None:
    """Channels and dtype of the output are those of the model."""
    image = rng.integers(0, 255, (3, 20, 22), np.uint8)

    def two_channels(batch: np.ndarray) -> list[Any]:
        return np.concatenate([batch, 255.0 - batch], axis=1).astype(np.float32).tolist()

    result = quiet(two_channels, image, axes="TYX", patch_size=(8, 8), overlaps=(2, 2))
    assert result.shape == (3, 2, 20, 22)
    assert np.array_equal(result[:, 0], image)
    assert np.array_equal(result[:, 1], 255.0 - image)
    single = quiet(lambda batch: batch.sum(axis=1, keepdims=True), image, axes="CYX", patch_size=(8, 8))
    assert np.array_equal(single, image.sum(axis=0, keepdims=True))


def test_floats_to_integers(rng: np.random.Generator) -> None:
    """Floats become integers by rounding, and stop at the ends of the range."""
    image = rng.uniform(-40, 300, (30, 30))
    image[3, 4], image[5, 6] = np.inf, -np.inf
    result = quiet(identity, image, axes="YX", patch_size=(8, 8), overlaps=(2, 2), postprocess="uint8")
    assert result.dtype == np.uint8
    assert np.array_equal(result, np.clip(np.rint(image), 0, 255).astype(np.uint8))
    wide = np.array([[2.0**63, -(2.0**64)], [1e300, 7.5]])
    kept = quiet(identity, wide, axes="YX", patch_size=(2, 2), overlaps=(0, 0), postprocess="int64")
    assert kept.tolist() == [[2**63 - 1, -(2**63)], [2**63 - 1, 8]]
    assert quiet(
        identity, np.array([[-5, 300]]), axes="YX", patch_size=(1, 2), overlaps=(0, 0), postprocess="uint8"
    ).tolist() == [[0, 255]]


def test_filter(rng: np.random.Generator) -> None:
    """A filter in tiles gives what it gives on the whole image."""
    weights = rng.random((5, 5))

    def filter5(batch: np.ndarray) -> np.ndarray:
        padded = np.pad(batch, [(0, 0), (0, 0), (2, 2), (2, 2)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
        return np.einsum("bcyxij,ij->bcyx", windows, weights)

    image = rng.random((61, 47))
    whole = filter5(image[None, None])[0, 0]
    for seams in ("centered", "grid"):
        tiled = quiet(filter5, image, axes="YX", patch_size=(16, 17), overlaps=(4, 5), seams=seams)
        np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-12)
    without_context = quiet(filter5, image, axes="YX", patch_size=(16, 17), overlaps=(0, 0))
    assert np.abs(without_context - whole).max() > 0.1, "the test can tell: without overlap there are seams"


def test_series(rng: np.random.Generator, tmp_path: Path) -> None:
    """A series gives a list, and outputs never share a name."""
    images = [rng.integers(0, 255, (20, 30 + i), np.uint8) for i in range(3)]
    results = quiet(identity, images, axes="YX", patch_size=(8, 8), overlaps=(2, 2))
    assert [np.array_equal(result, image) for result, image in zip(results, images, strict=True)] == [True] * 3
    sources = []
    for folder, image in zip("abc", images, strict=True):
        (tmp_path / folder).mkdir()
        sources.append(tmp_path / folder / "cells.tif")
        tifffile.imwrite(sources[-1], image, metadata={"axes": "YX"})
    written = quiet(identity, sources, tmp_path / "out", patch_size=(8, 8), overlaps=(2, 2))
    assert [path.name for path in written] == ["a-cells.ome.zarr", "b-cells.ome.zarr", "c-cells.ome.zarr"]
    for path, image in zip(written, images, strict=True):
        assert np.array_equal(zarr.open_group(path, mode="r")["0"][:], image)


@pytest.mark.parametrize("stores", [("a.zarr", "b.zarr"), ("monday/cells.zarr", "tuesday/cells.zarr")])
def test_equal_names(stores: tuple[str, str], rng: np.random.Generator, tmp_path: Path) -> None:
    """Two stores with arrays of one name give two outputs."""
    images = [rng.integers(0, 255, (20, 30), np.uint8) for _ in stores]
    for store, image in zip(stores, images, strict=True):
        zarr.create_group(tmp_path / store).create_array("0", data=image)
    sources = [tmp_path / store / "0" for store in stores]
    written = quiet(identity, sources, tmp_path / "out", axes="YX", patch_size=(8, 8))
    assert len(set(written)) == len(list((tmp_path / "out").iterdir())) == 2
    for path, image in zip(written, images, strict=True):
        assert np.array_equal(zarr.open_group(path, mode="r")["0"][:], image)


class Fixed:
    """A model that takes one tile size, and says so."""

    description = ModelDescription(
        patch_size=(16, 16), overlaps=(6, 6), in_channels=1, out_channels=2, out_channel_names=("back", "cell")
    )

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape[1:] == (1, 16, 16)
        return np.concatenate([batch, batch], axis=1)


def test_declared_tile_size(rng: np.random.Generator, tmp_path: Path) -> None:
    """A declared tile size need not be given."""
    image = rng.random((40, 50))
    prepared = plan(image, model=Fixed(), axes="YX")
    assert (prepared.tiling.patch_size, prepared.tiling.overlaps) == ((16, 16), (6, 6))
    assert prepared.summary()["sources"][0]["output_shapes"] == [[1, 2, 40, 50]]
    output = quiet(Fixed(), image, tmp_path / "out.ome.zarr", axes="YX")
    group = zarr.open_group(output, mode="r")
    assert np.array_equal(group["0"][1], image)
    assert [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]] == ["back", "cell"]
    with pytest.raises(GeometryError, match="patch_size is \\(8, 8\\), but the model takes \\(16, 16\\) only"):
        plan(image, model=Fixed(), axes="YX", patch_size=(8, 8))
    with pytest.raises(GeometryError, match="the model takes 1 channel, but array has 3"):
        plan(rng.random((3, 40, 50)), model=Fixed(), axes="CYX")
    assert plan(rng.random((3, 40, 50)), model=Fixed(), axes="ZYX").summary()["sources"][0]["output_shapes"] == [
        [1, 2, 3, 40, 50]
    ]


def breaks_on_tile(number: int) -> Callable[[np.ndarray], np.ndarray]:
    calls = iter(range(1000))

    def model(batch: np.ndarray) -> np.ndarray:
        if next(calls) == number:
            raise RuntimeError("out of cheese")
        return batch

    return model


@pytest.mark.parametrize(
    ("make_model", "error", "message"),
    [
        (lambda: breaks_on_tile(0), ModelError, r"failed on the tile at \(0, 0\) of sample 0 .*: RuntimeError: out of"),
        (lambda: breaks_on_tile(2), ModelError, r"failed on the tile at \(\d+, \d+\) of sample 0"),
        (
            lambda: lambda b: b[..., 1:],
            ModelOutputError,
            r"returned size \(8, 7\) for tiles of size \(8, 8\)",
        ),
        (lambda: lambda b: b[0], ModelOutputError, r"returned shape \(1, 8, 8\)"),
        (lambda: lambda b: np.repeat(b, 2, axis=0), ModelOutputError, r"returned shape \(2, 1, 8, 8\)"),
        (lambda: lambda _: None, ModelOutputError, "returned NoneType, which is not an array of numbers"),
        (lambda: lambda _: "cells", ModelOutputError, "returned str"),
        (
            lambda: lambda b: b * np.nan,
            ModelOutputError,
            r"returned NaN for the tile at \(0, 0\) .* cannot store: fix the model",
        ),
        (
            lambda: lambda b: np.repeat(b, 1 + (b.flat[0] < 0.5), axis=1),
            ModelOutputError,
            r"2 channels of float64.* before",
        ),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_failure_at_once(
    make_model: Callable[[], Any], error: type[Exception], message: str, rng: np.random.Generator, tmp_path: Path
) -> None:
    """A model that fails at once leaves nothing behind."""
    image = rng.random((40, 50))
    image[0, 0] = 0.9
    options: dict[str, Any] = {"axes": "YX", "patch_size": (8, 8), "overlaps": (2, 2)}
    if "NaN" in message:
        options["postprocess"] = "uint8"
    with pytest.raises(error, match=message):
        quiet(make_model(), image, tmp_path / "out.ome.zarr", **options)
    with pytest.raises(error, match=message):
        quiet(make_model(), [image], tmp_path / "series", **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("error", [KeyboardInterrupt, ModelError])
def test_resume(error: type[BaseException], rng: np.random.Generator, tmp_path: Path) -> None:
    """Finished blocks are kept, and the run is resumed."""
    image, output = rng.random((60, 60)), tmp_path / "out.ome.zarr"
    calls: list[int] = []

    def model(batch: np.ndarray, stop_after: int = 40) -> np.ndarray:
        calls.append(len(batch))
        if len(calls) == stop_after:
            raise error
        return batch

    options: dict[str, Any] = {"axes": "YX", "patch_size": (8, 8), "overlaps": (2, 2)}
    with pytest.raises(error) as caught:
        quiet(model, image, output, **options)
    assert any("blocks are finished and kept" in note for note in caught.value.__notes__)
    assert not output.exists()
    assert {entry.name for entry in tmp_path.iterdir()} == {"out.ome.zarr.partial", "out.ome.zarr.ledger"}
    assert [thread for thread in threading.enumerate() if thread.name.startswith("patchloom")] == []

    with pytest.raises(SinkError, match=r"another model.*:\n  model: closure variable 'calls' of 'model' differs"):
        quiet(model, image, output, **options)
    with pytest.raises(SinkError, match=r"unfinished run of another plan:\n  overlaps: \[2, 2\] before, \[0, 0\] now"):
        quiet(model, image, output, **options | {"overlaps": (0, 0)}, resume_anyway=True)
    before = sum(calls)
    quiet(model, image, output, **options, resume_anyway=True)
    assert sum(calls) - before < plan(image, **options).n_tiles_computed
    assert np.array_equal(zarr.open_group(output, mode="r")["0"][:], image)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.ome.zarr"]


def test_overwrite(rng: np.random.Generator, tmp_path: Path) -> None:
    """Outputs are replaced with `overwrite` only."""
    first, second = rng.random((20, 20)), rng.random((20, 20))
    output = tmp_path / "out.ome.zarr"
    options: dict[str, Any] = {"axes": "YX", "patch_size": (8, 8)}
    quiet(identity, first, output, **options)
    with pytest.raises(OutputExistsError, match="overwrite"):
        quiet(identity, second, output, **options)
    assert np.array_equal(zarr.open_group(output, mode="r")["0"][:], first)
    with pytest.raises(ModelError):
        quiet(breaks_on_tile(2), second, output, overwrite=True, **options)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.ome.zarr"]
    assert np.array_equal(zarr.open_group(output, mode="r")["0"][:], first)
    quiet(identity, second, output, overwrite=True, **options)
    assert np.array_equal(zarr.open_group(output, mode="r")["0"][:], second)
    with pytest.raises(SinkError, match="lies inside the input"):
        quiet(identity, output, output / "labels.ome.zarr", patch_size=(8, 8))
    with pytest.raises(SinkError, match="is the input"):
        quiet(identity, output, output, patch_size=(8, 8), overwrite=True)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.ome.zarr"]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"axes": None}, AxesError, r"\(20, 30\)"),
        ({"axes": "CYX"}, AxesError, "name 3 axes, but the image has 2"),
        ({"axes": "YQ"}, AxesError, "unknown axis 'Q'"),
        (
            {"patch_size": (4, 8, 8)},
            GeometryError,
            r"patch_size is \(4, 8, 8\), so the model is 3D, but array has axes YX without Z",
        ),
        ({"overlaps": (8, 0)}, GeometryError, "overlaps is 8 along Y and patch_size is 8"),
        ({"overlaps": (1, 1, 1)}, GeometryError, "overlaps is"),
        ({"patch_size": (0, 8)}, GeometryError, "patch_size is 0 along Y"),
        ({"batch_size": 0}, GeometryError, "batch_size is 0"),
        ({"seams": "none"}, GeometryError, "seams is 'none'"),
        ({"padding": "mirror"}, GeometryError, "padding is 'mirror'"),
        ({"output": "out.png"}, SinkError, "out.png"),
        ({"output": "missing/out.ome.zarr", "sources": "nowhere.tif"}, SourceNotFoundError, "nowhere.tif"),
        ({"sources": []}, ArgumentError, "the series is empty"),
    ],
)
def test_wrong_arguments(
    change: dict[str, Any],
    error: type[Exception],
    message: str,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    """Wrong arguments are refused before the model runs."""
    monkeypatch.chdir(tmp_path)

    def never(batch: np.ndarray) -> np.ndarray:
        pytest.fail("the model ran")

    arguments = {"sources": rng.random((20, 30)), "axes": "YX", "patch_size": (8, 8), "overlaps": (2, 2)} | change
    with pytest.raises(error, match=message):
        quiet(never, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_progress_in_log(rng: np.random.Generator, capsys: pytest.CaptureFixture[str]) -> None:
    """Progress in a log is a line at the end."""
    predict(identity, rng.random((20, 30)), axes="YX", patch_size=(8, 8), overlaps=(2, 2))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.match(r"15/15 tiles, 100 %, 0:\d\d elapsed\nwaiting for reads \d+\.\d s, model ", captured.err)


def test_summary(rng: np.random.Generator, tmp_path: Path) -> None:
    """The summary of a plan goes to JSON, and its fingerprint follows sources and settings."""
    source = tmp_path / "a.tif"
    tifffile.imwrite(source, rng.integers(0, 255, (40, 50), np.uint8), metadata={"axes": "YX"})
    first = plan(source, patch_size=(16, 16))
    summary = json.loads(json.dumps(first.summary()))
    assert summary["tiles"] == len(TiledPatching([(1, 1, 40, 50)], (16, 16), (4, 4))) == 12
    assert summary["source_bytes"] == 2000
    assert plan(source, patch_size=(16, 16)).summary()["fingerprint"] == summary["fingerprint"]
    assert plan(source, patch_size=(16, 16), overlaps=(2, 4)).summary()["fingerprint"] != summary["fingerprint"]
    tifffile.imwrite(source, rng.integers(0, 255, (40, 50), np.uint8), metadata={"axes": "YX"})
    assert plan(source, patch_size=(16, 16)).summary()["fingerprint"] != summary["fingerprint"]


def test_pyramid(rng: np.random.Generator, tmp_path: Path) -> None:
    """Labels keep their values in every level, and a pyramid may be left out."""
    labels = rng.choice(np.array([0, 7, 4000], np.uint16), (600, 520))
    options: dict[str, Any] = {"axes": "YX", "patch_size": (256, 256)}
    output = quiet(identity, labels, OmeZarr(tmp_path / "labels.ome.zarr", pyramid="nearest"), **options)
    levels = [array[:] for _, array in sorted(zarr.open_group(output, mode="r").arrays())]
    assert [level.shape for level in levels] == [(600, 520), (300, 260), (150, 130)]
    assert all(set(np.unique(level)) == {0, 7, 4000} for level in levels)
    flat = quiet(identity, labels, OmeZarr(tmp_path / "flat.ome.zarr", pyramid=None), **options)
    assert [name for name, _ in zarr.open_group(flat, mode="r").arrays()] == ["0"]


@pytest.mark.parametrize("output", ["result.ome.zarr", "result.npy", "result.ome.tif", "results"])
@pytest.mark.parametrize("names", [("",), ("flow", "mask")], ids=["one", "two"])
def test_working_directory(
    output: str, names: tuple[str, ...], rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that changes the working directory moves no output."""
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    image = rng.integers(0, 255, (90, 70), np.uint8)
    np.save(here / "cells.npy", image)

    def wandering(batch: np.ndarray) -> Any:
        monkeypatch.chdir(elsewhere)
        return batch if names == ("",) else dict.fromkeys(names, batch)

    monkeypatch.chdir(here)
    source = "cells.npy" if "." in output else ["cells.npy"]
    result = predict(
        wandering, source, output, axes="YX", patch_size=(32, 32), overlaps=(8, 8), postprocess="uint8", progress=False
    )
    assert not list(elsewhere.iterdir())
    one = result[0] if isinstance(source, list) else result
    monkeypatch.chdir(here)
    for path in one.values() if isinstance(one, dict) else [one]:
        assert not path.is_absolute()
        assert (open_stacks(path, "YX")[0].extract_patch(0, None, (0, 0), image.shape)[0] == image).all()
