"""Operators of ONNX on intervals: which voxels each element of the output depends on, and the shape of the output."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from patchloom.prediction.probe.onnx_moving_operators import MOVING
from patchloom.prediction.probe.spans import Spans, UndecidedError, independent, joined, moved, reduced, taken
from patchloom.prediction.probe.taps import one_for_each, resize_taps, same_pads, transposed_taps, window_taps
from patchloom.prediction.probe.traced import Node, TracedTensor, aligned, transposed, without

Rule = Callable[[Node], list[TracedTensor]]


def _same(node: Node) -> list[TracedTensor]:
    """Elementwise operators, whose inputs are broadcast."""
    tensors = [tensor for tensor in node.inputs if tensor is not None]
    try:
        shape = np.broadcast_shapes(*(tensor.shape for tensor in tensors))
    except ValueError:
        raise UndecidedError(f"the shapes of {node.kind} do not agree") from None
    spans = joined([aligned(tensor.spans, len(shape)) for tensor in tensors])
    if any(_is_position(tensor, spans, node.size) for tensor in tensors):
        node.global_operators.add(f"{node.kind} of a position")
    return [TracedTensor(shape, spans)] * node.n_outputs


def _is_position(tensor: TracedTensor, spans: Spans, size: int) -> bool:
    """Return whether a constant differs along the axis of the image, so that the network knows where a voxel lies in the tile."""
    if not tensor.spans.is_empty or spans.is_empty:
        return False
    for axis in range(1, len(tensor.shape) + 1):
        if tensor.shape[-axis] > 1 and np.ptp(np.where(spans.hi < 0, 0, spans.hi), axis=-axis).max() > size // 2:
            values = tensor.values
            if values is None or np.ptp(values.astype(np.float64), axis=-axis).any():
                return True
    return False


def _pointwise(node: Node) -> list[TracedTensor]:
    """Operators whose other inputs are weights or scales."""
    tensor = node.tensor()
    return [TracedTensor(tensor.shape, tensor.spans)] * node.n_outputs


def _convolution(node: Node) -> list[TracedTensor]:
    image, weights = node.tensor(), node.tensor({"QLinearConv": 3}.get(node.kind, 1))
    kernels, groups = list(weights.shape[2:]), node.get("group", 1)
    spans = _grouped(image, groups, weights.shape[0])
    return [_windowed(node, image, spans, kernels, weights.shape[0])]


def _windowed(node: Node, image: TracedTensor, spans: Spans, kernels: Sequence[int], channels: int) -> TracedTensor:
    """Apply windows along the spatial axes."""
    n = len(kernels)
    strides, dilations = (one_for_each(node.get(name), n, 1) for name in ("strides", "dilations"))
    pads, auto_pad = one_for_each(node.get("pads"), 2 * n, 0), node.get("auto_pad", "NOTSET")
    shape = [image.shape[0], channels]
    for axis in range(n):
        size = image.shape[2 + axis]
        padding = pads[axis], pads[n + axis]
        if auto_pad != "NOTSET":
            padding = same_pads(size, kernels[axis], strides[axis], dilations[axis], auto_pad)
        ceil = bool(node.get("ceil_mode", 0))
        taps = window_taps(size, kernels[axis], strides[axis], dilations[axis], padding, ceil=ceil)
        spans = taken(spans, 2 + axis, taps)
        shape.append(taps.shape[1])
    return TracedTensor(tuple(shape), spans)


def _grouped(image: TracedTensor, groups: int, channels: int) -> Spans:
    """Return the union of the channels that each output channel is computed from."""
    spans = image.spans
    if not spans.varies(1):
        return spans
    if groups == 1:
        return reduced(spans, (1,))
    rest = spans.shape[2:]
    apart = moved(spans, (spans.shape[0], groups, image.shape[1] // groups, *rest))
    of_group = moved(reduced(apart, (2,)), (spans.shape[0], groups, *rest))
    return taken(of_group, 1, np.repeat(np.arange(groups), channels // groups)[None])


def _transposed_convolution(node: Node) -> list[TracedTensor]:
    image, weights = node.tensor(), node.tensor(1)
    n = len(image.shape) - 2
    groups = node.get("group", 1)
    strides, dilations = (one_for_each(node.get(name), n, 1) for name in ("strides", "dilations"))
    pads, more = one_for_each(node.get("pads"), 2 * n, 0), one_for_each(node.get("output_padding"), n, 0)
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or node.get("output_shape"):
        raise UndecidedError("the padding of ConvTranspose is given by the shape of its output")
    channels = weights.shape[1] * groups
    spans, shape = _grouped(image, groups, channels), [image.shape[0], channels]
    for axis, (kernel, stride, dilation) in enumerate(zip(weights.shape[2:], strides, dilations, strict=True)):
        size = image.shape[2 + axis]
        n_out = stride * (size - 1) + more[axis] + dilation * (kernel - 1) + 1 - pads[axis] - pads[n + axis]
        spans = taken(spans, 2 + axis, transposed_taps(size, n_out, kernel, stride, dilation, before=pads[axis]))
        shape.append(n_out)
    return [TracedTensor(tuple(shape), spans)]


def _pool(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    return [_windowed(node, image, image.spans, list(node.get("kernel_shape")), image.shape[1])] * node.n_outputs


def _global_pool(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    axes = range(2, len(image.shape))
    shape = (*image.shape[:2], *(1 for _ in axes))
    return [TracedTensor(shape, node.mixed(image.spans, axes) or independent(len(shape)))]


def _reduction(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    n = len(image.shape)
    if node.kind in ("ArgMax", "ArgMin"):
        given: list[int] | None = [node.get("axis", 0)]
    else:
        given = node.numbers(1, "axes")
    if not given and node.get("noop_with_empty_axes", 0):
        return _pointwise(node)
    axes = sorted({int(axis) % n for axis in given or range(n)})
    spans = node.mixed(image.spans, axes) or independent(n)
    kept = tuple(1 if axis in axes else size for axis, size in enumerate(image.shape))
    if node.get("keepdims", 1):
        return [TracedTensor(kept, spans)]
    return [without(TracedTensor(kept, spans), axes)]


def _normalization(node: Node) -> list[TracedTensor]:
    """Operators that normalize by statistics of some axes."""
    image = node.tensor()
    n = len(image.shape)
    axes = {
        "InstanceNormalization": range(2, n),
        "MeanVarianceNormalization": node.get("axes", [0, 2, 3]),
        "GroupNormalization": range(1, n),
        "LayerNormalization": range(node.get("axis", -1) % n, n),
        "RMSNormalization": range(node.get("axis", -1) % n, n),
        "LpNormalization": [node.get("axis", -1) % n],
        "LRN": [1],
    }.get(node.kind)
    if axes is None:  # the softmax
        axis = node.get("axis", 1 if node.opset < 13 else -1) % n
        axes = range(axis, n) if node.opset < 13 else [axis]
    union = node.mixed(image.spans, list(axes))
    spans = image.spans if union is None else union
    return [TracedTensor(image.shape, spans)] * node.n_outputs


def _matrix_product(node: Node) -> list[TracedTensor]:
    left, right = node.tensor(0), node.tensor({"QLinearMatMul": 3}.get(node.kind, 1))
    if node.kind == "Gemm":
        left, right = (
            transposed(tensor, [1, 0]) if node.get(name, 0) else tensor
            for tensor, name in ((left, "transA"), (right, "transB"))
        )
    if min(len(left.shape), len(right.shape)) < 2 or left.shape[-1] != right.shape[-2]:
        raise UndecidedError(f"the shapes of {node.kind} do not agree")
    n = max(len(left.shape), len(right.shape))
    rows, columns = aligned(left.spans, n), aligned(right.spans, n)
    parts = [node.mixed(rows, [n - 1]) or independent(n), node.mixed(columns, [n - 2]) or independent(n)]
    outer = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return [TracedTensor((*outer, left.shape[-2], right.shape[-1]), joined(parts))]


def _einsum(node: Node) -> list[TracedTensor]:
    terms, arrow, result = node.get("equation", "").replace(" ", "").partition("->")
    letters = terms.split(",")
    if not arrow or "." in terms or any(len(set(term)) < len(term) for term in letters):
        raise UndecidedError(f"the equation {node.get('equation')} of Einsum is not known")
    sizes: dict[str, int] = {}
    parts = []
    for index, term in enumerate(letters):
        tensor = node.tensor(index)
        sizes |= dict(zip(term, tensor.shape, strict=True))
        gone = [place for place, letter in enumerate(term) if letter not in result]
        spans = node.mixed(tensor.spans, gone) or independent(len(term))
        kept = [letter for letter in term if letter in result]
        spans = moved(spans, [spans.shape[place] for place, letter in enumerate(term) if letter in result])
        order = sorted(range(len(kept)), key=lambda place: result.index(kept[place]))
        spans = Spans(spans.lo.transpose(order), spans.hi.transpose(order))
        place = iter(spans.shape)
        parts.append(moved(spans, [next(place) if letter in kept else 1 for letter in result]))
    return [TracedTensor(tuple(sizes[letter] for letter in result), joined(parts))]


def _resize(node: Node) -> list[TracedTensor]:
    image = node.tensor()
    n = len(image.shape)
    is_old = node.kind == "Upsample" or node.opset < 11
    scales = node.numbers(1 if is_old else 2, "scales")
    sizes = None if is_old else node.numbers(3)
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise UndecidedError("Resize keeps the ratio of the axes")
    places = [int(axis) % n for axis in node.get("axes") or range(n)]
    coordinates = "asymmetric" if is_old else node.get("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if is_old else node.get("nearest_mode", "round_prefer_floor")
    spans, shape = image.spans, list(image.shape)
    for place, axis in enumerate(places):
        size = shape[axis]
        shape[axis] = int(sizes[place]) if sizes else math.floor(size * (scales or [1] * n)[place] + 1e-9)
        factor = shape[axis] / size
        if scales and not math.isclose(factor, scales[place], rel_tol=1e-6):
            factor = scales[place]
        if factor == 1 and shape[axis] == size:
            continue
        if coordinates == "align_corners" and spans.varies(axis):
            node.global_operators.add("Resize with align_corners")
        mode = {"bilinear": "linear", "trilinear": "linear"}.get(
            node.get("mode", "nearest"), node.get("mode", "nearest")
        )
        spans = taken(
            spans,
            axis,
            resize_taps(
                size,
                shape[axis],
                factor,
                mode=mode,
                coordinates=coordinates,
                rounding=rounding,
                widens=bool(node.get("antialias", 0)),
            ),
        )
    return [TracedTensor(tuple(shape), spans)]


_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Celu Cos Cosh Div Elu
    Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max
    Mean Min Mish Mod Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub
    Sum Swish Tan Tanh ThresholdedRelu Where Xor
"""

_BY_FIRST = "BatchNormalization Cast CastLike Clip DequantizeLinear Dropout QuantizeLinear DynamicQuantizeLinear"

_NORMALIZATIONS = """
    GroupNormalization Hardmax InstanceNormalization LRN LayerNormalization LogSoftmax LpNormalization MeanVarianceNormalization
    RMSNormalization Softmax
"""

_REDUCTIONS = """
    ArgMax ArgMin ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare
"""

RULES: dict[str, Rule] = {
    **MOVING,
    **dict.fromkeys(_ELEMENTWISE.split(), _same),
    **dict.fromkeys(_BY_FIRST.split(), _pointwise),
    **dict.fromkeys(_NORMALIZATIONS.split(), _normalization),
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    **dict.fromkeys(["Conv", "ConvInteger", "QLinearConv"], _convolution),
    **dict.fromkeys(["MaxPool", "AveragePool", "LpPool"], _pool),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool"], _global_pool),
    **dict.fromkeys(["MatMul", "Gemm", "MatMulInteger", "QLinearMatMul"], _matrix_product),
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    "ConvTranspose": _transposed_convolution,
    "Einsum": _einsum,
}
"""What each operator does to intervals."""
