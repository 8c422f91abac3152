"""Packages, made and checked by bioimageio.spec."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

spec = pytest.importorskip("bioimageio.spec")

AXES = {
    "b": {"type": "batch"},
    "y": {"type": "space", "id": "y", "size": {"min": 16, "step": 8}},
    "x": {"type": "space", "id": "x", "size": {"min": 16, "step": 8}},
    "z": {"type": "space", "id": "z", "size": {"min": 4, "step": 2}},
}


def _axes(letters: str, channels: Sequence[str], changes: dict[str, Any]) -> list[dict[str, Any]]:
    known = AXES | {"c": {"type": "channel", "channel_names": list(channels)}}
    return [{**known[letter], **changes.get(letter, {})} for letter in letters]


@pytest.fixture(scope="session")
def axes() -> Callable[..., list[dict[str, Any]]]:
    """Describe the axes of an input; changes are by letter."""
    return lambda letters, channels=("dna",), **changes: _axes(letters, channels, changes)


@pytest.fixture(scope="session")
def out_axes() -> Callable[..., list[dict[str, Any]]]:
    """Describe the axes of an output as large as the input; changes are by letter."""

    def describe(letters: str, channels: Sequence[str] = ("mask",), **changes: Any) -> list[dict[str, Any]]:
        sizes = {letter: {"size": {"tensor_id": "input", "axis_id": letter}} for letter in "zyx"}
        return [
            {**axis, **changes.get(letter, {})}
            for letter, axis in zip(letters, _axes(letters, channels, sizes), strict=True)
        ]

    return describe


@pytest.fixture
def make_package(
    tmp_path: Path,
    onnx_network: Callable[..., bytes],
    axes: Callable[..., list[dict[str, Any]]],
    out_axes: Callable[..., list[dict[str, Any]]],
) -> Callable[..., Path]:
    """Write a package of format 0.5, by default of a network that returns its input; `weights` are entries by format."""
    made = iter(range(1000))

    def make(
        *,
        network: tuple[str, ...] = ("float[N, 1, H, W]",),
        inputs: Sequence[dict[str, Any]] | None = None,
        outputs: Sequence[dict[str, Any]] | None = None,
        preprocessing: Sequence[dict[str, Any]] = (),
        postprocessing: Sequence[dict[str, Any]] = (),
        letters: str = "bcyx",
        test: tuple[np.ndarray, ...] | None = None,
        data: str = "float32",
        out_data: str = "float32",
        weights: dict[str, Any] | None = None,
        as_zip: bool = False,
        **extra: Any,
    ) -> Path:
        folder = tmp_path / f"made{next(made)}"
        folder.mkdir()
        if weights is None:
            (folder / "net.onnx").write_bytes(onnx_network(*network))
            weights = {"onnx": {"source": folder / "net.onnx", "opset_version": 17}}
        (folder / "README.md").write_text("# Validation\nnone")
        content: dict[str, Any] = {
            "name": "a small network",
            "description": "for a test",
            "authors": [{"name": "Ada"}],
            "license": "MIT",
            "documentation": {"source": folder / "README.md"},
            "inputs": [
                {
                    "id": "input",
                    "axes": inputs or axes(letters),
                    "preprocessing": list(preprocessing),
                    "data": {"type": data},
                }
            ],
            "outputs": [
                {
                    "id": "output",
                    "axes": outputs or out_axes(letters),
                    "postprocessing": list(postprocessing),
                    "data": {"type": out_data},
                }
            ],
            "weights": weights,
            **extra,
        }
        if test is not None:
            for index, (tensor, array) in enumerate(zip([*content["inputs"], *content["outputs"]], test, strict=True)):
                np.save(folder / f"test{index}.npy", array)
                tensor["test_tensor"] = {"source": folder / f"test{index}.npy"}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # bioimageio.spec leaves files open
            with spec.ValidationContext(perform_io_checks=test is not None, log_warnings=False):
                described = spec.model.v0_5.ModelDescr(**content)
                package = Path(spec.save_bioimageio_package_as_folder(described, output_path=folder / "package"))
            del described
        return _pack(package) if as_zip else package

    return make


def _pack(folder: Path) -> Path:
    """Put a folder into a zip archive beside it."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


@pytest.fixture(scope="session")
def pack() -> Callable[[Path], Path]:
    """Put a folder into a zip archive beside it."""
    return _pack


@pytest.fixture
def rewrite() -> Callable[..., Path]:
    """Change the description of a package by a function, after bioimageio.spec made it."""

    def apply(package: Path, change: Callable[[Any], Any]) -> Path:
        description = next(path for path in package.iterdir() if path.suffix == ".yaml")
        content = spec.utils.read_yaml(description.read_text())
        change(content)
        description.write_text(json.dumps(content, default=str))  # JSON is YAML
        return package

    return apply
