"""ONNX networks give what NumPy gives, whatever their layout, sizes and dtype."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from patchloom.errors import MissingExtraError, ModelError, ModelNotFoundError, ModelOutputError
from patchloom.prediction import predict
from patchloom.prediction.models import OnnxModel, describe
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

    def test_values_stay_in_their_places(self):
        batch = self.make_batch(3)

        predicted = self.make_model()(batch)

        assert predicted.dtype == np.float32
        np.testing.assert_array_equal(predicted, -batch.astype(np.float32))


def test_a_convolution_equals_the_same_in_numpy(onnx_network, rng):
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
def test_fixed_sizes_are_described_and_symbolic_ones_left_free(onnx_network, signature, expected):
    description = describe(OnnxModel(onnx_network(signature)))

    assert {name: getattr(description, name) for name in expected} == expected
    assert all(type(size) is int for size in description.patch_size or ())


def test_a_layout_in_doubt_has_to_be_said(onnx_file, rng):
    path = onnx_file("float[N, A, B, C]")
    batch = rng.random((1, 2, 8, 8), dtype=np.float32)

    with pytest.raises(ModelError, match=r"network\.onnx: .*may be NCHW or NHWC: say which, such as layout='NCHW'"):
        OnnxModel(path)

    np.testing.assert_array_equal(OnnxModel(path, layout="nhwc")(batch), batch)


def test_an_undeclared_shape_takes_a_layout(onnx_network, rng):
    batch = rng.random((2, 3, 8, 9), dtype=np.float32)

    model = OnnxModel(onnx_network("float[]"), layout="NCHW")

    assert (model.description.in_channels, model.description.patch_size) == (None, None)
    np.testing.assert_array_equal(model(batch), batch)


def test_a_layout_that_does_not_fit_the_input_is_refused(onnx_network):
    with pytest.raises(ModelError, match=r"layout NDHWC does not fit an input of shape \(\?, 1, \?, \?\)"):
        OnnxModel(onnx_network("float[N, 1, H, W]"), layout="NDHWC")


@pytest.mark.parametrize(("signature", "portion"), [("float[1, 2, H, W]", 1), ("float[4, 2, H, W]", 4)])
@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_a_fixed_batch_size_takes_batches_of_any_size(onnx_network, rng, signature, portion, size):
    model = OnnxModel(onnx_network(signature))
    batch = rng.random((size, 2, 5, 6), dtype=np.float32)

    assert model.description.batch_size == portion
    np.testing.assert_array_equal(model(batch), batch)


def test_the_first_output_is_used_unless_another_is_named(onnx_network, rng):
    signature = "float[N, 1, H, W]"
    network = onnx_network(signature, "y = Neg(x) z = Add(x, x)", f"{signature} y, {signature} z")
    batch = rng.random((2, 1, 5, 6), dtype=np.float32)

    np.testing.assert_array_equal(OnnxModel(network)(batch), -batch)
    np.testing.assert_array_equal(OnnxModel(network, output="z")(batch), 2 * batch)
    with pytest.raises(ModelError, match=r"no output 'mask': its outputs are 'y', 'z'"):
        OnnxModel(network, output="mask")


def test_labels_without_a_channel_axis_are_one_channel(onnx_network, rng):
    network = onnx_network("float[N, H, W, 3]", "y = ArgMax<axis = 3, keepdims = 0>(x)", "int64[N, H, W] y")
    batch = rng.random((2, 3, 5, 6), dtype=np.float32)

    model = OnnxModel(network)

    np.testing.assert_array_equal(model(batch), batch.argmax(1)[:, None])
    assert (model.description.out_channels, model.description.out_dtype) == (1, "int64")


def test_an_output_that_is_no_image_is_refused_before_anything_runs(onnx_network):
    network = onnx_network("float[N, 3, H, W]", "y = ReduceMean<axes = [1, 2, 3], keepdims = 0>(x)", "float[N] y")

    with pytest.raises(ModelError, match=r"output 'y' of shape \(\?\) is no image"):
        OnnxModel(network)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("y = Transpose<perm = [0, 3, 1, 2]>(x)", "float[N, C, H, W] y"),  # channels elsewhere than in the input
        ("y = Concat<axis = 0>(x, x)", "float[M, H, W, C] y"),  # another number of tiles
    ],
)
def test_an_output_of_another_shape_is_refused(onnx_network, body, outputs):
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
def test_an_output_of_another_size_is_stitched(onnx_network, rng, body, expected):
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
def test_a_batch_is_cast_to_what_the_network_takes(onnx_network, rng, declared, dtype):
    model = OnnxModel(onnx_network(f"{declared}[N, 1, H, W]"))
    batch = rng.integers(0, 2, (2, 1, 5, 6)).astype(bool)

    predicted = model(batch)

    assert predicted.dtype == dtype
    assert model.description.out_dtype == predicted.dtype.name
    np.testing.assert_array_equal(predicted, batch)


@pytest.mark.parametrize("source", ["<u2", ">u2", "u1", "f8", "i8", "f2"])
def test_floats_take_any_image(onnx_network, rng, source):
    batch = rng.integers(0, 200, (2, 1, 5, 6)).astype(source)

    np.testing.assert_array_equal(OnnxModel(onnx_network("float[N, 1, H, W]"))(batch), batch)


@pytest.mark.parametrize(
    ("declared", "source"),
    [("uint8", "u2"), ("uint8", "i1"), ("int32", "f4"), ("uint16", "i4"), ("bool", "u1"), ("float", "c8")],
)
def test_a_cast_that_could_lose_values_is_refused(onnx_network, declared, source):
    model = OnnxModel(onnx_network(f"{declared}[N, 1, H, W]"))

    with pytest.raises(ModelError, match=f"into which {np.dtype(source)} does not fit: convert the image first"):
        model(np.ones((1, 1, 4, 4), source))


def test_values_beyond_the_range_of_half_precision_are_refused_unless_scaled(onnx_network):
    network = onnx_network("float16[N, 1, H, W]")
    batch = np.full((1, 1, 4, 4), 65535, np.uint16)

    with pytest.raises(ModelError, match="too large for it: use scale="):
        OnnxModel(network)(batch)

    assert (OnnxModel(network, scale="dtype")(batch) == 1).all()


@pytest.mark.parametrize("source", [np.uint8, np.int16, np.uint16, np.uint32, np.int64])
def test_scaling_by_dtype_divides_integers_by_their_largest_value(onnx_network, rng, source):
    model = OnnxModel(onnx_network("float[N, 1, H, W]"), scale="dtype")
    largest = np.iinfo(source).max
    batch = rng.integers(0, largest, (1, 1, 5, 6), dtype=source, endpoint=True)

    np.testing.assert_allclose(model(batch), batch / largest, rtol=2e-7)


def test_scaling_by_dtype_leaves_floats_and_masks_alone(onnx_network, rng):
    model = OnnxModel(onnx_network("float[N, 1, H, W]"), scale="dtype")

    for batch in (rng.random((1, 1, 5, 6), dtype=np.float32), rng.random((1, 1, 5, 6)) > 0.5):
        np.testing.assert_array_equal(model(batch), batch)


def test_scaling_by_a_number_multiplies(onnx_network, rng):
    batch = rng.integers(0, 1000, (1, 1, 5, 6))

    np.testing.assert_array_equal(OnnxModel(onnx_network("double[N, 1, H, W]"), scale=0.125)(batch), batch / 8)


@pytest.mark.parametrize("scale", ["bits", float("nan"), float("inf")])
def test_a_scale_that_is_none_is_refused(onnx_network, scale):
    with pytest.raises(ModelError, match="scale must be a finite number or 'dtype'"):
        OnnxModel(onnx_network("float[N, 1, H, W]"), scale=scale)


def test_integers_cannot_be_scaled(onnx_network):
    with pytest.raises(ModelError, match="takes uint8, and scale='dtype' is for networks that take floats"):
        OnnxModel(onnx_network("uint8[N, 1, H, W]"), scale="dtype")


def test_channels_can_be_put_into_the_order_that_the_network_takes(onnx_network, rng):
    batch = rng.random((2, 3, 5, 6), dtype=np.float32)
    network = onnx_network("float[N, H, W, 3]")

    np.testing.assert_array_equal(OnnxModel(network, channel_order=(2, 1, 0))(batch), batch[:, ::-1])
    with pytest.raises(
        ModelError, match=r"takes 3 channels: channel_order must name each of 0 to 2 once, not \(0, 1\)"
    ):
        OnnxModel(network, channel_order=(0, 1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 24, 20), r"takes images of 2 channel\(s\), not 3 .*read as NHWC"),
        ((1, 2, 24, 21), "takes tiles of size 20 along X, not 21"),
        ((1, 2, 23, 20), "takes tiles of size 24 along Y, not 23"),
        ((1, 2, 4, 24, 20), r"is a 2D model and takes batches \(B, C, Y, X\), not of shape \(1, 2, 4, 24, 20\)"),
    ],
)
def test_a_batch_that_does_not_fit_says_both_numbers(onnx_file, shape, message):
    model = OnnxModel(onnx_file("float[N, 24, 20, 2]"))

    with pytest.raises(ModelError, match=f"network.onnx {message}"):
        model(np.zeros(shape, np.float32))


def test_a_network_that_fails_is_named(onnx_file):
    model = OnnxModel(onnx_file("float[N, 1, H, W]", "s = Constant<value_ints = [7]>() y = Reshape(x, s)"))

    with pytest.raises(ModelError, match=r"network\.onnx failed on a tensor of shape \(1, 1, 4, 4\)") as caught:
        model(np.zeros((1, 1, 4, 4), np.float32))
    assert "\n" not in str(caught.value)


def test_a_network_of_several_inputs_is_refused(onnx_network):
    signature = "float[N, 1, H, W]"

    with pytest.raises(ModelError, match="has 2 inputs \\('w', 'x'\\)"):
        OnnxModel(onnx_network(f"{signature} w, {signature}", "y = Add(w, x)", f"{signature} y"))


@pytest.mark.parametrize("content", [b"", b"this is no network", bytes(100)])
def test_a_file_that_is_no_model_is_named(tmp_path, content):
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"cannot load .*broken\.onnx as an ONNX model"):
        OnnxModel(path)


def test_a_truncated_model_is_named(onnx_file):
    path = onnx_file("float[N, 1, H, W]")
    path.write_bytes(path.read_bytes()[:-9])

    with pytest.raises(ModelError, match=r"cannot load .*network\.onnx as an ONNX model"):
        OnnxModel(path)


@pytest.mark.parametrize("name", ["missing.onnx", "."])
def test_a_missing_file_is_a_file_not_found(tmp_path, name):
    with pytest.raises(ModelNotFoundError, match="there is no model file"):
        OnnxModel(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        OnnxModel(tmp_path / name)


def test_a_type_that_numpy_lacks_is_refused(onnx_network):
    with pytest.raises(ModelError, match=r"'x' is of type tensor\(bfloat16\)"):
        OnnxModel(onnx_network("bfloat16[N, 1, H, W]"))


def test_threads_can_be_limited_but_not_to_none(onnx_network, rng):
    network = onnx_network("float[N, 1, H, W]")
    batch = rng.random((1, 1, 4, 4), dtype=np.float32)

    np.testing.assert_array_equal(OnnxModel(network, threads=1)(batch), batch)
    with pytest.raises(ModelError, match="threads must be at least 1, not 0"):
        OnnxModel(network, threads=0)


def test_a_pickled_model_finds_its_file_from_another_directory(onnx_file, tmp_path, monkeypatch, rng):
    path = onnx_file("float[N, A, B, C]", "y = Neg(x)")
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(OnnxModel(path.name, layout="NHWC", scale=2.0))
    monkeypatch.chdir(os.sep)
    batch = rng.random((1, 2, 4, 4), dtype=np.float32)

    model = pickle.loads(pickled)

    np.testing.assert_array_equal(model(batch), -2 * batch)
    with pytest.raises(ModelError, match=r"^network\.onnx is a 2D model"):
        model(batch[0])


def test_a_model_from_bytes_pickles_with_them(onnx_network, rng):
    batch = rng.random((1, 1, 4, 4), dtype=np.float32)

    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(OnnxModel(onnx_network("float[N, 1, H, W]"))))(batch), batch
    )


def test_the_batch_is_left_as_it_was(onnx_network, rng):
    batch = rng.random((2, 1, 4, 4), dtype=np.float32)
    before = batch.copy()

    OnnxModel(onnx_network("float[N, 1, H, W]", "y = Neg(x)"), scale=3)(batch)

    np.testing.assert_array_equal(batch, before)


def test_a_missing_runtime_names_its_extra(onnx_network, monkeypatch):
    network = onnx_network("float[N, 1, H, W]")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    with pytest.raises(MissingExtraError, match=r"'onnxruntime' is not installed: pip install \"patchloom\[onnx\]\""):
        OnnxModel(network)
