"""2D networks on images with Z: each slice is predicted as an image of its own, and Z stays Z in every kind of output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.errors import GeometryError, ModelError, SeriesError
from patchloom.image_stacks import open_stacks
from patchloom.prediction import plan, predict
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.normalization.methods import MeanStd
from patchloom.prediction.planning import fit
from patchloom.prediction.skip_rules import SkipDark, SkipOutside
from patchloom.stitching import block_grid

TILES: dict[str, Any] = {"patch_size": (16, 16), "overlaps": (4, 4)}


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


def laplace(image: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Second differences along two axes, edges repeated."""
    total = np.zeros(image.shape, np.float32)
    for axis in axes:
        moved = np.moveaxis(image, axis, -1).astype(np.float32)
        padded = np.concatenate([moved[..., :1], moved, moved[..., -1:]], axis=-1)
        total += np.moveaxis(padded[..., 2:] - 2 * moved + padded[..., :-2], -1, axis)
    return total


def sharpened(batch: np.ndarray) -> np.ndarray:
    """A 2D network with a receptive field of three: it would see other slices if it were run in 3D."""
    assert batch.ndim == 4
    return laplace(batch, (-2, -1))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks so small that a slice has many."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [300])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 6, 3: 4})
    return


@pytest.mark.parametrize("settings", [{}, {"blend": "hann"}, {"seams": "grid"}, {"batch_size": 5}], ids=str)
@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        ("ZYX", (5, 40, 37)),
        ("TZYX", (2, 3, 20, 37)),
        ("CZYX", (2, 3, 20, 37)),
        ("SZCYX", (2, 3, 2, 20, 18)),
        ("STCZYX", (2, 2, 2, 2, 19, 18)),
        ("YXZ", (40, 37, 3)),
        ("XCYZ", (37, 2, 20, 3)),
        ("ZYX", (1, 5, 7)),
    ],
)
@pytest.mark.usefixtures("small_blocks")
def test_slices(axes: str, shape: tuple[int, ...], settings: dict[str, Any], rng: np.random.Generator) -> None:
    """Each slice is predicted, and the axes stay."""
    image = rng.random(shape, np.float32)
    blended = (
        "blend" in settings
    )  # which takes something from the outermost voxels of a tile: compare what has no border
    result = quiet(np.negative if blended else sharpened, image, axes=axes, padding="edge", **TILES, **settings)
    expected = -image if blended else laplace(image, (axes.index("Y"), axes.index("X")))
    np.testing.assert_allclose(result, expected, atol=1e-5)


def stored(folder: Path, kind: str, image: np.ndarray) -> Path:
    path = folder / f"image.{kind}"
    if kind == "ome.tif":
        metadata = {
            "axes": "TZYX",
            "PhysicalSizeZ": 0.7,
            "PhysicalSizeZUnit": "µm",
            "PhysicalSizeX": 0.2,
            "PhysicalSizeXUnit": "µm",
        }
        tifffile.imwrite(path, image, ome=True, metadata=metadata)
    elif kind == "zarr":
        array = zarr.create_array(
            path, shape=image.shape, chunks=(1, 2, 16, 16), dtype=image.dtype, dimension_names=list("tzyx")
        )
        array[...] = image
    else:
        np.save(path, image)
    return path


