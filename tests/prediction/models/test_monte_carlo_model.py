"""Draws of models that draw random numbers: mean and standard deviation, equal in every run."""

# ruff: noqa: NPY002  # models of users draw from the global generator
from __future__ import annotations

import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchloom as pl
from patchloom.errors import ArgumentError, ModelError, ModelOutputError
from patchloom.prediction.models.identity.model_identity import identify_model
from patchloom.prediction.models.monte_carlo_model import MonteCarloModel, seeded
from patchloom.prediction.models.pytorch.torch_model import as_torch_model
from patchloom.prediction.models.replicas import ReplicatedModel
from patchloom.prediction.planning import fit
from patchloom.prediction.running import monitor
from patchloom.stitching import block_grid

N_DRAWS = 5


def noisy(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return batch + rng.normal(0, 2, batch.shape)


class Recorded:
    """A model that draws from a global generator, and keeps what it returned."""

    def __init__(self, draw: Any) -> None:
        self.draw, self.returned = draw, []

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.returned.append(batch * self.draw(batch.shape))
        return self.returned[-1]


def of_python(shape: tuple[int, ...]) -> np.ndarray:
    return np.array([random.random() for _ in range(np.prod(shape))]).reshape(shape)


GENERATORS = {"numpy": np.random.random_sample, "torch": lambda shape: torch.rand(shape).numpy()}


def network(p: float = 0.5) -> Any:
    """Return a network with dropout and batch normalization, in training mode."""
    layers = [
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.BatchNorm2d(4),
        torch.nn.Dropout2d(p),
        torch.nn.Conv2d(4, 2, 1),
    ]
    return torch.nn.Sequential(*layers)


@pytest.mark.parametrize("generator", [*GENERATORS.values(), of_python], ids=[*GENERATORS, "python"])
def test_moments(generator: Any, rng: np.random.Generator) -> None:
    """The outputs are mean and standard deviation of all draws, and no two draws are equal."""
    recorded, batch = Recorded(generator), rng.random((2, 3, 8, 9))
    drawn = MonteCarloModel(recorded, N_DRAWS)(batch)
    returned = np.array(recorded.returned)
    assert list(drawn) == ["mean", "std"]
    np.testing.assert_allclose(drawn["mean"], returned.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(drawn["std"], returned.std(axis=0), rtol=1e-6)
    assert {values.dtype for values in drawn.values()} == {np.dtype(np.float32)}
    assert len({values.tobytes() for values in returned}) == N_DRAWS


def test_large_offset() -> None:
    """A standard deviation that is small against the mean is not lost to rounding."""
    recorded = Recorded(lambda shape: 1e7 + np.random.random(shape))
    drawn = MonteCarloModel(recorded, 50)(np.ones((1, 1, 8, 8)))
    np.testing.assert_allclose(drawn["std"], np.std(recorded.returned, axis=0), rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: noisy, network, *(lambda g=g: Recorded(g) for g in GENERATORS.values())])
def test_reproducible(make: Any, rng: np.random.Generator) -> None:
    """Draws depend on seed and batch only, and leave all random numbers of the caller as they were."""
    batch, other = rng.random((2, 2, 1, 6, 7)).astype(np.float32)
    torch.manual_seed(0)
    made = make()
    model = MonteCarloModel(made, N_DRAWS, seed=3)
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    first = model(batch)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    np.random.random(), torch.rand(1), random.random()
    model(other)
    again = model(batch)
    assert all(again[name].tobytes() == first[name].tobytes() for name in first)
    another_seed = MonteCarloModel(made, N_DRAWS, seed=4)(batch)
    assert not np.array_equal(another_seed["std"], first["std"])
    assert not np.array_equal(model(batch + np.float32(1e-6))["std"], first["std"])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
@pytest.mark.parametrize(
    "wrap", [lambda net: net, pl.TorchModel, torch.jit.script, pl.AugmentedModel, lambda n: pl.EnsembleModel([n, n])]
)
def test_dropout(wrap: Any, rng: np.random.Generator) -> None:
    """Dropout is active in draws, batch normalization is not, and afterwards the network is in the mode that it had."""
    net = network()
    net[2].eval()
    statistics = [tensor.clone() for tensor in net.buffers()]
    batch = rng.random((2, 1, 8, 8)).astype(np.float32)
    drawn = MonteCarloModel(wrap(net), N_DRAWS)(batch)
    assert drawn["std"].max() > 0
    assert [part.training for part in net] == [True, True, False, True]
    assert all(torch.equal(*pair) for pair in zip(net.buffers(), statistics, strict=True))
    with torch.inference_mode():
        expected = net.eval()(torch.from_numpy(batch))
    np.testing.assert_allclose(pl.TorchModel(net)(batch), expected, atol=1e-6)  # without draws nothing is dropped


def test_dropout_statistics() -> None:
    """Mean and standard deviation over many draws of dropout are those of its distribution: 0 or 1 / (1 - p)."""
    p, n_draws = 0.3, 2000
    drawn = MonteCarloModel(torch.nn.Dropout(p), n_draws)(np.ones((1, 1, 16, 16), np.float32))
    # Of 256 voxels and 2000 draws, the means have a standard error of 0.0009 in all, so 5 of them are 0.0046.
    std = np.sqrt(p / (1 - p))
    assert abs(drawn["mean"].mean() - 1) < 5 * std / np.sqrt(n_draws * 256)
    assert abs(drawn["std"].mean() - std) < 0.005
    # Voxels are drawn independently: means of voxels spread as the means of independent draws do.
    assert 0.8 < drawn["mean"].std() / (std / np.sqrt(n_draws)) < 1.2


def test_equal_draws() -> None:
    """A model without random numbers is noticed, unless the tile is empty."""
    model = MonteCarloModel(lambda batch: batch, 3)
    model(np.zeros((1, 1, 4, 4)))
    with pytest.warns(UserWarning, match="all 3 draws of a batch are equal"):
        model(np.arange(16.0).reshape(1, 1, 4, 4))


def test_several_outputs(rng: np.random.Generator) -> None:
    """Outputs with names have a mean and a standard deviation each."""
    batch = rng.random((1, 1, 4, 4))
    drawn = MonteCarloModel(lambda tiles: {"a/b": tiles * np.random.random(), "c": tiles + np.random.random()}, 3)(
        batch
    )
    assert list(drawn) == ["a/b-mean", "a/b-std", "c-mean", "c-std"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda batch: batch > np.random.random(), "returned bool for a draw"),
        (lambda batch: batch[..., np.random.randint(1, 1000) :], "in two draws"),
        (lambda batch: {str(np.random.random()): batch}, "in two draws"),
    ],
)
def test_wrong_draws(returned: Any, message: str) -> None:
    """Labels, and draws that do not fit together, are refused."""
    with pytest.raises(ModelOutputError, match=message):
        MonteCarloModel(returned, 3)(np.ones((1, 1, 4, 1000)))


