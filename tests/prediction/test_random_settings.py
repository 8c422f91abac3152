"""Random settings of `predict` together: against NumPy's computation of the whole image, and against runs in another way.

PATCHLOOM_SETTINGS=2000 runs more of them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import patchloom as pl

torch = pytest.importorskip("torch")

COUNT = int(os.environ.get("PATCHLOOM_SETTINGS", "20"))
GROUP = 10
"""Settings in one test."""

Array = np.ndarray[Any, Any]


class Pointwise(torch.nn.Module):
    """Two layers of single voxels."""

    def __init__(self, n_dims: int, channels: int) -> None:
        super().__init__()
        conv = getattr(torch.nn, f"Conv{n_dims}d")
        self.layers = torch.nn.Sequential(conv(channels, 3, 1), torch.nn.Sigmoid(), conv(3, 2, 1))

    def forward(self, batch: Any) -> Any:
        return self.layers(batch)


def by_torch(model: Any, image: Array) -> Array:
    """Compute the layers of `Pointwise` by NumPy, of a whole image `C(Z)YX`."""
    first, _, last = model.layers
    result = image.astype(np.float64)
    for layer in (first, last):
        weight, bias = (values.detach().numpy().astype(np.float64) for values in (layer.weight, layer.bias))
        flat = weight.reshape(weight.shape[:2])
        result = np.einsum("oc,c...->o...", flat, result) + bias.reshape(-1, *[1] * (image.ndim - 1))
        if layer is first:
            result = 1 / (1 + np.exp(-result))
    return result


def smooth(batch: Array) -> Array:
    """Add the neighbors along the last two axes, zeros outside: it needs a halo of one voxel."""
    padded = np.pad(batch.astype(np.float64), [(0, 0)] * (batch.ndim - 2) + [(1, 1), (1, 1)])
    rows, columns = batch.shape[-2:]
    total = sum(padded[..., y : y + rows, x : x + columns] for y in range(3) for x in range(3))
    return np.asarray(total / 9, np.float32)


def enlarged(batch: Array) -> Array:
    """Repeat each voxel along the last two axes."""
    return batch.astype(np.float32).repeat(2, -1).repeat(2, -2) + 1


def reduced(batch: Array) -> Array:
    """Take every second voxel along the last two axes."""
    return batch[..., ::2, ::2].astype(np.float32)


def two_outputs(batch: Array) -> dict[str, Array]:
    """Return sums, and differences from the first channel."""
    values = batch.astype(np.float32)
    return {"sum": values.sum(axis=1, keepdims=True), "difference": values - values[:, :1]}


@dataclass(frozen=True)
class Case:
    """A model, an image and the options of a call, with the result by NumPy."""

    model: Any
    image: Array
    options: dict[str, Any]
    expected: dict[str, Array]
    """By the name of the output; empty for a single one."""


def choose(rng: np.random.Generator, *values: Any) -> Any:
    return values[rng.integers(len(values))]


def make_case(rng: np.random.Generator) -> Case:
    """Draw a case."""
    is_3d = bool(rng.integers(2))
    kind = choose(rng, "torch", "torch", "smooth", "enlarged", "reduced", "two", "ensemble", "draws", "augmented")
    planes = is_3d and (kind in ("smooth", "enlarged", "reduced") or bool(rng.integers(2)))
    channels, n_samples = int(rng.integers(1, 4)), int(rng.integers(1, 3))
    space = tuple(rng.integers(30, 61, 2).tolist())
    space = (int(rng.integers(3, 12)), *space) if is_3d else space
    image = rng.normal(40, 20, (n_samples, channels, *space)).astype(
        choose(rng, "float32", "uint8", "int16", "float64")
    )
    n_dims = 2 if planes or not is_3d else 3
    options: dict[str, Any] = {"axes": "SCZYX" if is_3d else "SCYX", "progress": False}
    side = int(rng.integers(8, 25))
    side += side % 2
    patch = (side, side + 2) if n_dims == 2 else (int(rng.integers(2, 8)), side, side + 2)
    options["patch_size"] = patch
    halo = (
        int(rng.integers(1, 3)) if kind == "smooth" else int(rng.integers(3)) * int(kind not in ("reduced", "enlarged"))
    )
    halos = (halo, halo) if n_dims == 2 else (0, halo, halo)
    overlaps = [2 * width + int(rng.integers(size - 2 * width)) // 2 for width, size in zip(halos, patch, strict=True)]
    if kind in ("reduced", "enlarged"):
        overlaps = [overlap // 2 * 2 for overlap in overlaps]
    options |= {"overlaps": overlaps} | ({"halo": halos} if halo else {})
    selected = image
    if rng.random() < 0.4:
        indices = rng.integers(0, channels, rng.integers(1, 4)).tolist()
        options["channels"] = indices
        selected = image[:, indices]
    values = selected
    if rng.random() < 0.4:
        per = choose(rng, "source", "channel", "sample", "sample_channel")
        options["normalize"] = f"mean_std/{per}" if per != "source" else "mean_std"
        parts = {"source": (0, 1), "channel": (0,), "sample": (1,), "sample_channel": ()}[per]
        over = (*parts, *range(2, image.ndim))
        wide = selected.astype(np.float64)
        values = (wide - wide.mean(over, keepdims=True)) / wide.std(over, keepdims=True)
    options["blend"] = choose(rng, "none", "none", "hann", "gaussian", "linear", "mean")
    if kind in ("reduced", "enlarged") and options["blend"] != "none":
        options["blend"] = "none"
    if rng.random() < 0.3 and kind not in ("reduced", "enlarged"):
        options["origin_multiple"] = choose(rng, 2, 3) if kind != "smooth" else 1
    options["batch_size"] = int(rng.integers(1, 6))
    seams = (None, "grid") if kind == "reduced" else (None, "centered", "grid")
    options["seams"] = choose(rng, *seams) if options["blend"] == "none" else None
    options["padding"] = choose(rng, "reflect", "edge", "wrap", "constant")
    model, expected = make_model(rng, kind, n_dims, values, options)
    if rng.random() < 0.25 and kind in ("torch", "two", "ensemble", "augmented"):
        # There is no oracle for these: the whole is predicted tile by tile, and a region of it, in other batches, is compared.
        if rng.random() < 0.5:
            options["skip"] = "dark:60"
        else:
            options["voxel_size"], options["pixel_size"] = 0.5, choose(rng, 0.25, 0.75, 1.0)
            options["patch_size"], options["overlaps"] = (32, 40) if n_dims == 2 else (32, 32, 40), 4
            options.pop("origin_multiple", None)
        whole = predict(Case(model, image, {**options, "batch_size": 1}, {}))
        expected = {name: array.reshape(n_samples, -1, *space) for name, array in whole.items()}
    if rng.random() < 0.4:
        expected = with_region(rng, kind, is_3d, space, options, expected)
    return Case(model, image, options, expected)


def make_model(
    rng: np.random.Generator, kind: str, n_dims: int, values: Array, options: dict[str, Any]
) -> tuple[Any, dict[str, Array]]:
    """Return a model of this kind, and its outputs for the whole image `SC(Z)YX`."""
    functions: dict[str, Callable[[Array], Any]] = {"smooth": smooth, "enlarged": enlarged, "reduced": reduced}
    if kind in functions:
        return functions[kind], {"": np.asarray(functions[kind](values), np.float64)}
    if kind == "two":
        return two_outputs, {name: np.asarray(array) for name, array in two_outputs(values).items()}
    torch.manual_seed(int(rng.integers(1000)))
    networks = [Pointwise(n_dims, values.shape[1]).eval() for _ in range(2 if kind == "ensemble" else 1)]
    whole = [np.stack([by_torch(network, sample) for sample in values]) for network in networks]
    mean = np.mean(whole, axis=0)
    if kind == "ensemble":
        return networks, {"": mean}
    if kind == "draws":
        options["n_draws"] = 2
        return networks[0], {"mean": mean, "std": np.zeros_like(mean)}
    if kind == "augmented":
        return pl.AugmentedModel(pl.TorchModel(networks[0])), {"": mean}
    if rng.random() < 0.3 and options["blend"] == "none":
        options["postprocess"] = "argmax"
        return networks[0], {"": mean.argmax(axis=1)[:, None]}
    if rng.random() < 0.3:
        options["device"] = "cpu,cpu"
    return networks[0], {"": mean}


def with_region(
    rng: np.random.Generator,
    kind: str,
    is_3d: bool,
    space: tuple[int, ...],
    options: dict[str, Any],
    expected: dict[str, Array],
) -> dict[str, Array]:
    """Choose a region, and return this part of the results."""
    region, index = {}, [slice(None), slice(None)]
    factor = {"enlarged": 2.0, "reduced": 0.5}.get(kind, 1.0)
    for axis, size in zip("zyx" if is_3d else "yx", space, strict=True):
        start = int(rng.integers(size - 2)) // 2 * 2
        stop = min(size, start + 2 + int(rng.integers(size)) // 2 * 2)
        if rng.random() < 0.3:
            start, stop = 0, size
        else:
            region[axis] = (start, stop)
        scale = 1.0 if axis == "z" else factor
        index.append(slice(int(start * scale), int(np.ceil(stop * scale))))
    if region:
        options["region"] = region
    return {name: array[tuple(index)] for name, array in expected.items()}


def predict(case: Case, **changes: Any) -> dict[str, Array]:
    result = pl.predict(case.model, case.image, **{**case.options, **changes})
    return dict(result) if isinstance(result, dict) else {"": result}


def same(first: dict[str, Array], second: dict[str, Array]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def check_whole(case: Case, found: dict[str, Array]) -> None:
    """Compare with the whole image."""
    assert found.keys() == case.expected.keys()
    for name, expected in case.expected.items():
        array = found[name].reshape(expected.shape)
        if np.issubdtype(array.dtype, np.integer) and "postprocess" in case.options:
            assert (array != expected).mean() < 0.005  # channels that are equal but for rounding
        else:
            np.testing.assert_allclose(array, expected, rtol=2e-4, atol=2e-4)


def check_other_ways(case: Case, found: dict[str, Array], rng: np.random.Generator, folder: Any) -> None:
    """Compare with a run of the plan after JSON, and with a run that is stopped and resumed."""
    planned = pl.plan(
        case.image, model=case.model, **{k: v for k, v in case.options.items() if k not in ("progress", "device")}
    )
    again = type(planned).from_json(planned.to_json())
    result = again.run(case.model, sources=case.image, device=case.options.get("device"), progress=False)
    assert same(dict(result) if isinstance(result, dict) else {"": result}, found)
    stop, left = threading.Event(), [int(rng.integers(1, 6))]

    def count(progress: Any) -> None:
        left[0] -= 1
        if not left[0]:
            stop.set()

    output = folder / "out.ome.zarr"
    try:
        predict(case, output=output, progress=count, stop=stop)
    except pl.StoppedError:
        predict(case, output=output)
    written = {name: folder / (f"out-{name}.ome.zarr" if name else "out.ome.zarr") for name in found}
    for name, path in written.items():
        (stored,) = pl.open_stacks(path)
        pixels = np.stack(
            [
                stored.extract_patch(
                    sample, list(range(stored.data_shape[1])), (0,) * len(stored.data_shape[2:]), stored.data_shape[2:]
                )
                for sample in range(stored.data_shape[0])
            ]
        )
        assert np.array_equal(pixels.reshape(found[name].shape), found[name])


@pytest.mark.filterwarnings("ignore:all 2 draws of a batch are equal")
@pytest.mark.parametrize("group", range(-(-COUNT // GROUP)))
def test_settings(group, tmp_path):
    """Tiles in any settings together equal the whole image, and the same run in another way has the same values."""
    for index in range(group * GROUP, (group + 1) * GROUP):
        rng = np.random.default_rng([12, index])
        case = make_case(rng)
        try:
            found = predict(case)
            check_whole(case, found)
            (tmp_path / str(index)).mkdir()
            check_other_ways(case, found, rng, tmp_path / str(index))
        except Exception as error:
            error.add_note(f"settings {index}: {case.model}, {case.image.dtype} {case.image.shape}, {case.options}")
            raise
