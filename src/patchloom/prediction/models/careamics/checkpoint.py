"""Checkpoints of CAREamics: the network, its weights, and the statistics by which its images are normalized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.argument_checks import shown
from patchloom.errors import ModelError
from patchloom.prediction.models.processed_model import VoxelStep
from patchloom.prediction.models.pytorch.pickled_file import read_pickled

ALGORITHMS = ("n2v", "care", "n2n")
"""Algorithms that CAREamics 0.3 predicts with."""

_STATISTICS = {
    "mean_std": ("means", "stds"),
    "min_max": ("mins", "maxes"),
    "quantile": ("lower_quantile_values", "upper_quantile_values"),
}
"""For each normalization, the names of its two statistics, behind `input_` or `target_`."""

_EPSILON = {"mean_std": 1e-6, "min_max": 1e-8, "quantile": 1e-8}
"""What CAREamics adds to a divisor."""


@dataclass(frozen=True, slots=True)
class CareamicsCheckpoint:
    """What a checkpoint of CAREamics contains that prediction needs; made by `read_checkpoint`."""

    algorithm: str
    """`"n2v"`, `"care"` or `"n2n"`."""

    network: Mapping[str, Any]
    """The arguments of CAREamics' `UNet`."""

    weights: Mapping[str, Any] = field(repr=False)
    """The tensors of the network, by their names in it."""

    before: tuple[VoxelStep, ...]
    """How images are normalized."""

    after: tuple[VoxelStep, ...]
    """How that is undone in predictions."""

    @property
    def n_dims(self) -> int:
        """Number of spatial axes of the network."""
        return int(self.network["conv_dims"])


def read_checkpoint(path: Path, *, trust: bool = False) -> CareamicsCheckpoint:
    """Read a checkpoint of CAREamics.

    Parameters
    ----------
    path : Path
        The file.
    trust : bool
        Whether code in the file may be run to read it; files that CAREamics writes contain none.

    Raises
    ------
    ModelError
        If it cannot be read, is not of CAREamics 0.3, or is of an algorithm that CAREamics does not predict with.

    Examples
    --------
    >>> read_checkpoint(Path("run.ckpt"))
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no model file run.ckpt: check the path
    """
    content = read_pickled(path, trust=trust)
    algorithm = _at(content, "hyper_parameters", "algorithm_config")
    if not isinstance(algorithm, Mapping) or not isinstance(_at(content, "state_dict"), Mapping):
        raise ModelError(
            f"{path} is not a checkpoint of CAREamics: it lacks hyper_parameters.algorithm_config; name the function that makes the network of "
            "another tool with network= (--network)"
        )
    _check_algorithm(algorithm, path)
    normalization = _at(content, "datamodule_hyper_parameters", "data_config", "normalization")
    if not isinstance(normalization, Mapping):
        raise ModelError(
            f"{path} lacks datamodule_hyper_parameters.data_config.normalization, by which images are normalized: save it with "
            "CAREamics 0.3 or newer"
        )
    before, after = _steps(normalization, path)
    return CareamicsCheckpoint(
        algorithm=algorithm["algorithm"],
        network=_checked_network(algorithm["model"], path),
        weights={
            name.removeprefix("model."): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith("model.")
        },
        before=before,
        after=after,
    )


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, Mapping) else None
    return content


def _check_algorithm(config: Mapping[str, Any], path: Path) -> None:
    architecture, algorithm = _at(config, "model", "architecture"), config.get("algorithm")
    if algorithm not in ALGORITHMS or architecture != "UNet":
        raise ModelError(
            f"{path} is of the algorithm {shown(algorithm)} with the network {shown(architecture)}: CAREamics predicts with a UNet "
            f"trained by {', '.join(ALGORITHMS)} only; export another network by torch.jit or torch.export"
        )


def _checked_network(model: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the arguments of the network; the ones used here are checked."""
    limits = {"conv_dims": (2, 3), "depth": (1, 10), "in_channels": (1, 2**16), "num_classes": (1, 2**16)}
    for name, (least, most) in limits.items():
        value = model.get(name)
        if type(value) is not int or not least <= value <= most:
            raise ModelError(
                f"{path} declares {name} of {shown(value)} for its UNet: it must be from {least} to {most}; save it with CAREamics "
                "0.3 or newer"
            )
    return dict(model)


def _steps(normalization: Mapping[str, Any], path: Path) -> tuple[tuple[VoxelStep, ...], tuple[VoxelStep, ...]]:
    """Return how images are normalized, and how that is undone in predictions: the same arithmetic as in CAREamics."""
    method = normalization.get("name")
    if method == "none":
        return (), ()
    if method not in _STATISTICS:
        raise ModelError(
            f"{path} has the normalization {shown(method)}: it must be one of CAREamics 0.3: none, {', '.join(_STATISTICS)}"
        )
    lower, upper = _statistics(normalization, "input", path)
    epsilon = _EPSILON[method]
    spread = upper if method == "mean_std" else _differences(upper, lower)
    before = (VoxelStep("subtract", lower), VoxelStep("divide", _plus(spread, epsilon)))
    if normalization.get("skip_target"):
        return before, ()
    lower_name, _ = _STATISTICS[method]
    if normalization.get(f"target_{lower_name}") is not None:
        lower, upper = _statistics(normalization, "target", path)
    factor = _plus(upper, epsilon) if method == "mean_std" else _differences(upper, lower)
    return before, (VoxelStep("multiply", factor), VoxelStep("add", lower))


def _statistics(normalization: Mapping[str, Any], part: str, path: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    names = [f"{part}_{name}" for name in _STATISTICS[normalization["name"]]]
    found = [normalization.get(name) for name in names]
    for name, values in zip(names, found, strict=True):
        if not _is_finite(values):
            raise ModelError(
                f"{path} has {name} of {shown(values)}: it must be a number for each channel; train first, as CAREamics measures it then"
            )
    lower, upper = found
    return tuple(lower), tuple(upper)  # type: ignore[arg-type]  # sequences, as checked


def _is_finite(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) > 0
        and all(isinstance(value, (int, float)) and isfinite(value) for value in values)
    )


def _plus(values: Sequence[float], epsilon: float) -> tuple[float, ...]:
    """Add a number in float32, as CAREamics does."""
    return tuple((np.array(values, np.float32) + np.float32(epsilon)).tolist())


def _differences(upper: Sequence[float], lower: Sequence[float]) -> tuple[float, ...]:
    """Subtract in float32, as CAREamics does."""
    return tuple((np.array(upper, np.float32) - np.array(lower, np.float32)).tolist())
