"""The methods that find how far a model looks, the best first, and the comparison of two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import lcm

from patchloom.prediction.models.model import Model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.probe.onnx_reach import onnx_model_reach
from patchloom.prediction.probe.report import Reach, Undecided, join_reaches


def _by_onnx_graph(model: Model) -> tuple[Reach, ...] | Undecided | None:
    return onnx_model_reach(model) if isinstance(model, OnnxModel) else None


METHODS: tuple[Callable[[Model], tuple[Reach, ...] | Undecided | None], ...] = (_by_onnx_graph,)
"""The best first: each returns the reach of each output, why it found none, or None for a model of another kind."""


def measure_reach(
    model: Model, methods: Sequence[Callable[[Model], tuple[Reach, ...] | Undecided | None]] = METHODS
) -> tuple[Reach | None, Reach | None, tuple[str, ...]]:
    """Find how far a model looks by the best method, and check it by the second best.

    Parameters
    ----------
    model : callable
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
        reaches = method(model)
        if isinstance(reaches, Undecided):
            remarks.append(f"the reach was not found: {reaches.reason}")
        elif reaches is not None:
            found.append(join_reaches(reaches))
        if len(found) == 2:
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
