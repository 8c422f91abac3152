"""Models that run at another pixel size than that of the image: tiles are resampled for them, predictions back."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d, avg_pool3d, interpolate

from patchloom import ArrayStack, ImageMetadata, ModelDescription, OmeZarr, PredictionPlan
from patchloom.errors import ArgumentError, GeometryError, ModelError, ModelOutputError, SinkError
from patchloom.image_stacks import open_stacks
from patchloom.prediction import plan, predict
from patchloom.prediction.models.rescaling.rescaled_model import MOST_PARTS, pixel_ratio

UNITS = {"Z": "micrometer", "Y": "micrometer", "X": "nanometer", "T": "second"}


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


def blurred(batch: np.ndarray) -> np.ndarray:
    """A network that reaches two pixels far and fills with zeros around its input, as networks do."""
    tensor = torch.from_numpy(np.ascontiguousarray(batch, dtype=np.float32))
    pool = avg_pool2d if batch.ndim == 4 else avg_pool3d
    return pool(tensor, 5, stride=1, padding=2).numpy()


def valid(batch: np.ndarray) -> np.ndarray:
    """The same network without a margin of two pixels."""
    inside = (slice(None), slice(None), *(slice(2, -2),) * (batch.ndim - 2))
    return blurred(batch)[inside]


def same(batch: np.ndarray) -> np.ndarray:
    return batch


def resized(image: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an image `(Z)YX` at another size, linear with anti-aliasing, by PyTorch, which does it in two axes at a time."""
    if image.ndim == 2:
        tensor = torch.from_numpy(image.astype(np.float64))[None, None]
        return interpolate(tensor, size=shape, mode="bilinear", antialias=True)[0, 0].numpy()
    planes = np.stack([resized(plane, shape[1:]) for plane in image])
    columns = np.moveaxis(planes, 1, 0)  # Y, Z, X
    return np.moveaxis(np.stack([resized(plane, (shape[0], shape[2])) for plane in columns]), 0, 1)


def at_once(image: np.ndarray, prepared: PredictionPlan, steps: tuple[Fraction, ...], model: Any) -> np.ndarray:
    """Resample the whole image, padded as far as its last tile reaches, run the model, and resample back."""
    tiling = prepared.tiling
    ends = [int(tiling.windows_along(0, axis).start[-1]) + size for axis, size in enumerate(prepared.layout.patch_size)]
    padded = np.pad(image, [(0, max(end - size, 0)) for end, size in zip(ends, image.shape, strict=True)], "reflect")
    pixels = tuple(int(size / step) for size, step in zip(padded.shape, steps, strict=True))
    # A tile that is no multiple of the ratio is filled up by its last row.
    sizes = zip(prepared.layout.network_size, prepared.layout.patch_size, steps, strict=True)
    filled = [(0, int(size - side / step)) for size, side, step in sizes]
    of_network = np.pad(resized(padded, pixels), filled, "edge")
    prediction = model(of_network.astype(np.float32)[None, None])[0, 0][tuple(map(slice, pixels))]
    return resized(prediction, padded.shape)[tuple(map(slice, image.shape))]


@pytest.mark.parametrize(
    ("shape", "voxel_size", "pixel_size", "steps", "settings"),
    [
        ((93, 75), 0.25, 0.5, "2 2", {"patch_size": 24, "overlaps": 4}),
        ((47, 61), 0.5, 0.25, "1/2 1/2", {"patch_size": 32, "overlaps": 4}),
        ((101, 87), (0.2, 0.5), 0.3, "3/2 3/5", {"patch_size": (24, 30), "overlaps": 4}),
        ((97, 83), 0.3, 0.66, "11/5 11/5", {"patch_size": 23, "overlaps": 4, "seams": "grid"}),
        ((90, 71), 0.25, 0.5, "2 2", {"patch_size": 24, "overlaps": 6, "origin_multiple": 4}),
        ((93, 75), 0.25, 0.5, "2 2", {"patch_size": 24, "overlaps": 10, "halo": 2, "blend": "mean"}),
        ((101, 87), 0.2, 0.3, "3/2 3/2", {"patch_size": 30, "overlaps": 4, "halo": 2}),
        ((17, 61, 37), (1.0, 0.25, 0.25), (1.0, 0.5, 0.5), "1 2 2", {"patch_size": (12, 18, 18), "overlaps": 4}),
        ((9, 53, 37), (2.0, 0.5, 0.5), 1.0, "1/2 2 2", {"patch_size": (20, 16, 16), "overlaps": 4}),
    ],
    ids=str,
)
def test_equals_whole(
    shape: tuple[int, ...],
    voxel_size: Any,
    pixel_size: Any,
    steps: str,
    settings: dict[str, Any],
    rng: np.random.Generator,
) -> None:
    """Tile by tile, the result is that of the whole image, resampled and back, on sizes that are no multiples of anything."""
    image = rng.random(shape, np.float32)
    options = {"axes": "ZYX"[-len(shape) :], "voxel_size": voxel_size, "pixel_size": pixel_size, **settings}
    prepared = plan(image, **options)
    ratio = tuple(map(Fraction, steps.split()))
    assert prepared.survey.pixel_steps == ratio
    assert max(prepared.tiling.grid_shape(0)) > 2
    result = quiet(blurred, image, **options)
    np.testing.assert_allclose(result, at_once(image, prepared, ratio, blurred), atol=2e-6)


