"""Tensors that stay on a device: cropped, blended and postprocessed there, to the bytes of arrays.

Tensors on the CPU stand for those on a GPU: `tensor_device` asks for the same code. `tests/gpu` repeats this on a GPU.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from device_cases import (
    CASES,
    WRAPPED_CASES,
    OnTensors,
    assert_same,
    check_same_bytes,
    check_wrapped,
    classes,
    make_image,
    options_of,
    root,
)
from patchloom.errors import ModelOutputError
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


@pytest.mark.parametrize(("name", "blend", "n_dims"), CASES)
def test_same_bytes(name: str, blend: Any, n_dims: int) -> None:
    """Tensors give the bytes of arrays, for every output, blend and postprocessing."""
    check_same_bytes(name, blend, n_dims, "cpu")


@pytest.mark.parametrize(("name", "blend", "n_dims"), WRAPPED_CASES)
def test_wrapped(name: str, blend: Any, n_dims: int) -> None:
    """Models around a model that returns tensors give the bytes that they give around one that returns arrays."""
    check_wrapped(name, blend, n_dims, "cpu")


class Twice:
    """A step of the user's own, which gets arrays."""

    identity = "twice"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        return n_channels, dtype

    def __call__(self, block: np.ndarray) -> np.ndarray:
        assert isinstance(block, np.ndarray)
        return block * 2


@pytest.mark.parametrize("steps", ["alone", "in a chain"])
def test_own_step(steps: str) -> None:
    """A step of the user's own gets an array."""
    postprocess: Any = Twice()
    if steps == "in a chain":
        postprocess = pl.PostprocessingChain((pl.SelectChannels((1, 0)), Twice(), pl.AsDtype("int16", 100)))
    options, image = options_of(2, "hann", {"postprocess": postprocess}), make_image(2)
    assert_same(pl.predict(OnTensors(classes), image, **options), pl.predict(classes, image, **options))


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("output", ["out.ome.zarr", "out.npy"])
def test_files(output: str, blend: Any, tmp_path: Path) -> None:
    """Files have the same bytes, too."""
    options, image = options_of(2, blend, {"postprocess": "argmax"}), make_image(2)
    for name, model in (("arrays", classes), ("tensors", OnTensors(classes))):
        (tmp_path / name).mkdir()
        pl.predict(model, image, tmp_path / name / output, **options)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("arrays", "tensors")
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("postprocess", ["uint8", "argmax", "threshold:0.5", "bool", "uint8*255"])
def test_nan(postprocess: str, blend: Any) -> None:
    """NaN that the output cannot store is refused, with the message that arrays get; the tile is named."""
    options, image = options_of(2, blend, {"postprocess": postprocess}), make_image(2)
    image[40:, 60:] = 1

    def model(batch: np.ndarray) -> np.ndarray:
        scores = classes(batch)
        scores[(batch == 1).repeat(4, axis=1)] = np.nan
        return scores

    messages = []
    for each in (model, OnTensors(model)):
        with pytest.raises(ModelOutputError, match="NaN") as caught:
            pl.predict(each, image, **options)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]


def test_nan_in_a_series() -> None:
    """If one image has NaN, the others are finished."""
    options, good = options_of(2, None, {"postprocess": "uint8", "keep_going": True}), make_image(2)
    bad = good.copy()
    bad[20:30, 20:30] = 1

    def model(batch: np.ndarray) -> np.ndarray:
        return np.where(batch == 1, np.nan, root(batch)).astype(np.float32)

    with pytest.raises(pl.SeriesError, match="NaN for the tile") as caught:
        pl.predict(OnTensors(model), [good, bad, good], **options)
    first, none, last = caught.value.results
    assert none is None
    expected = pl.predict(model, good, **options)
    assert_same(first, expected)
    assert_same(last, expected)


@pytest.mark.parametrize("blend", [None, "hann"])
def test_resume(blend: Any, tmp_path: Path) -> None:
    """A run that failed is resumed, to the same bytes as one that did not."""
    options, image = options_of(2, blend, {"skip": "dark:5000,fill=3"}), np.tile(make_image(2), (2, 2))
    np.save(tmp_path / "image.npy", image)
    n_calls = 0

    class Failing(OnTensors):
        def __call__(self, batch: Any) -> Any:
            nonlocal n_calls
            n_calls += 1
            if n_calls == 15:
                raise ValueError("no")
            return super().__call__(batch)

    model = Failing(root)
    with pytest.raises(pl.ModelError, match="ValueError: no"):
        pl.predict(model, tmp_path / "image.npy", tmp_path / "out.ome.zarr", **options)
    assert (tmp_path / "out.ome.zarr.ledger").exists()
    pl.predict(model, tmp_path / "image.npy", tmp_path / "out.ome.zarr", **options)
    pl.predict(root, tmp_path / "image.npy", tmp_path / "whole.ome.zarr", **options)
    found, expected = (
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("c/**/*") if path.is_file()}
        for folder in (tmp_path / "out.ome.zarr", tmp_path / "whole.ome.zarr")
    )
    assert found == expected
    assert found


def test_model_that_changes_its_batch() -> None:
    """A model may change its batch, and return it."""

    class InPlace:
        tensor_device = "cpu"

        def __call__(self, batch: Any) -> Any:
            batch += 1
            return batch

    image = make_image(2).astype(np.float32)
    for blend in (None, "hann"):
        options = options_of(2, blend, {})
        assert_same(pl.predict(InPlace(), image, **options), pl.predict(lambda batch: batch + 1, image, **options))


def test_two_places() -> None:
    """A model may return one output as a tensor on its device, and another as an array."""

    class Mixed:
        tensor_device = "cpu"

        def __call__(self, batch: Any) -> Any:
            tensor = batch if isinstance(batch, torch.Tensor) else torch.from_numpy(batch)
            return {"tensor": tensor.float() / 3, "array": tensor.numpy() / np.float32(7)}

    image, options = make_image(2), options_of(2, "hann", {"skip": "dark:5000,fill=3"})
    assert_same(
        pl.predict(Mixed(), image, **options),
        pl.predict(lambda b: {"tensor": b / np.float32(3), "array": b / np.float32(7)}, image, **options),
    )
