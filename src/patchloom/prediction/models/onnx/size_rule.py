"""The tile sizes that a network accepts and its stride, from the shapes of all its tensors.

No pixel is computed: ONNX infers the shapes of all tensors from a size of the input. If the size of the input grows, each tensor
grows by a fixed ratio, its scale. The stride is the least common multiple of the denominators of all scales. A size is accepted if
the shapes agree (for instance, of tensors that are concatenated), and the outputs grow linearly::

    input     64   65   66   67   68
    level 1   32   32   33   33   34      scale 1/2
    level 2   16   16   16   16   17      scale 1/4, so the stride is 4
    output    64    –    –    –   68      two levels differ between multiples of 4, so the step is 4

"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

from patchloom._optional import require
from patchloom.prediction.models.onnx.graph import OnnxGraph

_LARGE = 2**8 * 3 * 5 * 7
"""A size that most strides divide. It costs nothing, as no pixel is computed."""

_MOST_REMAINDERS = 64
"""Sizes next to a large one that are tried: networks without padding accept sizes of one remainder only."""

_LARGEST_STRIDE = 2**8

Shapes = Mapping[str, tuple[int, ...]]


class SizeRule(NamedTuple):
    """The tile sizes that a network accepts along one axis, and how its outputs depend on them."""

    min_size: int
    """The smallest size."""

    step: int
    """Difference between two sizes."""

    stride: int
    """Voxels by which a tile can be shifted so that the output is the same, but shifted."""

    scales: Mapping[str, Fraction]
    """Voxels of each output for one voxel of the input."""

    lacking: Mapping[str, Fraction]
    """Voxels of the input that each output does not cover, on both sides together."""


class _UnknownShapesError(Exception):
    """ONNX cannot infer all shapes."""


class ShapeInference:
    """Infers the shapes of all tensors of a network.

    Parameters
    ----------
    graph : OnnxGraph
        The network.
    shapes : mapping of str to tuple of int
        Shapes of all inputs, by name.
    image : str
        Name of the input whose size varies.
    axes : sequence of int
        Its spatial axes.
    outputs : sequence of str
        Names of the outputs that are used.
    """

    def __init__(
        self,
        graph: OnnxGraph,
        shapes: Mapping[str, tuple[int, ...]],
        image: str,
        axes: Sequence[int],
        outputs: Sequence[str],
    ) -> None:
        self._onnx = require("onnx", extra="onnx")
        self._infer = require("onnx.shape_inference", extra="onnx").infer_shapes
        self._model = graph.parse()
        self._image, self._axes = image, tuple(axes)
        self.outputs = tuple(outputs)
        for value in self._model.graph.input:
            if value.name in shapes:
                self._set_shape(value, shapes[value.name])
                if value.name == image:
                    self._input = value

    def at(self, space: Sequence[int]) -> Shapes | None:
        """Return the shapes of all tensors for an image of some size; None if they contradict each other.

        Raises
        ------
        _UnknownShapesError
            If a shape cannot be inferred.
        """
        dims = self._input.type.tensor_type.shape.dim
        for axis, size in zip(self._axes, space, strict=True):
            dims[axis].dim_value = size
        try:
            inferred = self._infer(self._model, strict_mode=True, data_prop=True)
        except Exception:  # noqa: BLE001  # its errors differ between versions of ONNX
            return None
        values = [self._input, *inferred.graph.value_info, *inferred.graph.output]
        shapes = {value.name: _known_shape(value) for value in values}
        if any(min(shape, default=1) < 1 for shape in shapes.values()):
            return None
        return None if any(_pads_too_much(node, shapes) for node in inferred.graph.node) else shapes

    def _set_shape(self, value: Any, shape: Sequence[int]) -> None:
        value.type.tensor_type.ClearField("shape")
        for size in shape:
            value.type.tensor_type.shape.dim.add().dim_value = size


def _known_shape(value: Any) -> tuple[int, ...]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape") or not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
        raise _UnknownShapesError
    return tuple(dim.dim_value for dim in tensor.shape.dim)


def _pads_too_much(node: Any, shapes: Shapes) -> bool:
    """Return whether a node pads by the mirror image of a tensor that is not larger than the padding."""
    if node.op_type != "Pad" or b"reflect" not in [attribute.s for attribute in node.attribute]:
        return False
    before, after = shapes.get(node.input[0], ()), shapes.get(node.output[0], ())
    return any(larger > 3 * size - 2 for size, larger in zip(before, after, strict=False))


def find_size_rules(inference: ShapeInference, declared: Sequence[int | None]) -> list[SizeRule] | None:
    """Find the sizes that a network accepts along each spatial axis.

    Parameters
    ----------
    inference : ShapeInference
        Infers the shapes of the network.
    declared : sequence of int or None
        The declared size of each spatial axis; None if it is symbolic. A rule is found for fixed axes, too, as if they were
        symbolic: it contains their stride and scale.

    Returns
    -------
    list of SizeRule or None
        One for each spatial axis; None if the shapes do not show it with certainty.
    """
    try:
        start = _find_accepted(inference, declared)
        if start is None:
            return None
        rules = [_find_rule(inference, start, axis) for axis in range(len(start))]
        if any(rule is None for rule in rules):
            return None
        found = [rule for rule in rules if rule is not None]
        smallest = [size or rule.min_size for size, rule in zip(declared, found, strict=True)]
        return found if inference.at(smallest) is not None else None
    except _UnknownShapesError:
        return None


def _find_accepted(inference: ShapeInference, declared: Sequence[int | None]) -> tuple[int, ...] | None:
    """Find a large size that a network accepts; fixed sizes stay."""
    for remainder in range(_MOST_REMAINDERS):
        space = tuple(size or _LARGE + remainder for size in declared)
        if inference.at(space) is not None:
            return space
        if None not in declared:
            return None
    return None


def _find_rule(inference: ShapeInference, start: tuple[int, ...], axis: int) -> SizeRule | None:
    """Find the rule along one axis, while the others keep their size."""

    def resized(size: int) -> Shapes | None:
        return inference.at([size if other == axis else kept for other, kept in enumerate(start)])

    slopes = _find_slopes(resized, start[axis])
    if slopes is None:
        return None
    stride = lcm(*(slope.denominator for of_tensor in slopes.values() for slope in of_tensor))
    growing = {name: [place for place, slope in enumerate(slopes[name]) if slope] for name in inference.outputs}
    if stride > _LARGEST_STRIDE or any(len(axes) != 1 for axes in growing.values()):
        return None
    places = {name: place for name, (place,) in growing.items()}
    size = start[axis]
    if any(_lacking(resized(size), slopes, places, size).values()):
        size = _find_whole(resized, slopes, size, stride)
    here = resized(size)
    if here is None:
        return None

    def is_linear(change: int, names: Iterable[str]) -> bool:
        """Return whether tensors grow by exactly their slopes."""
        shapes = resized(size + change)
        return shapes is not None and all(
            shapes[name]
            == tuple(before + slope * change for before, slope in zip(here[name], slopes[name], strict=True))
            for name in names
        )

    if not is_linear(stride, slopes):
        return None
    divisors = [step for step in range(1, stride + 1) if stride % step == 0]
    step = next(
        step
        for step in divisors
        if all(is_linear(change, inference.outputs) for change in range(step, stride + 1, step))
    )
    fewest = _bisect(
        lambda steps: size - steps * step >= 1 and is_linear(-steps * step, inference.outputs), (size - 1) // step + 1
    )
    scales = {name: slopes[name][place] for name, place in places.items()}
    return SizeRule(size - fewest * step, step, stride, scales, _lacking(here, slopes, places, size))


def _lacking(
    shapes: Shapes | None, slopes: Mapping[str, Sequence[Fraction]], places: Mapping[str, int], size: int
) -> dict[str, Fraction]:
    """Return the number of voxels of the input that each output does not cover."""
    return {name: size - shapes[name][place] / slopes[name][place] for name, place in places.items()} if shapes else {}


def _find_slopes(resized: Callable[[int], Shapes | None], size: int) -> dict[str, list[Fraction]] | None:
    """Find the ratio by which each axis of each tensor grows; None if the network does not accept a larger size."""
    here, larger = resized(size), resized(size + _LARGE)
    if here is None or larger is None or any(len(here[name]) != len(larger.get(name, ())) for name in here):
        return None
    return {
        name: [Fraction(after - before, _LARGE) for before, after in zip(here[name], larger[name], strict=True)]
        for name in here
    }


def _find_whole(
    resized: Callable[[int], Shapes | None], slopes: Mapping[str, Sequence[Fraction]], size: int, stride: int
) -> int:
    """Return a size that a network without padding uses as a whole; the given one if there is none.

    A layer that makes images smaller drops the remainder of a division. It has used all if it is smaller for one voxel less::

        input     10   11   12   13
        valid      8    9   10   11
        halved     4    4    5    5     10 and 12 are used as a whole, of 11 and 13 a voxel is dropped
    """
    coarse = [name for name, of_tensor in slopes.items() if any(slope.denominator > 1 for slope in of_tensor)]
    for candidate in range(size, size + stride):
        shapes, shorter = resized(candidate), resized(candidate - 1)
        if shapes is not None and (shorter is None or all(shapes[name] != shorter[name] for name in coarse)):
            return candidate
    return size


def _bisect(is_accepted: Any, most: int) -> int:
    """Return the largest number below `most` that is accepted, if all smaller ones are, too."""
    least = 0
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if is_accepted(middle) else (least, middle)
    return least
