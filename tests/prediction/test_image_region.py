"""The region of an image that is predicted: it equals that part of the prediction of the whole image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import (
    Argmax,
    ArrayStack,
    ImageMetadata,
    MeanStd,
    OmeZarr,
    PredictionPlan,
    SkipDark,
    SkipOutside,
    TiledPatching,
)
from patchloom.errors import ArgumentError, GeometryError, ModelError, SinkError
from patchloom.image_stacks import open_stacks
from patchloom.patching.region_tiling import RegionTiling, TileRegion
from patchloom.prediction import plan, predict
from patchloom.prediction.image_region import parse_region
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

MICROMETERS = {"Z": "micrometer", "Y": "micrometer", "X": "micrometer", "T": "second"}


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


def reaching(batch: np.ndarray) -> np.ndarray:
    """A model whose output depends on the whole tile, and on the place of each voxel in it."""
    spatial = tuple(range(2, batch.ndim))
    ramp = np.arange(batch.shape[-1], dtype=np.float32)
    return batch * ramp + batch.mean(axis=spatial, keepdims=True)


def same(batch: np.ndarray) -> np.ndarray:
    return batch


def as_slices(axes: str, region: dict[str, Any]) -> tuple[slice, ...]:
    return tuple(slice(*region[axis]) if axis in region else slice(None) for axis in axes)


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, tuple[int, ...], dict[str, tuple[int, int]], dict[str, Any]]:
    """An image, a region of it, and how it is divided into tiles."""
    axes = draw(st.sampled_from(["YX", "TCYX", "ZYX", "STYX", "YXZ"]))
    largest = {"S": 3, "T": 4, "C": 2, "Z": 9, "Y": 40, "X": 40}
    shape = tuple(draw(st.integers(1, largest[axis])) for axis in axes)
    region = {}
    for axis, size in zip(axes, shape, strict=True):
        if axis != "C" and draw(st.booleans()):
            start = draw(st.integers(0, size - 1))
            region[axis] = (start, draw(st.integers(start + 1, size)))
    n_dims = draw(st.sampled_from([2, 3])) if "Z" in axes else 2
    options = {
        "patch_size": [draw(st.integers(4, 17)) for _ in range(n_dims)],
        "blend": draw(st.sampled_from([None, None, "hann", "mean"])),
        "seams": draw(st.sampled_from([None, "grid"])),
        "batch_size": draw(st.integers(1, 3)),
    }
    options["overlaps"] = [draw(st.integers(0, size // 2)) for size in options["patch_size"]]
    if draw(st.booleans()):
        options["halo"] = [draw(st.integers(0, overlap // 2)) for overlap in options["overlaps"]]
    return axes, shape, region or {"X": (0, shape[axes.index("X")])}, options


@settings(max_examples=60)
@given(case=cases())
def test_equals_whole(case: Any) -> None:
    """Any region, for a model that sees its whole tile, is that part of the whole result; cropped tiles bit for bit."""
    axes, shape, region, options = case
    image = np.random.default_rng(1).random(shape, np.float32)
    whole = quiet(reaching, image, axes=axes, **options)
    result = quiet(reaching, image, axes=axes, region=region, **options)
    expected = whole[as_slices(axes, region)]
    assert result.shape == expected.shape
    if options["blend"] is None:
        np.testing.assert_array_equal(result, expected)
    else:
        np.testing.assert_allclose(result, expected, rtol=1e-5)


@given(case=cases())
@settings(max_examples=40)
def test_blocks(case: Any) -> None:
    """The same with blocks so small that a region has many."""
    axes, shape, region, options = case
    image = np.random.default_rng(2).random(shape, np.float32)
    with pytest.MonkeyPatch.context() as small:
        small.setattr(fit, "BLOCK_SIZES", [200])
        small.setattr(block_grid, "CHUNK_SIZE", {2: 6, 3: 4})
        result = quiet(reaching, image, axes=axes, region=region, **options)
    whole = quiet(reaching, image, axes=axes, **options)
    np.testing.assert_allclose(result, whole[as_slices(axes, region)], rtol=1e-5)


@given(case=cases(), sample=st.integers(0, 11))
@settings(max_examples=40)
def test_tiling(case: Any, sample: int) -> None:
    """The tiles of a region are those of the whole image from which a voxel of it is kept, one by one and together."""
    _, shape, _, options = case
    spatial = (shape * 2)[:2]
    window = tuple((start, min(start + 7, size)) for start, size in ((size // 3, size) for size in spatial))
    places: dict[str, Any] = {"patch_size": options["patch_size"][:2], "overlaps": options["overlaps"][:2]}
    samples = TileRegion((3, 4), ((1, 3), (2, 4)), window)
    tiling = RegionTiling([(12, 1, *spatial)], [samples], **places, whole_tiles=False)
    whole = TiledPatching([(12, 1, *spatial)], **places)
    inside = [slice(*part) for part in window]
    expected = [
        spec for index in (6, 7, 10, 11) for spec in whole.specs(whole.tiles_touching(0, index, inside)).to_specs()
    ]
    of_one_sample = [spec["total_tiles"] for spec in tiling]
    assert set(of_one_sample) == {len(tiling)}
    assert [{**spec, "total_tiles": 0} for spec in tiling] == [{**spec, "total_tiles": 0} for spec in expected]
    assert [tiling[index] for index in range(len(tiling))] == tiling[:].to_specs()
    assert tiling.indices_of(tiling[:]).tolist() == list(range(len(tiling)))
    touching = tiling.tiles_touching(0, sample, inside).tolist()
    assert touching == [index for index, spec in enumerate(tiling) if spec["sample_idx"] == sample]


@pytest.mark.parametrize("axes", ["ZYX", "CYX"])
def test_outputs_of_other_sizes(axes: str, rng: np.random.Generator) -> None:
    """Models that enlarge, shrink or lose a margin; a region is widened to whole voxels of a smaller output."""
    image = rng.random((3, 40, 50), np.float32)
    options: dict[str, Any] = {"axes": axes, "patch_size": (16, 16), "overlaps": (4, 4)}
    models = [
        (lambda batch: batch.repeat(2, -1).repeat(2, -2), np.s_[:, 16:48, 18:66]),
        (lambda batch: batch[..., ::2, ::2], np.s_[:, 4:12, 4:17]),
        (lambda batch: batch[..., 2:-2, 2:-2], np.s_[:, 8:24, 9:33]),
    ]
    for model, part in models:
        result = quiet(model, image, region={"y": (8, 24), "x": (9, 33)}, **options)
        np.testing.assert_array_equal(result, quiet(model, image, **options)[part])


def test_whole_statistics(rng: np.random.Generator) -> None:
    """Statistics are those of the whole image, also of each sample."""
    image = rng.random((3, 30, 40), np.float32) * np.array([1, 5, 20], np.float32)[:, None, None]
    options: dict[str, Any] = {"axes": "TYX", "patch_size": 16, "normalize": MeanStd("sample")}
    whole = quiet(same, image, **options)
    np.testing.assert_array_equal(quiet(same, image, region="t=1:3,y=5:9", **options), whole[1:, 5:9])
    undone = quiet(same, image, region="t=1:3,y=5:9", denormalize=True, **options)
    np.testing.assert_allclose(undone, image[1:, 5:9], atol=1e-5)


def test_skipped_and_postprocessed(rng: np.random.Generator) -> None:
    """Skip rules decide as on the whole image, also on its samples; postprocessing sees the region."""
    image = rng.integers(0, 100, (2, 2, 3, 30, 40), np.uint8)
    image[:, :, :, :, :20] = 0
    mask = np.zeros((2, 3, 30, 40), np.uint8)
    mask[1, 2, 20:] = 1
    options: dict[str, Any] = {"axes": "TCZYX", "patch_size": (8, 8), "overlaps": (2, 2), "postprocess": Argmax()}
    region, part = {"t": 1, "z": (1, 3), "y": (15, 29), "x": (7, 33)}, np.s_[1:2, :, 1:3, 15:29, 7:33]
    for rule in (SkipDark(0, fill=9), SkipOutside([ArrayStack(mask, "TZYX")], fill=9)):
        whole = quiet(same, image, skip=rule, **options)
        assert {0, 1, 9} <= set(whole[part].ravel().tolist())
        np.testing.assert_array_equal(quiet(same, image, skip=rule, region=region, **options), whole[part])


def stored(folder: Path, kind: str, image: np.ndarray) -> Any:
    """Write an image of voxels of 2 × 0.5 × 0.25 µm."""
    metadata = ImageMetadata(voxel_size={"Z": 2.0, "Y": 0.5, "X": 0.25}, units=MICROMETERS, origin={"Y": 10.0})
    if kind == "array":
        return ArrayStack(image, "ZYX", metadata=metadata)
    if kind == "npy":
        np.save(folder / "a.npy", image)
        return folder / "a.npy"
    if kind == "tiff":
        units = {f"PhysicalSize{axis}Unit": "µm" for axis in "ZYX"}
        sizes = {"PhysicalSizeZ": 2, "PhysicalSizeY": 0.5, "PhysicalSizeX": 0.25}
        tifffile.imwrite(folder / "a.ome.tif", image, tile=(16, 16), metadata={"axes": "ZYX", **sizes, **units})
        return folder / "a.ome.tif"
    return quiet(same, ArrayStack(image, "ZYX", metadata=metadata), folder / "a.ome.zarr", patch_size=(8, 16, 16))


@pytest.mark.parametrize("patch_size", [(4, 16, 16), (16, 16)], ids=str)
@pytest.mark.parametrize("kind", ["array", "npy", "tiff", "zarr"])
def test_units(kind: str, patch_size: tuple[int, ...], rng: np.random.Generator, tmp_path: Path) -> None:
    """Lengths are from the start of the image, and the output lies where the region does, in all sources alike."""
    image = rng.random((8, 40, 50), np.float32)
    options: dict[str, Any] = {"axes": "ZYX", "voxel_size": (2, 0.5, 0.25)} if kind == "npy" else {}
    options |= {"patch_size": patch_size, "region": "z=5um:9000nm,y=4.1 µm:0.01mm,x=:30"}
    source = stored(tmp_path, kind, image)
    np.testing.assert_array_equal(quiet(reaching, source, **options).shape, (2, 12, 30))
    path = quiet(same, source, tmp_path / "out.ome.zarr", **options)
    (written,) = open_stacks(path)
    np.testing.assert_array_equal(written.extract_patch(0, None, (0, 0, 0), (2, 12, 30))[0], image[3:5, 8:20, :30])
    assert written.metadata.voxel_size == {"Z": 2.0, "Y": 0.5, "X": 0.25}
    first = 10.0 if kind in {"array", "zarr"} else 0.0
    assert written.metadata.origin == {"Z": 6.0, "Y": first + 4.0, "X": 0.0}


def test_place_without_voxel_size(rng: np.random.Generator, tmp_path: Path) -> None:
    """If an image has no voxel sizes, the origin is in voxels of the output."""
    image = rng.random((5, 40, 50), np.float32)
    path = quiet(
        lambda batch: batch.repeat(2, -1), image, tmp_path / "out.zarr", axes="TYX", patch_size=16, region="t=3,x=10:20"
    )
    transforms = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["datasets"][0][
        "coordinateTransformations"
    ]
    assert transforms[1]["translation"] == [3.0, 0.0, 20.0]


def test_given_voxel_size(tmp_path: Path) -> None:
    """A voxel size that is given replaces the unit too, and the origin stays at its place."""
    metadata = ImageMetadata(voxel_size={"Y": 250.0}, units={"Y": "nanometer"}, origin={"Y": 5000.0})
    movie = ArrayStack(np.ones((2, 16, 12)), "TYX", metadata=metadata)
    path = quiet(same, movie, tmp_path / "out.ome.zarr", patch_size=16, voxel_size=0.5, region="y=4:,x=2um:")
    (written,) = open_stacks(path)
    assert written.metadata.voxel_size == {"T": 1.0, "Y": 0.5, "X": 0.5}
    assert written.metadata.units == {"Y": "micrometer", "X": "micrometer"}
    assert written.metadata.origin == pytest.approx({"T": 0.0, "Y": 5.0 + 2.0, "X": 2.0})


def test_time(rng: np.random.Generator, tmp_path: Path) -> None:
    """A range in seconds, and one frame, which stays an axis."""
    metadata = ImageMetadata(voxel_size={"T": 0.5}, units={"T": "second"})
    image = rng.random((6, 9, 8), np.float32)
    movie = ArrayStack(image, "TYX", metadata=metadata)
    np.testing.assert_array_equal(quiet(same, movie, patch_size=8, region="t=500ms:1.5s"), image[1:3])
    np.testing.assert_array_equal(quiet(same, movie, patch_size=8, region={"t": "1.2s"}), image[2:3])
    path = quiet(same, movie, tmp_path / "out.ome.zarr", patch_size=8, region="t=2")
    assert open_stacks(path)[0].metadata.origin["T"] == 1.0


def test_series(rng: np.random.Generator) -> None:
    """A region applies to every image of a series, and the error names the image in which it does not fit."""
    images = [rng.random((30, 40), np.float32), rng.random((20, 60), np.float32)]
    results = quiet(reaching, images, axes="YX", patch_size=16, region={"y": (3, 18), "x": (30, None)})
    for image, result in zip(images, results, strict=True):
        np.testing.assert_array_equal(result, quiet(reaching, image, axes="YX", patch_size=16)[3:18, 30:])
    named = [ArrayStack(image, "YX") for image in images]
    named[1].source = "second.tif"
    with pytest.raises(GeometryError, match=r"region is y=3:25, and second.tif has size 20 along Y: .* inside 0:20"):
        quiet(same, named, patch_size=16, region="y=3:25")


def test_plan(rng: np.random.Generator, tmp_path: Path) -> None:
    """A plan keeps the region through JSON, shows it, and runs with files and arrays alike."""
    image = rng.random((8, 40, 50), np.float32)
    source = stored(tmp_path, "tiff", image)
    options: dict[str, Any] = {"patch_size": (4, 16, 16), "normalize": "mean_std"}
    prepared = plan(source, region={"z": "5um:9um", "x": (5, 20)}, **options)
    assert prepared.summary()["region"] == "z=5um:9um,x=5:20"
    assert prepared.summary()["sources"][0]["region"] == {
        "S": [0, 1], "T": [0, 1], "Z": [3, 5], "Y": [0, 40], "X": [5, 20],
    }  # fmt: skip
    assert "region Z 3:5, X 5:20\n" in str(prepared)
    assert prepared.n_tiles < plan(source, **options).n_tiles
    again = PredictionPlan.from_json(prepared.to_json())
    assert again == prepared
    assert again.blocks == prepared.blocks
    expected = quiet(reaching, source, **options)[3:5, :, 5:20]
    np.testing.assert_array_equal(again.run(reaching, progress=False), expected)
    slices = plan(image, axes="ZYX", patch_size=(16, 16), region={"z": 2})
    whole = quiet(reaching, image, axes="ZYX", patch_size=(16, 16))
    again = PredictionPlan.from_json(slices.to_json())
    np.testing.assert_array_equal(again.run(reaching, sources=image, progress=False), whole[2:3])


def test_damaged_plan(rng: np.random.Generator) -> None:
    """A plan whose region is not inside the image is refused."""
    prepared = json.loads(plan(rng.random((30, 40)), axes="YX", patch_size=16, region="y=3:20").to_json())
    prepared["survey"]["stacks"][0]["region"][2] = [3, 31]
    with pytest.raises(ArgumentError, match="not a plan"):
        PredictionPlan.from_json(json.dumps(prepared))


def test_resume(rng: np.random.Generator, tmp_path: Path) -> None:
    """A run that failed is resumed, to the bytes of an uninterrupted one; another region is refused."""
    image = rng.random((4, 40, 50), np.float32)
    calls: list[int] = []

    class Failing:
        identity = "fails at its tenth batch"

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls.append(1)
            if len(calls) == 10:
                raise RuntimeError("broken")
            return reaching(batch)

    options: dict[str, Any] = {"axes": "TYX", "patch_size": 16}
    output = OmeZarr(tmp_path / "out.ome.zarr")
    with pytest.raises(ModelError, match="broken"):
        quiet(Failing(), image, output, region="t=1:4,y=3:20,x=20:40", **options)
    with pytest.raises(SinkError, match="region: t=1:4,y=3:20,x=20:40 before, t=1:4,y=3:20,x=20:41 now"):
        quiet(Failing(), image, output, region="t=1:4,y=3:20,x=20:41", **options)
    (written,) = open_stacks(quiet(Failing(), image, output, region="t=1:4,y=3:20,x=20:40", **options))
    expected = quiet(reaching, image, **options)[1:4, 3:20, 20:40]
    np.testing.assert_array_equal([written.extract_patch(t, None, (0, 0), (17, 20))[0] for t in range(3)], expected)


def test_only_needed_tiles(rng: np.random.Generator) -> None:
    """Only the tiles that the region needs go through the model, and the error of one names its place in the whole image."""
    image = rng.random((3, 64, 64), np.float32)
    seen: list[int] = []

    def counting(batch: np.ndarray) -> np.ndarray:
        seen.append(len(batch))
        return batch

    quiet(counting, image, axes="TYX", patch_size=16, overlaps=0, region="t=2,y=17:30,x=15:17")
    assert sum(seen) <= 2 + 1  # and one to infer the output

    def broken(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError

    with pytest.raises(ModelError, match=r"tile at \(16, 0\) of sample 2"):
        quiet(broken, image, axes="TYX", patch_size=16, overlaps=0, region="t=2,y=17:30,x=15:17")


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ({}, "leave it out for the whole image"),
        ("", "letters of 'STZYX'"),
        ("y", "region is '' along Y"),
        ("y=1:2:3", "a start and a stop"),
        ("y=a:b", "a whole number of voxels, or a number with a unit"),
        ("y=-3:8", "at least 0"),
        ("y=1.5:8", "voxels are whole numbers"),
        ("y=8:8", "y=8:8, which is empty"),
        ("y=8:3", "empty"),
        ("y=4um:3um", "empty"),
        ("y=3:31", "array has size 30 along Y"),
        ("y=30", "array has size 30 along Y"),
        ("q=3", "axis 'q'"),
        ("c=1", "channels="),
        ("z=1", "has the axes TYX: leave Z out"),
        ("y=1:2,Y=3", "more than once"),
        ("y=1s:2s", "unit of length"),
        ("y=1um:3parrots", "unit of length"),
        ("t=1um:2um", "unit of time"),
        ("s=1um:2um", "whole number"),
        ("y=1um:2um", r"no voxel size along Y: give voxel_size= \(--voxel-size\), or voxels"),
        ("t=1s:2s", "no voxel size along T"),
        ({"y": 1.5}, "whole number"),
        ({"y": (1, 2, 3)}, "a start and a stop"),
        ({"y": slice(0, 8, 2)}, "a start and a stop"),
        ({"y": None}, "a start and a stop"),
        ({3: (0, 8)}, "letters of"),
        ([("y", (0, 8))], "write ranges"),
        (3, "write ranges"),
    ],
    ids=str,
)
def test_bad_regions(region: Any, message: str) -> None:
    """Each is refused with what is wrong and what is allowed."""
    with pytest.raises(ArgumentError, match=message):
        quiet(same, np.zeros((5, 30, 40)), axes="TYX", patch_size=16, region=region)


def test_lengths_outside() -> None:
    """The message contains the range in voxels."""
    with pytest.raises(GeometryError, match="y=2um:8um, which is 4:16 in voxels, and array has size 9"):
        quiet(same, np.zeros((9, 40)), axes="YX", patch_size=8, voxel_size=0.5, region="y=2um:8um")


@pytest.mark.parametrize("size", [0, -1, float("nan"), "a", "", [1], (1, 2, 3, 4), True, {1}], ids=str)
def test_bad_voxel_sizes(size: Any) -> None:
    """A voxel size is a positive number, or one for each axis."""
    with pytest.raises(ArgumentError, match="voxel_size"):
        quiet(same, np.zeros((9, 40)), axes="YX", patch_size=8, voxel_size=size)


def test_voxel_size_of_other_axes() -> None:
    """An image without Z has no size along Z."""
    with pytest.raises(GeometryError, match=r"array has the axes YX: give two numbers"):
        quiet(same, np.zeros((9, 40)), axes="YX", patch_size=8, voxel_size=(1, 2, 3))


def test_texts() -> None:
    """A region is the same in every spelling, and its text is one of them."""
    region = parse_region("t=3,z=2um:8um,y=100:,x=:0.5mm")
    spelled = {"Z": ("2 micrometers", "8µm"), "X": (None, "0.5 millimeter"), "y": slice(100, None), "T": np.int64(3)}
    assert parse_region(spelled) == region == parse_region(str(region))
