"""Checkpoints in the format of CAREamics 0.3.5, for a network of another architecture, as CAREamics is not installed here.

`make interop` trains with CAREamics itself, and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

MEAN_STD = {
    "name": "mean_std",
    "per_channel": True,
    "skip_target": False,
    "input_means": [1000.5],
    "input_stds": [50.25],
    "target_means": None,
    "target_stds": None,
}


class SmallUNet(torch.nn.Module):
    """A network with one level, which looks less far than CAREamics' UNet of depth 1."""

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        super().__init__()
        dims = arguments["conv_dims"]
        conv = getattr(torch.nn, f"Conv{dims}d")
        self.first = conv(arguments["in_channels"], 4, 3, padding=1)
        self.pool = getattr(torch.nn, f"MaxPool{dims}d")(2)
        self.below = conv(4, 4, 3, padding=1)
        self.up = torch.nn.Upsample(scale_factor=2, mode="bilinear" if dims == 2 else "trilinear")
        self.last = conv(8, arguments["num_classes"], 1)

    def forward(self, batch: Any) -> Any:
        features = torch.relu(self.first(batch))
        below = self.up(torch.relu(self.below(self.pool(features))))
        return self.last(torch.cat([features, below], dim=1))


def checkpoint(
    *,
    algorithm: str = "n2v",
    normalization: Mapping[str, Any] = MEAN_STD,
    conv_dims: int = 2,
    in_channels: int = 1,
    num_classes: int = 1,
    **model: Any,
) -> dict[str, Any]:
    """Return the content of a checkpoint."""
    arguments = {
        "architecture": "UNet",
        "conv_dims": conv_dims,
        "num_classes": num_classes,
        "in_channels": in_channels,
        "depth": 1,
        "n2v2": False,
        **model,
    }
    torch.manual_seed(3)
    return {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"model.{name}": tensor for name, tensor in SmallUNet(arguments).state_dict().items()},
        "hyper_parameters": {"algorithm_config": {"algorithm": algorithm, "loss": algorithm, "model": arguments}},
        "datamodule_hyper_parameters": {"data_config": {"axes": "YX", "normalization": dict(normalization)}},
        "careamics_info": {"version": "0.3.5", "experiment_name": "test"},
    }


@pytest.fixture
def small_unet() -> type[Any]:
    """Return the class of the network."""
    return SmallUNet


@pytest.fixture
def content() -> dict[str, Any]:
    """Return the content of a checkpoint."""
    return checkpoint()


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a checkpoint, changed by a function, and returns its path."""

    def save(change: Callable[[dict[str, Any]], Any] = lambda content: None, **arguments: Any) -> Path:
        content = checkpoint(**arguments)
        change(content)
        path = tmp_path / "run.ckpt"
        torch.save(content, path)
        return path

    return save
