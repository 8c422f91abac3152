"""The channels that a model gets: by index or name, from every kind of source, as NumPy indexes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack, ImageMetadata, MeanStd, ModelDescription, OmeZarr, PredictionPlan, SkipDark
from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError, SinkError
from patchloom.image_stacks import open_stacks
from patchloom.prediction import plan, predict
from patchloom.prediction.image_selection import channel_indices, parse_channels
from patchloom.prediction.normalization.measuring import measure_normalization

NAMES = ("DAPI", "GFP", "RFP", "GFP")
TILES: dict[str, Any] = {"patch_size": 16, "overlaps": 4}


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **{**TILES, **kwargs}, progress=False)


def same(batch: np.ndarray) -> np.ndarray:
    return batch


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 2**16, (4, 40, 30), np.uint16)


@settings(max_examples=25)
@given(channels=st.lists(st.integers(0, 3), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_indices(channels: list[int], seed: int) -> None:
    """Any channels in any order, also repeated, are those that NumPy selects."""
    image = np.random.default_rng(seed).integers(0, 255, (2, 4, 20, 18), np.uint8)
    np.testing.assert_array_equal(quiet(same, image, axes="TCYX", channels=channels), image[:, channels])


def sources(folder: Path, image: np.ndarray) -> dict[str, Any]:
    """Return the same image in every kind of source, with names of channels where the kind has them."""
    np.save(folder / "a.npy", image)
    channel = {"Channel": {"Name": list(NAMES)}}
    tifffile.imwrite(folder / "a.ome.tif", image, metadata={"axes": "CYX", **channel}, tile=(16, 16))
    tifffile.imwrite(folder / "rgb.tif", np.ascontiguousarray(np.moveaxis(image, 0, -1)), metadata={"axes": "YXC"})
    named = ArrayStack(image, axes="CYX", metadata=ImageMetadata(channel_names=NAMES))
    quiet(same, named, folder / "a.ome.zarr")
    return {
        "array": (image, "CYX"),
        "npy": (folder / "a.npy", "CYX"),
        "ome-tiff": (folder / "a.ome.tif", None),
        "tiff": (folder / "rgb.tif", "YXC"),
        "ome-zarr": (folder / "a.ome.zarr", None),
    }


@pytest.mark.parametrize("kind", ["array", "npy", "ome-tiff", "tiff", "ome-zarr"])
@pytest.mark.parametrize("channels", ["2", "3,0", [1, 1, 2], 0], ids=str)
def test_sources(kind: str, channels: Any, image: np.ndarray, tmp_path: Path) -> None:
    """Every kind of source gives the same channels, to an array and to a file that can be resumed."""
    source, axes = sources(tmp_path, image)[kind]
    wanted = {"2": [2], "3,0": [3, 0], "[1, 1, 2]": [1, 1, 2], "0": [0]}[str(channels)]
    expected = image[wanted]
    result = quiet(same, source, axes=axes, channels=channels)
    np.testing.assert_array_equal(np.moveaxis(result, -1, 0) if kind == "tiff" else result, expected)
    output = quiet(same, source, tmp_path / "out.ome.zarr", axes=axes, channels=channels)
    (written,) = open_stacks(output)
    np.testing.assert_array_equal(written.extract_patch(0, None, (0, 0), (40, 30)), expected)
    if kind.startswith("ome"):
        assert written.metadata.channel_names == tuple(NAMES[channel] for channel in wanted)


def test_names(image: np.ndarray, tmp_path: Path) -> None:
    """Names are those that the metadata contain, mixed with indices."""
    source, _ = sources(tmp_path, image)["ome-tiff"]
    np.testing.assert_array_equal(quiet(same, source, channels=["RFP", 3, "DAPI"]), image[[2, 3, 0]])
    np.testing.assert_array_equal(quiet(same, source, channels="RFP, 1"), image[[2, 1]])


def test_normalization(rng: np.random.Generator) -> None:
    """Statistics are those of the channels that are chosen; a normalization that is given has all channels of the image."""
    image = rng.integers(0, 99, (2, 3, 24, 20)).astype(np.float32)
    image[:, 1] += 1000
    options: dict[str, Any] = {"axes": "TCYX", "channels": [2, 0]}
    chosen = image[:, [2, 0]]
    expected = (chosen - chosen.mean(dtype=np.float64)) / chosen.std(dtype=np.float64)
    np.testing.assert_allclose(quiet(same, image, normalize=MeanStd(), **options), expected, atol=1e-5)
    measured = measure_normalization(ArrayStack(image, "TCYX"), MeanStd("sample_channel"))
    given = quiet(same, image, normalize=[measured], **options)
    np.testing.assert_array_equal(given, quiet(same, image, normalize=MeanStd("sample_channel"), **options))
    with pytest.raises(GeometryError, match="3 channels, and array has 2 and 2"):
        quiet(same, chosen, normalize=[measured], axes="TCYX", channels=[0])


def test_skip_rule(image: np.ndarray) -> None:
    """A skip rule sees the channels that the model gets."""
    image[0] = 0
    result = quiet(lambda batch: batch + 1, image, axes="CYX", channels=[0], skip=SkipDark(5, fill=7))
    assert (result == 7).all()
    with pytest.raises(GeometryError, match="channels contains 1"):
        quiet(same, image, axes="CYX", channels=[0], skip=SkipDark(5, channels=[1]))


def test_planes(rng: np.random.Generator) -> None:
    """A 2D network on a stack gets the channels slice by slice."""
    image = rng.integers(0, 255, (2, 3, 5, 20, 18), np.uint8)
    result = quiet(same, image, axes="TCZYX", channels=[2, 1], patch_size=(16, 16), overlaps=(4, 4))
    np.testing.assert_array_equal(result, image[:, [2, 1]])


class TakesOne:
    """A model of one channel."""

    description = ModelDescription(in_channels=1)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return batch


def test_model_of_other_channels(image: np.ndarray) -> None:
    """If the model takes other channels than the image has, the error names `channels=`, and following it works."""
    with pytest.raises(GeometryError, match=r"takes 1 channel, but array has 4: .* channels=\[0\]"):
        quiet(TakesOne(), image, axes="CYX")
    with pytest.raises(GeometryError, match="channels chooses 2"):
        quiet(TakesOne(), image, axes="CYX", channels=[0, 1])
    np.testing.assert_array_equal(quiet(TakesOne(), image, axes="CYX", channels=[0]), image[:1])


def test_plan(image: np.ndarray, tmp_path: Path) -> None:
    """A plan keeps the channels through JSON, and runs with files and arrays alike."""
    source, _ = sources(tmp_path, image)["ome-zarr"]
    prepared = plan(source, channels=["RFP", "DAPI"], normalize="mean_std/channel", **TILES)
    assert prepared.summary()["channels"] == ["RFP", "DAPI"]
    assert "RFP" in str(prepared)
    again = PredictionPlan.from_json(prepared.to_json())
    assert again == prepared
    expected = quiet(same, image[[2, 0]], axes="CYX", normalize="mean_std/channel")
    np.testing.assert_array_equal(again.run(same, progress=False), expected)
    of_array = plan(image, axes="CYX", channels=[2, 0], normalize="mean_std/channel", **TILES)
    np.testing.assert_array_equal(of_array.run(same, sources=image, progress=False), expected)


def test_resume(image: np.ndarray, tmp_path: Path) -> None:
    """A run that failed is resumed with the same channels, and refused with others."""
    calls = [0]

    class Failing:
        identity = "fails once"

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            calls[0] += 1
            if calls[0] == 1 + 3 * 2:  # the last sample: the others are finished
                raise RuntimeError("broken")
            return batch

    images = np.stack([image] * 3)
    output = OmeZarr(tmp_path / "out.ome.zarr")
    options: dict[str, Any] = {"axes": "TCYX", "patch_size": (40, 16)}
    with pytest.raises(Exception, match="broken"):
        quiet(Failing(), images, output, channels=[3, 1], **options)
    with pytest.raises(SinkError, match=r"channels: \[3, 1\] before, \[3, 2\] now"):
        quiet(Failing(), images, output, channels=[3, 2], **options)
    path = quiet(Failing(), images, output, channels=[3, 1], **options)
    (written,) = open_stacks(path)
    np.testing.assert_array_equal(written.extract_patch(2, None, (0, 0), (40, 30)), image[[3, 1]])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        ([4], "contains 4, but cells has the channels 0 'DAPI', 1 'GFP', 2 'RFP', 3 'GFP': choose among these"),
        (["CFP"], "contains 'CFP', but cells has the channels 0 'DAPI'"),
        ("dapi", "contains 'dapi', but cells has the channels"),
        (["GFP"], "cells has 2 channels of that name: give the index, one of 1, 3"),
    ],
)
def test_missing(channels: Any, message: str) -> None:
    """A channel that an image does not have is refused with a list of those that it has."""
    stack = ArrayStack(np.zeros((4, 8, 8)), axes="CYX", metadata=ImageMetadata(channel_names=NAMES))
    stack.source = "cells"
    with pytest.raises(GeometryError, match=message):
        channel_indices(stack, parse_channels(channels))


def test_missing_without_names() -> None:
    """An image without names of channels has numbers."""
    with pytest.raises(GeometryError, match="array has 2 channels, counted from 0, without names"):
        quiet(same, np.zeros((2, 8, 8)), axes="CYX", channels=[2])
    with pytest.raises(GeometryError, match="array has the channel 0, without names"):
        quiet(same, np.zeros((8, 8)), axes="YX", channels="1")


@pytest.mark.parametrize("channels", [-1, [-1], [], "", "0,,1", [""], 10**30])
def test_bad_values(channels: Any) -> None:
    """Negative, empty and huge channels are refused."""
    with pytest.raises(ArgumentError, match="channels"):
        quiet(same, np.zeros((2, 8, 8)), axes="CYX", channels=channels)


@pytest.mark.parametrize("channels", [1.0, True, {0}, {0: 1}, [None], [1.5], b"0", [[0]]], ids=str)
def test_bad_types(channels: Any) -> None:
    """Everything but indices and names is refused."""
    with pytest.raises(ArgumentTypeError, match="channels"):
        quiet(same, np.zeros((2, 8, 8)), axes="CYX", channels=channels)


def test_json() -> None:
    """Names that look like indices stay names in a plan."""
    names = json.loads(json.dumps(parse_channels(["0", 1])))
    assert parse_channels(names) == ("0", 1)