def test_bits(rng: np.random.Generator) -> None:
    """The tile size does not change a bit, for a network that computes each pixel by itself, if the context is sufficient."""
    image = rng.random((150, 130), np.float32)
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.3, "pixel_size": 0.45, "overlaps": 0}
    whole = quiet(np.negative, image, patch_size=256, **options)
    middle = np.s_[:140, :120]  # what lies behind is padded to other sizes
    for size in (24, 40, 63):
        np.testing.assert_array_equal(quiet(np.negative, image, patch_size=size, **options)[middle], whole[middle])


def test_network_input(rng: np.random.Generator) -> None:
    """The network gets tiles of the patch size in its own pixels, in the dtype of the image, and the ratio need not divide it."""
    image = rng.integers(0, 255, (90, 70), np.uint8)
    seen = set()

    def spying(batch: np.ndarray) -> np.ndarray:
        seen.add((batch.shape[1:], batch.dtype))
        return batch

    options: dict[str, Any] = {
        "axes": "YX",
        "voxel_size": 0.3,
        "pixel_size": 0.5,
        "patch_size": (32, 31),
        "overlaps": 4,
    }
    result = quiet(spying, image, **options)
    assert seen == {((1, 32, 31), np.dtype(np.uint8))}
    assert (result.shape, result.dtype) == (image.shape, image.dtype)
    assert plan(image, **options).layout.patch_size == (50, 50)


class Declares:
    """A network of one size, trained at 0.5 µm."""

    description = ModelDescription(
        patch_size=(24, 24), overlaps=(6, 6), batch_size=2, in_channels=2, pixel_size=(0.5, 0.5), identity="fixed"
    )

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        assert batch.shape[2:] == (24, 24)
        return blurred(batch)


def stored(image: np.ndarray, path: Path | None = None) -> Any:
    """Return an image with voxels of 0.25 × 0.2 µm, or write it."""
    metadata = ImageMetadata(voxel_size={"Y": 0.25, "X": 200.0}, units=UNITS, channel_names=("a", "b", "c"))
    stack = ArrayStack(image, "CYX", metadata=metadata)
    return stack if path is None else quiet(same, stack, path, patch_size=64)


def test_declared(rng: np.random.Generator, tmp_path: Path) -> None:
    """The size that a model declares, the voxel sizes of a file, channels and a region work together, in a plan too."""
    image = rng.random((3, 93, 75), np.float32)
    source = stored(image, tmp_path / "a.ome.zarr")
    options: dict[str, Any] = {"pixel_size": "model", "channels": "c,a"}
    whole = quiet(Declares(), source, **options)
    prepared = plan(source, model=Declares(), region="y=20:61,x=5um:10um", **options)
    assert prepared.survey.pixel_steps == (2, Fraction(5, 2))
    assert prepared.summary()["voxels_per_pixel"] == ["2", "5/2"]
    assert "tiles of 24 × 24 pixels, each 2 × 5/2 voxels of the image" in str(prepared)
    again = PredictionPlan.from_json(prepared.to_json())
    assert again == prepared
    np.testing.assert_array_equal(again.run(Declares(), progress=False), whole[:, 20:61, 25:50])
    alone = quiet(Declares(), image[[2, 0]], axes="CYX", pixel_size=0.5, voxel_size=(0.25, 0.2))
    np.testing.assert_array_equal(whole, alone)
    (written,) = open_stacks(quiet(Declares(), source, tmp_path / "out.ome.zarr", **options))
    assert written.metadata.voxel_size == {"Y": 0.25, "X": 200.0}
    assert written.data_shape == (1, 2, 93, 75)


def test_same_size(rng: np.random.Generator) -> None:
    """If both sizes are the same, within 2 %, nothing is resampled."""
    image = rng.random((60, 50), np.float32)
    options: dict[str, Any] = {"axes": "YX", "patch_size": 24, "overlaps": 6}
    result = quiet(blurred, image, voxel_size=0.25, pixel_size=0.2549, **options)
    np.testing.assert_array_equal(result, quiet(blurred, image, **options))


