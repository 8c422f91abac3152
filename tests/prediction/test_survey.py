"""A survey is facts about images and model; it goes to JSON and back, and no pixel is read for it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from patchloom import MeanStd, ModelDescription, measure_normalization
from patchloom.errors import ArgumentError, SourceError
from patchloom.image_stacks import ArrayStack, open_stacks
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.stack_facts import StackFacts
from patchloom.prediction.survey import Survey, open_again, survey_images

MODEL = ModelDescription(
    overlaps=(8, 8), out_channels=3, out_dtype="uint16", out_channel_names=("a", "b", "c"), scale=(Fraction(1, 2),) * 2
)


def survey(*images: Any, model: ModelDescription = ModelDescription(), **arguments: Any) -> Survey:  # noqa: B008  # frozen
    return survey_images(images, PredictionRequest.parse(**arguments), model)[0]


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A stack in chunks, `CZYX`."""
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 6, 40, 30), np.uint16), chunks=(1, 2, 16, 16))
    return tmp_path / "a.zarr"


@pytest.mark.parametrize("model", [ModelDescription(), MODEL])
@pytest.mark.parametrize("normalize", [None, MeanStd(), "given"])
def test_json(model: ModelDescription, normalize: Any, stored: Path) -> None:
    """A survey is equal to the one from its JSON."""
    (stack,) = open_stacks(stored, "CZYX")
    given = [measure_normalization(stack, MeanStd("channel"))] if normalize == "given" else normalize
    found = survey(stack, model=model, patch_size=(16, 16), normalize=given)
    assert Survey.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert bool(found.normalizations) is (normalize == "given")
    assert bool(found.outputs) is (model is MODEL)


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        ([np.zeros((4, 9, 9)), np.zeros((9, 9))], {}, "the stacks of a series differ"),
        ([np.zeros((9, 9))], {"patch_size": (4, 4, 4)}, r"patch_size is \(4, 4, 4\), so the model is 3D"),
        (
            [np.zeros((9, 9))],
            {"normalize": [measure_normalization(ArrayStack(np.eye(3), "YX"))] * 2},
            "has 2 entries",
        ),
    ],
)
def test_images_that_do_not_fit(images: list[Any], arguments: dict[str, Any], message: str) -> None:
    """They are refused by name."""
    with pytest.raises(ArgumentError, match=message):
        survey(*(ArrayStack(image, "ZYX"[-image.ndim :]) for image in images), **arguments)


def test_images_that_cannot_be_normalized() -> None:
    """Complex pixels are refused before they are read."""
    with pytest.raises(SourceError, match="complex64, and only integers and floats"):
        survey(ArrayStack(np.zeros((9, 9), np.complex64), "YX"), normalize="mean_std")


def test_dimensions() -> None:
    """With one number as patch size, a 2D model is run slice by slice, any other on whole stacks."""
    stack = ArrayStack(np.zeros((4, 9, 9)), "ZYX")
    assert survey(stack, patch_size=4).stacks[0].n_planes == 0
    assert survey(stack, patch_size=4, model=ModelDescription(n_dims=2)).stacks[0].n_planes == 4


def test_open_again(stored: Path) -> None:
    """Files are opened by name, and the same images may be given from elsewhere."""
    found = survey(*open_stacks(stored, "CZYX"))
    assert StackFacts.of(open_again(found)[0]) == found.stacks[0]
    assert open_again(found, np.zeros((2, 6, 40, 30), np.uint16))[0].original_axes == "CZYX"
