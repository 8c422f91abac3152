"""Transforms of MONAI bundles: what they become equals what MONAI documents, computed by NumPy on the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.monai.bundle_config import Unevaluated
from patchloom.prediction.models.monai.transforms import read_postprocessing, read_preprocessing
from patchloom.prediction.models.processed_model import ProcessedModel

IMAGE = np.random.default_rng(0).integers(50, 4000, (2, 40, 50)).astype(np.uint16)


def transform(target: str, **options: Any) -> dict[str, Any]:
    return {"_target_": target, "keys": "image", **options}


def min_max(image: np.ndarray) -> np.ndarray:
    return (image - image.min()) / (image.max() - image.min())


def z_score(image: np.ndarray) -> np.ndarray:
    return (image - image.mean()) / image.std()


def per_channel(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda image: np.stack([function(channel) for channel in image])


def percentiles(image: np.ndarray, lower: float, upper: float) -> np.ndarray:
    low, high = np.percentile(image, [lower, upper])
    return (image - low) / (high - low)


CASES: dict[str, tuple[list[dict[str, Any]], Callable[[np.ndarray], np.ndarray]]] = {
    "range": (
        [transform("ScaleIntensityRanged", a_min=-57, a_max=1640, b_min=-1, b_max=2)],
        lambda image: (image + 57) / 1697 * 3 - 1,
    ),
    "range, clipped": (
        [transform("monai.transforms.ScaleIntensityRanged", a_min=0, a_max=1000, b_min=0, b_max=1, clip=True)],
        lambda image: np.clip(image / 1000, 0, 1),
    ),
    "range without bounds": ([transform("ScaleIntensityRange", a_min=0, a_max=10)], lambda image: image / 10),
    "min and max": ([transform("ScaleIntensityd")], min_max),
    "min and max per channel": (
        [transform("ScaleIntensityD", channel_wise=True, minv=-1.0, maxv=1.0)],
        lambda image: per_channel(min_max)(image) * 2 - 1,
    ),
    "factor": ([transform("ScaleIntensityd", minv=None, maxv=None, factor=0.5)], lambda image: image * 1.5),
    "mean and deviation": ([transform("NormalizeIntensityd")], z_score),
    "mean and deviation per channel": (
        [transform("NormalizeIntensityDict", channel_wise=[True])],
        per_channel(z_score),
    ),
    "fixed per channel": (
        [transform("NormalizeIntensityd", subtrahend=[100, 200], divisor=[10, 0], channel_wise=True)],
        lambda image: (image - np.array([100, 200])[:, None, None]) / np.array([10, 1])[:, None, None],
    ),
    "percentiles": (
        [transform("ScaleIntensityRangePercentilesd", lower=2, upper=98, b_min=0, b_max=4, clip=True)],
        lambda image: np.clip(percentiles(image, 2, 98) * 4, 0, 4),
    ),
    "scaled, then normalized": (
        [transform("ScaleIntensityd"), transform("NormalizeIntensityd", channel_wise=True)],
        per_channel(z_score),
    ),
    "normalized, then clipped": (
        [
            transform("NormalizeIntensityd"),
            transform("ScaleIntensityRanged", a_min=-1, a_max=1, b_min=0, b_max=1, clip=True),
        ],
        lambda image: np.clip((z_score(image) + 1) / 2, 0, 1),
    ),
    "nested": (
        [
            transform("Compose", transforms=[transform("LoadImaged"), transform("NormalizeIntensityd")]),
            transform("EnsureTyped"),
        ],
        z_score,
    ),
    "of other keys, and disabled": (
        [
            transform("Lambdad") | {"keys": ["label"]},
            transform("Foo", _disabled_="true"),
            transform("NormalizeIntensityd"),
        ],
        z_score,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_intensities(name):
    """What the network gets, tile by tile, is the whole image after the transforms."""
    transforms, expected = CASES[name]
    read = read_preprocessing({"_target_": "Compose", "transforms": transforms}, "image")

    class Network:
        description = pl.ModelDescription(normalize=read.normalize)

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return batch

    model = ProcessedModel(Network(), read.steps)
    tiled = pl.predict(model, IMAGE, axes="CYX", patch_size=16, overlaps=4, progress=False)
    np.testing.assert_allclose(tiled, expected(IMAGE.astype(np.float64)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ([transform("NormalizeIntensityd", nonzero=True)], "its statistics are of the voxels other than 0 only"),
        ([transform("NormalizeIntensityd", subtrahend=3)], "only one of subtrahend and divisor is given"),
        (
            [transform("NormalizeIntensityd", subtrahend=3, divisor=Unevaluated("$x"))],
            r"divisor is '\$x', which is not a number",
        ),
        ([transform("ScaleIntensityRanged", a_min=1, a_max=1)], "a_min equals a_max"),
        ([transform("ScaleIntensityRanged", a_min=1)], "a_max is None, which is not a number"),
        ([transform("ScaleIntensityRangePercentilesd", lower=1, upper=99, relative=True)], "relative is set"),
        (
            [
                transform("ScaleIntensityRanged", a_min=0, a_max=9, b_min=0, b_max=1, clip=True),
                transform("NormalizeIntensityd"),
            ],
            "its statistics are of voxels that a transform before it has changed",
        ),
        (
            [transform("NormalizeIntensityd", channel_wise=True), transform("ScaleIntensityd")],
            "its statistics are of voxels that a transform before it has changed",
        ),
        ([transform("GaussianSmoothd")], "it is not among the transforms that can be applied here"),
        ([transform("scripts.NormalizeIntensityd")], "it is not among the transforms"),
        (Unevaluated("$@a + @b"), r"preprocessing of the bundle is '\$@a \+ @b', which is code: give trust=True"),
        ([Unevaluated("$f()")], r"contains '\$f\(\)', which is not a transform"),
        (["text"], "contains 'text', which is not a transform"),
    ],
)
def test_refused(transforms, message):
    """A transform without which results would be wrong is refused; the message says why."""
    with pytest.raises(pl.ModelError, match=message):
        read_preprocessing(transforms, "image")


@pytest.mark.parametrize(
    ("loading", "x_is_first"),
    [
        ({}, True),
        ({"reader": "ITKReader"}, True),
        ({"reader": "monai.data.PILReader"}, True),
        ({"reader": "NumpyReader"}, False),
        ({"reader": "WSIReader"}, False),
        ({"reverse_indexing": True}, False),
    ],
)
def test_order_of_axes(loading, x_is_first):
    """X is first if the reader of MONAI delivers images so."""
    assert read_preprocessing([transform("LoadImaged", **loading)], "image").x_is_first is x_is_first


@pytest.mark.parametrize(
    ("steps", "postprocess", "left"),
    [
        (
            [{"_target_": "Activationsd", "sigmoid": True}, {"_target_": "AsDiscreted", "threshold": 0.5}],
            "sigmoid|threshold:0.4999999701976776",
            [],
        ),
        (
            [
                {"_target_": "Activationsd", "softmax": [True]},
                {"_target_": "Invertd"},
                {"_target_": "AsDiscreted", "argmax": True},
                {"_target_": "SaveImaged"},
            ],
            "softmax|argmax",
            [],
        ),
        ([{"_target_": "AsDiscreted", "argmax": True, "to_onehot": 3}], None, ["AsDiscreted"]),
        (
            [{"_target_": "Activationsd", "other": "$torch.tanh"}, {"_target_": "AsDiscreted", "argmax": True}],
            None,
            ["Activationsd", "AsDiscreted"],
        ),
        ([{"_target_": "Activationsd", "softmax": True}, {"_target_": "FillHolesd"}], "softmax", ["FillHolesd"]),
        ([{"_target_": "AsDiscreted", "keys": "label", "argmax": True}], None, []),
    ],
)
def test_postprocessing(steps, postprocess, left):
    """Activations and discretization become postprocessing, up to the first transform that cannot; that and the rest are named."""
    found, notes = read_postprocessing(steps, "pred")
    assert (found, [note.partition(",")[0] for note in notes]) == (postprocess, left)


def test_threshold():
    """As in MONAI, a value that equals the threshold is above it."""
    found, _ = read_postprocessing([{"_target_": "AsDiscreted", "threshold": 0.3}], "pred")
    step = pl.parse_postprocessing(found)
    values = np.array([[[np.nextafter(np.float32(0.3), np.float32(0)), np.float32(0.3)]]])
    assert step(values).tolist() == [[[0, 1]]]
