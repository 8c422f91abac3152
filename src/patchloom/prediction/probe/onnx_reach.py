"""How far a network in an ONNX file looks, from its graph alone: interval arithmetic for every element of every tensor.

One axis of the image at a time is long, the others are short. The interval of an output voxel in the middle shows its reach at
its phase of the stride. Two sizes show the scale and the margin of each tensor; the stride is a multiple of the denominators of
all scales, and of the period of the reach. No weight is read and no pixel is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import lcm, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.prediction.models.model import size_rule as declared_size_rule
from patchloom.prediction.models.onnx.graph import OnnxGraph
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.probe.onnx_operators import RULES
from patchloom.prediction.probe.report import Reach, Undecided
from patchloom.prediction.probe.spans import (
    Spans,
    TooLargeError,
    UndecidedError,
    UnknownOperatorError,
    image_spans,
    independent,
)
from patchloom.prediction.probe.traced import Node, TracedTensor, constant


class _Scheme(NamedTuple):
    """Sizes to trace."""

    long: int
    """Size along the axis that is traced, which most strides divide."""

    step: int
    """A difference between two sizes, a multiple of most strides."""

    shorts: tuple[int, ...]
    """Sizes along the other axes; the first one that the network accepts is used."""


_SCHEMES = (_Scheme(480, 2880, (32, 96, 192, 384, 768)), _Scheme(96, 96, (16, 32)))
"""The second is for networks that compare all voxels with each other."""

_LONGEST = 2**14

_MOST_REMAINDERS = 64

_MOST_VALUES = 2**20
"""Number of elements of the largest constant that is computed."""


def onnx_reach(
    graph: OnnxGraph,
    shapes: Mapping[str, tuple[int, ...]],
    image: str,
    axes: Sequence[int],
    outputs: Sequence[str],
    *,
    size_rule: Sequence[tuple[int, int]] | None = None,
) -> tuple[Reach, ...] | Undecided:
    """Find how far each output of a network looks.

    Parameters
    ----------
    graph : OnnxGraph
        The network.
    shapes : mapping of str to tuple of int
        Shapes of all inputs, by name. The spatial sizes of the image are not used.
    image : str
        Name of the input for the image.
    axes : sequence of int
        Its spatial axes, `(z,) y, x`.
    outputs : sequence of str
        Names of the outputs.
    size_rule : sequence of (int, int), optional
        The least size and the step that the network accepts, along each axis. If None, sizes are tried.

    Returns
    -------
    tuple of Reach, or Undecided
        One for each output.

    Raises
    ------
    MissingExtraError
        If the package onnx is not installed.
    """
    tracer = _Tracer(graph, dict(shapes), image, tuple(axes), tuple(outputs))
    reason = ""
    for scheme in _SCHEMES:
        try:
            sizes = _find_sizes(tracer, size_rule, scheme)
            along = [_reaches_along(tracer, sizes, axis) for axis in range(len(axes))]
            return tuple(_reach([of_axis[index] for of_axis in along]) for index in range(len(outputs)))
        except TooLargeError as error:
            reason = reason or str(error)
        except UndecidedError as error:
            return Undecided(reason or str(error))
    return Undecided(reason)


def onnx_model_reach(model: OnnxModel) -> tuple[Reach, ...] | Undecided:
    """Find how far each output of a model looks, in the order of its outputs.

    Parameters
    ----------
    model : OnnxModel
        The model.

    Examples
    --------
    >>> from onnx import parser
    >>> network = parser.parse_model('''
    ...     <ir_version: 8, opset_import: ["": 17]>
    ...     blur (float[N, 1, H, W] x) => (float[N, 1, H, W] y) {
    ...         y = AveragePool<kernel_shape = [3, 4], pads = [1, 1, 1, 2]>(x)
    ...     }
    ... ''')
    >>> onnx_model_reach(OnnxModel(network.SerializeToString()))[0].context
    ((1, 1), (1, 2))
    """
    found = model.network_graph()
    if found is None:
        return Undecided("the number of channels is not known, or another input has the size of the image")
    return onnx_reach(*found, size_rule=declared_size_rule(model.description))


class _AxisReach(NamedTuple):
    """The reach of one output along one axis."""

    before: int
    after: int
    stride: int
    scale: Fraction
    margin: Fraction
    global_operators: tuple[str, ...]


def _reach(along: Sequence[_AxisReach]) -> Reach:
    names = sorted({name for of_axis in along for name in of_axis.global_operators})
    before, after, stride, scale, margin, _ = zip(*along, strict=True)
    return Reach(before, after, stride, scale, margin, "onnx graph", global_operators=tuple(names))


class _Sizes(NamedTuple):
    """The sizes that a network accepts."""

    short: tuple[int, ...]
    """Sizes of the axes that are not traced."""

    long: tuple[int, ...]
    """Sizes of the axis that is traced."""

    steps: tuple[int, ...]
    """A difference between two accepted sizes, a multiple of the stride."""

    are_declared: bool
    """Whether the sizes follow a rule that the model declares; margins are those at these sizes."""


class _Trace(NamedTuple):
    """What one run through the graph shows."""

    shapes: Mapping[str, tuple[int, ...]]
    outputs: Sequence[TracedTensor]
    global_operators: tuple[str, ...]


@dataclass(frozen=True)
class _Operator:
    """A node of the graph, parsed."""

    kind: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    proto: Any
    opset: int

    @cached_property
    def _reference(self) -> Any:
        return require("onnx.reference", extra="onnx").ReferenceEvaluator(self.proto, opsets={"": self.opset})

    def computed(self, inputs: Sequence[TracedTensor]) -> list[NDArray[Any]] | None:
        """Compute the outputs from inputs that do not depend on pixels; None if that is not possible."""
        names = [name for name in self.inputs if name]
        feeds: dict[str, Any] = {name: tensor.values for name, tensor in zip(names, inputs, strict=True)}
        if self.kind == "ConstantOfShape" and prod(np.ravel(feeds[names[0]]).tolist()) > _MOST_VALUES:
            return None
        try:
            values = self._reference.run(None, feeds)
        except Exception:  # noqa: BLE001  # the reference raises any error
            return None
        arrays = [np.asarray(value) for value in values]
        return arrays if all(array.size <= _MOST_VALUES for array in arrays) else None


@dataclass(frozen=True)
class _Tracer:
    """Traces the intervals of all tensors that the outputs need."""

    graph: OnnxGraph
    shapes: Mapping[str, tuple[int, ...]]
    image: str
    axes: tuple[int, ...]
    outputs: tuple[str, ...]

    @cached_property
    def _model(self) -> Any:
        return self.graph.parse()

    @cached_property
    def _opset(self) -> int:
        return next((entry.version for entry in self._model.opset_import if entry.domain in ("", "ai.onnx")), 17)

    @cached_property
    def _prepared(self) -> tuple[dict[str, TracedTensor], list[_Operator]]:
        """The tensors that do not depend on the size of the image, and the operators that the outputs need, in their order."""
        to_array = require("onnx.numpy_helper", extra="onnx").to_array
        known = {**self.graph.weight_shapes, **self.shapes}
        tensors = {name: TracedTensor(shape, independent(len(shape))) for name, shape in known.items()}
        tensors |= {tensor.name: constant(to_array(tensor)) for tensor in self._model.graph.initializer}
        needed, found = set(self.outputs), []
        for node in reversed(self._model.graph.node):
            if needed.intersection(node.output):
                needed.update(node.input)
                found.append(_parsed(node, self._opset))
        left = []
        for operator in reversed(found):
            values = None
            if all(name in tensors and tensors[name].values is not None for name in operator.inputs if name):
                values = operator.computed([tensors[name] for name in operator.inputs if name])
            if values is None:
                left.append(operator)
            else:
                tensors.update(zip(operator.outputs, map(constant, values), strict=False))
        return tensors, left

    def run(self, space: Sequence[int], axis: int) -> _Trace:
        """Trace an image of some size, along one of its axes.

        Raises
        ------
        UndecidedError
            If the network does not accept this size, or an operator is not known.
        """
        shape = list(self.shapes[self.image])
        for place, size in zip(self.axes, space, strict=True):
            shape[place] = size
        constants, operators = self._prepared
        tensors = dict(constants)
        tensors[self.image] = TracedTensor(tuple(shape), image_spans(len(shape), self.axes[axis], space[axis]))
        names: set[str] = set()
        for operator in operators:
            tensors.update(zip(operator.outputs, self._traced(operator, tensors, space[axis], names), strict=False))
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        return _Trace(shapes, [tensors[name] for name in self.outputs], tuple(sorted(names)))

    def _traced(
        self, operator: _Operator, tensors: Mapping[str, TracedTensor], size: int, names: set[str]
    ) -> list[TracedTensor]:
        inputs = [tensors[name] if name else None for name in operator.inputs]
        if all(tensor is None or tensor.values is not None for tensor in inputs):
            values = operator.computed([tensor for tensor in inputs if tensor is not None])
            if values is not None:
                return [constant(array) for array in values]
        rule = RULES.get(operator.kind)
        if rule is None:
            raise UnknownOperatorError(f"the operator {operator.kind} is not known")
        node = Node(operator.kind, operator.attributes, inputs, len(operator.outputs), self._opset, size, names)
        traced = rule(node)
        if any(prod(tensor.shape) < 1 for tensor in traced if tensor.values is None):
            raise UndecidedError("a tensor has no elements")
        return traced


def _parsed(node: Any, opset: int) -> _Operator:
    value_of = require("onnx.helper", extra="onnx").get_attribute_value
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    attributes = {attribute.name: value_of(attribute) for attribute in node.attribute}
    return _Operator(kind, attributes, tuple(node.input), tuple(node.output), node, opset)


def _find_sizes(tracer: _Tracer, rule: Sequence[tuple[int, int]] | None, scheme: _Scheme) -> _Sizes:
    """Find sizes that the network accepts.

    Raises
    ------
    UndecidedError
        If there is none.
    """
    n = len(tracer.axes)
    if rule is not None:
        least, long = (
            tuple(low + -(-max(0, size - low) // step) * step for low, step in rule)
            for size in (scheme.shorts[0], scheme.long)
        )
        return _Sizes(least, long, tuple(lcm(scheme.step, step) for _, step in rule), are_declared=True)
    short = _first_accepted(
        tracer, [range(size, size + _MOST_REMAINDERS) for size in scheme.shorts], lambda side: (side,) * n
    )
    sides = range(scheme.long, scheme.long + _MOST_REMAINDERS)

    def along(axis: int) -> Callable[[int], tuple[int, ...]]:
        return lambda side: tuple(side if other == axis else short for other in range(n))

    long = tuple(_first_accepted(tracer, [sides], along(axis)) for axis in range(n))
    return _Sizes((short,) * n, long, (scheme.step,) * n, are_declared=False)


def _first_accepted(tracer: _Tracer, candidates: Sequence[range], space: Callable[[int], tuple[int, ...]]) -> int:
    """Return the first size that the network accepts.

    Raises
    ------
    UndecidedError
        If there is none; the reason is that of the largest size.
    """
    for sides in candidates:
        for side in sides:
            if _accepts(tracer, space(side)):
                return side
    tracer.run(space(candidates[-1][0]), 0)
    raise UndecidedError("no size is accepted")


def _accepts(tracer: _Tracer, space: Sequence[int]) -> bool:
    try:
        tracer.run(space, 0)
    except (UnknownOperatorError, TooLargeError):
        raise
    except UndecidedError:
        return False
    return True


def _reaches_along(tracer: _Tracer, sizes: _Sizes, axis: int) -> list[_AxisReach]:
    """Return the reach of each output along an axis."""

    def run(size: int) -> _Trace:
        return tracer.run([size if other == axis else short for other, short in enumerate(sizes.short)], axis)

    size, change = sizes.long[axis], sizes.steps[axis]
    trace = run(size)
    while size <= _LONGEST:
        longer = run(size + change)
        divisor = lcm(*(slope.denominator for slope in _slopes(trace.shapes, longer.shapes, change)))
        grids = [_grid(*pair, size, change) for pair in zip(trace.outputs, longer.outputs, strict=True)]
        if not sizes.are_declared and any(grid.margin for grid in grids):
            whole = _whole_size(run, grids, size, divisor)
            if whole > size:
                size, trace = whole, run(whole)
                continue
        found = [
            _output_reach(output.spans, grid, size, divisor) for output, grid in zip(trace.outputs, grids, strict=True)
        ]
        names = trace.global_operators
        reaches = [_AxisReach(*one, *grid[1:], names) for one, grid in zip(found, grids, strict=True) if one]
        if len(reaches) == len(found):
            return reaches
        size, trace, change = size + change, longer, 2 * change
    raise UndecidedError(f"it looks farther than {_LONGEST // 3} voxels")


def _whole_size(run: Callable[[int], _Trace], grids: Sequence[_Grid], size: int, divisor: int) -> int:
    """Return a size of which the least number of voxels is lacking: of others, a layer drops some."""

    def lacking(side: int) -> Fraction | None:
        try:
            outputs = run(side).outputs
        except UndecidedError:
            return None
        return sum(
            (side - output.shape[grid.axis] / grid.scale for output, grid in zip(outputs, grids, strict=True)),
            Fraction(0),
        )

    found = [(lost, side) for side in range(size, size + divisor) if (lost := lacking(side)) is not None]
    return min(found)[1] if found else size


def _slopes(before: Mapping[str, tuple[int, ...]], after: Mapping[str, tuple[int, ...]], change: int) -> set[Fraction]:
    """Return the ratios by which the axes of all tensors grow."""
    return {
        Fraction(larger - smaller, change)
        for name in before
        if len(before[name]) == len(after[name])
        for smaller, larger in zip(before[name], after[name], strict=True)
    }


class _Grid(NamedTuple):
    """How the voxels of an output lie on those of the image, along one axis."""

    axis: int
    """The axis of the output."""

    scale: Fraction
    margin: Fraction


def _grid(output: TracedTensor, longer: TracedTensor, size: int, change: int) -> _Grid:
    grown = [
        (place, Fraction(larger - smaller, change))
        for place, (smaller, larger) in enumerate(zip(output.shape, longer.shape, strict=True))
        if smaller != larger
    ]
    if len(grown) != 1:
        raise UndecidedError("its output is not an image")
    ((place, scale),) = grown
    return _Grid(place, scale, (size - output.shape[place] / scale) / 2)


def _output_reach(spans: Spans, grid: _Grid, size: int, divisor: int) -> tuple[int, int, int] | None:
    """Return the reach before and after, and the stride, from the middle of an output; None if its ends reach into the middle."""
    if spans.is_empty:
        return 0, 0, divisor
    others = tuple(axis for axis in range(len(spans.shape)) if axis != grid.axis)
    lo, hi = spans.lo.min(axis=others).astype(np.int64), spans.hi.max(axis=others).astype(np.int64)
    n = len(lo)
    middle = slice(n // 3, n - n // 3)
    if ((lo[middle] <= 0) | (hi[middle] >= size - 1)).any():
        return None
    place = np.arange(n)[middle]
    top, bottom = grid.scale.as_integer_ratio()
    whole, part = grid.margin.as_integer_ratio()
    # first = floor(margin + o / scale), last = ceil(margin + (o + 1) / scale) - 1, in whole numbers
    first = (whole * top + place * bottom * part) // (part * top)
    last = -((-(whole * top) - (place + 1) * bottom * part) // (part * top)) - 1
    filled = hi[middle] >= 0
    before, after = (first - lo[middle])[filled], (hi[middle] - last)[filled]
    stride = _period(lo[middle], hi[middle], grid.scale, divisor)
    if stride is None:
        return None
    return max(0, int(before.max())), max(0, int(after.max())), stride


def _period(lo: NDArray[np.int64], hi: NDArray[np.int64], scale: Fraction, divisor: int) -> int | None:
    """Return the smallest multiple of a divisor by which voxels can be shifted so that their intervals are shifted."""
    for period in range(divisor, int(len(lo) / scale) // 2, divisor):
        steps = period * scale
        if steps.denominator == 1:
            step = int(steps)
            filled = (hi[step:] >= 0) | (hi[:-step] >= 0)
            if ((lo[step:] - lo[:-step] == period) & (hi[step:] - hi[:-step] == period))[filled].all():
                return period
    return None
