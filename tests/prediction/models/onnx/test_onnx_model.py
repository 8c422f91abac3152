"""ONNX networks give what NumPy gives, whatever their layout, sizes and dtype."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from patchloom.errors import (
    ArgumentError,
    GeometryError,
    MissingExtraError,
    ModelError,
    ModelNotFoundError,
    ModelOutputError,
)
from patchloom.prediction import plan, predict
from patchloom.prediction.models.model import describe
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.testing.model_conformance import ModelConformance

SIGNATURES = {
    "NCHW": "float[N, 2, H, W]",
    "NHWC": "float[N, H, W, 2]",
    "NHWC, fixed": "float[N, 24, 20, 2]",
    "NHWC, fixed, one at a time": "float[1, 24, 20, 2]",
    "NHWC, fixed, two at a time": "float[2, 24, 20, 2]",
    "HWC": "float[H, W, 2]",
    "CHW": "float[2, H, W]",
    "NCDHW": "float[N, 2, D, H, W]",
    "NDHWC": "float[N, D, H, W, 2]",
    "NDHWC, fixed": "float[N, 17, 24, 20, 2]",
}


class TestNetworksOfEveryLayoutConform(ModelConformance):
    """Two channels, 24 × 20 and if need be 17 deep, so that no two axes can be mistaken for each other."""

    @pytest.fixture(autouse=True, params=SIGNATURES)
    def network(self, request, onnx_file, rng):
        self.path = onnx_file(SIGNATURES[request.param], "y = Neg(x)")
        space = (17, 24, 20) if "D" in request.param else (24, 20)
        self.tiles = rng.integers(0, 2**16, (3, 2, *space), dtype=np.uint16)

    def make_model(self):
        return OnnxModel(self.path)

    def make_batch(self, size):
        return self.tiles[:size]

    def test_values(self):
        """No axis is exchanged with another."""
        batch = self.make_batch(3)

        predicted = self.make_model()(batch)

        assert predicted.dtype == np.float32
        np.testing.assert_array_equal(predicted, -batch.astype(np.float32))


def test_convolution(onnx_network, rng):
    """A convolution equals the same in NumPy."""
    kernels = rng.integers(-5, 5, (2, 3, 3, 3)).astype(np.float32)
    values = ", ".join(str(value) for value in kernels.ravel())
    network = onnx_network(
        "float[N, 3, H, W]",
        f"k = Constant<value = float[2, 3, 3, 3] {{{values}}}>() y = Conv<pads = [1, 1, 1, 1]>(x, k)",
        "float[N, 2, H, W] y",
    )
    batch = rng.integers(0, 100, (2, 3, 14, 11), dtype=np.uint8)
    windows = sliding_window_view(np.pad(batch, ((0, 0), (0, 0), (1, 1), (1, 1))).astype(float), (3, 3), axis=(2, 3))

    model = OnnxModel(network)

    np.testing.assert_allclose(model(batch), np.einsum("bcyxij,ocij->boyx", windows, kernels), rtol=1e-6)
    assert (model.description.in_channels, model.description.out_channels) == (3, 2)


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("float[N, 2, H, W]", {"n_dims": 2, "in_channels": 2, "out_channels": 2, "out_dtype": "float32"}),
        ("double[4, 64, 48, 1]", {"patch_size": (64, 48), "batch_size": 4, "in_channels": 1, "out_dtype": "float64"}),
        ("float16[N, 1, 32, 64, 48]", {"patch_size": (32, 64, 48), "n_dims": 3, "batch_size": None}),
        ("uint8[N, 1, D, 64, 48]", {"patch_size": None, "n_dims": 3, "out_dtype": "uint8"}),
        ("float[64, 48]", {"patch_size": (64, 48), "batch_size": 1, "in_channels": 1, "out_channels": 1}),
    ],
)
def test_description(onnx_network, signature, expected):
    """Fixed sizes are described, symbolic sizes are not."""
    description = describe(OnnxModel(onnx_network(signature)))

    assert {name: getattr(description, name) for name in expected} == expected
    assert all(type(size) is int for size in description.patch_size or ())


def test_ambiguous_layout(onnx_file, rng):
    """An ambiguous layout has to be given."""
    path = onnx_file("float[N, A, B, C]")
    batch = rng.random((1, 2, 8, 8), dtype=np.float32)

    with pytest.raises(
        ModelError, match=r"network\.onnx: .*may be NCHW or NHWC: give its layout, such as layout='NCHW'"
    ):
        OnnxModel(path)

    np.testing.assert_array_equal(OnnxModel(path, layout="nhwc")(batch), batch)


def test_undeclared_shape(onnx_network, rng):
    """An input without a shape works with a layout."""
    batch = rng.random((2, 3, 8, 9), dtype=np.float32)

    model = OnnxModel(onnx_network("float[]"), layout="NCHW")

    assert (model.description.in_channels, model.description.patch_size) == (None, None)
    np.testing.assert_array_equal(model(batch), batch)


def test_wrong_layout(onnx_network):
    """A layout of another number of axes is refused."""
    with pytest.raises(ModelError, match=r"layout is NDHWC, which does not fit the input of shape \(\?, 1, \?, \?\)"):
        OnnxModel(onnx_network("float[N, 1, H, W]"), layout="NDHWC")


@pytest.mark.parametrize(("signature", "portion"), [("float[1, 2, H, W]", 1), ("float[4, 2, H, W]", 4)])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_fixed_batch_size(onnx_network, rng, signature, portion, size):
    """A network of a fixed batch size accepts batches of any size."""
    model = OnnxModel(onnx_network(signature))
    batch = rng.random((size, 2, 5, 6), dtype=np.float32)

    assert model.description.batch_size == portion
    np.testing.assert_array_equal(model(batch), batch)


def test_outputs(onnx_network, rng):
    """All outputs are returned by name, unless some are named."""
    signature = "float[N, 1, H, W]"
    network = onnx_network(signature, "y = Neg(x) z = Add(x, x)", f"{signature} y, {signature} z")
    batch = rng.random((2, 1, 5, 6), dtype=np.float32)

    both = OnnxModel(network)(batch)

    assert list(both) == ["y", "z"]
    np.testing.assert_array_equal(both["y"], -batch)
    np.testing.assert_array_equal(both["z"], 2 * batch)
    np.testing.assert_array_equal(OnnxModel(network, output="z")(batch), 2 * batch)
    np.testing.assert_array_equal(OnnxModel(network, output=["z"])(batch), 2 * batch)
    assert list(OnnxModel(network, output=("z", "y"))(batch)) == ["y", "z"]
    with pytest.raises(ModelError, match=r"output is 'mask', and .* has 'y', 'z': choose one of these"):
        OnnxModel(network, output="mask")


@pytest.mark.parametrize("output", [[], ["y", "y"]])
def test_invalid_outputs(onnx_network, output):
    """At least one output is named, and each once."""
    with pytest.raises(ArgumentError, match=r"output is .*: name at least one output, and each once"):
        OnnxModel(onnx_network("float[N, 1, H, W]"), output=output)


def test_predicted_outputs(onnx_network, rng):
    """Outputs of different sizes, dtypes and channels are stitched, each by its name; batches are divided if need be."""
    network = onnx_network(
        "float[2, 1, H, W]",
        "half = AveragePool<kernel_shape = [2, 2], strides = [2, 2]>(x)"
        "zero = Constant<value = float {0}>() bright = Greater(x, zero) both = Concat<axis = 1>(x, x)",
        "float[2, 1, H2, W2] half, bool[2, 1, H, W] bright, float[2, 2, H, W] both",
    )
    image = rng.normal(size=(36, 44)).astype(np.float32)

    results = predict(OnnxModel(network), image, axes="YX", patch_size=16, overlaps=4, progress=False)

    assert {name: result.dtype for name, result in results.items()} == {"half": "f4", "bright": "?", "both": "f4"}
    np.testing.assert_allclose(results["half"], image.reshape(18, 2, 22, 2).mean((1, 3)), atol=1e-6)
    np.testing.assert_array_equal(results["bright"], image > 0)
    np.testing.assert_array_equal(results["both"], np.stack([image, image]))


def test_no_channel_axis(onnx_network, rng):
    """An output without a channel axis is one channel."""
    network = onnx_network("float[N, H, W, 3]", "y = ArgMax<axis = 3, keepdims = 0>(x)", "int64[N, H, W] y")
    batch = rng.random((2, 3, 5, 6), dtype=np.float32)

    model = OnnxModel(network)

    np.testing.assert_array_equal(model(batch), batch.argmax(1)[:, None])
    assert (model.description.out_channels, model.description.out_dtype) == (1, "int64")


SCORES = "y = ReduceMean<axes = [1, 2, 3], keepdims = 0>(x)"


def test_output_not_an_image(onnx_network):
    """An output that is not an image is refused when the model is made, and left out if another one is chosen."""
    alone = onnx_network("float[N, 3, H, W]", SCORES, "float[N] y")
    beside = onnx_network("float[N, 3, H, W]", f"{SCORES} z = Neg(x)", "float[N] y, float[N, 3, H, W] z")

    with pytest.raises(ModelError, match=r"output 'y' of shape \(\?\) is not an image .*: export a network that"):
        OnnxModel(alone)
    with pytest.raises(ModelError, match=r"output 'y' of shape \(\?\) is not an image .*: choose 'z' with output="):
        OnnxModel(beside)
    assert OnnxModel(beside, output="z")(np.ones((1, 3, 2, 2))).tolist() == (-np.ones((1, 3, 2, 2))).tolist()


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Transpose<perm = [0, 3, 1, 2]>(x)", "float[N, C, H, W] y"),  # channels elsewhere than in the input
        ("y = Concat<axis = 0>(x, x)", "float[M, H, W, C] y"),  # another number of tiles
    ],
)
def test_output_shape(onnx_network, body, outputs):
    """An output with other axes or another batch size is refused."""
    model = OnnxModel(onnx_network("float[N, H, W, 2]", body, outputs))

    with pytest.raises(ModelOutputError, match=r"output 'y' has shape .* the input had \(1, 8, 6, 2\) \(NHWC\)"):
        model(np.zeros((1, 2, 8, 6), np.float32))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)",
            lambda image: image.reshape(20, 2, 30, 2).max((1, 3)),
        ),
        ("y = MaxPool<kernel_shape = [1, 3]>(x)", None),  # without a margin, along one axis
        ("y = DepthToSpace<blocksize = 2>(z)", lambda image: image.repeat(2, 0).repeat(2, 1)),
    ],
)
def test_output_sizes(onnx_network, rng, body, expected):
    """Outputs that are larger or smaller, or lack a margin, are stitched."""
    body = f"z = Concat<axis = 1>(x, x, x, x)\n{body}" if "(z)" in body else body
    model = OnnxModel(onnx_network("float[N, 1, H, W]", body, "float[N, 1, Y, X] y"))
    image = rng.random((40, 60), np.float32)

    result = predict(model, image, axes="YX", patch_size=(16, 16), overlaps=(4, 4), padding="edge", progress=False)

    if expected is None:
        padded = np.pad(image, ((0, 0), (1, 1)), mode="edge")
        np.testing.assert_array_equal(result, np.max([padded[:, i : i + 60] for i in range(3)], axis=0))
    else:
        np.testing.assert_array_equal(result, expected(image))


DTYPES = {
    "float": np.float32,
    "float16": np.float16,
    "double": np.float64,
    "uint8": np.uint8,
    "int8": np.int8,
    "uint16": np.uint16,
    "int16": np.int16,
    "uint32": np.uint32,
    "int32": np.int32,
    "uint64": np.uint64,
    "int64": np.int64,
    "bool": np.bool_,
}


@pytest.mark.parametrize(("declared", "dtype"), DTYPES.items())
def test_input_dtypes(onnx_network, rng, declared, dtype):
    """A batch is cast to the dtype of the input."""
    model = OnnxModel(onnx_network(f"{declared}[N, 1, H, W]"))
    batch = rng.integers(0, 2, (2, 1, 5, 6)).astype(bool)

    predicted = model(batch)

    assert predicted.dtype == dtype
    assert model.description.out_dtype == predicted.dtype.name
    np.testing.assert_array_equal(predicted, batch)


@pytest.mark.parametrize("source", ["<u2", ">u2", "u1", "f8", "i8", "f2"])
def test_float_input(onnx_network, rng, source):
    """An input of floats accepts any image."""
    batch = rng.integers(0, 200, (2, 1, 5, 6)).astype(source)

    np.testing.assert_array_equal(OnnxModel(onnx_network("float[N, 1, H, W]"))(batch), batch)


@pytest.mark.parametrize(
    ("declared", "source"),
    [("uint8", "u2"), ("uint8", "i1"), ("int32", "f4"), ("uint16", "i4"), ("bool", "u1"), ("float", "c8")],
)
def test_unsafe_cast(onnx_network, declared, source):
    """A cast that could change values is refused."""
    model = OnnxModel(onnx_network(f"{declared}[N, 1, H, W]"))

    with pytest.raises(
        ModelError, match=f"dtype {np.dtype(source)}, which does not fit into .*: convert the image first"
    ):
        model(np.ones((1, 1, 4, 4), source))


def test_half_precision(onnx_network):
    """Values beyond the range of float16 are refused, unless scaled."""
    network = onnx_network("float16[N, 1, H, W]")
    batch = np.full((1, 1, 4, 4), 65535, np.uint16)

    with pytest.raises(ModelError, match=r"too large for float16, the input of .*: use scale="):
        OnnxModel(network)(batch)

    assert (OnnxModel(network, scale="dtype")(batch) == 1).all()


@pytest.mark.parametrize("source", [np.uint8, np.int16, np.uint16, np.uint32, np.int64])
def test_scale_integers(onnx_network, rng, source):
    """`scale="dtype"` divides integers by the largest value of their dtype."""
    model = OnnxModel(onnx_network("float[N, 1, H, W]"), scale="dtype")
    largest = np.iinfo(source).max
    batch = rng.integers(0, largest, (1, 1, 5, 6), dtype=source, endpoint=True)

    np.testing.assert_allclose(model(batch), batch / largest, rtol=2e-7)


def test_scale_floats(onnx_network, rng):
    """`scale="dtype"` does not change floats and booleans."""
    model = OnnxModel(onnx_network("float[N, 1, H, W]"), scale="dtype")

    for batch in (rng.random((1, 1, 5, 6), dtype=np.float32), rng.random((1, 1, 5, 6)) > 0.5):
        np.testing.assert_array_equal(model(batch), batch)


def test_scale_number(onnx_network, rng):
    """A number as `scale` is a factor."""
    batch = rng.integers(0, 1000, (1, 1, 5, 6))

    np.testing.assert_array_equal(OnnxModel(onnx_network("double[N, 1, H, W]"), scale=0.125)(batch), batch / 8)


@pytest.mark.parametrize("scale", ["bits", float("nan"), float("inf")])
def test_invalid_scale(onnx_network, scale):
    """A scale that is not a finite number is refused."""
    with pytest.raises(ModelError, match=r"scale is .*: it must be a finite number or 'dtype'"):
        OnnxModel(onnx_network("float[N, 1, H, W]"), scale=scale)


def test_scale_integer_input(onnx_network):
    """`scale` is refused for an input of integers."""
    with pytest.raises(
        ModelError, match=r"scale is 'dtype', which is for networks that take floats: leave it out, as .* takes uint8"
    ):
        OnnxModel(onnx_network("uint8[N, 1, H, W]"), scale="dtype")


def test_channel_order(onnx_network, rng):
    """`channel_order` reorders the channels, and must contain each once."""
    batch = rng.random((2, 3, 5, 6), dtype=np.float32)
    network = onnx_network("float[N, H, W, 3]")

    np.testing.assert_array_equal(OnnxModel(network, channel_order=(2, 1, 0))(batch), batch[:, ::-1])
    with pytest.raises(
        ModelError, match=r"channel_order is \(0, 1\): it must contain each of 0 to 2 once, as .* takes 3 channels"
    ):
        OnnxModel(network, channel_order=(0, 1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 24, 20), r"batch has 3 channel\(s\): .*network\.onnx takes 2, .* read as NHWC"),
        ((1, 2, 24, 21), r"batch has size 21 along X: .*network\.onnx takes tiles of size 20"),
        ((1, 2, 23, 20), r"batch has size 23 along Y: .*network\.onnx takes tiles of size 24"),
        (
            (1, 2, 4, 24, 20),
            r"batch has shape \(1, 2, 4, 24, 20\): .*network\.onnx is a 2D model and takes batches \(B, C, Y, X\)",
        ),
    ],
)
def test_wrong_batch(onnx_file, shape, message):
    """The error contains the size of the batch and that of the network."""
    model = OnnxModel(onnx_file("float[N, 24, 20, 2]"))

    with pytest.raises(ModelError, match=message):
        model(np.zeros(shape, np.float32))


def test_failing_network(onnx_file):
    """The error of a network names it, in one line."""
    model = OnnxModel(onnx_file("float[N, 1, H, W]", "s = Constant<value_ints = [7]>() y = Reshape(x, s)"))

    with pytest.raises(ModelError, match=r"network\.onnx failed on a tensor of shape \(1, 1, 4, 4\)") as caught:
        model(np.zeros((1, 1, 4, 4), np.float32))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"this is no network", bytes(100)])
def test_invalid_file(tmp_path, content):
    """The error for an invalid file names it."""
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"broken\.onnx is not an ONNX model, or it is damaged"):
        OnnxModel(path)


def test_truncated_file(onnx_file):
    """The error for a truncated file names it."""
    path = onnx_file("float[N, 1, H, W]")
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(ModelError, match=r"network\.onnx is not an ONNX model, or it is damaged"):
        OnnxModel(path)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_missing_file(tmp_path, name):
    """A missing file is a ModelNotFoundError and a FileNotFoundError."""
    with pytest.raises(ModelNotFoundError, match="there is no model file"):
        OnnxModel(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        OnnxModel(tmp_path / name)


def test_unknown_dtype(onnx_network):
    """A dtype that NumPy does not have is refused."""
    with pytest.raises(ModelError, match=r"'x' is of type tensor\(bfloat16\)"):
        OnnxModel(onnx_network("bfloat16[N, 1, H, W]"))


def test_threads(onnx_network, rng):
    """The number of threads is at least 1."""
    network = onnx_network("float[N, 1, H, W]")
    batch = rng.random((1, 1, 4, 4), dtype=np.float32)

    np.testing.assert_array_equal(OnnxModel(network, threads=1)(batch), batch)
    with pytest.raises(ModelError, match="threads is 0: it must be at least 1"):
        OnnxModel(network, threads=0)


def test_pickle(onnx_file, tmp_path, monkeypatch, rng):
    """A pickled model is opened from another directory."""
    path = onnx_file("float[N, A, B, C]", "y = Neg(x)")
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(OnnxModel(path.name, layout="NHWC", scale=2.0))
    monkeypatch.chdir(os.sep)
    batch = rng.random((1, 2, 4, 4), dtype=np.float32)

    model = pickle.loads(pickled)

    np.testing.assert_array_equal(model(batch), -2 * batch)
    with pytest.raises(ModelError, match=r": network\.onnx is a 2D model"):
        model(batch[..., np.newaxis])


def test_pickle_bytes(onnx_network, rng):
    """A model from bytes pickles with them."""
    batch = rng.random((1, 1, 4, 4), dtype=np.float32)

    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(OnnxModel(onnx_network("float[N, 1, H, W]"))))(batch), batch
    )


def test_batch_unchanged(onnx_network, rng):
    """The batch is not changed."""
    batch = rng.random((2, 1, 4, 4), dtype=np.float32)
    before = batch.copy()

    OnnxModel(onnx_network("float[N, 1, H, W]", "y = Neg(x)"), scale=3)(batch)

    np.testing.assert_array_equal(batch, before)


def test_missing_runtime(onnx_network, monkeypatch):
    """The error for a missing runtime names the extra."""
    network = onnx_network("float[N, 1, H, W]")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingExtraError, match=r"'onnxruntime' is not installed: pip install \"patchloom\[onnx\]\""):
        OnnxModel(network)


NHWC_POOL = (
    "t = Transpose<perm = [0, 3, 1, 2]>(x) z = MaxPool<kernel_shape = [4, 2], strides = [4, 2]>(t) "
    "y = Transpose<perm = [0, 2, 3, 1]>(z)"
)
FIXED_SIZES = {
    "half": ("y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)", (1, 2), 0),
    "double": ("z = Concat<axis = 1>(x, x, x, x) y = DepthToSpace<blocksize = 2>(z)", (2, 1), 0),
    "margin": ("y = MaxPool<kernel_shape = [17, 17]>(x)", (1, 1), 8),
    "quarter and margin": (
        "z = MaxPool<kernel_shape = [17, 17]>(x) y = MaxPool<kernel_shape = [4, 4], strides = [4, 4]>(z)",
        (1, 4),
        8,
    ),
}


@pytest.mark.parametrize("size", [32, 48])
@pytest.mark.parametrize("kind", FIXED_SIZES)
def test_fixed_size(onnx_network, rng, kind, size):
    """A network of one size declares whether an output is smaller by a factor or by a margin, which one size does not show."""
    body, (up, down), margin = FIXED_SIZES[kind]
    model = OnnxModel(onnx_network(f"float[1, 1, {size}, {size}]", body, "float[1, 1, A, B] y"))
    image = rng.random((77, 90), np.float32)

    result = predict(model, image, axes="YX", overlaps=2 * margin, padding="edge", progress=False)

    padded = np.pad(image, [(margin, margin + (-side) % down) for side in image.shape], mode="edge")
    if margin:
        padded = sliding_window_view(padded, (17, 17)).max((2, 3))
    rows, columns = (side // down for side in padded.shape)
    expected = padded.reshape(rows, down, columns, down).max((1, 3)).repeat(up, 0).repeat(up, 1)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("signature", "body", "expected"),
    [
        ("float[N, 1, H, W]", "y = Neg(x)", ((1, 1), (1, 1), (1, 1))),
        ("float[N, 1, H, W]", "y = MaxPool<kernel_shape = [3, 1]>(x)", ((3, 1), (1, 1), (1, 1))),
        ("float[N, 1, D, H, W]", "y = MaxPool<kernel_shape = [1, 2, 4], strides = [1, 2, 4]>(x)", ((1, 2, 4),) * 3),
        ("float[N, H, W, 1]", NHWC_POOL, ((4, 2),) * 3),
        ("float[N, 1, 64, W]", "y = MaxPool<kernel_shape = [4, 2], strides = [4, 2]>(x)", (None, None, (4, 2))),
        ("float[1, 1, 64, 48]", "y = MaxPool<kernel_shape = [4, 2], strides = [4, 2]>(x)", (None, None, (4, 2))),
        ("float[N, C, H, W]", "y = Neg(x)", (None, None, None)),  # the number of channels is open
        ("float[N, 1, H, W]", "s = NonZero(x) y = Neg(x) z = Cast<to = 1>(s)", (None, None, None)),  # not all shapes can be found
        ("float[N, 1, H, W]", "s = Constant<value_ints = [1, 1, 64, 64]>() y = Reshape(x, s)", (None, None, None)),
    ],
)  # fmt: skip
def test_size_rule(onnx_network, signature, body, expected):
    """Sizes and strides are declared for each axis if the shapes show them."""
    description = OnnxModel(onnx_network(signature, body, "float[E, F, G, H] y")).description

    assert (description.min_size, description.size_step, description.origin_multiple) == expected


def test_mirrored_padding(onnx_network):
    """A network that pads by mirror images needs an image that is larger than the padding."""
    network = onnx_network(
        "float[N, 1, H, W]",
        'p = Constant<value_ints = [0, 0, 3, 3, 0, 0, 3, 3]>() z = Pad<mode = "reflect">(x, p) '

        "y = MaxPool<kernel_shape = [7, 7]>(z)",
    )  # fmt: skip
    model = OnnxModel(network)

    assert model.description.min_size == (4, 4)
    assert model(np.ones((1, 1, 4, 4), np.float32)).shape == (1, 1, 4, 4)


def test_default_tiles(onnx_network, rng):
    """A network whose sizes are known needs no patch size, and starts tiles on its stride."""
    network = onnx_network("float[N, 1, H, W]", "y = MaxPool<kernel_shape = [8, 8], strides = [8, 8]>(x)")
    image = rng.random((600, 530), np.float32)

    prepared = plan(image, model=OnnxModel(network), axes="YX")

    assert prepared.layout.patch_size == (512, 512)
    assert {start % 8 for spec in prepared.tiling for start in spec["coords"]} == {0}
    with pytest.raises(
        GeometryError, match="patch_size is 100 along Y, but the model takes 8 and more in steps of 8: take 96"
    ):
        plan(image, model=OnnxModel(network), axes="YX", patch_size=100)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float16"])
def test_predicted_dtypes(onnx_network, rng, dtype):
    """Images of the network's dtype are predicted in it."""
    model = OnnxModel(onnx_network(f"{dtype}[N, 1, H, W]"))
    image = (rng.random((40, 50)) > 0.5).astype(dtype)

    result = predict(model, image, axes="YX", patch_size=16, overlaps=4, progress=False)

    assert result.dtype == dtype
    np.testing.assert_array_equal(result, image)
