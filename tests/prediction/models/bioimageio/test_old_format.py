"""Packages of format 0.4, in their own terms: axes as letters, halo of all axes, offsets of half the difference, modes of statistics."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelError

Make = Callable[..., Any]


@pytest.fixture
def make_old(tmp_path: Path, onnx_network: Callable[..., bytes]) -> Callable[..., Path]:
    """Write a package of format 0.4 of one network."""
    import bioimageio.spec as spec  # noqa: PLC0415  # the folder is skipped without it

    def make(
        network: tuple[str, ...] = ("float[N, 1, H, W]",),
        source: dict[str, Any] | None = None,
        output: dict[str, Any] | None = None,
        **extra: Any,
    ) -> Path:
        folder = tmp_path / "old"
        folder.mkdir(exist_ok=True)
        (folder / "net.onnx").write_bytes(onnx_network(*network))
        for name in ("in.npy", "out.npy", "README.md", "cover.png"):
            (folder / name).touch()
        digest = hashlib.sha256((folder / "net.onnx").read_bytes()).hexdigest()
        content = {
            "format_version": "0.4.10",
            "type": "model",
            "name": "old network",
            "description": "for a test",
            "authors": [{"name": "Ada"}],
            "cite": [{"text": "none", "url": "https://example.com"}],
            "documentation": "README.md",
            "license": "MIT",
            "covers": ["cover.png"],
            "timestamp": "2022-01-01T00:00:00",
            "test_inputs": ["in.npy"],
            "test_outputs": ["out.npy"],
            "inputs": [
                {
                    "name": "raw",
                    "axes": "bcyx",
                    "data_type": "float32",
                    "shape": {"min": [1, 1, 16, 16], "step": [0, 0, 8, 8]},
                }
                | (source or {})
            ],
            "outputs": [
                {
                    "name": "out",
                    "axes": "bcyx",
                    "data_type": "float32",
                    "shape": {"reference_tensor": "raw", "scale": [1, 1, 1, 1], "offset": [0, 0, 0, 0]},
                }
                | (output or {})
            ],
            "weights": {"onnx": {"source": "net.onnx", "sha256": digest, "opset_version": 17}},
            **extra,
        }
        context = spec.ValidationContext(perform_io_checks=False, log_warnings=False)
        built = spec.build_description(content, context=context)
        assert not isinstance(built, spec.InvalidDescr), built.validation_summary.format()
        (folder / "rdf.yaml").write_text(json.dumps(content))  # JSON is YAML
        return folder

    return make


def quiet(model: Any, image: np.ndarray, **settings: Any) -> Any:
    return pl.predict(model, image, progress=False, **{"axes": "YX"} | settings)


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """An image whose sizes are no multiples of anything."""
    return rng.normal(100, 20, (83, 101)).astype(np.float32)


def test_sizes_and_halo(make_old: Make, image: np.ndarray) -> None:
    """Steps are those of the shape, and the overlap is twice the halo."""
    model = pl.load_model(make_old(output={"halo": [0, 0, 6, 4]}))
    described = model.description
    assert (described.min_size, described.size_step, described.overlaps) == ((16, 16), (8, 8), (12, 8))
    np.testing.assert_array_equal(quiet(model, image), image)


def test_fixed_sizes_with_halo(make_old: Make, image: np.ndarray) -> None:
    """Fixed sizes may have a halo, which format 0.5 cannot express."""
    model = pl.load_model(
        make_old(source={"shape": [1, 1, 48, 32]}, output={"shape": [1, 1, 48, 32], "halo": [0, 0, 8, 4]})
    )
    assert (model.description.patch_size, model.description.overlaps) == ((48, 32), (16, 8))
    np.testing.assert_array_equal(quiet(model, image), image)


def test_offset_and_scale(make_old: Make, image: np.ndarray) -> None:
    """An offset is half of the difference of the sizes, and the scale that of the voxels."""
    shape = {"reference_tensor": "raw", "scale": [1, 1, 2, 2], "offset": [0, 0, -4, -4]}
    network = (
        "float[N, 1, H, W]",
        (
            'f = Constant <value = float[4] {1, 1, 2, 2}> () a = Resize <mode = "nearest"> (x, , f) '
            "b = Constant <value = int64[2] {4, 4}> () e = Constant <value = int64[2] {-4, -4}> () "
            "d = Constant <value = int64[2] {2, 3}> () y = Slice(a, b, e, d)"
        ),
        "float[N, 1, H2, W2] y",
    )
    model = pl.load_model(make_old(network, output={"shape": shape}))
    assert (model.description.scale, model.description.overlaps) == ((Fraction(2),) * 2, (4, 4))
    np.testing.assert_array_equal(quiet(model, image), image.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_sample", "axes": "cyx"}},
            lambda x: (x - x.mean(axis=(1, 2, 3), keepdims=True)) / (x.std(axis=(1, 2, 3), keepdims=True) + 1e-6),
        ),
        (
            {"name": "zero_mean_unit_variance", "kwargs": {"mode": "per_dataset", "axes": "yx"}},
            lambda x: (x - x.mean(axis=(0, 2, 3), keepdims=True)) / (x.std(axis=(0, 2, 3), keepdims=True) + 1e-6),
        ),
        (
            {
                "name": "scale_range",
                "kwargs": {"mode": "per_sample", "axes": "yx", "min_percentile": 2, "max_percentile": 98},
            },
            lambda x: (
                (x - np.percentile(x, 2, axis=(2, 3), keepdims=True))
                / (np.subtract(*np.percentile(x, (98, 2), axis=(2, 3), keepdims=True)) + 1e-6)
            ),
        ),
        (
            {
                "name": "zero_mean_unit_variance",
                "kwargs": {"mode": "fixed", "axes": "yx", "mean": [90, 100], "std": [2, 4]},
            },
            lambda x: (x - np.reshape([90, 100], (2, 1, 1))) / (np.reshape([2, 4], (2, 1, 1)) + 1e-6),
        ),
        (
            {"name": "zero_mean_unit_variance", "kwargs": {"mode": "fixed", "axes": "cyx", "mean": 90, "std": 2}},
            lambda x: (x - 90) / (2 + 1e-6),
        ),
        (
            {"name": "scale_linear", "kwargs": {"axes": "yx", "gain": [2, 3], "offset": 1}},
            lambda x: x * np.reshape([2, 3], (2, 1, 1)) + 1,
        ),
        ({"name": "clip", "kwargs": {"min": 90, "max": 110}}, lambda x: np.clip(x, 90, 110)),
        ({"name": "binarize", "kwargs": {"threshold": 100}}, lambda x: x > 100),
    ],
)
def test_preprocessing(step: Any, expected: Any, make_old: Make, rng: np.random.Generator) -> None:
    """Steps are named by letters of axes and modes."""
    image = rng.normal(100, 20, (2, 2, 43, 37)).astype(np.float32)
    shape = {"min": [1, 2, 16, 16], "step": [0, 0, 8, 8]}
    package = make_old(("float[N, 2, H, W]",), source={"shape": shape, "preprocessing": [step]})
    found = quiet(pl.load_model(package), image, axes="SCYX", patch_size=24, overlaps=0)
    np.testing.assert_allclose(found, expected(image.astype(np.float64)), atol=2e-5)


def test_postprocessing(make_old: Make, image: np.ndarray) -> None:
    """The last dtype is that of the description."""
    package = make_old(
        output={"data_type": "uint8", "postprocessing": [{"name": "binarize", "kwargs": {"threshold": 100}}]}
    )
    found = quiet(pl.load_model(package), image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image > 100)


def test_digest(make_old: Make) -> None:
    """A file with another SHA-256 is refused."""
    package = make_old()
    (package / "net.onnx").write_bytes(b"another network")
    with pytest.raises(ModelError, match="has the SHA-256"):
        pl.load_model(package)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            {"name": "scale_mean_variance", "kwargs": {"mode": "per_sample", "axes": "yx", "reference_tensor": "raw"}},
            "'scale_mean_variance', which cannot be run on tiles",
        ),
        (
            {"name": "scale_range", "kwargs": {"mode": "per_sample", "axes": "yx"}},
            "'scale_range', which cannot be run on tiles",
        ),
    ],
)
def test_refusals(step: Any, message: str, make_old: Make) -> None:
    """A step that needs the whole output is refused by its name."""
    with pytest.raises(ModelError, match=message):
        pl.load_model(make_old(output={"postprocessing": [step]}))


def test_missing_test_tensors(make_old: Make) -> None:
    """Test tensors that cannot be read are an error of the check."""
    with pytest.raises(ModelError, match=r"the test tensor in\.npy cannot be read"):
        pl.check_model(pl.load_model(make_old()))