def test_labels(rng: np.random.Generator) -> None:
    """Integers and truth values are not mixed: the nearest is taken."""
    image = rng.random((90, 70), np.float32)
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.25, "pixel_size": 0.55, "patch_size": 25, "overlaps": 4}
    for dtype in (np.uint8, np.bool_):
        result = quiet(lambda batch, dtype=dtype: ((batch > 0.5) * 7).astype(dtype), image, **options)
        assert result.dtype == dtype
        assert set(np.unique(result).tolist()) == ({0, 7} if dtype == np.uint8 else {False, True})


@pytest.mark.parametrize("scale", [Fraction(2), Fraction(1, 2), Fraction(1)], ids=str)
def test_outputs_of_other_sizes(scale: Fraction) -> None:
    """A larger or a smaller output, and one without a margin, lies where the image does: a ramp stays a ramp."""
    y, x = np.mgrid[:96, :80].astype(np.float32)
    image = 3 * y + 2 * x
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.25, "pixel_size": 0.5, "patch_size": 24, "overlaps": 8}

    class Scaled:
        description = ModelDescription(scale=(scale, scale))

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            size = [int(side * scale) for side in batch.shape[2:]]
            tensor = torch.from_numpy(np.ascontiguousarray(batch))
            return interpolate(tensor, size=size, mode="bilinear", antialias=True).numpy()

    result = quiet(Scaled(), image, **options)
    assert result.shape == (96 * scale, 80 * scale)
    rows, columns = [(np.arange(size) + 0.5) / float(scale) - 0.5 for size in result.shape]
    expected = 3 * rows[:, None] + 2 * columns
    inside = slice(int(4 * scale) + 4, -int(4 * scale) - 4)
    np.testing.assert_allclose(result[inside, inside], expected[inside, inside], atol=1e-3)


@pytest.mark.parametrize("pixel_size", [0.5, 0.4, 0.15])
def test_valid(pixel_size: float, rng: np.random.Generator) -> None:
    """A network whose output lacks a margin gives, inside, what it gives with a margin."""
    image = rng.random((96, 80), np.float32)
    options: dict[str, Any] = {
        "axes": "YX",
        "voxel_size": 0.25,
        "pixel_size": pixel_size,
        "patch_size": 40,
        "overlaps": 8,
    }
    result, expected = quiet(valid, image, **options), quiet(blurred, image, **options)
    assert result.shape == image.shape
    np.testing.assert_allclose(result[16:-16, 16:-16], expected[16:-16, 16:-16], atol=1e-6)


def test_several_outputs(rng: np.random.Generator) -> None:
    """Each output is resampled back, by its own kind."""
    image = rng.random((60, 50), np.float32)
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.25, "pixel_size": 0.5, "patch_size": 24, "overlaps": 6}
    results = quiet(lambda batch: {"a": blurred(batch), "mask": batch > 0.5}, image, **options)
    np.testing.assert_array_equal(results["a"], quiet(blurred, image, **options))
    np.testing.assert_array_equal(results["mask"], quiet(lambda batch: batch > 0.5, image, **options))


def test_planes(rng: np.random.Generator) -> None:
    """A 2D network on a stack: each slice is resampled in Y and X."""
    image = rng.random((3, 60, 50), np.float32)
    options: dict[str, Any] = {
        "voxel_size": (2, 0.25, 0.25),
        "pixel_size": 0.5,
        "patch_size": (24, 24),
        "overlaps": (6, 6),
    }
    result = quiet(blurred, image, axes="ZYX", **options)
    options["voxel_size"] = 0.25
    np.testing.assert_array_equal(result[1], quiet(blurred, image[1], axes="YX", **options))


def test_memory(rng: np.random.Generator) -> None:
    """What resampling needs is part of the estimate."""
    image = rng.random((300, 300), np.float32)
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.25, "overlaps": 0, "patch_size": 64}
    finer, as_it_is = plan(image, pixel_size=0.125, **options), plan(image, **options)
    of_pixels = 2 * 64 * 64 * 4  # the network's input and output
    assert finer.memory.predictions >= of_pixels > 0
    assert as_it_is.memory.predictions == 2 * 64 * 64 * 4


