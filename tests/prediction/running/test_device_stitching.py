"""Tensors that stay on a device: cropped, blended and postprocessed there, to the bytes of arrays.

Tensors on the CPU stand for those on a GPU: `tensor_device` asks for the same code. `tests/gpu` repeats this on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelOutputError
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

torch = pytest.importorskip("torch")

Function = Callable[[np.ndarray], Any]


class OnTensors:
    """A model that takes tensors on a device, and returns tensors there."""

    def __init__(self, function: Function, device: str = "cpu") -> None:
        self.function = function
        self.tensor_device = device
        self.identity = getattr(function, "__name__", "")
        self.n_tensors = 0

    def __call__(self, batch: Any) -> Any:
        if not isinstance(batch, np.ndarray):
            assert str(batch.device) == self.tensor_device
            self.n_tensors += 1
            batch = batch.cpu().numpy()
        returned = self.function(batch)
        if isinstance(returned, dict):
            return {name: self._tensor(value) for name, value in returned.items()}
        return self._tensor(returned)

    def _tensor(self, values: Any) -> Any:
        tensor = values if isinstance(values, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(values))
        return tensor.to(self.tensor_device)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


def root(batch: np.ndarray) -> np.ndarray:
    return np.sqrt(batch.astype(np.float32) + 1)


def classes(batch: np.ndarray) -> np.ndarray:
    scores = [np.cos(batch.astype(np.float32) / (7 + number)) for number in range(3)]
    return np.concatenate([*scores, scores[0]], axis=1)


def several(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"root": root(batch), "double": batch.astype(np.float64) / 3, "valid": root(batch)[..., 2:-2, 2:-2]}


def enlarged(batch: np.ndarray) -> np.ndarray:
    return root(batch).repeat(2, axis=-1).repeat(2, axis=-2)


def reduced(batch: np.ndarray) -> np.ndarray:
    return root(batch)[..., ::2, ::2]


def low(name: str) -> Function:
    def model(batch: np.ndarray) -> Any:
        return torch.from_numpy(root(batch)).to(getattr(torch, name))

    return model


def integers(name: str) -> Function:
    def model(batch: np.ndarray) -> np.ndarray:
        return (batch.astype(np.int64) - 30_000).astype(name)

    return model


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


MODELS: dict[str, tuple[Function, dict[str, Any]]] = {
    "root": (root, {}),
    "channels": (classes, {}),
    "several outputs": (several, {}),
    "enlarged": (enlarged, {}),
    "reduced": (reduced, {"seams": "grid"}),
    "margin": (lambda batch: root(batch)[..., 3:-3, 3:-3], {}),
    "float16": (low("float16"), {}),
    "bfloat16": (low("bfloat16"), {}),
    "float64": (low("float64"), {}),
    "complex": (lambda batch: root(batch) * (1 + 2j), {}),
    "int16": (integers("int16"), {"postprocess": "float32"}),
    "int64": (integers("int64"), {"postprocess": "float64"}),
    "bool": (lambda batch: batch > 30_000, {}),
    "uint16, as the image": (identity, {}),
    "to uint8": (root, {"postprocess": "uint8"}),
    "to uint16": (lambda batch: root(batch) * 300 - 9, {"postprocess": "uint16"}),
    "to int32": (lambda batch: root(batch) * 1e9, {"postprocess": "int32"}),
    "to int64": (lambda batch: root(batch) * 1e17, {"postprocess": "int64"}),
    "to uint64": (root, {"postprocess": "uint64"}),
    "to bool": (np.sin, {"postprocess": "bool"}),
    "to float16": (root, {"postprocess": "float16"}),
    "argmax": (classes, {"postprocess": "argmax"}),
    "threshold": (classes, {"postprocess": "threshold:0.1"}),
    "threshold of a channel": (classes, {"postprocess": "threshold:0.1@2"}),
    "select": (classes, {"postprocess": "channels:2,0"}),
    "scaled": (classes, {"postprocess": "uint8*255"}),
    "chain": (classes, {"postprocess": "channels:1,3,2|int16*9000|argmax"}),
    "chain that ends on the host": (classes, {"postprocess": "channels:1,3,2|uint16*9000|argmax"}),
    "denormalized": (root, {"normalize": pl.MeanStd(), "denormalize": True}),
    "softmax": (classes, {"postprocess": "softmax|argmax"}),
    "skip": (root, {"skip": "dark:5000,fill=7"}),
    "skip and postprocess": (classes, {"skip": "dark:5000,fill=2", "postprocess": "argmax"}),
    "normalized": (root, {"normalize": pl.Percentiles(0, 100)}),
}

SHAPES = {2: ("YX", (50, 70), (16, 24), (6, 8)), 3: ("ZYX", (12, 22, 27), (8, 12, 12), (4, 4, 6))}


def options_of(n_dims: int, blend: Any, extra: dict[str, Any]) -> dict[str, Any]:
    axes, _, patch_size, overlaps = SHAPES[n_dims]
    options = {"axes": axes, "patch_size": patch_size, "overlaps": overlaps, "batch_size": 3, "progress": False}
    return options | {"blend": blend} | extra


def make_image(n_dims: int) -> np.ndarray:
    image = np.random.default_rng(3).integers(5001, 2**16, SHAPES[n_dims][1], np.uint16)
    image[..., : image.shape[-2] * 2 // 3, : image.shape[-1] * 2 // 3] //= 20
    return image


def assert_same(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    else:
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


CASES = [
    *[(name, blend, 2) for name in MODELS for blend in (None, "hann")],
    *[("several outputs", blend, 2) for blend in ("gaussian", "linear", "mean")],
    *[(name, blend, 3) for name in ("several outputs", "chain", "skip", "enlarged") for blend in (None, "hann")],
]


@pytest.mark.parametrize(("name", "blend", "n_dims"), CASES)
def test_same_bytes(name: str, blend: Any, n_dims: int) -> None:
    """Tensors give the bytes of arrays, for every output, blend and postprocessing."""
    function, extra = MODELS[name]
    options, image = options_of(n_dims, blend, extra), make_image(n_dims)
    on_tensors = OnTensors(function)
    found = pl.predict(on_tensors, image, **options)
    assert on_tensors.n_tensors > 0
    expected = pl.predict(lambda batch: _as_arrays(function(batch)), image, **options)
    assert_same(found, expected)


def _as_arrays(returned: Any) -> Any:
    if isinstance(returned, torch.Tensor):
        return (returned.float() if returned.dtype == torch.bfloat16 else returned).numpy()
    return returned


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
