"""The methods that find how far a model looks, the best first, and the comparison of two of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np

from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.pytorch.torch_model import TorchModel
from patchloom.prediction.probe.noise_reach import noise_reach
from patchloom.prediction.probe.onnx_reach import onnx_model_reach
from patchloom.prediction.probe.report import Reach, Undecided, join_reaches
from patchloom.prediction.probe.torch_reach import SizeFacts, torch_reach
from patchloom.prediction.probe.watched_model import WatchedModel

_SECONDS_OF_CHECK = 2.0
"""Time for a second method."""

_SECONDS_OF_NOISE = 5.0

_LARGEST = 2**20
"""Voxels of the largest tile that is tried."""

_TWO = 2
"""Number of methods that are compared."""

_SHARE = 2
"""A method may take one in so many parts of the time that is left."""


@dataclass(frozen=True)
class Asked:
    """A model of which the reach is measured, and what is known of it.

    Parameters
    ----------
    run : WatchedModel
        The model.
    n_channels : int
        Number of channels of its input.
    dtype : numpy dtype
        Dtype of its input.
    sizes : tuple of SizeFacts
        The sizes of tiles that it accepts, and its stride, `(z,) y, x`.
    is_checking : bool
        Whether another method has found a reach.
    """

    run: WatchedModel
    n_channels: int
    dtype: np.dtype[Any]
    sizes: tuple[SizeFacts, ...]
    is_checking: bool = False

    @property
    def seconds(self) -> float:
        """Time for a method."""
        seconds = self.run.seconds_left / _SHARE
        return min(seconds, _SECONDS_OF_CHECK) if self.is_checking else seconds


Found = tuple[Reach, ...] | Undecided | None
"""The reach of each output, or why there is none; None for a model of another kind."""


def _by_onnx_graph(asked: Asked) -> Found:
    return onnx_model_reach(asked.run.model) if isinstance(asked.run.model, OnnxModel) else None


def _by_nan(asked: Asked) -> Found:
    model = asked.run.model
    if not isinstance(model, TorchModel) or model.inputs or model.dropout:
        return None
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return torch_reach(model.module, asked.n_channels, asked.sizes, seconds=asked.seconds, largest=_LARGEST)


def _by_noise(asked: Asked) -> Found:
    return noise_reach(
        lambda batch: list(asked.run(batch).values()),
        asked.n_channels,
        asked.sizes,
        dtype=asked.dtype,
        n_draws=1 if asked.is_checking else 4,
        seconds=min(asked.seconds, _SECONDS_OF_NOISE),
        largest=_LARGEST,
    )


METHODS: tuple[Callable[[Asked], Found], ...] = (_by_onnx_graph, _by_nan, _by_noise)
"""The best first."""


def measure_reach(
    asked: Asked, methods: Sequence[Callable[[Asked], Found]] = METHODS
) -> tuple[Reach | None, Reach | None, tuple[str, ...]]:
    """Find how far a model looks by the best method, and check it by the second best.

    Parameters
    ----------
    asked : Asked
        The model.
    methods : sequence of callable
        The methods, the best first.

    Returns
    -------
    reach : Reach or None
        Of each number the larger one of both methods; None if no method found it.
    checked_by : Reach or None
        What the second method found.
    remarks : tuple of str
        Why methods found nothing, and where two disagree.
    """
    found: list[Reach] = []
    remarks: list[str] = []
    for method in methods:
        reaches = method(replace(asked, is_checking=bool(found)))
        if isinstance(reaches, Undecided):
            remarks += [] if found else [f"the reach was not found: {reaches.reason}"]
            if method is _by_nan:  # what NaN does not find, noise does not find
                break
        elif reaches is not None:
            found.append(join_reaches(reaches))
        if len(found) == _TWO:
            break
    if not found:
        return None, None, tuple(remarks)
    if len(found) == 1:
        return found[0], None, tuple(remarks)
    best, second = found
    joined = _larger(best, second)
    if joined != best:
        remarks.append(
            f"{best.method} found a reach of {best.context} and a stride of {best.stride}, {second.method} {second.context} and "
            f"{second.stride}: the larger numbers are used"
        )
    return joined, second, tuple(remarks)


def _larger(best: Reach, second: Reach) -> Reach:
    """Return the reach by the best method, with what the second found to be larger."""
    return replace(
        best,
        before=tuple(map(max, best.before, second.before)),
        after=tuple(map(max, best.after, second.after)),
        stride=tuple(map(lcm, best.stride, second.stride)),
        global_operators=tuple(dict.fromkeys((*best.global_operators, *second.global_operators))),
    )
