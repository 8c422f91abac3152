"""The graph of an ONNX network without its weights, and what its first convolution shows about the input."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from patchloom._optional import require
from patchloom.errors import ModelError
from patchloom.prediction.models.onnx.onnx_files import check_external_files
from patchloom.prediction.models.tensor_layout import TensorLayout

LARGEST_CONSTANT = 64
"""Number of elements of the largest constant that is kept: larger ones are weights, smaller ones may be sizes."""

_WEIGHTS_OF = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "ConvTranspose": 1}
"""Index of the input that holds the weights of a convolution."""

_FLOATS = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16", "DOUBLE": "float64"}

_KEEPS_AXES = frozenset(
    [
        "Identity",
        "Cast",
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Clip",
        "Sigmoid",
        "Tanh",
        "Neg",
        "Abs",
        "Sqrt",
        "Exp",
        "Log",
        "Pow",
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Pad",
        "BatchNormalization",
        "InstanceNormalization",
        "QuantizeLinear",
        "DequantizeLinear",
        "MaxPool",
        "AveragePool",
        "Dropout",
    ]
)
"""Operators whose output has the axes and the channels of their first input."""


@dataclass(frozen=True)
class OnnxGraph:
    """The graph of a network, without its weights; made by `read_graph`.

    Parameters
    ----------
    content : bytes
        The network as a `ModelProto`. Weights are inputs of the graph.
    weight_shapes : mapping of str to tuple of int
        Shapes of the weights and of other constants, by name.
    precision : str, optional
        Dtype of most of its weights, such as `"float32"`; None if it has no weights of floats.
    """

    content: bytes
    weight_shapes: Mapping[str, tuple[int, ...]]
    precision: str | None

    def parse(self) -> Any:
        """Return the network as a new `onnx.ModelProto`."""
        return require("onnx", extra="onnx").ModelProto.FromString(self.content)


class FirstConvolution(NamedTuple):
    """What the first convolution that an input reaches shows about it."""

    layout: TensorLayout
    n_channels: int | None
    """Number of channels of the input; None if it has no channel axis."""


def read_graph(source: Path | bytes, name: str) -> OnnxGraph:
    """Read the graph of a network.

    Parameters
    ----------
    source : Path or bytes
        The ONNX file, or its content. Weights in other files are not read.
    name : str
        Name of the network in messages.

    Raises
    ------
    ModelError
        If it is not an ONNX network, or a file with its weights is missing or outside its folder.
    MissingExtraError
        If the package onnx is not installed.
    """
    onnx = require("onnx", extra="onnx")
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        model = onnx.ModelProto.FromString(content)
    except Exception as error:  # the error of Protocol Buffers differs between its versions
        raise ModelError(
            f"{name} is not an ONNX model, or it is damaged: {' '.join(str(error).split()) or 'it cannot be parsed'}"
        ) from error
    check_external_files(model, source, name)
    graph = model.graph
    shapes: dict[str, tuple[int, ...]] = {}
    sizes: Counter[str] = Counter()
    for tensor_name, tensor in _extract_weights(onnx, graph):
        shapes[tensor_name] = tuple(tensor.dims)
        sizes[_FLOATS.get(onnx.TensorProto.DataType.Name(tensor.data_type), "")] += prod(tensor.dims)
    del graph.value_info[:]
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    del sizes[""]
    return OnnxGraph(model.SerializeToString(), shapes, next((kind for kind, _ in sizes.most_common(1)), None))


def _extract_weights(onnx: Any, graph: Any) -> Iterator[tuple[str, Any]]:
    """Replace the weights of a graph by inputs of the same shape; yield all constants with their names."""
    declared = {value.name for value in graph.input}
    small = []
    for tensor in graph.initializer:
        yield tensor.name, tensor
        if _is_large(onnx, tensor):
            if tensor.name not in declared:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            small.append(onnx.TensorProto.FromString(tensor.SerializeToString()))
    del graph.initializer[:]
    graph.initializer.extend(small)
    nodes = []
    for node in graph.node:
        constant = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
        if node.op_type == "Constant" and constant is not None:
            yield node.output[0], constant
            if _is_large(onnx, constant):
                graph.input.append(
                    onnx.helper.make_tensor_value_info(node.output[0], constant.data_type, list(constant.dims))
                )
                continue
        nodes.append(onnx.NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes)


def _is_large(onnx: Any, tensor: Any) -> bool:
    is_external: bool = tensor.data_location == onnx.TensorProto.EXTERNAL
    return is_external or prod(tensor.dims) > LARGEST_CONSTANT


def find_first_convolution(graph: OnnxGraph, input_name: str, n_axes: int) -> FirstConvolution | None:
    """Find the first convolution that an input reaches unchanged but for the order of its axes, and for its values.

    Convolutions of ONNX take `NC(D)HW`, so the layout of the input follows from the transpositions before it, and the number of
    channels from its weights.

    Parameters
    ----------
    graph : OnnxGraph
        The network.
    input_name : str
        Name of the input.
    n_axes : int
        Number of axes of the input.

    Returns
    -------
    FirstConvolution or None
        None if no such convolution is found, or its input has no layout that a `TensorLayout` describes.
    """
    onnx = require("onnx", extra="onnx")
    parsed = graph.parse().graph
    constants = _integer_constants(onnx, parsed)
    axes: dict[str, tuple[int | None, ...]] = {input_name: tuple(range(n_axes))}
    for node in parsed.node:  # sorted: each after the nodes that it needs
        source = next((name for name in node.input if name in axes), None)
        if source is None:
            continue
        if node.op_type in _WEIGHTS_OF:
            found = _read_convolution(graph, parsed, node, axes[source])
            if found is not None:
                return found
        elif (moved := _moved_axes(node, axes[source], constants)) is not None:
            axes.update(dict.fromkeys(node.output[:1], moved))
    return None


def _moved_axes(
    node: Any, axes: tuple[int | None, ...], constants: Mapping[str, Sequence[int]]
) -> tuple[int | None, ...] | None:
    """Return the axes of the output of a node, as indices of axes of the network's input; None if it has others."""
    if node.op_type in _KEEPS_AXES:
        return axes
    attributes = {attribute.name: list(attribute.ints) for attribute in node.attribute}
    if node.op_type == "Transpose":
        return tuple(axes[axis] for axis in attributes.get("perm") or reversed(range(len(axes))))
    if node.op_type == "Unsqueeze":
        added = attributes.get("axes") or (constants.get(node.input[1]) if len(node.input) > 1 else None)
        if not added:
            return None
        places = {place % (len(axes) + len(added)) for place in added}
        kept = iter(axes)
        return tuple(None if place in places else next(kept) for place in range(len(axes) + len(added)))
    return None


