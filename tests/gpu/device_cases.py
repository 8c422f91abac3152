"""Models, images and options for tests that compare tensors on a device with arrays, and that comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl

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
    "skip to uint16": (
        lambda batch: root(batch) * 300,
        {"skip": "dark:5000,fill=40000", "postprocess": "uint16"},
    ),
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


def as_arrays(returned: Any) -> Any:
    if isinstance(returned, torch.Tensor):
        return (returned.float() if returned.dtype == torch.bfloat16 else returned).numpy()
    return returned


def check_same_bytes(name: str, blend: Any, n_dims: int, device: str) -> None:
    """Compare predictions that stay on a device with arrays."""
    function, extra = MODELS[name]
    options, image = options_of(n_dims, blend, extra), make_image(n_dims)
    on_tensors = OnTensors(function, device)
    found = pl.predict(on_tensors, image, **options)
    assert on_tensors.n_tensors > 0
    assert_same(found, pl.predict(lambda batch: as_arrays(function(batch)), image, **options))