@pytest.mark.parametrize("kind", ["ome.tif", "zarr", "npy"])
@pytest.mark.parametrize("output", ["out.ome.zarr", "out.ome.tif", "out.npy"])
@pytest.mark.usefixtures("small_blocks")
def test_files(kind: str, output: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Files of every kind keep Z."""
    image = rng.integers(0, 99, (2, 5, 20, 33), np.uint16)
    source = stored(tmp_path, kind, image)
    axes = "TZYX" if kind == "npy" else None
    result = quiet(lambda batch: batch, source, tmp_path / output, axes=axes, **TILES)
    (written,) = open_stacks(result, "TZYX" if output == "out.npy" else None)
    assert written.original_axes == "TZYX"
    for sample in range(2):
        np.testing.assert_array_equal(written.extract_patch(sample, None, (0, 0, 0), (5, 20, 33))[0], image[sample])
    if kind == "ome.tif" and output == "out.ome.zarr":
        assert written.metadata.voxel_size["Z"] == pytest.approx(0.7)
        assert written.chunk_shape[:3] == (1, 1, 1)
        level = np.asarray(zarr.open_array(result / "0"))
        np.testing.assert_array_equal(level, image)


def test_metadata(tmp_path: Path, rng: np.random.Generator) -> None:
    """Voxel sizes and channels are those of the image."""
    image = rng.random((4, 2, 20, 24), np.float32)
    source = tmp_path / "image.ome.tif"
    metadata = {
        "axes": "ZCYX", "PhysicalSizeZ": 0.7, "PhysicalSizeZUnit": "µm", "PhysicalSizeX": 0.2, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": 0.3, "PhysicalSizeYUnit": "µm",
        "Channel": {"Name": ["DAPI", "GFP"]},
    }  # fmt: skip
    tifffile.imwrite(source, image, ome=True, metadata=metadata)
    doubled = quiet(lambda batch: batch.repeat(2, -1).repeat(2, -2), source, tmp_path / "out.ome.zarr", **TILES)
    (written,) = open_stacks(doubled)
    assert written.data_shape == (1, 2, 4, 40, 48)
    assert written.metadata.voxel_size == pytest.approx({"Z": 0.7, "Y": 0.15, "X": 0.1})
    assert written.metadata.channel_names == ("DAPI", "GFP")
    expected = np.moveaxis(image, 0, 1).repeat(2, -1).repeat(2, -2)
    np.testing.assert_array_equal(written.extract_patch(0, None, (0, 0, 0), (4, 40, 48)), expected)


@pytest.mark.usefixtures("small_blocks")
def test_several_outputs(rng: np.random.Generator) -> None:
    """Several outputs of other sizes and channels keep Z."""
    image = rng.random((3, 32, 48), np.float32)
    result = quiet(
        lambda batch: {"both": np.concatenate([batch, -batch], 1), "half": batch[..., ::2, ::2]},
        image, axes="ZYX", **TILES,
    )  # fmt: skip
    np.testing.assert_array_equal(result["both"], np.stack([image, -image]))
    np.testing.assert_array_equal(result["half"], image[:, ::2, ::2])


def test_mixed_series(tmp_path: Path, rng: np.random.Generator) -> None:
    """A series may mix images with and without Z."""
    flat, deep = rng.random((20, 30), np.float32), rng.random((3, 18, 19), np.float32)
    series = [flat, deep, flat]
    axes = ["YX", "ZYX", "YX"]
    for image, result in zip(series, quiet(sharpened, series, axes=axes, padding="edge", **TILES), strict=True):
        np.testing.assert_allclose(result, laplace(image, (-2, -1)), atol=1e-5)
    with pytest.raises(
        GeometryError, match=r"patch_size is \(2, 16, 16\), so the model is 3D, but array has axes YX without Z"
    ):
        quiet(sharpened, series, axes=axes, patch_size=(2, 16, 16))
    written = quiet(sharpened, series, tmp_path / "out", axes=axes, **TILES)
    assert [open_stacks(path)[0].original_axes for path in written] == axes


class Described:
    def __init__(self, **declared: Any) -> None:
        self.description = ModelDescription(**declared)
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.shapes.append(batch.shape)
        return batch


def test_declared_dimensions(rng: np.random.Generator) -> None:
    """The dimensions that a model declares decide whether it is run slice by slice."""
    image = rng.random((3, 32, 32))
    for model in (Described(patch_size=(16, 16)), Described(n_dims=2, patch_size=(16, 16))):
        np.testing.assert_array_equal(quiet(model, image, axes="ZYX"), image)
        assert {shape[2:] for shape in model.shapes} == {(16, 16)}
    model = Described(n_dims=3)
    np.testing.assert_array_equal(quiet(model, image, axes="ZYX", patch_size=(2, 16, 16)), image)
    assert {shape[2:] for shape in model.shapes} == {(2, 16, 16)}


def test_contradictions(rng: np.random.Generator) -> None:
    """Contradictions between network and image are refused before the model runs."""
    deep, flat = rng.random((3, 32, 32)), rng.random((32, 32))
    for model, image, settings, message in (
        (Described(n_dims=3), flat, {"patch_size": (2, 16, 16)}, "so the model is 3D, but array has axes YX without Z"),
        (Described(n_dims=3, patch_size=(2, 16, 16)), flat, {}, "the model is 3D, but array has axes YX without Z"),
        (Described(n_dims=3), deep, {"patch_size": (16, 16)}, "has 2 numbers, but the model is 3D.*each of Z, Y, X"),
        (Described(n_dims=2), deep, {"patch_size": (2, 16, 16)}, "has 3 numbers, but the model is 2D.*each of Y, X"),
        (Described(), deep, {"patch_size": (16, 16), "overlaps": (1, 4, 4)}, r"overlaps is .* must have 2 \(Y, X\)"),
    ):
        with pytest.raises(GeometryError, match=message):
            quiet(model, image, axes="ZYX"[-image.ndim :], **settings)
        assert not model.shapes


@pytest.mark.parametrize("per", ["source", "channel", "sample", "sample_channel"])
def test_normalize(per: str, rng: np.random.Generator) -> None:
    """Images are normalized by their own samples, not by slices."""
    # A sample is a time point with all of its slices, not a slice.
    image = rng.random((2, 2, 3, 20, 20)) * rng.uniform(1, 90, (2, 2, 3, 1, 1))  # T, C, Z
    result = quiet(lambda batch: batch, image, axes="TCZYX", normalize=MeanStd(per), **TILES)
    together = {
        "source": (0, 1, 2, 3, 4),
        "channel": (0, 2, 3, 4),
        "sample": (1, 2, 3, 4),
        "sample_channel": (2, 3, 4),
    }[per]
    expected = (image - image.mean(together, keepdims=True)) / image.std(together, keepdims=True)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("small_blocks")
def test_skip(rng: np.random.Generator) -> None:
    """Slices are skipped by their own gray values and masks."""
    image = rng.integers(50, 99, (2, 4, 20, 20), np.uint16)
    image[0, 1] = image[1, 3] = 3
    result = quiet(lambda batch: batch, image, axes="TZYX", skip=SkipDark(10), **TILES)
    np.testing.assert_array_equal(result, np.where(image > 10, image, 0))
    mask = np.zeros((2, 20, 20), np.uint8)  # coarser along Z, and one for all times
    mask[1] = 1
    masked = quiet(lambda batch: batch, image, axes="TZYX", skip=SkipOutside(open_stacks([mask], "ZYX")), **TILES)
    np.testing.assert_array_equal(masked[:, 2:], image[:, 2:])
    assert not masked[:, :2].any()


def test_failure(rng: np.random.Generator) -> None:
    """A failure names the slice, and the other images finish."""
    good, bad = rng.random((2, 3, 20, 20), np.float32), rng.random((2, 3, 20, 20), np.float32)
    bad[1, 2, 17:, 17:] = -1

    def model(batch: np.ndarray) -> np.ndarray:
        if batch.min() < 0:
            raise RuntimeError("negative")
        return batch

    where = r"the tile at \(2, 4, 4\) of sample 1 of image stack"
    with pytest.raises(ModelError, match=where):
        quiet(model, bad, axes="TZYX", **TILES)
    with pytest.raises(SeriesError, match=where) as caught:
        quiet(model, [good, bad], axes="TZYX", keep_going=True, **TILES)
    np.testing.assert_array_equal(caught.value.results[0], good)


class FailsAfter:
    """One model, whenever it fails."""

    description = ModelDescription(identity="exponential")

    def __init__(self, limit: int) -> None:
        self.limit, self.n_calls = limit, 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.n_calls += 1
        if self.n_calls > self.limit:
            raise RuntimeError("out of luck")
        return np.exp(batch)


@pytest.mark.parametrize("settings", [{}, {"blend": "linear"}], ids=["crop", "blend"])
@pytest.mark.usefixtures("small_blocks")
def test_resume(settings: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    """A run that failed is resumed to the same bytes."""
    image = rng.random((2, 3, 30, 25), np.float32)
    np.save(tmp_path / "image.npy", image)
    arguments = {"axes": "TZYX", "normalize": "percentiles/sample", **TILES, **settings}
    model = FailsAfter(10**9)
    whole = quiet(model, tmp_path / "image.npy", tmp_path / "whole.ome.zarr", **arguments)
    with pytest.raises(ModelError, match="out of luck"):
        quiet(FailsAfter(model.n_calls // 2), tmp_path / "image.npy", tmp_path / "resumed.ome.zarr", **arguments)
    again = FailsAfter(10**9)
    resumed = quiet(again, tmp_path / "image.npy", tmp_path / "resumed.ome.zarr", **arguments)
    assert again.n_calls < model.n_calls
    files = [{p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()} for root in (whole, resumed)]
    for content in files:
        content.pop(Path("zarr.json"))  # has the name
    assert files[0] == files[1]


def test_plan() -> None:
    """A plan contains the shape with Z."""
    prepared = plan(np.zeros((2, 5, 40, 30), np.uint8), axes="TZYX", **TILES)
    assert prepared.n_tiles == 2 * 5 * prepared.tiling.grid_shape(0)[0] * prepared.tiling.grid_shape(0)[1]
    assert prepared.summary()["sources"][0]["output_shapes"] == [[2, None, 5, 40, 30]]