@pytest.mark.parametrize("change", [{"n_draws": 1}, {"n_draws": 2.5}, {"seed": -1}, {"model": 3}, {"postprocess": 3}])
def test_arguments(change: dict[str, Any]) -> None:
    """Numbers that make no sense are refused."""
    with pytest.raises(ArgumentError, match=next(iter(change))):
        MonteCarloModel(**{"model": noisy} | change)
    if "n_draws" in change:
        with pytest.raises(ArgumentError, match="n_draws"):
            pl.plan(np.zeros((9, 9)), axes="YX", patch_size=4, n_draws=change["n_draws"])


def test_identity() -> None:
    """Another number of draws, seed or weight is another model."""
    made = [
        MonteCarloModel(noisy, 2),
        MonteCarloModel(noisy, 3),
        MonteCarloModel(noisy, 2, seed=1),
        MonteCarloModel(np.exp, 2),
    ]
    parts = [identify_model(model).parts for model in made]
    assert all(parts.count(found) == 1 for found in parts)
    assert identify_model(pickle.loads(pickle.dumps(made[0]))).parts == parts[0]


def test_seed_of_torch_imported_by_model() -> None:
    """A model that imports PyTorch when it is called draws the same as one that has imported it before."""
    script = """
import numpy as np
from patchloom.prediction.models.monte_carlo_model import MonteCarloModel
def model(batch):
    import torch
    return torch.rand(batch.shape)
print(MonteCarloModel(model, 2)(np.ones((1, 1, 2, 2)))["std"].tolist())
"""
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    here = MonteCarloModel(lambda batch: torch.rand(batch.shape), 2)(np.ones((1, 1, 2, 2)))
    assert run.stdout.strip() == str(here["std"].tolist())


def test_seeded_restores_after_error() -> None:
    """Random numbers are restored after an error too."""
    before = np.random.get_state()[1].tolist()
    with pytest.raises(ZeroDivisionError), seeded(3):
        raise ZeroDivisionError
    assert np.random.get_state()[1].tolist() == before


OPTIONS: dict[str, Any] = {"axes": "YX", "patch_size": 16, "overlaps": 6, "batch_size": 3, "progress": False}


def slices(starts: Any, sizes: Any) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))


@pytest.mark.parametrize("blend", [None, "mean"])
def test_predict(blend: Any, rng: np.random.Generator) -> None:
    """An image has the mean and the standard deviation of the draws of its tiles, cropped or averaged where tiles overlap."""
    image, returned = rng.random((50, 40)).astype(np.float32), []

    def model(batch: np.ndarray) -> np.ndarray:
        returned.append(batch * (1 + np.random.random(batch.shape)))
        return returned[-1]

    result = pl.predict(model, image, **OPTIONS, blend=blend, n_draws=N_DRAWS)
    # The first draws are those with which the outputs were inferred.
    draws = [np.array(returned[start : start + N_DRAWS]) for start in range(N_DRAWS, len(returned), N_DRAWS)]
    tiling = pl.TiledPatching([(1, 1, 50, 40)], 16, 6)
    for name, moment in (("mean", np.mean), ("std", np.std)):
        tiles = np.concatenate([moment(batch, axis=0) for batch in draws])[:, 0]
        total, count = np.zeros((2, 50, 40))
        for tile, spec in zip(tiles, tiling, strict=True):
            kept = slices(spec["crop_coords"], spec["crop_size"]) if blend is None else slices((0, 0), (16, 16))
            place = slices(spec["stitch_coords"] if blend is None else spec["coords"], np.shape(tile[kept]))
            total[place] += tile[kept]
            count[place] += 1
        np.testing.assert_allclose(result[name], total / count, rtol=1e-5)
        assert result[name].dtype == np.float32


