"""What is read from a checkpoint of CAREamics, and which files are refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.careamics.checkpoint import read_checkpoint
from patchloom.prediction.models.processed_model import apply_steps

torch = pytest.importorskip("torch")

LOW, HIGH = [100.0, 20.5], [300.25, 500.125]
TARGET = ([7.5, 3.0], [11.0, 4.25])


def statistics(name: str, lower: str, upper: str, **others: Any) -> dict[str, Any]:
    return {"name": name, f"input_{lower}": LOW, f"input_{upper}": HIGH, **others}


def targets(lower: str, upper: str) -> dict[str, Any]:
    return {f"target_{lower}": TARGET[0], f"target_{upper}": TARGET[1]}


CASES = [
    (statistics("mean_std", "means", "stds"), (LOW, HIGH)),
    (statistics("mean_std", "means", "stds") | targets("means", "stds"), TARGET),
    (statistics("mean_std", "means", "stds", skip_target=True) | targets("means", "stds"), None),
    (statistics("min_max", "mins", "maxes"), (LOW, HIGH)),
    (statistics("min_max", "mins", "maxes") | targets("mins", "maxes"), TARGET),
    (
        statistics("quantile", "lower_quantile_values", "upper_quantile_values", lower_quantiles=[0.01]),
        (LOW, HIGH),
    ),
]


@pytest.mark.parametrize(("normalization", "restored"), CASES, ids=lambda case: isinstance(case, dict) and case["name"])
def test_normalization(saved, normalization, restored, rng):
    """Images are normalized by the statistics of the training, per channel, and predictions are restored by those of the target."""
    read = read_checkpoint(saved(in_channels=2, num_classes=2, normalization=normalization))
    batch = rng.integers(0, 1000, (1, 2, 5, 6)).astype(np.uint16)
    low, high = (np.array(values)[:, None, None] for values in (LOW, HIGH))
    spread = high if normalization["name"] == "mean_std" else high - low
    np.testing.assert_allclose(apply_steps(batch, read.before), (batch - low) / spread, rtol=1e-6, atol=1e-7)
    predicted = torch.from_numpy(rng.normal(size=(1, 2, 5, 6)).astype(np.float32))
    expected = predicted.numpy()
    if restored is not None:
        low, high = (np.array(values)[:, None, None] for values in restored)
        expected = expected * (high if normalization["name"] == "mean_std" else high - low) + low
    np.testing.assert_allclose(apply_steps(predicted, read.after).numpy(), expected, rtol=1e-6, atol=1e-5)


def test_no_normalization(saved):
    """Without a normalization, nothing is done to images."""
    read = read_checkpoint(saved(normalization={"name": "none"}))
    assert (read.before, read.after) == ((), ())


@pytest.mark.parametrize("algorithm", ["n2v", "care", "n2n"])
def test_algorithm(saved, algorithm):
    """All algorithms that CAREamics predicts with are read."""
    assert read_checkpoint(saved(algorithm=algorithm)).algorithm == algorithm


def put(value: Any, *keys: str):
    """Return a function that replaces a value in a checkpoint."""

    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return change


NORMALIZATION = ("datamodule_hyper_parameters", "data_config", "normalization")
MODEL = ("hyper_parameters", "algorithm_config", "model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            put("hdn", "hyper_parameters", "algorithm_config", "algorithm"),
            "is of the algorithm 'hdn' with the network 'UNet'",
        ),
        (
            put("LVAE", *MODEL, "architecture"),
            "with the network 'LVAE': CAREamics predicts with a UNet trained by n2v, care, n2n",
        ),
        (
            put({"lr": 1}, "hyper_parameters"),
            "is not a checkpoint of CAREamics: it lacks hyper_parameters.algorithm_config",
        ),
        (put(None, "state_dict"), "is not a checkpoint of CAREamics"),
        (put({}, "datamodule_hyper_parameters"), "lacks datamodule_hyper_parameters.data_config.normalization"),
        (
            put("zscore", *NORMALIZATION, "name"),
            "has the normalization 'zscore': it must be one of CAREamics 0.3: none, mean_std",
        ),
        (
            put(None, *NORMALIZATION, "input_means"),
            "has input_means of None: it must be a number for each channel; train first",
        ),
        (put([float("nan")], *NORMALIZATION, "input_stds"), "has input_stds of \\[nan\\]"),
        (put(["1"], *NORMALIZATION, "input_stds"), "has input_stds of \\['1'\\]"),
        (put(99, *MODEL, "depth"), "declares depth of 99 for its UNet: it must be from 1 to 10"),
        (put(4, *MODEL, "conv_dims"), "declares conv_dims of 4"),
        (put(True, *MODEL, "in_channels"), "declares in_channels of True"),
        (put(None, *MODEL), "with the network None"),
    ],
)
def test_refused(saved, change, message):
    """A checkpoint of another tool, algorithm or version is refused, and the message says what it lacks."""
    with pytest.raises(pl.ModelError, match=message):
        read_checkpoint(saved(change))


class Hostile:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_hostile_pickle(tmp_path, content, write):
    """Code in a file is not run, unless it is trusted; the message names it."""
    path, trap = tmp_path / "run.ckpt", tmp_path / "trap"
    write(content | {"callbacks": Hostile(trap)}, path)
    with pytest.raises(pl.ModelError, match=r"contains more than tensors and plain values.*trust=True \(--trust\)"):
        read_checkpoint(path)
    assert not trap.exists()


def test_trusted(saved):
    """A checkpoint with other objects than tensors is read if it is trusted."""
    path = saved(put(Path("here"), "callbacks"))
    with pytest.raises(pl.ModelError, match=r"\(pathlib"):
        read_checkpoint(path)
    assert read_checkpoint(path, trust=True).algorithm == "n2v"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[: len(content) // 2], "is not a file that torch.save wrote, or it is damaged"),
        (lambda content: b"", "is empty"),
        (lambda content: b"text\n" * 9, "is not a file that torch.save wrote, or it is damaged"),
        (
            lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
            "is a pointer to a file in Git LFS",
        ),
    ],
)
def test_damaged(saved, damage, message):
    """A file that is cut off, empty or something else is refused."""
    path = saved()
    path.write_bytes(damage(path.read_bytes()))
    for trust in (False, True):
        with pytest.raises(pl.ModelError, match=message):
            read_checkpoint(path, trust=trust)


def test_folder(tmp_path):
    """A folder is not a file."""
    with pytest.raises(pl.ModelError, match="is a folder"):
        read_checkpoint(tmp_path)


def test_arithmetic(saved):
    """The numbers are rounded to float32 before the small number is added, as in CAREamics."""
    read = read_checkpoint(saved(put([50.1], *NORMALIZATION, "input_stds")))
    assert read.before[1].operand == (float(np.float32(50.1) + np.float32(1e-6)),)
    assert read.before[0].operand == (1000.5,)