def _integer_constants(onnx: Any, parsed: Any) -> dict[str, list[int]]:
    """Return the small constants of integers, by name."""
    found = {
        tensor.name: onnx.numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in parsed.initializer
        if tensor.data_type == onnx.TensorProto.INT64
    }
    for node in parsed.node:
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value_ints":
                found[node.output[0]] = list(attribute.ints)
            elif attribute.name == "value" and attribute.t.data_type == onnx.TensorProto.INT64:
                found[node.output[0]] = onnx.numpy_helper.to_array(attribute.t).ravel().tolist()
    return found


def _read_convolution(
    graph: OnnxGraph, parsed: Any, node: Any, axes: tuple[int | None, ...]
) -> FirstConvolution | None:
    weights = _weight_shape(graph, parsed, node.input[_WEIGHTS_OF[node.op_type]])
    if weights is None or len(weights) != len(axes) or len(axes) not in (4, 5):
        return None
    letters = dict(zip(axes, "NCDHW" if len(axes) == 5 else "NCHW", strict=True))
    try:
        layout = TensorLayout("".join(letters[axis] for axis in sorted(axis for axis in letters if axis is not None)))
    except ModelError:
        return None
    groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    n_channels = weights[0] if node.op_type == "ConvTranspose" else weights[1] * groups
    return FirstConvolution(layout, n_channels if "C" in layout.letters else None)


def _weight_shape(graph: OnnxGraph, parsed: Any, name: str) -> tuple[int, ...] | None:
    """Return the shape of weights, which may be stored in another dtype."""
    producers = {node.output[0]: node for node in parsed.node if node.output}
    while name not in graph.weight_shapes:
        node = producers.get(name)
        if node is None or node.op_type not in ("Cast", "DequantizeLinear", "Identity"):
            return None
        name = node.input[0]
    return graph.weight_shapes[name]
