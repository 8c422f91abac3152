"""Models, images and options for tests that compare tensors on a device with arrays, and that comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.model import tensor_device
from patchloom.prediction.models.processed_model import ProcessedModel, VoxelStep

torch = pytest.importorskip("torch")

Function = Callable[[np.ndarray], Any]
Wrapper = Callable[[Any], Any]

SQUARE = {"patch_size": 12, "overlaps": 4}
"""Options of models that turn tiles."""


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
    check_same_bytes_of(*MODELS[name], blend, n_dims, device)


def check_same_bytes_of(
    function: Function, extra: dict[str, Any], blend: Any, n_dims: int, device: str, wrap: Wrapper = lambda model: model
) -> None:
    """Compare predictions of a model, or of a model around it, that stay on a device with arrays."""
    options, image = options_of(n_dims, blend, extra), make_image(n_dims)
    on_tensors = OnTensors(function, device)
    found = pl.predict(wrap(on_tensors), image, **options)
    assert on_tensors.n_tensors > 0 or tensor_device(wrap(on_tensors)) is None
    assert_same(found, pl.predict(wrap(lambda batch: as_arrays(function(batch))), image, **options))


def drifting(batch: np.ndarray) -> np.ndarray:
    """Depend on every flip and turn."""
    return root(batch) + np.arange(batch.shape[-1], dtype=np.float32) / 3 + np.roll(root(batch), 1, axis=-2)


def random(dtype: str, n_channels: int = 1) -> Function:
    def model(batch: np.ndarray) -> np.ndarray:
        noise = np.random.rand(len(batch), n_channels, *batch.shape[2:])  # noqa: NPY002  # seeded for each draw
        return (root(batch) + noise).astype(dtype)

    return model


def ensemble(model: Any) -> Any:
    """Average three models, of which one returns float64."""
    return pl.EnsembleModel([model, pl.AugmentedModel(model, quarter_turns=False), DividedBy3(model)])


class DividedBy3:
    """A model that returns float64, on the device of another."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tensor_device = getattr(model, "tensor_device", None)

    def __call__(self, batch: Any) -> Any:
        returned = self.model(batch)
        double = returned.double() if isinstance(returned, torch.Tensor) else np.float64(returned)
        return double * 0.7


def processed(model: Any) -> Any:
    """Normalize and clip by numbers of the training, as models of CAREamics and MONAI do."""
    before = [VoxelStep("subtract", (301.7,)), VoxelStep("divide", (97.3,)), VoxelStep("at_least", (0.0,))]
    after = [VoxelStep("multiply", (3.1,)), VoxelStep("add", (0.3,)), VoxelStep("at_most", (200.0,))]
    return ProcessedModel(model, before, after)


WRAPPED: dict[str, tuple[Wrapper, Function, dict[str, Any]]] = {
    "flips": (lambda model: pl.AugmentedModel(model, quarter_turns=False), drifting, {}),
    "flips and turns": (pl.AugmentedModel, drifting, SQUARE),
    "flips of integers": (
        pl.AugmentedModel,
        lambda batch: (batch // 7).astype(np.int16),
        SQUARE | {"postprocess": "float32"},
    ),
    "flips of truth values": (pl.AugmentedModel, lambda batch: batch > 30_000, SQUARE),
    "flips of bfloat16": (pl.AugmentedModel, low("bfloat16"), SQUARE),
    "flips of float16": (pl.AugmentedModel, low("float16"), SQUARE),
    "flips of several outputs": (lambda model: pl.AugmentedModel(model, quarter_turns=False), several, {}),
    "flips of complex numbers": (pl.AugmentedModel, lambda batch: root(batch) * (1 + 2j), SQUARE),
    "ensemble": (ensemble, drifting, {"postprocess": "uint16*50"}),
    "ensemble of float16": (lambda model: pl.EnsembleModel([model] * 3), low("float16"), {}),
    "ensemble in two places": (lambda model: pl.EnsembleModel([root, model, root]), drifting, {}),
    "draws": (lambda model: pl.MonteCarloModel(model, 3), random("float32"), {}),
    "draws of float16": (lambda model: pl.MonteCarloModel(model, 7), random("float16"), {}),
    "draws with softmax": (
        lambda model: pl.MonteCarloModel(model, 3, postprocess=pl.Softmax()),
        random("float32", 2),
        {},
    ),
    "draws of an ensemble": (lambda model: pl.MonteCarloModel(ensemble(model), 3), random("float32"), {}),
    "processed": (processed, lambda batch: np.abs(batch) / 3, {}),
    "augmented and processed": (lambda model: pl.AugmentedModel(processed(model)), drifting, SQUARE),
}
"""Models around a model, that model, and options."""

WRAPPED_CASES = [
    *[(name, blend, 2) for name in WRAPPED for blend in (None, "hann")],
    *[(name, "hann", 3) for name in ("flips and turns", "ensemble", "draws", "processed")],
]


def check_wrapped(name: str, blend: Any, n_dims: int, device: str) -> None:
    """Compare a model around a model that stays on a device with the same on arrays."""
    wrap, function, extra = WRAPPED[name]
    check_same_bytes_of(function, extra, blend, n_dims, device, wrap)
