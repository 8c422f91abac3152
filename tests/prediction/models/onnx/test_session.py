"""Networks run on the devices that the build of onnxruntime has; others are refused with the remedy."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from patchloom.errors import ArgumentError, ModelError
from patchloom.prediction import predict
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.onnx.session import OnnxSession, available_providers, find_onnx_device

CPU, CUDA, MPS, TENSOR_RT = (
    f"{name}ExecutionProvider" for name in ("CPU", "CUDA", "CoreML", "Tensorrt")
)  # fmt: skip
SIGNATURE = "float[N, 1, H, W]"


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("auto", [CPU], "cpu"),
        ("auto", [TENSOR_RT, CUDA, CPU], "cuda:0"),
        ("auto", [MPS, CPU], "mps"),
        ("auto", [TENSOR_RT, CPU], "cpu"),  # it compiles a network for each size
        ("cpu", [CUDA, CPU], "cpu"),
        ("cuda:1", [CUDA, CPU], "cuda:1"),
        ("mps", [MPS, CPU], "mps"),
    ],
)
def test_find_device(device, available, expected):
    """The provider of a device is that of its kind."""
    assert find_onnx_device(device, available) == expected


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("cuda", "device is 'cuda:0', and this build of onnxruntime has no CUDAExecutionProvider: install onnxruntime-gpu"),
        ("cuda:3", "device is 'cuda:3', and .* has no CUDAExecutionProvider: .*, or take device='cpu'"),
        ("mps", "has no CoreMLExecutionProvider: use the onnxruntime of macOS"),
    ],
)  # fmt: skip
def test_missing_provider(onnx_file, tmp_path, device, message):
    """A device for which this build has no provider is refused before anything is written."""
    if {CUDA, MPS} & set(available_providers()):
        pytest.skip("this build of onnxruntime has providers for devices")
    path = onnx_file(SIGNATURE)
    output = tmp_path / "out.npy"

    with pytest.raises(ArgumentError, match=message):
        OnnxModel(path, device=device)
    with pytest.raises(ArgumentError, match=message):
        load_model(path, device=device)
    with pytest.raises(ArgumentError, match=message):
        predict(OnnxModel(path), np.zeros((8, 8), np.float32), output, axes="YX", device=device, progress=False)
    assert not output.exists()


@pytest.mark.parametrize("device", [None, ["cpu", "cpu"], "gpu", 0])
def test_invalid_device(onnx_network, device):
    """A network runs on one device."""
    with pytest.raises(ArgumentError, match="device is "):
        OnnxModel(onnx_network(SIGNATURE), device=device)


def test_providers(onnx_network, rng):
    """Providers can be named; they stay if the model is moved."""
    model = OnnxModel(onnx_network(SIGNATURE, "y = Neg(x)"), providers=[CPU])
    batch = rng.random((1, 1, 4, 4), np.float32)

    np.testing.assert_array_equal(model.on("auto", None)(batch), -batch)
    with pytest.raises(ModelError, match=r"providers is \['TPU'\]: choose one or more of \["):
        OnnxModel(onnx_network(SIGNATURE), providers=["TPU"])


def test_same_device(onnx_network):
    """A network that is on the device already is not opened again."""
    model = OnnxModel(onnx_network(SIGNATURE))

    assert model.on("cpu", None) is model
    if available_providers()[-1:] == [CPU] and not {CUDA, MPS} & set(available_providers()):
        assert model.on("auto", None) is model


@pytest.mark.parametrize(("declared", "own"), [("float", "float32"), ("float16", "float16"), ("uint8", None)])
@pytest.mark.parametrize("asked", ["float32", "float16", "bfloat16"])
def test_precision(onnx_network, declared, own, asked):
    """The file fixes the precision: another one is refused."""
    model = OnnxModel(onnx_network(f"{declared}[N, 1, H, W]"))

    if asked == own:
        assert model.on("cpu", asked) is model
    else:
        with pytest.raises(
            ArgumentError, match=f"precision is '{asked}', but .* computes in {own or 'uint8'}, as its file fixes it: leave"
        ):  # fmt: skip
            model.on(None, asked)


def test_precision_of_weights(onnx_network):
    """A network that takes float32 and computes in float16 has the precision of its weights."""
    network = onnx_network(
        SIGNATURE,
        "h = Cast<to = 10>(x) k = Constant<value = float16[1, 1, 1, 1] {2}>() c = Conv(h, k) y = Cast<to = 1>(c)",
    )
    model = OnnxModel(network)

    assert model.on(None, "float16") is model
    with pytest.raises(ArgumentError, match="computes in float16"):
        model.on(None, "float32")


def test_bound(onnx_network, rng):
    """With inputs and outputs bound to a device, results are the same, and constants are those of each call."""
    content = onnx_network(f"float[1] w, {SIGNATURE}", "y = Mul(x, w) z = Neg(x)", f"{SIGNATURE} y, {SIGNATURE} z")
    session = OnnxSession(onnxruntime.InferenceSession(content, providers=[CPU]), "cpu", is_bound=True)
    batches = rng.random((3, 2, 1, 8, 9), np.float32)
    values = [np.float32([2]), np.float32([3])]

    results = [
        session.run(["z", "y"], {"x": batch}, {"w": value})
        for batch, value in zip(batches, (values[0], values[0], values[1]), strict=True)
    ]

    for (negative, product), batch, factor in zip(results, batches, (2, 2, 3), strict=True):
        np.testing.assert_array_equal(negative, -batch)
        np.testing.assert_array_equal(product, factor * batch)


def test_czann(sample_file):
    """A ZEISS model is moved as its network."""
    model = load_model(sample_file("napari-czann-segment", "PGC_20X_nucleus_detector.czseg"), device="cpu")

    assert model.on("cpu", "float32") is model
    with pytest.raises(ArgumentError, match=r"precision is 'float16', but .*czseg computes in float32"):
        model.on(None, "float16")
