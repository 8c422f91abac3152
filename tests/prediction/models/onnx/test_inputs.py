"""Inputs other than the image get values, by the shapes and dtypes that they declare."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from onnx import parser

from patchloom.errors import ArgumentError, ModelError
from patchloom.prediction import predict
from patchloom.prediction.models.model import describe
from patchloom.prediction.models.onnx.onnx_model import OnnxModel

IMAGE = "float[N, 1, H, W]"


def network(others, body, initializers=""):
    """Write a network of an image and other inputs."""
    text = (
        f'<ir_version: 8, opset_import: ["": 17]> network ({others}, {IMAGE} x) => ({IMAGE} y) '
        f"{f'<{initializers}>' if initializers else ''} {{ {body} }}"
    )
    return parser.parse_model(text).SerializeToString()


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        ("float", 0.5),
        ("float[1]", 0.5),
        ("double[1, 1, 1, 1]", 3),
        ("int64[1]", 2),
        ("uint8", np.uint16(7)),
        ("float16[1]", [0.25]),
        ("bool", True),
        ("float[1, 1, H, W]", 0.5),  # as large as the image
        ("float[N, 1, 1, 1]", 0.5),  # one for each tile
        ("float[N, 1, A, B]", np.full((5, 6), 2.0)),  # its own size
    ],
)
def test_values(rng, declared, value):
    """A number or an array takes the shape and the dtype that the network declares."""
    batch = rng.random((3, 1, 5, 6), dtype=np.float32)
    content = network(f"{declared} w", "v = Cast<to = 1>(w) y = Mul(x, v)")

    model = OnnxModel(content, inputs={"w": value})

    np.testing.assert_allclose(model(batch), batch * np.asarray(value, np.float32), rtol=1e-6)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model))(batch), model(batch))


def test_image_is_the_input_left(rng):
    """The input without a value takes the image, whichever it is."""
    batch = rng.random((2, 1, 4, 4), dtype=np.float32)
    content = network(f"{IMAGE} w", "y = Sub(x, w)")

    np.testing.assert_array_equal(OnnxModel(content, inputs={"w": 1})(batch), batch - 1)
    np.testing.assert_array_equal(OnnxModel(content, inputs={"x": 1})(batch), 1 - batch)


def test_default(rng):
    """An input with a default needs no value, but may get one."""
    content = network("float[1] w", "y = Mul(x, w)", "float[1] w = {3}")
    batch = rng.random((2, 1, 4, 4), dtype=np.float32)

    np.testing.assert_array_equal(OnnxModel(content)(batch), 3 * batch)
    np.testing.assert_array_equal(OnnxModel(content, inputs={"w": 2})(batch), 2 * batch)


def test_tiles(rng):
    """A value for each tile follows the number of tiles, also in the last batch."""
    content = network("float[N, 1, 1, 1] w", "y = Mul(x, w)")
    image = rng.random((40, 56), dtype=np.float32)

    result = predict(
        OnnxModel(content, inputs={"w": 0.5}), image, axes="YX", patch_size=16, batch_size=4, progress=False
    )

    np.testing.assert_array_equal(result, image / 2)


def test_missing_values():
    """The error lists the inputs with their shapes, and an example of the option."""
    content = network(f"{IMAGE} w, int64[1] steps", "s = Cast<to = 1>(steps) v = Mul(w, s) y = Add(x, v)")

    with pytest.raises(
        ModelError,
        match=r"has 3 inputs without a value: 'w' \(\?, 1, \?, \?\) of float32, 'steps' \(1\) of int64, 'x' \(\?, 1, \?, \?\) of "
        r"float32; one of them takes the image: .*inputs=\{'steps': 0\.5\} \(--input steps=0\.5\)",
    ):
        OnnxModel(content)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"v": 1}, r"inputs has the name 'v', and .* has 'w', 'x': name one of these"),
        ({"w": 1, "x": 1}, "inputs has a value for each input of .*: leave out the input that takes the image"),
        ({"w": "much"}, r"inputs\['w'\] is 'much': it must be a number or an array of numbers, for 'w' \(2\) of int64"),
        ({"w": 0.5}, r"inputs\['w'\] is 0\.5, which does not fit into int64"),
        ({"w": 2**70}, r"inputs\['w'\] is .*it must be a number|does not fit into int64"),
        ({"w": [1, 2, 3]}, r"inputs\['w'\] has shape \(3,\), and .* takes \(2\): give an array of this shape"),
        ({"w": [[1, 2]]}, r"inputs\['w'\] has shape \(1, 2\), and .* takes \(2\)"),
    ],
)
def test_invalid_values(inputs, message):
    """A value that does not fit is refused when the model is made."""
    content = network("int64[2] w", "s = Cast<to = 1>(w) t = ReduceSum<keepdims = 0>(s) y = Mul(x, t)")

    with pytest.raises(ArgumentError, match=message):
        OnnxModel(content, inputs=inputs)


def test_identity():
    """Another value is another model, as a run must not be resumed with it."""
    content = network("float[1] w", "y = Mul(x, w)")

    halves, thirds = (describe(OnnxModel(content, inputs={"w": value})).identity for value in (1 / 2, 1 / 3))

    assert halves != thirds
    assert halves == describe(OnnxModel(content, inputs={"w": [0.5]})).identity