def test_resume(rng: np.random.Generator, tmp_path: Path) -> None:
    """A run that failed is resumed with the same sizes, and refused with others."""
    images = rng.random((3, 60, 50), np.float32)
    calls: list[int] = []

    class Failing:
        identity = "fails once"

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls.append(1)
            if len(calls) == 10:
                raise RuntimeError("broken")
            return blurred(batch)

    options: dict[str, Any] = {"axes": "TYX", "voxel_size": 0.25, "patch_size": 24, "overlaps": 6}
    output = OmeZarr(tmp_path / "out.ome.zarr")
    with pytest.raises(ModelError, match="broken"):
        quiet(Failing(), images, output, pixel_size=0.5, **options)
    with pytest.raises(SinkError, match=r"pixel_size: 0.5 before, 0.55 now"):
        quiet(Failing(), images, output, pixel_size=0.55, **options)
    (written,) = open_stacks(quiet(Failing(), images, output, pixel_size=0.5, **options))
    expected = quiet(blurred, images, pixel_size=0.5, **options)
    result = np.stack([written.extract_patch(t, None, (0, 0), (60, 50))[0] for t in range(3)])
    np.testing.assert_array_equal(result, expected)


def test_series() -> None:
    """Images of one voxel size are predicted together; the error names two that differ."""
    options: dict[str, Any] = {"pixel_size": 0.5, "patch_size": 24, "overlaps": 6}
    stacks = [stored(np.ones((1, 40, 30))), stored(np.ones((1, 30, 50)))]
    assert [result.shape for result in quiet(blurred, stacks, **options)] == [(1, 40, 30), (1, 30, 50)]
    other = ArrayStack(
        np.ones((1, 9, 9)),
        "CYX",
        metadata=ImageMetadata(voxel_size={"Y": 1.0, "X": 1.0}, units=dict.fromkeys("YX", "micrometer")),
    )
    other.source = "other.tif"
    with pytest.raises(GeometryError, match=r"array and other.tif have different voxel sizes.*voxel_size="):
        quiet(blurred, [stacks[0], other], **options)
    assert len(quiet(blurred, [stacks[0], other], voxel_size=0.25, **options)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pixel_size": 0.5}, r"no voxel size along Y, X: give voxel_size= \(--voxel-size\)"),
        ({"pixel_size": "model", "voxel_size": 1}, "the model declares none"),
        ({"pixel_size": (1, 1, 1), "voxel_size": 1}, "the model is 2D: give one number for each of Y, X"),
        ({"pixel_size": 0.5, "voxel_size": 20, "patch_size": 32}, "take a patch_size of at least 40"),
        ({"pixel_size": 0.5, "voxel_size": 0.25, "overlaps": 23}, "take a larger patch_size or smaller overlaps"),
    ],
    ids=str,
)
def test_impossible(options: dict[str, Any], message: str) -> None:
    """Sizes that are not known or do not fit are refused with a remedy."""
    with pytest.raises(GeometryError, match=message):
        quiet(same, np.zeros((90, 90)), axes="YX", **{"patch_size": 24, "overlaps": 2, **options})


@pytest.mark.parametrize("size", [0, -1, float("nan"), "a", "", [1], (1, 2, 3, 4), True, {1}], ids=str)
def test_bad_values(size: Any) -> None:
    """A pixel size is positive, for all axes or for each."""
    with pytest.raises(ArgumentError, match="pixel_size"):
        quiet(same, np.zeros((9, 40)), axes="YX", patch_size=8, pixel_size=size)


def test_ambiguous_scale(rng: np.random.Generator) -> None:
    """An output of half the size has to declare its scale."""
    options: dict[str, Any] = {"axes": "YX", "voxel_size": 0.25, "pixel_size": 0.5, "patch_size": 24, "overlaps": 2}
    with pytest.raises((ModelError, ModelOutputError), match="declare scale in a ModelDescription"):
        quiet(lambda batch: batch[..., ::2, ::2], rng.random((60, 50)), **options)


@pytest.mark.parametrize("exact", [1.0, 1.01, 1.019, 1.021, 2.02, 7.3, 100.4, 0.99, 0.5, 0.333, 0.07, 1 / 3.1416])
def test_ratios(exact: float) -> None:
    """A ratio is off by at most 2 %, and consists of small numbers."""
    ratio = pixel_ratio(exact)
    assert abs(float(ratio) / exact - 1) <= 0.0205
    assert min(ratio.numerator, ratio.denominator) <= MOST_PARTS


def test_json_of_damaged_plan() -> None:
    """A plan with a ratio that makes no sense is refused."""
    prepared = plan(np.zeros((60, 50)), axes="YX", patch_size=24, overlaps=2, voxel_size=0.25, pixel_size=0.5)
    values = json.loads(prepared.to_json())
    values["survey"]["pixel_steps"] = ["2", "-2"]
    with pytest.raises(ArgumentError, match="not a plan"):
        PredictionPlan.from_json(json.dumps(values))
