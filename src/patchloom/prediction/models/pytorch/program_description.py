"""What a program of `torch.export` declares: its tile sizes, channels, dtype and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from patchloom.prediction.models.model import ModelDescription

_LARGEST_DEFAULT = {2: 512, 3: 96}
"""A program that does not take tiles of about this size prefers its largest."""


class _Sizes(NamedTuple):
    """The sizes that a program takes along one axis: `least + k * step`, up to `most`."""

    least: int
    step: int
    most: int | None
    symbol: str


def describe_program(program: Any) -> ModelDescription:
    """Return what a program declares with certainty.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        The program.

    Returns
    -------
    ModelDescription
        Empty if the program does not take one batch `(B, C, (Z), Y, X)`.

    Notes
    -----
    `torch.export` proves for which sizes a program holds. A size is a number, or an expression of one symbol, such as `8*s` for
    `s ≥ 2`: then sizes are 16 and more in steps of 8.
    """
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [nodes.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    shape: tuple[Any, ...] = tuple(getattr(tensors[0], "shape", ())) if tensors else ()
    if len(shape) not in (4, 5):
        return ModelDescription()
    batch, channels, *space = shape
    return ModelDescription(
        n_dims=len(space),
        in_channels=channels if isinstance(channels, int) else None,
        batch_size=batch if isinstance(batch, int) else None,
        **_tile_sizes(program, space),
        **_output(program, space),
    )


def _tile_sizes(program: Any, space: Sequence[Any]) -> dict[str, Any]:
    if all(isinstance(size, int) for size in space):
        return {"patch_size": tuple(space)}
    found = [_sizes(program, size) for size in space]
    sizes = [of_axis for of_axis in found if of_axis is not None]
    if len(sizes) < len(space) or len({of_axis.symbol for of_axis in sizes}) < len(space):
        return {}  # fixed along one axis only, or tied to each other
    rule = {
        "min_size": tuple(of_axis.least for of_axis in sizes),
        "size_step": tuple(of_axis.step for of_axis in sizes),
    }
    if max(rule["size_step"]) > 1:  # levels of a network that halve the image: their grid has to be that of the image
        rule["origin_multiple"] = rule["size_step"]
    default = _LARGEST_DEFAULT[len(space)]
    if any(of_axis.most is not None and of_axis.most < default for of_axis in sizes):
        rule["preferred_patch_size"] = tuple(_largest(of_axis, default) for of_axis in sizes)
    return rule


def _largest(sizes: _Sizes, default: int) -> int:
    most = max(sizes.least, min(default, default if sizes.most is None else sizes.most))
    return sizes.least + (most - sizes.least) // sizes.step * sizes.step


def _sizes(program: Any, size: Any) -> _Sizes | None:
    """Return the sizes of a dynamic axis if it is `step * symbol + offset`; else None."""
    expression = getattr(getattr(size, "node", None), "expr", None)
    symbols = list(getattr(expression, "free_symbols", ()))
    if expression is None or len(symbols) != 1:
        return None
    (symbol,) = symbols
    step = expression.coeff(symbol)
    offset = expression - step * symbol
    bounds = program.range_constraints.get(symbol)
    if not (step.is_Integer and offset.is_Integer and step > 0) or bounds is None or not bounds.lower.is_Integer:
        return None
    most = int(step * bounds.upper + offset) if bounds.upper.is_Integer else None
    smallest = max(int(bounds.lower), -(int(offset) - 1) // int(step), 0)
    least = int(step) * smallest + int(offset)
    return _Sizes(least if least >= 1 else least + int(step), int(step), most, str(symbol))


def _output(program: Any, space: Sequence[Any]) -> dict[str, Any]:
    """Return the channels, dtype and scale of the output, if there is one and its size is that of the input."""
    (result,) = [node for node in program.graph.nodes if node.op == "output"]
    values: list[Any] = [getattr(node, "meta", {}).get("val") for node in result.args[0]][
        -len(program.graph_signature.user_outputs) :
    ]
    if (
        len(values) != 1
        or not program.call_spec.out_spec.is_leaf()
        or len(getattr(values[0], "shape", ())) != len(space) + 2
    ):
        return {}
    _, channels, *out_space = values[0].shape
    if not isinstance(channels, int):
        return {}
    dtype = str(values[0].dtype).removeprefix("torch.")
    known = {"out_channels": channels, "out_dtype": "float32" if dtype in ("bfloat16", "float16") else dtype}
    if list(map(str, out_space)) == list(map(str, space)):
        known["scale"] = (Fraction(1),) * len(space)
    return known
