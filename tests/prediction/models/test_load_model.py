"""A model is found by its file or by the name of a function, and whatever is neither is named."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest

from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models import CzannModel, OnnxModel, load_model

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
    """A module and its neighbor, in a directory that is forgotten afterwards."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "loom_layers.py").write_text("FACTOR = 2")
    path = tmp_path / "loom_networks.py"
    path.write_text(CODE)
    yield path
    for name in ("loom_networks", "loom_layers", "loom_broken"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["double", "Networks.double", "networks.double"])
def test_a_function_is_found_in_the_current_directory(code, monkeypatch, name):
    monkeypatch.chdir(code.parent)

    assert load_model(f"loom_networks:{name}")(21) == 42


def test_a_function_is_found_in_a_file_and_the_file_finds_its_neighbors(code):
    model = load_model(f"{code}:double")

    assert model(21) == 42
    assert load_model(f"{code}:double") is model


def test_a_function_from_a_file_is_picklable(code):
    model = load_model(f"{code}:double")

    assert pickle.loads(pickle.dumps(model)) is model


def test_an_installed_function_will_do():
    assert load_model("numpy:negative") is np.negative


def test_files_are_opened_by_their_suffix(onnx_file, sample_file, rng):
    path = onnx_file("float[N, A, B, C]", name="network.ONNX")
    batch = rng.random((1, 2, 4, 4), dtype=np.float32)

    model = load_model(path, layout="NHWC")

    assert isinstance(model, OnnxModel)
    np.testing.assert_array_equal(model(batch), batch)
    with pytest.raises(ModelError, match="say which"):
        load_model(str(path))
    detector = sample_file("napari-czann-segment", "PGC_20X_nucleus_detector.czseg")
    assert isinstance(load_model(detector), CzannModel)


@pytest.mark.parametrize("reference", ["missing.onnx", "missing.czann", "missing.czseg", "missing.py:predict"])
def test_a_missing_file_is_a_file_not_found(reference):
    with pytest.raises(ModelNotFoundError, match=f"there is no .*file {reference.partition(':')[0]}"):
        load_model(reference)


@pytest.mark.parametrize(
    "reference", ["weights.pt", "module", "module:", ":predict", "module:not-a-name", "C:\\net.pt", ""]
)
def test_what_is_no_model_is_told_what_would_be(reference):
    with pytest.raises(ModelError, match=r"is no model: give a file \(\.onnx, .*\) or a function \(module:name or"):
        load_model(reference)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "there is no loom_networks:absent: .*no attribute 'absent'"),
        ("networks.absent", "there is no loom_networks:networks.absent"),
        ("weights", "is not callable, but of type list"),
        ("Networks", "is a class: name an instance of it, or a function"),
    ],
)
def test_a_name_that_is_no_function_is_refused(code, monkeypatch, name, message):
    monkeypatch.chdir(code.parent)

    with pytest.raises(ModelError, match=message):
        load_model(f"loom_networks:{name}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1 / 0", "cannot import 'loom_broken': ZeroDivisionError: division by zero"),
        ("import no_such_module", "cannot import 'loom_broken': ModuleNotFoundError: No module named 'no_such_module'"),
        ("def", "cannot import 'loom_broken': SyntaxError"),
    ],
)
def test_a_module_that_fails_says_how(code, content, message):
    broken = code.with_name("loom_broken.py")
    broken.write_text(content)

    with pytest.raises(ModelError, match=message):
        load_model(f"{broken}:predict")


def test_a_module_that_is_not_there_is_named(code):
    with pytest.raises(ModelError, match="cannot import 'loom_absent': ModuleNotFoundError"):
        load_model("loom_absent:predict")


def test_a_file_whose_name_is_taken_is_not_mistaken_for_the_other(code):
    path = code.with_name("json.py")
    path.write_text("def dumps(batch): return batch")

    with pytest.raises(ModelError, match=r"the name 'json' is taken by .*rename the file"):
        load_model(f"{path}:dumps")


def test_a_layout_is_for_files_only(code):
    with pytest.raises(ModelError, match="layout='NCHW' is for model files"):
        load_model("numpy:negative", layout="NCHW")


@pytest.mark.parametrize("reference", ["numpy:negative", "network.onnx"])
def test_an_order_of_colors_is_for_zeiss_models_only(reference):
    with pytest.raises(ModelError, match=f"bgr is False, which is for ZEISS models .*: {reference} takes channels"):
        load_model(reference, bgr=False)


def test_the_models_can_be_imported_without_what_runs_them():
    code = "import sys; sys.modules['onnxruntime'] = None; from patchloom.prediction.models import load_model"

    subprocess.run([sys.executable, "-c", code], check=True)
