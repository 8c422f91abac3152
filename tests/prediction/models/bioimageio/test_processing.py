"""Every step of pre- and postprocessing gives what its definition gives for the whole image, however it is tiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelError

Make = Callable[..., Any]

TWO = ("float[N, 2, H, W]",)
PER_AXES = {
    "source": (0, 1, 2, 3),
    "channel": (0, 2, 3),
    "sample": (1, 2, 3),
    "sample_channel": (2, 3),
}
NAMES = ("batch", "channel", "y", "x")


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """Two samples of two channels, all of other gray values."""
    levels = np.arange(1, 5).reshape(2, 2, 1, 1)
    return (levels * rng.normal(100, 20, (2, 2, 43, 53))).astype(np.float32)


@pytest.fixture
def two_channels(make_package: Make, axes: Make, out_axes: Make) -> Callable[..., Any]:
    """Load a package of a network with two channels that returns its input."""

    def load(*preprocessing: Any, post: Any = (), **settings: Any) -> Any:
        described = {"inputs": axes("bcyx", "rg"), "outputs": out_axes("bcyx", "rg"), "network": TWO} | settings
        return pl.load_model(make_package(preprocessing=list(preprocessing), postprocessing=list(post), **described))

    return load


def step(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


def tiled(model: Any, image: np.ndarray) -> Any:
    return pl.predict(model, image, axes="SCYX", patch_size=24, overlaps=0, progress=False)


def per_channel(*numbers: float) -> np.ndarray:
    return np.reshape(numbers, (1, 2, 1, 1))


FIXED = {
    "scale_linear": (step("scale_linear", gain=0.5, offset=3), lambda x: x * 0.5 + 3),
    "scale_linear of channels": (
        step("scale_linear", axis="channel", gain=[0.5, 2], offset=[1, 0]),
        lambda x: x * per_channel(0.5, 2) + per_channel(1, 0),
    ),
    "gain of channels": (step("scale_linear", axis="channel", gain=[0.5, 2]), lambda x: x * per_channel(0.5, 2)),
    "fixed mean": (
        step("fixed_zero_mean_unit_variance", mean=100, std=20),
        lambda x: (x - 100) / (20 + 1e-6),
    ),
    "fixed means of channels": (
        step("fixed_zero_mean_unit_variance", axis="channel", mean=[100, 200], std=[20, 1e-6]),
        lambda x: (x - per_channel(100, 200)) / (per_channel(20, 1e-6) + 1e-6),
    ),
    "clip": (step("clip", min=90, max=210), lambda x: np.clip(x, 90, 210)),
    "clip below": (step("clip", min=90), lambda x: np.maximum(x, 90)),
    "clip above": (step("clip", max=210), lambda x: np.minimum(x, 210)),
    "binarize": (step("binarize", threshold=150), lambda x: x > 150),
    "binarize channels": (
        step("binarize", axis="channel", threshold=[100, 300]),
        lambda x: x > per_channel(100, 300),
    ),
    "ensure_dtype": (step("ensure_dtype", dtype="uint8"), lambda x: x.astype(np.uint8)),
}


@pytest.mark.parametrize("name", FIXED)
def test_fixed_preprocessing(name: str, two_channels: Make, image: np.ndarray) -> None:
    """A step with fixed numbers runs on each tile before the network, which gets the described dtype."""
    image = image.clip(1, 255) if "dtype" in name else image
    chosen, expected = FIXED[name]
    network = ("bool[N, 2, H, W]",) if "binarize" in name else ("uint8[N, 2, H, W]",) if "dtype" in name else TWO
    model = two_channels(step("ensure_dtype", dtype="float32"), chosen, network=network, out_data="float32")
    assert model.description.normalize is None
    found = tiled(model, image)
    np.testing.assert_allclose(found, expected(image.astype(np.float64)).astype(np.float32), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_postprocessing(name: str, two_channels: Make, image: np.ndarray) -> None:
    """A step with fixed numbers runs on each output of the network."""
    image = image.clip(1, 255) if "dtype" in name else image
    chosen, expected = FIXED[name]
    found = tiled(two_channels(post=[chosen], out_data="uint8" if "dtype" in name else "float32"), image)
    if name.startswith("binarize"):
        assert found.dtype == bool
    np.testing.assert_allclose(found, expected(image.astype(np.float64)), rtol=1e-5, atol=1e-5)


def test_sigmoid(two_channels: Make, image: np.ndarray) -> None:
    """The sigmoid is that of each voxel, without warnings for large numbers."""
    logits = (image - 200) * 5
    found = tiled(two_channels(post=[step("sigmoid")]), logits)
    wide = logits.astype(np.float64).clip(-700, 700)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-wide)), rtol=1e-5, atol=1e-30)


def test_softmax(two_channels: Make, image: np.ndarray) -> None:
    """The softmax is along the channels, also of large numbers."""
    powers = np.exp(image.astype(np.float64) - image.max(axis=1, keepdims=True))
    found = tiled(two_channels(post=[step("softmax")]), image)
    np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("per", PER_AXES)
def test_mean_std(per: str, two_channels: Make, image: np.ndarray) -> None:
    """Mean and deviation are those of the whole image, over the axes that the step names."""
    model = two_channels(step("zero_mean_unit_variance", axes=[NAMES[axis] for axis in PER_AXES[per]], eps=0.1))
    wide = image.astype(np.float64)
    mean, std = (statistic(wide, axis=PER_AXES[per], keepdims=True) for statistic in (np.mean, np.std))
    np.testing.assert_allclose(tiled(model, image), (wide - mean) / (std + 0.1), atol=1e-5)


@pytest.mark.parametrize("per", PER_AXES)
def test_percentiles(per: str, two_channels: Make, image: np.ndarray) -> None:
    """Percentiles are those of the whole image, over the axes that the step names."""
    names = [NAMES[axis] for axis in PER_AXES[per]]
    model = two_channels(step("scale_range", axes=names, min_percentile=5, max_percentile=99.8, eps=0.1))
    wide = image.astype(np.float64)
    low, high = np.percentile(wide, (5, 99.8), axis=PER_AXES[per], keepdims=True)
    np.testing.assert_allclose(tiled(model, image), (wide - low) / (high - low + 0.1), atol=1e-5)


def test_all_axes(two_channels: Make, image: np.ndarray) -> None:
    """A step that names no axes takes the statistics of all of them."""
    assert two_channels(step("zero_mean_unit_variance")).description.normalize == "mean_std:eps=1e-06"
    assert two_channels(step("scale_range")).description.normalize == "percentiles:0.0,100.0,eps=1e-06"


@pytest.mark.parametrize("gain", [0.25, -3.0])
def test_folded_steps(gain: float, two_channels: Make, image: np.ndarray) -> None:
    """Multiplications and additions before a statistic are folded into it, eps and sign included."""
    model = two_channels(
        step("scale_linear", gain=gain, offset=7),
        step("fixed_zero_mean_unit_variance", mean=3, std=2),
        step("zero_mean_unit_variance", axes=["y", "x"], eps=0.1),
        step("clip", min=-1, max=1),
    )
    wide = (image.astype(np.float64) * gain + 7 - 3) / (2 + 1e-6)
    mean, std = (statistic(wide, axis=(2, 3), keepdims=True) for statistic in (np.mean, np.std))
    np.testing.assert_allclose(tiled(model, image), np.clip((wide - mean) / (std + 0.1), -1, 1), atol=1e-5)


def test_percentiles_after_scaling(two_channels: Make, image: np.ndarray) -> None:
    """Percentiles of scaled values are folded, too."""
    model = two_channels(step("scale_linear", gain=0.01), step("scale_range", axes=["channel", "y", "x"], eps=0.05))
    wide = image.astype(np.float64) * 0.01
    low, high = wide.min(axis=(1, 2, 3), keepdims=True), wide.max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(tiled(model, image), (wide - low) / (high - low + 0.05), atol=1e-5)


@pytest.mark.parametrize(
    ("preprocessing", "message"),
    [
        (
            [step("clip", min=0, max=1), step("zero_mean_unit_variance")],
            "has 'clip' before 'zero_mean_unit_variance', so that the statistics are not those of the image",
        ),
        (
            [step("scale_linear", axis="channel", gain=[1, 2]), step("scale_range")],
            "has 'scale_linear' with another number for each channel before 'scale_range'",
        ),
        ([step("scale_linear", gain=-1), step("scale_range")], r"multiplies by -1\.0 before 'scale_range'"),
        (
            [step("scale_range"), step("zero_mean_unit_variance")],
            "has two statistics, 'scale_range' and 'zero_mean_unit_variance'",
        ),
        ([step("clip", min_percentile=1)], "has 'clip' by percentiles"),
        (
            [step("zero_mean_unit_variance", axes=["channel", "x"])],
            "over the axes c, x, so that each plane along y has statistics of its own",
        ),
        ([step("softmax", axis="x")], "has 'softmax' along the axis 'x', which tiles divide"),
        ([step("scale_linear", axis="channel", gain=[1, 2, 3])], "has 3 numbers for the channels .* has 2 channels"),
        ([step("sharpen")], "preprocessing has the unknown step 'sharpen': known steps are binarize"),
        (["sharpen"], "preprocessing has the unknown step 'sharpen'"),
    ],
)
def test_refused_preprocessing(
    preprocessing: Any, message: str, two_channels: Make, rewrite: Make, make_package: Make, axes: Make, out_axes: Make
) -> None:
    """A step that cannot be run on tiles is refused by its name."""
    package = make_package(network=TWO, inputs=axes("bcyx", "rg"), outputs=out_axes("bcyx", "rg"))
    with pytest.raises(ModelError, match=message):
        pl.load_model(rewrite(package, lambda content: content["inputs"][0].update(preprocessing=preprocessing)))


@pytest.mark.parametrize(
    ("postprocessing", "message"),
    [
        (
            step("scale_mean_variance", reference_tensor="input"),
            "'scale_mean_variance', which cannot be run on tiles, as it needs statistics of the whole output",
        ),
        (step("zero_mean_unit_variance"), "'zero_mean_unit_variance', which cannot be run on tiles"),
        (step("scale_range", reference_tensor="input"), "'scale_range', which cannot be run on tiles"),
        (
            step("cellpose_flow_dynamics", cellprob_threshold=0, flow_threshold=1, do_3D=False),
            "'cellpose_flow_dynamics', which cannot be run on tiles, as it makes instances",
        ),
        (
            {"id": "custom", "callable": "run", "source": "code.py"},
            "'custom', which cannot be run on tiles, as it is code",
        ),
        (step("watershed"), "postprocessing has the unknown step 'watershed'"),
    ],
)
def test_refused_postprocessing(postprocessing: Any, message: str, rewrite: Make, make_package: Make) -> None:
    """A step that needs the whole output is refused by its name."""
    with pytest.raises(ModelError, match=message):
        pl.load_model(
            rewrite(make_package(), lambda content: content["outputs"][0].update(postprocessing=[postprocessing]))
        )
