"""Operators of ONNX that move the elements of tensors, or repeat or leave out some of them."""

from __future__ import annotations

import math

import numpy as np

from patchloom.prediction.probe.spans import Spans, UndecidedError, compact, expanded, independent, reshaped, taken
from patchloom.prediction.probe.taps import pad_taps, slice_taps
from patchloom.prediction.probe.traced import (
    Node,
    TracedTensor,
    aligned,
    constant,
    in_shape,
    replaced,
    transposed,
    without,
)


def _pad(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    n = len(image.shape)
    pads = node.numbers(1, "pads") or [0] * 2 * n
    axes = [int(axis) % n for axis in node.numbers(3) or range(n)]
    spans, shape = image.spans, list(image.shape)
    for place, axis in enumerate(axes):
        before, after = int(pads[place]), int(pads[len(axes) + place])
        if before or after:
            taps = pad_taps(shape[axis], before, after, node.get("mode", "constant"))
            spans, shape[axis] = taken(spans, axis, taps), taps.shape[1]
    return [TracedTensor(tuple(shape), spans)]


def _slice(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    n = len(image.shape)
    starts, stops = node.numbers(1, "starts") or [], node.numbers(2, "ends") or []
    axes = node.numbers(3, "axes") or range(len(starts))
    steps = node.numbers(4) or [1] * len(starts)
    spans, shape = image.spans, list(image.shape)
    for axis, start, stop, step in zip(axes, starts, stops, steps, strict=True):
        place = int(axis) % n
        taps = slice_taps(shape[place], int(start), int(stop), int(step))
        spans, shape[place] = taken(spans, place, taps), taps.shape[1]
    return [TracedTensor(tuple(shape), spans)]


def _split(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    axis = node.get("axis", 0) % len(image.shape)
    size = image.shape[axis]
    part = -(-size // node.n_outputs)
    parts = node.numbers(1, "split") or [min(part, size - start) for start in range(0, size, part)]
    stops = np.cumsum([int(part) for part in parts])
    return [
        replaced(image, axis, np.arange(stop - int(part), stop)[None]) for part, stop in zip(parts, stops, strict=True)
    ]


def _concatenation(node: Node) -> list[TracedTensor]:
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    n = len(tensors[0].shape)
    axis = node.get("axis", 0) % n
    others = {tensor.shape[:axis] + tensor.shape[axis + 1 :] for tensor in tensors}
    if len(others) > 1:
        raise UndecidedError("the shapes of Concat do not agree")
    common = list(np.broadcast_shapes(*((*t.spans.shape[:axis], 1, *t.spans.shape[axis + 1 :]) for t in tensors)))
    wide = []
    for tensor in tensors:
        common[axis] = tensor.shape[axis]
        wide.append(expanded(tensor.spans, common))
    size = sum(tensor.shape[axis] for tensor in tensors)
    common[axis] = size
    expanded(independent(n), common)  # checks the size
    spans = Spans(np.concatenate([part.lo for part in wide], axis), np.concatenate([part.hi for part in wide], axis))
    shape = (*tensors[0].shape[:axis], size, *tensors[0].shape[axis + 1 :])
    return [TracedTensor(shape, compact(spans))]


def _gather(node: Node) -> list[TracedTensor]:
    image, indices = node.tensor(0), node.tensor(1)
    axis = node.get("axis", 0) % len(image.shape)
    if indices.values is None and (image.spans.varies(axis) or not indices.spans.is_empty):
        raise UndecidedError("an index of the operator Gather is computed from pixels")
    chosen = np.zeros(indices.shape, np.int64) if indices.values is None else indices.values
    flat = replaced(image, axis, (chosen.ravel() % image.shape[axis])[None])
    shape = (*image.shape[:axis], *indices.shape, *image.shape[axis + 1 :])
    return [TracedTensor(shape, reshaped(flat.spans, flat.shape, shape))]


def _transpose(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    return [transposed(image, node.get("perm") or list(reversed(range(len(image.shape)))))]


def _reshape(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    shape = [int(size) for size in node.numbers(1, "shape") or []]
    if not node.get("allowzero", 0):
        shape = [size or image.shape[axis] for axis, size in enumerate(shape)]
    known = math.prod(size for size in shape if size >= 0)
    total = math.prod(image.shape)
    shape = [total // max(1, known) if size < 0 else size for size in shape]
    if math.prod(shape) != total:
        raise UndecidedError("the shapes of Reshape do not agree")
    return [in_shape(image, shape)]


def _squeeze(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    n = len(image.shape)
    given = node.numbers(1, "axes")
    axes = (
        [axis for axis, size in enumerate(image.shape) if size == 1] if given is None else [int(a) % n for a in given]
    )
    return [without(image, axes)]


def _unsqueeze(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    added = node.numbers(1, "axes") or []
    n = len(image.shape) + len(added)
    places = {int(axis) % n for axis in added}
    sizes = iter(image.shape)
    return [in_shape(image, [1 if axis in places else next(sizes) for axis in range(n)])]


def _flatten(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    axis = node.get("axis", 1)
    axis = axis + len(image.shape) if axis < 0 else axis
    return [in_shape(image, (math.prod(image.shape[:axis]), math.prod(image.shape[axis:])))]


def _expand(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    shape = np.broadcast_shapes(image.shape, tuple(int(size) for size in node.numbers(1) or []))
    return [TracedTensor(shape, aligned(image.spans, len(shape)))]


def _tile(node: Node) -> list[TracedTensor]:
    tensor = node.tensor()
    for axis, repeats in enumerate(node.numbers(1) or []):
        size = tensor.shape[axis]
        tensor = replaced(tensor, axis, (np.arange(size * int(repeats)) % size)[None])
    return [tensor]


def _shuffle(node: Node) -> list[TracedTensor]:
    """`DepthToSpace` and `SpaceToDepth`."""
    image, block = node.tensor(), node.get("blocksize")
    batch, channels, height, width = image.shape
    if node.kind == "SpaceToDepth":
        apart = in_shape(image, (batch, channels, height // block, block, width // block, block))
        together = transposed(apart, [0, 3, 5, 1, 2, 4])
        return [in_shape(together, (batch, channels * block * block, height // block, width // block))]
    depth = channels // block**2
    if node.get("mode", "DCR") == "DCR":
        apart = transposed(in_shape(image, (batch, block, block, depth, height, width)), [0, 3, 4, 1, 5, 2])
    else:
        apart = transposed(in_shape(image, (batch, depth, block, block, height, width)), [0, 1, 4, 2, 5, 3])
    return [in_shape(apart, (batch, depth, height * block, width * block))]


def _of_shape(node: Node) -> list[TracedTensor]:
    tensor = node.tensor()
    if node.kind == "Size":
        return [constant(np.array(math.prod(tensor.shape)))]
    n = len(tensor.shape)
    return [constant(np.array(tensor.shape[slice(node.get("start", 0), node.get("end", n))], np.int64))]


def _filled(node: Node) -> list[TracedTensor]:
    shape = tuple(int(size) for size in node.numbers(0) or [])
    return [TracedTensor(shape, independent(len(shape)))]


MOVING = {
    **dict.fromkeys(["DepthToSpace", "SpaceToDepth"], _shuffle),
    **dict.fromkeys(["Shape", "Size"], _of_shape),
    "Pad": _pad,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concatenation,
    "Gather": _gather,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Flatten": _flatten,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _filled,
}
"""What each of these operators does to intervals."""
