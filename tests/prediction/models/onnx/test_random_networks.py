"""Random small networks: the sizes that they declare are the ones that they accept, and tiled they give what they give as a whole.

onnxruntime, without our code, runs the same networks on the whole image.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil

import numpy as np
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from patchloom.prediction import predict
from patchloom.prediction.models.onnx.onnx_model import OnnxModel

CHANNELS = 2


class Network:
    """Layers of random weights, one after the other."""

    def __init__(self, n_dims, seed):
        self.n_dims = n_dims
        self.rng = np.random.default_rng(seed)
        self.nodes, self.weights = [], []
        self.last = "x"
        self.reach = Fraction(0)
        self.voxel = Fraction(1)  # of the layer, in voxels of the input

    def __repr__(self):
        return " ".join(node.op_type for node in self.nodes)

    def add(self, op, *more, **attributes):
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, [self.last, *more], [output], **attributes))
        self.last = output

    def weight(self, *shape):
        name = f"w{len(self.weights)}"
        values = self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))
        self.weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def convolve(self, size=3, pad=0, stride=1, channels=CHANNELS):
        every = [1] * self.n_dims
        inside = 1 if self.last == "x" else self.inside
        self.add(
            "Conv",
            self.weight(channels, inside, *[size] * self.n_dims),
            strides=[stride] * self.n_dims,
            pads=[pad] * 2 * self.n_dims,
            dilations=every,
        )
        self.add("Relu")
        self.inside = channels
        self.reach += (size - 1) * self.voxel
        self.voxel *= stride

    def same(self):
        self.convolve(pad=1)

    def valid(self):
        self.convolve()

    def point(self):
        self.convolve(size=1)

    def stride(self):
        self.convolve(size=2, stride=2)

    def pool(self):
        every = self.n_dims * [2]
        self.add(self.rng.choice(["MaxPool", "AveragePool"]), kernel_shape=every, strides=every)
        self.reach += self.voxel
        self.voxel *= 2

    def enlarge(self):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.array([1, 1] + [2] * self.n_dims, np.float32), name))
        self.add("Resize", "", name, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
        self.voxel /= 2

    def transpose(self):
        every = self.n_dims * [2]
        self.add("ConvTranspose", self.weight(self.inside, CHANNELS, *every), strides=every)
        self.inside = CHANNELS
        self.voxel /= 2

    def shuffle(self):
        self.convolve(size=1, channels=4 * CHANNELS)
        self.add("DepthToSpace", blocksize=2)
        self.inside = CHANNELS
        self.voxel /= 2

    def level(self):
        """Down, a convolution, up, and the skipped connection."""
        skipped, channels = self.last, self.inside
        self.pool()
        self.same()
        self.transpose()
        self.add("Concat", skipped, axis=1)
        self.inside = CHANNELS + channels

    def bytes(self):
        self.nodes[-1].output[0] = "y"
        space = "DHW"[3 - self.n_dims :]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, *space])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", *(f"{axis}2" for axis in space)])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        return model.SerializeToString()


LAYERS = {
    "same": (2, 1),
    "valid": (2, 1),
    "point": (0, 1),
    "stride": (1, 2),
    "pool": (1, 2),
    "enlarge": (0, Fraction(1, 2)),
    "transpose": (0, Fraction(1, 2)),
    "shuffle": (0, Fraction(1, 2)),
    "level": (5, 1),
}
"""What each layer adds to the reach, in its own voxels, and by what it multiplies the size of a voxel."""


@st.composite
def networks(draw, n_dims, reach):
    """Draw a network that reaches not too far, and whose voxels are at most four times as large or small as those of its input."""
    network = Network(n_dims, draw(st.integers(0, 2**16)))
    network.same()
    for layer in draw(st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=5)):
        further, factor = LAYERS[layer]
        fits = network.reach + further * network.voxel <= reach and Fraction(1, 4) <= network.voxel * factor <= 4
        if fits and (layer != "shuffle" or n_dims == 2):
            getattr(network, layer)()
    network.convolve(size=1, channels=1)
    return network


def run(content, image):
    """Run a network on a whole image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image[None, None]})[0][0, 0]


@settings(max_examples=30)
@given(network=networks(2, reach=24))
def test_size_rule(network):
    """A size is accepted if onnxruntime runs it, and the output has the size that its scale gives."""
    content = network.bytes()
    description = OnnxModel(content, threads=1).description
    least, step = (description.min_size or (0,))[0], (description.size_step or (32,))[0]
    accepted = {}
    for size in range(1, least + 2 * step + 1):
        try:
            accepted[size] = run(content, np.zeros((size, size), np.float32)).shape[0]
        except Exception:
            continue
    if description.min_size is None:
        assert not accepted  # two sizes that are joined always differ
        return
    scale = 1 / network.voxel
    largest = accepted[least + 2 * step]
    exact = {
        size for size, output in accepted.items() if output and output == largest + scale * (size - least - 2 * step)
    }

    assert description.min_size == (least, least)
    assert exact == {least, least + step, least + 2 * step} | {
        size for size in range(least, least + 2 * step) if (size - least) % step == 0
    }
    assert description.origin_multiple[0] % network.voxel.numerator == 0


@pytest.mark.parametrize(("shape", "tile", "reach"), [((131, 117), 96, 24), ((37, 45, 41), 32, 10)], ids=["2D", "3D"])
@settings(max_examples=25)
@given(data=st.data())
def test_tiled_equals_whole(shape, tile, reach, data):
    """Tiled by its own description, a network gives what it gives for the whole image, padded to a size that it accepts."""
    network = data.draw(networks(len(shape), reach))
    content = network.bytes()
    model = OnnxModel(content, threads=1)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    least, steps = model.description.min_size, model.description.size_step
    assume(least is not None)
    size = [low + (tile - low) // step * step for low, step in zip(least, steps, strict=True)]
    made = run(content, np.zeros(size, np.float32)).shape
    margin = [(side - out * network.voxel) / 2 for side, out in zip(size, made, strict=True)]
    assume(all(lost.denominator == 1 for lost in margin))  # half a voxel is refused
    overlaps = [2 * (ceil(network.reach) + int(lost)) for lost in margin]

    result = predict(
        model, image, axes="ZYX"[-len(shape) :], patch_size=size, overlaps=overlaps, seams="grid", progress=False
    )

    whole = [
        low + -(-(side + 2 * int(lost) - low) // step) * step
        for side, lost, low, step in zip(shape, margin, least, steps, strict=True)
    ]
    pads = [(int(lost), full - side - int(lost)) for full, side, lost in zip(whole, shape, margin, strict=True)]
    expected = run(content, np.pad(image, pads, mode="reflect"))
    assert result.shape == tuple(ceil(side / network.voxel) for side in shape)
    np.testing.assert_allclose(result, expected[tuple(map(slice, result.shape))], rtol=1e-4, atol=1e-5)
