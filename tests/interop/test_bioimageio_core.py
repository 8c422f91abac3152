"""Packages of bioimage.io give the same here as in bioimageio.core, and packages written here pass its own tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser

import patchloom as pl

core = pytest.importorskip("bioimageio.core")
spec = pytest.importorskip("bioimageio.spec")
torch = pytest.importorskip("torch")

Make = Callable[..., Any]

BLUR = (
    "w = Constant <value = float[2, 2, 3, 3] {" + ", ".join(f"{0.01 * (i % 7 - 2):.2f}" for i in range(36)) + "}> () "
)
NETWORK = f"{BLUR} y = Conv <pads = [1, 1, 1, 1]> (x, w)"


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """Two channels of other gray values, of a size that the packages accept."""
    return np.stack([rng.normal(100, 20, (64, 80)), rng.normal(500, 90, (64, 80))]).astype(np.float32)


@pytest.fixture
def package(tmp_path: Path) -> Make:
    """Write a package of a network with two channels."""

    def make(preprocessing: Any = (), postprocessing: Any = (), halo: int = 1) -> Path:
        text = f'<ir_version: 8, opset_import: ["": 17]> net (float[N, 2, H, W] x) => (float[N, 2, H, W] y) {{ {NETWORK} }}'
        (tmp_path / "net.onnx").write_bytes(parser.parse_model(text).SerializeToString())
        (tmp_path / "README.md").write_text("# Validation\nnone")
        channel = {"type": "channel", "channel_names": ["dna", "actin"]}
        sizes = [{"type": "space", "id": axis, "size": {"min": 16, "step": 8}} for axis in "yx"]
        outputs = [{**size, "size": {"tensor_id": "input", "axis_id": size["id"]}, "halo": halo} for size in sizes]
        content = {
            "name": "a network",
            "description": "for a test",
            "authors": [{"name": "Ada"}],
            "license": "MIT",
            "documentation": {"source": tmp_path / "README.md"},
            "inputs": [
                {"id": "input", "axes": [{"type": "batch"}, channel, *sizes], "preprocessing": list(preprocessing)}
            ],
            "outputs": [
                {"id": "output", "axes": [{"type": "batch"}, channel, *outputs], "postprocessing": list(postprocessing)}
            ],
            "weights": {"onnx": {"source": tmp_path / "net.onnx", "opset_version": 17}},
        }
        with warnings.catch_warnings(), spec.ValidationContext(perform_io_checks=False, log_warnings=False):
            warnings.simplefilter("ignore")
            described = spec.model.v0_5.ModelDescr(**content)
            return Path(spec.save_bioimageio_package_as_folder(described, output_path=tmp_path / "package"))

    return make


def predict_by_core(package: Path, image: np.ndarray) -> np.ndarray:
    """Predict a whole image by bioimageio.core, without padding the halo, as its own test does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = spec.load_description(package, format_version="discover")
        pipeline = core.create_prediction_pipeline(described)
        sample = core.digest_spec.create_sample_for_model(described, inputs={"input": image[np.newaxis]})
        with pipeline:
            predicted = pipeline.predict_sample_without_blocking(
                sample, skip_input_padding=True, skip_output_cropping=True
            )
        return predicted.members["output"].to_numpy()[0]


def step(name: str, **kwargs: Any) -> dict[str, Any]:
    return {"id": name, "kwargs": kwargs} if kwargs else {"id": name}


@pytest.mark.parametrize(
    ("preprocessing", "postprocessing"),
    [
        ([], []),
        ([step("scale_linear", gain=0.01, offset=-1)], [step("sigmoid")]),
        ([step("scale_linear", axis="channel", gain=[0.01, 0.002], offset=[0.1, 0.2])], [step("softmax")]),
        ([step("fixed_zero_mean_unit_variance", mean=100, std=20)], [step("clip", min=0.0, max=0.5)]),
        (
            [step("fixed_zero_mean_unit_variance", axis="channel", mean=[100, 500], std=[20, 90])],
            [step("binarize", threshold=0.1)],
        ),
        ([step("zero_mean_unit_variance", axes=["channel", "y", "x"])], []),
        ([step("zero_mean_unit_variance", axes=["y", "x"])], [step("scale_linear", gain=2, offset=1)]),
        ([step("scale_range", axes=["y", "x"], min_percentile=1, max_percentile=99.8)], []),
        (
            [
                step("scale_range", axes=["channel", "y", "x"], min_percentile=5, max_percentile=95),
                step("clip", min=0.0, max=1.0),
            ],
            [step("sigmoid"), step("ensure_dtype", dtype="float64")],
        ),
        ([step("zero_mean_unit_variance")], []),
    ],
    ids=lambda steps: "+".join(one["id"] for one in steps) or "none",
)
def test_prediction(preprocessing: Any, postprocessing: Any, package: Make, image: np.ndarray) -> None:
    """A package tiled here is equal to the whole image in bioimageio.core, within the rounding of float32."""
    made = package(preprocessing, postprocessing)
    expected = predict_by_core(made, image)
    found = pl.predict(pl.load_model(made), image, axes="CYX", patch_size=32, progress=False)
    assert found.dtype == expected.dtype
    if expected.dtype == bool:
        assert (found != expected).mean() < 1e-3  # of values at the threshold
    else:
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-5)


def passes(package: Path) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        summary = core.test_description(package)
    assert summary.status in {"passed", "valid-format"}, summary.format()
    return bool(summary.status == "passed")


@pytest.mark.parametrize("normalize", [None, "mean_std/channel", "percentiles:1,99"])
def test_exported_onnx(normalize: Any, package: Make, image: np.ndarray, tmp_path: Path) -> None:
    """An exported ONNX network passes the test of bioimageio.core."""
    network = package() / "net.onnx"
    made = pl.export_bioimageio(
        tmp_path / "exported",
        network,
        image,
        axes="CYX",
        normalize=normalize,
        overlaps=2,
        authors=("Ada",),
        name="a network",
    )
    assert passes(made)


@pytest.mark.parametrize("n_dims", [2, 3])
def test_exported_torch(n_dims: int, image: np.ndarray, tmp_path: Path, rng: np.random.Generator) -> None:
    """An exported network of PyTorch passes the test of bioimageio.core."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d if n_dims == 2 else torch.nn.Conv3d
    module = torch.nn.Sequential(conv(1, 4, 3, padding=1), torch.nn.ReLU(), conv(4, 1, 3))
    pixels = rng.random((60, 70) if n_dims == 2 else (20, 30, 34), np.float32)
    made = pl.export_bioimageio(
        tmp_path / "exported",
        module,
        pixels,
        axes="ZYX"[-n_dims:],
        normalize="mean_std",
        overlaps=8,
        authors=("Ada",),
        name="a network",
    )
    assert passes(made)