@pytest.mark.parametrize("blend", [None, "hann"])
def test_resume(blend: Any, rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that fails again and again ends in the same bytes as one that does not; so do a plan and its copy in JSON."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [600])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    np.save(tmp_path / "image.npy", rng.random((50, 40)).astype(np.float32))
    source, net = tmp_path / "image.npy", network()
    options = {**OPTIONS, "blend": blend, "n_draws": N_DRAWS}
    for name in ("whole", "planned", "resumed"):
        (tmp_path / name).mkdir()
    pl.predict(net, source, tmp_path / "whole" / "out.ome.zarr", **options)
    prepared = pl.plan(source, **{name: value for name, value in options.items() if name != "progress"})
    assert prepared.layout.outputs(0)[1].name == "std"
    pl.PredictionPlan.from_json(prepared.to_json()).run(net, tmp_path / "planned" / "out.ome.zarr", progress=False)
    n_failed = 0
    while n_failed < 3:
        calls = iter(range(100))

        def fails(progress: pl.Progress, calls: Any = calls) -> None:
            if next(calls) == 3:
                raise ZeroDivisionError

        monkeypatch.setattr(monitor, "SECONDS_BETWEEN_CALLS", 0)
        with pytest.raises(ZeroDivisionError):
            pl.predict(net, source, tmp_path / "resumed" / "out.ome.zarr", **options | {"progress": fails})
        n_failed += 1
    pl.predict(net, source, tmp_path / "resumed" / "out.ome.zarr", **options)
    found = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("whole", "planned", "resumed")
    ]
    assert sorted(path.name for path in (tmp_path / "whole").glob("*.zarr")) == [
        "out-mean.ome.zarr",
        "out-std.ome.zarr",
    ]
    assert found[0] == found[1] == found[2]
    with pytest.raises(pl.OutputExistsError):
        pl.predict(net, source, tmp_path / "whole" / "out.ome.zarr", **options)


@pytest.mark.parametrize("make", [network, lambda: Recorded(GENERATORS["numpy"])])
def test_several_devices(make: Any, rng: np.random.Generator) -> None:
    """Devices that take turns give the draws of one device."""
    image, model = rng.random((50, 40)).astype(np.float32), make()
    drawing = ReplicatedModel(tuple(map(as_torch_model, [model] * 3)))
    one, several = (pl.predict(of, image, **OPTIONS, n_draws=N_DRAWS) for of in (model, drawing))
    assert all(one[name].tobytes() == several[name].tobytes() for name in ("mean", "std"))


def test_postprocess(rng: np.random.Generator) -> None:
    """Postprocessing that is given or declared is done to each draw, so that probabilities are averaged; a mean of labels is refused."""
    image, returned = rng.random((12, 16)), []

    class Net:
        description = pl.ModelDescription(postprocess="softmax")

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            returned.append(np.random.normal(0, 3, (len(batch), 2, 12, 16)))
            return returned[-1]

    options = {**OPTIONS, "patch_size": (12, 16), "overlaps": 0, "n_draws": N_DRAWS}
    declared = pl.predict(Net(), image, **options)
    given = pl.predict(Net(), image, **options, postprocess="softmax")
    raw = pl.predict(Net(), image, **options, postprocess="none")
    draws = np.array(returned[-N_DRAWS:])[:, 0]
    probabilities = np.exp(draws) / np.exp(draws).sum(axis=1, keepdims=True)
    for result in (declared, given):
        np.testing.assert_allclose(result["mean"], probabilities.mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(result["std"], probabilities.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(raw["std"], draws.std(axis=0), rtol=1e-5)
    with pytest.raises(ModelError, match="postprocessing that makes labels"):
        pl.predict(Net(), image, **options, postprocess="argmax")


def test_denormalize(rng: np.random.Generator) -> None:
    """Where the normalization is undone, the mean is in gray values and the standard deviation has no offset."""
    image = rng.normal(1000, 50, (40, 50))
    options: dict[str, Any] = {
        **OPTIONS,
        "patch_size": (40, 50),
        "overlaps": 0,
        "n_draws": 200,
        "normalize": "mean_std",
    }

    def model(batch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        return batch + rng.normal(0, 0.5, batch.shape)

    result = pl.predict(model, image, **options, denormalize=True)
    assert np.abs(result["mean"] - image).max() < 5 * 25 / np.sqrt(200)
    assert abs(result["std"].mean() - 25) < 0.5
    with pytest.raises(ArgumentError, match="before the normalization is undone"):
        pl.predict(model, image, **options, denormalize=True, postprocess="sigmoid")
