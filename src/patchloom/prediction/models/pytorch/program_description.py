"""What a program of `torch.export` declares: its tile sizes, channels, dtype and batch size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

from patchloom._optional import require
from patchloom.prediction.models.model import ModelDescription

_LARGEST_DEFAULT = {2: 512, 3: 96}
"""A program that does not take tiles of about this size prefers its largest."""


_TRIED = 160
"""Number of sizes along an axis that are checked for conditions."""


_NUMBERS_OF_TILES = (2, 4, 8)
"""Numbers of tiles that are tried, if the program leaves them free."""


class _Sizes(NamedTuple):
    """The sizes that a program takes along one axis: `least + k * step`, up to `most`."""

    least: int
    step: int
    most: int | None
    symbol: str


def describe_program(program: Any, module: Any) -> ModelDescription:
    """Return what a program declares with certainty.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        The program.
    module : torch.nn.Module
        What `program.module()` returned. It checks sizes before it runs.

    Returns
    -------
    ModelDescription
        Empty if the program does not take one batch `(B, C, (Z), Y, X)`.

    Notes
    -----
    `torch.export` proves for which sizes a program holds. A size is a number, or an expression of one symbol, such as `8*s` for
    `s ≥ 2`: then sizes are 16 and more in steps of 8. Sizes that are declared free may be limited by conditions on them, such as
    `s % 4 == 0`. The program checks these on a tensor without values, for each size of a range, so nothing is computed.
    """
    nodes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    tensors = [nodes.get(name) for name in program.graph_signature.user_inputs if isinstance(name, str)]
    shape: tuple[Any, ...] = tuple(getattr(tensors[0], "shape", ())) if tensors else ()
    if len(shape) not in (4, 5):
        return ModelDescription()
    batch, channels, *space = shape
    known: dict[str, Any] = {"n_dims": len(space), "in_channels": channels if isinstance(channels, int) else None}
    if isinstance(batch, int):
        known["batch_size"] = batch
    if all(isinstance(size, int) for size in space):
        known["patch_size"] = tuple(space)
    else:
        known |= _free_sizes(program, _guard(module, tensors), batch, space)
    return ModelDescription(**known, **_output(program, space))


def _guard(module: Any, tensors: Sequence[Any]) -> Callable[[Sequence[int]], bool] | None:
    """Return what checks the shape of a batch; None if the program checks nothing else than ranges, or more than one tensor."""
    check = getattr(module, "_guards_fn", None)
    if check is None or len(tensors) != 1:
        return None
    torch = require("torch", extra="torch")
    channels = tensors[0].shape[1]

    def accepts(shape: Sequence[int]) -> bool:
        full = (shape[0], channels if isinstance(channels, int) else 2, *shape[1:])
        try:
            check(torch.empty(full, dtype=tensors[0].dtype, device="meta"))
        except AssertionError:
            return False
        return True

    return accepts


def _free_sizes(
    program: Any, accepts: Callable[[Sequence[int]], bool] | None, batch: Any, space: Sequence[Any]
) -> dict[str, Any]:
    found = [_sizes(program, size) for size in space]
    sizes = [of_axis for of_axis in found if of_axis is not None]
    if len(sizes) < len(space) or len({of_axis.symbol for of_axis in sizes}) < len(space):
        return {}  # fixed along one axis only, or tied to each other
    if accepts is None:
        return _size_rule(sizes)
    numbers = (batch,) if isinstance(batch, int) else _NUMBERS_OF_TILES
    found_for = (_limited(accepts, n, sizes) for n in numbers)
    limited = next((of_number for of_number in found_for if of_number is not None), None)
    if limited is None:
        return {}
    rule = _size_rule(limited)
    if not isinstance(batch, int):
        space = [of_axis.least for of_axis in limited]
        fewest = next((n for n in range(1, max(numbers)) if accepts((n, *space))), 1)
        rule |= {"batch_size": fewest} if fewest > 1 else {}  # a smaller batch is filled up
    return rule


def _limited(accepts: Callable[[Sequence[int]], bool], n_tiles: int, sizes: Sequence[_Sizes]) -> list[_Sizes] | None:
    """Return the sizes that fulfill all conditions, along each axis; None if they are not in steps."""
    ranges = [range(of_axis.least, of_axis.least + _TRIED * of_axis.step, of_axis.step) for of_axis in sizes]
    ranges = [
        tried if of_axis.most is None else tried[: max(0, of_axis.most - of_axis.least) // of_axis.step + 1]
        for tried, of_axis in zip(ranges, sizes, strict=True)
    ]
    base = next(
        (together for together in zip(*map(reversed, ranges), strict=False) if accepts((n_tiles, *together))), None
    )
    if base is None:
        return None
    limited = []
    for axis, (of_axis, tried) in enumerate(zip(sizes, ranges, strict=True)):
        accepted = [size for size in tried if accepts([n_tiles, *base[:axis], size, *base[axis + 1 :]])]
        steps = {after - before for before, after in pairwise(accepted)}
        if len(steps) > 1 or not accepted:
            return None
        limited.append(of_axis._replace(least=accepted[0], step=next(iter(steps), of_axis.step)))
    return limited


def _size_rule(sizes: Sequence[_Sizes]) -> dict[str, Any]:
    rule: dict[str, Any] = {
        "min_size": tuple(of_axis.least for of_axis in sizes),
        "size_step": tuple(of_axis.step for of_axis in sizes),
    }
    if max(rule["size_step"]) > 1:  # levels of a network that halve the image: their grid has to be that of the image
        rule["origin_multiple"] = rule["size_step"]
    default = _LARGEST_DEFAULT[len(sizes)]
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
