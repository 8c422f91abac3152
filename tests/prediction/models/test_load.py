"""Models are loaded from files or by the name of a function; anything else is an error."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.zeiss.czann_model import CzannModel

CODE = """
import loom_layers

class Networks:
    @staticmethod
    def double(batch):
        return loom_layers.FACTOR * batch

networks = Networks()
weights = [1, 2]
double = Networks.double
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module and its neighbor; they are unloaded after the test."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "loom_layers.py").write_text("FACTOR = 2")
    path = tmp_path / "loom_networks.py"
    path.write_text(CODE)
    yield path
    for name in ("loom_networks", "loom_layers", "loom_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["double", "Networks.double", "networks.double"])
def test_module_name(code, monkeypatch, name):
    """A module in the current directory is found."""
    monkeypatch.chdir(code.parent)

    assert load_model(f"loom_networks:{name}")(21) == 42


def test_file_name(code):
    """A file is imported once, and can import its neighbors."""
    model = load_model(f"{code}:double")

    assert model(21) == 42
    assert load_model(f"{code}:double") is model


def test_pickle(code):
    """A function from a file pickles."""
    model = load_model(f"{code}:double")

    assert pickle.loads(pickle.dumps(model)) is model


def test_installed_function():
    """A function of an installed package is returned itself."""
    assert load_model("numpy:negative") is np.negative


def test_suffixes(onnx_file, sample_file, rng):
    """The suffix, in upper or lower case, decides on the class; options are passed on."""
    path = onnx_file("float[N, A, B, C]", name="network.ONNX")
    batch = rng.random((1, 2, 4, 4), dtype=np.float32)

    model = load_model(path, layout="NHWC")

    assert isinstance(model, OnnxModel)
    np.testing.assert_array_equal(model(batch), batch)
    with pytest.raises(ModelError, match="give its layout"):
        load_model(str(path))
    detector = sample_file("napari-czann-segment", "PGC_20X_nucleus_detector.czseg")
    assert isinstance(load_model(detector), CzannModel)


@pytest.mark.parametrize("reference", ["missing.onnx", "missing.czann", "missing.czseg", "missing.py:predict"])
def test_missing_file(reference):
    """The error for a missing file names it."""
    with pytest.raises(ModelNotFoundError, match=f"there is no .*file {reference.partition(':')[0]}"):
        load_model(reference)


@pytest.mark.parametrize(
    "reference", ["weights.h5", "module", "module:", ":predict", "module:not-a-name", "C:\\net.h5", ""]
)
def test_invalid_reference(reference):
    """The error lists the allowed references."""
    with pytest.raises(
        ModelError,
        match=r"is not a model that can be loaded: give a file \(\.onnx, .*\), .*, or a function .* \(module:name",
    ):
        load_model(reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "there is no loom_networks:absent .*no attribute 'absent'"),
        ("networks.absent", "there is no loom_networks:networks.absent"),
        ("weights", "is of type list, which is not callable: name a function"),
        ("Networks", "is a class: name a function, or an instance of the class"),
    ],
)
def test_invalid_name(code, monkeypatch, name, message):
    """An attribute that is missing, or is not callable, is refused."""
    monkeypatch.chdir(code.parent)

    with pytest.raises(ModelError, match=message):
        load_model(f"loom_networks:{name}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", r"cannot import 'loom_broken' \(ZeroDivisionError: division by zero\): fix the module"),
        (
            "import no_such_module",
            r"cannot import 'loom_broken' \(ModuleNotFoundError: No module named 'no_such_module'\)",
        ),
        ("def", r"cannot import 'loom_broken' \(SyntaxError"),
    ],
)
def test_broken_module(code, content, message):
    """The error contains the error of the module."""
    broken = code.with_name("loom_broken.py")
    broken.write_text(content)

    with pytest.raises(ModelError, match=message):
        load_model(f"{broken}:predict")


def test_missing_module(code):
    """The error names a missing module."""
    with pytest.raises(ModelError, match=r"cannot import 'loom_absent' \(ModuleNotFoundError"):
        load_model("loom_absent:predict")


def test_ambiguous_file(code):
    """A file with the name of an imported module is refused."""
    path = code.with_name("json.py")
    path.write_text("def dumps(batch): return batch")

    with pytest.raises(ModelError, match=r"because 'json' is the name of .*: rename the file"):
        load_model(f"{path}:dumps")


def test_layout_of_function(code):
    """`layout` is refused for a function."""
    with pytest.raises(ModelError, match=r"layout is 'NCHW', which is for ONNX networks .*: leave it out"):
        load_model("numpy:negative", layout="NCHW")


@pytest.mark.parametrize("reference", ["numpy:negative", "network.onnx"])
def test_bgr_of_others(reference):
    """`bgr` is refused for models other than those of ZEISS."""
    with pytest.raises(ModelError, match=f"bgr is False, which is for ZEISS models .*: leave it out, {reference} "):
        load_model(reference, bgr=False)


def test_import_without_runtime():
    """Models can be imported without onnxruntime."""
    code = "import sys; sys.modules['onnxruntime'] = None; from patchloom.prediction.models.load import load_model"

    subprocess.run([sys.executable, "-c", code], check=True)


def test_endings() -> None:
    """The message for a file of an unknown kind contains each ending once, and the kinds that are folders."""
    with pytest.raises(ModelError, match=r"the folder of a bioimage\.io package") as caught:
        load_model("image.tif")
    endings = str(caught.value).partition("(")[2].partition(")")[0].split(", ")
    assert len(endings) == len(set(endings)) > 10


def test_function_without_batch(code):
    """A function that makes a network is not taken for the network."""
    (code.parent / "factory.py").write_text("def make():\n    pass\n")
    with pytest.raises(
        ModelError, match=r"factory.py:make is a function that takes no batch: .*--network .*factory.py:make"
    ):
        load_model(f"{code.parent / 'factory.py'}:make")
