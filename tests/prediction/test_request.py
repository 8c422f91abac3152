"""A request is every argument, parsed and checked once; equal requests are the same run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom import Argmax, AsDtype, MeanStd, OmeZarr, Percentiles, SkipDark, measure_normalization
from patchloom.errors import ArgumentError, SinkError
from patchloom.image_stacks import ArrayStack
from patchloom.prediction.request import PredictionRequest, RunOptions, per_axis

MEASURED = measure_normalization(ArrayStack(np.arange(12.0).reshape(3, 4), "YX"))

ARGUMENTS: list[dict[str, Any]] = [
    {},
    {"patch_size": 64, "overlaps": (8, 8), "origin_multiple": [1, 16, 16], "padding": "wrap"},
    {"channels": ["DAPI", 1, "1"]},
    {"pixel_size": (1, 0.5, 0.5)},
    {"pixel_size": "model"},
    {"region": {"y": ("1.5um", "8 µm"), "t": 3, "x": (None, 40)}, "voxel_size": (0.5, 0.25)},
    {"blend": "hann", "seams": "grid", "batch_size": 4, "memory_limit": 10**9},
    {"normalize": MeanStd("channel"), "postprocess": Argmax()},
    {"normalize": Percentiles(1, 99.8), "postprocess": "channels:0,2|uint8*255"},
    {"normalize": MeanStd(), "denormalize": True},
    {"normalize": [MEASURED, MEASURED], "skip": SkipDark(3.5, fill=float("inf"), channels=(0, 2))},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=lambda arguments: " ".join(arguments) or "none")
def test_json(arguments: dict[str, Any]) -> None:
    """A request goes to JSON and back, and is equal to another one of the same arguments."""
    request = PredictionRequest.parse(**arguments)
    assert PredictionRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request
    assert PredictionRequest.parse(**arguments) == request
    assert len({json.dumps(PredictionRequest.parse(**others).to_dict()) for others in ARGUMENTS}) == len(ARGUMENTS)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"normalize": "mean_std"}, {"normalize": MeanStd()}),
        ({"normalize": "percentiles:2,98/sample"}, {"normalize": Percentiles(2, 98, per="sample")}),
        ({"skip": "dark:100"}, {"skip": SkipDark(100)}),
        ({"skip": "dark:-0.5,fill=7"}, {"skip": SkipDark(-0.5, fill=7)}),
        ({"postprocess": "uint8"}, {"postprocess": AsDtype("uint8")}),
    ],
    ids=str,
)
def test_texts(text: dict[str, Any], value: dict[str, Any]) -> None:
    """A text that a command line can contain is the value that it stands for."""
    assert PredictionRequest.parse(**text) == PredictionRequest.parse(**value)


def test_memory_limit() -> None:
    """The memory limit does not make another run."""
    assert PredictionRequest.parse(memory_limit=10**6) == PredictionRequest.parse(memory_limit=10**9)


@pytest.mark.parametrize("number", [64, np.uint8(64), np.array(64)], ids=["int", "uint8", "array"])
def test_one_number_for_all_axes(number: Any) -> None:
    """A whole number of any make stays one number."""
    assert type(per_axis("patch_size", number, least=1)) is int


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch_size": 0}, "patch_size is 0: it must be at least 1"),
        ({"patch_size": (64, 0)}, "patch_size is 0 along X: it must be at least 1"),
        ({"patch_size": "64"}, "patch_size is '64': it must be one whole number"),
        ({"overlaps": -1}, "overlaps is -1: it must be at least 0"),
        ({"overlaps": 1.5}, "overlaps is 1.5: it must be one whole number"),
        ({"blend": "tukey"}, "blend is 'tukey': it must be one of"),
        ({"seams": "none"}, "seams is 'none': it must be one of"),
        ({"padding": None}, "padding is None: it must be one of"),
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1"),
        ({"memory_limit": "2GB"}, "memory_limit is '2GB': it must be a positive whole number of bytes"),
        ({"postprocess": 3}, "postprocess is 3 of type int: it must be a Postprocessing"),
        ({"skip": SkipDark}, "skip is .*: it must be a SkipRule"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], message: str) -> None:
    """The error names the argument, its value, and what is allowed."""
    with pytest.raises(ArgumentError, match=message):
        PredictionRequest.parse(**arguments)


def test_conversion() -> None:
    """A conversion alone is done tile by tile; any other postprocessing is done to blocks."""
    converted, scaled = PredictionRequest.parse(postprocess="uint8"), PredictionRequest.parse(postprocess="uint8*2")
    assert (converted.dtype, converted.block_postprocess) == (np.dtype("uint8"), None)
    assert (scaled.dtype, scaled.block_postprocess) == (None, AsDtype("uint8", 2))


def test_output() -> None:
    """A path has the defaults of `OmeZarr`."""
    plain, chosen = (
        RunOptions.parse(output="a.ome.zarr"),
        RunOptions.parse(output=OmeZarr("a.ome.zarr", "0.4", None, 64)),
    )
    assert plain == RunOptions.parse(output=OmeZarr("a.ome.zarr"))
    assert (chosen.path, chosen.version, chosen.pyramid, chosen.chunks) == (plain.path, "0.4", None, 64)
    assert RunOptions.parse().path is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"pyramid": "foo"}, ArgumentError, "pyramid is 'foo'"),
        ({"pyramid": 2}, ArgumentError, "pyramid is 2"),
        ({"version": "0.6"}, ArgumentError, "'0.6'"),
        ({"version": None}, ArgumentError, "version is None"),
        ({"chunks": 0}, ArgumentError, "chunks is 0: it must be at least 1"),
        ({"path": "a.ome.tif"}, SinkError, "'a.ome.tif', which is not an OME-Zarr: take a name ending in .ome.zarr"),
        ({"path": ""}, SinkError, "path is ''"),
    ],
)
def test_wrong_ome_zarr(options: dict[str, Any], error: type[Exception], message: str) -> None:
    """An OME-Zarr that cannot be written is refused when it is described."""
    with pytest.raises(error, match=message):
        OmeZarr(**{"path": "a.ome.zarr", **options})


@pytest.mark.parametrize("name", ["overwrite", "resume_anyway", "keep_going"])
def test_flags(name: str) -> None:
    """A flag is True or False."""
    with pytest.raises(ArgumentError, match=f"{name} is 'no' of type str: it must be True or False"):
        RunOptions.parse(output=Path("a.npy"), **{name: "no"})


def test_progress() -> None:
    """`progress` is a flag or a function."""
    with pytest.raises(
        ArgumentError, match="progress is 'no': it must be True, False, or a function that gets a Progress"
    ):
        RunOptions.parse(output=Path("a.npy"), progress="no")
