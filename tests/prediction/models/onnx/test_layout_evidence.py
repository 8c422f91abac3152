"""The layout of an input is found from the first convolution, the names of sizes, and the sizes, in this order."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from patchloom.errors import ModelError
from patchloom.prediction.models.onnx.onnx_model import OnnxModel

WEIGHTS = "k = Constant<value = float[2, 3, 1, 1] {1, 0, 0, 0, 1, 0}>()"
"""The first two of three channels."""


def convolution(before="", source="x", after=""):
    """A convolution of three channels after other operators."""
    return f"{WEIGHTS} {before} c = Conv({source}, k) {after or 'y = Identity(c)'}"


LAST = "t = Transpose<perm = [0, 3, 1, 2]>(x)"
BACK = "y = Transpose<perm = [0, 2, 3, 1]>(c)"
UNSQUEEZED = "a = Constant<value_ints = [0]>() t = Unsqueeze(x, a)"


@pytest.mark.parametrize(
    ("declared", "body", "batch_shape"),
    [
        ("A, B, C, D", convolution(), (2, 3, 4, 4)),
        ("A, B, C, D", convolution(LAST, "t", BACK), (2, 3, 4, 4)),
        ("A, 3, 3, 3", convolution(), (2, 3, 3, 3)),
        ("A, 3, 3, 3", convolution(LAST, "t", BACK), (2, 3, 3, 3)),
        ("A, B, 3, C", convolution(), (1, 3, 3, 5)),
        ("A, B, C, D", convolution(f"{LAST} u = Concat<axis = 1>(t, t, t)", "u", BACK), None),  # its channels are not those of x
        ("A, B, C", convolution(UNSQUEEZED.replace("Unsqueeze(x, a)", "Unsqueeze(x, a)"), "t", "s = Constant<value_ints = [0]>() y = Squeeze(c, s)"), (1, 3, 4, 5)),
        ("A, B, C, D", convolution("p = Constant<value = float[1, 3, 1, 1] {1, 2, 3}>() s = Sub(x, p) d = Cast<to = 1>(s)", "d"), (1, 3, 4, 5)),
        ("A, B, C, D", convolution("m = MaxPool<kernel_shape = [1, 1]>(x)", "m"), (1, 3, 4, 5)),
    ],
)  # fmt: skip
def test_first_convolution(onnx_network, declared, body, batch_shape):
    """A convolution takes channels from one axis, and their number is that of its weights."""
    content = onnx_network(f"float[{declared}]", body, f"float[{', '.join('EFGH'[: declared.count(',') + 1])}] y")
    if batch_shape is None:
        with pytest.raises(ModelError, match="give its layout"):
            OnnxModel(content)
        return

    model = OnnxModel(content)
    batch = np.random.default_rng(0).random(batch_shape, np.float32)

    assert model.description.in_channels == 3
    shift = np.array([1, 2, 3]).reshape(3, 1, 1) if "Sub" in body else 0
    np.testing.assert_allclose(model(batch), (batch - shift)[:, :2], rtol=1e-6)


@pytest.mark.parametrize(
    ("declared", "in_channels"),
    [
        ("batch, channels, height, width", None),
        ("N, C, H, W", None),
        ("b, c, y, x", None),
        ("batch_size, in_channels, input_height, input_width", None),
        ("N, 64, H, W", 64),
        ("n, channels, depth, height, width", None),
        ("A, B, rows, cols", None),
    ],
)
def test_names_of_sizes(onnx_network, declared, in_channels):
    """Names of sizes distinguish channels from space, in either order."""
    first = OnnxModel(onnx_network(f"float[{declared}]"))
    batch, channels, *space = declared.split(", ")
    last = OnnxModel(onnx_network(f"float[{', '.join([batch, *space, channels])}]"))
    image = np.random.default_rng(0).random((2, in_channels or 5, 3, 6, 4)[: 2 + len(space)], np.float32)

    for model in (first, last):
        assert model.description.in_channels == in_channels
    np.testing.assert_array_equal(first(image), image)
    np.testing.assert_array_equal(last(image), image)


@pytest.mark.parametrize(
    "declared",
    [
        "A, B, C, D",
        "s0, s1, s2, s3",
        "x_dynamic_axes_1, x_dynamic_axes_2, u, v",
        "unk__1, unk__2, unk__3, unk__4",
        "batch, 5, 5, 5",
    ],
)
def test_names_without_meaning(onnx_network, declared):
    """Other names leave the layout open, and the error contains how to give it."""
    with pytest.raises(ModelError, match="may be NCHW or NHWC: give its layout, such as layout='NCHW'"):
        OnnxModel(onnx_network(f"float[{declared}]"))


def test_contradiction(onnx_network):
    """A layout that contradicts the first convolution is refused."""
    content = onnx_network("float[N, H, W, 3]", convolution(LAST, "t", BACK), "float[N, H, W, 2] y")

    with pytest.raises(
        ModelError, match="layout is NCHW, but the first convolution of the network takes NHWC: leave layout out"
    ):
        OnnxModel(content, layout="NCHW")
    assert OnnxModel(content, layout="NHWC").description.in_channels == 3


def test_undeclared_shape(onnx_network):
    """The convolution shows the layout of an input without a shape."""
    content = onnx_network("float[]", convolution(), "float[] y")
    model = onnx.ModelProto.FromString(content)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.ClearField("shape")  # which the notation cannot express
    batch = np.random.default_rng(0).random((1, 3, 4, 5), np.float32)

    np.testing.assert_allclose(OnnxModel(model.SerializeToString())(batch), batch[:, :2], rtol=1e-6)
