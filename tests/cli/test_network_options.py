"""Options of the command line for the inputs and outputs of ONNX networks."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser
from typer.testing import CliRunner

from patchloom.cli import app

NETWORK = """<ir_version: 8, opset_import: ["": 17]>
network (float[1] low, float[2] ends, float[N, 1, H, W] x) => (float[N, 1, H, W] y, float[N, 1, H, W] z, float[N] score) {
    total = ReduceSum<keepdims = 0>(ends)
    shifted = Sub(x, low)
    y = Mul(shifted, total)
    z = Neg(x)
    score = ReduceMean<axes = [1, 2, 3], keepdims = 0>(x)
}"""


@pytest.fixture
def workplace(tmp_path, monkeypatch, rng):
    """Change to a folder with an image, a network of three inputs and outputs, and an array."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.onnx").write_bytes(parser.parse_model(NETWORK).SerializeToString())
    np.save("image.npy", rng.random((40, 50), dtype=np.float32))
    np.save("ends.npy", np.float32([2, 3]))
    return tmp_path


def run(command, *options):
    arguments = [command, "image.npy", "--model", "net.onnx", "--axes", "YX", "--patch-size", "32", *options]
    return CliRunner().invoke(app, arguments)


VALUES = ("--input", "low=0.5", "--input", "ends=ends.npy")


def test_values(workplace):
    """Inputs get numbers or arrays, and an output is chosen."""
    result = run("predict", "--output", "out.npy", "--quiet", *VALUES, "--model-output", "y")

    assert result.exit_code == 0, result.output
    image, written = np.load("image.npy"), np.load("out.npy")
    np.testing.assert_allclose(written, (image - 0.5) * 5, rtol=1e-6)


def test_several_outputs(workplace):
    """Several outputs are written to files of their own."""
    result = run("predict", "--output", "out.npy", "--quiet", *VALUES, "--model-output", "y", "--model-output", "z")

    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in workplace.glob("out*")) == ["out-y.npy", "out-z.npy"]
    np.testing.assert_array_equal(np.load("out-z.npy"), -np.load("image.npy"))


@pytest.mark.parametrize("command", ["predict", "plan"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--input low=0.5"),
        (("--input", "low=0.5"), "'ends' (2) of float32"),
        (VALUES, "choose 'y', 'z' with output="),
        ((*VALUES, "--model-output", "no"), "choose one of these"),
        (("--input", "low"), "is not a name and a value"),
        (("--input", "low=none.npy"), "which cannot be read"),
        (("--input", "low=much"), "which is not a number or a NumPy file"),
        (("--input", "high=1"), "name one of these"),
    ],
)
def test_errors(workplace, command, options, message):
    """One message names what is missing or wrong, and nothing is written."""
    result = run(command, *options, *(("--output", "out.npy") if command == "predict" else ()))

    assert result.exit_code in {1, 2}
    assert message in " ".join(result.output.split())
    assert not (workplace / "out.npy").exists()
