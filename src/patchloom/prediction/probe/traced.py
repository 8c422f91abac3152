"""Tensors and operators of a network as they are traced: shapes, and intervals of voxels in place of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.prediction.probe.spans import (
    Indices,
    Spans,
    UndecidedError,
    independent,
    moved,
    reduced,
    reshaped,
    taken,
)


@dataclass(frozen=True, slots=True)
class TracedTensor:
    """A tensor of the network: its shape, the intervals of its elements, and its values if they do not depend on pixels."""

    shape: tuple[int, ...]
    spans: Spans
    values: NDArray[Any] | None = None


def constant(values: NDArray[Any]) -> TracedTensor:
    """Return a tensor that does not depend on the image."""
    return TracedTensor(values.shape, independent(values.ndim), values)


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of the network on traced inputs; None for an input that is left out."""

    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[TracedTensor | None]
    n_outputs: int
    opset: int
    size: int
    """Size of the image along the axis that is traced."""
    global_operators: set[str] = field(default_factory=set)
    """Names of operators that depend on the whole tile; they are added when such an operator is found."""

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute; texts as `str`."""
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def tensor(self, index: int = 0) -> TracedTensor:
        """Return an input that has to be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            raise UndecidedError(f"the operator {self.kind} lacks an input")
        return found

    def numbers(self, index: int, name: str = "") -> list[Any] | None:
        """Return the numbers of an input, or of the attribute that older versions of ONNX have in its place; None if there are none."""
        if name and self.attributes.get(name) is not None:
            return list(np.ravel(self.attributes[name]))
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None or found.shape == (0,):
            return None
        if found.values is None:
            raise UndecidedError(f"a size or an index of the operator {self.kind} is computed from pixels")
        return list(found.values.ravel().tolist())

    def mixed(self, spans: Spans, axes: Sequence[int]) -> Spans | None:
        """Return the union along axes; None, with a note, if only this operator makes it as large as the image."""
        union = reduced(spans, axes)
        if union.narrowest > self.size // 2 >= spans.narrowest:
            self.global_operators.add(self.kind)
            return None
        return union


def aligned(spans: Spans, n_axes: int) -> Spans:
    """Return intervals with axes of size 1 in front, as NumPy broadcasts."""
    return moved(spans, (1,) * (n_axes - len(spans.shape)) + spans.shape)


def without(tensor: TracedTensor, axes: Sequence[int]) -> TracedTensor:
    """Return a tensor without axes of size 1."""
    left = [axis for axis in range(len(tensor.shape)) if axis not in axes]
    shape = tuple(tensor.shape[axis] for axis in left)
    return TracedTensor(shape, moved(tensor.spans, [tensor.spans.shape[axis] for axis in left]))


def replaced(image: TracedTensor, axis: int, taps: Indices) -> TracedTensor:
    """Return the elements of a tensor at some indices along an axis."""
    shape = (*image.shape[:axis], taps.shape[1], *image.shape[axis + 1 :])
    return TracedTensor(shape, taken(image.spans, axis, taps))


def transposed(image: TracedTensor, order: Sequence[int]) -> TracedTensor:
    """Return a tensor with its axes in another order."""
    spans = Spans(image.spans.lo.transpose(order), image.spans.hi.transpose(order))
    return TracedTensor(tuple(image.shape[axis] for axis in order), spans)


def in_shape(image: TracedTensor, shape: Sequence[int]) -> TracedTensor:
    """Return a tensor in another shape."""
    return TracedTensor(tuple(shape), reshaped(image.spans, image.shape, shape))
