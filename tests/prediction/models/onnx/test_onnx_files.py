"""Weights in other files belong to a network: they are in its folder, and count for its identity."""

from __future__ import annotations

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from patchloom.errors import ModelError
from patchloom.prediction.models.onnx.onnx_model import OnnxModel


def save(folder, value=2.0, location="net.onnx.data", *, inside=False):
    """Write a network that multiplies by a weight in another file; inside a subgraph if asked for."""
    shape = ["N", 1, "H", "W"]
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), value, np.float32), "w")
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    initializers = [weight]
    if inside:
        branch = [
            helper.make_graph([helper.make_node("Mul", ["x", "w"], ["z"])], name, [], [helper.make_tensor_value_info("z", 1, shape)], [weight])
            for name in ("then", "else")
        ]  # fmt: skip
        condition = numpy_helper.from_array(np.array(True), "c")
        nodes = [helper.make_node("If", ["c"], ["y"], then_branch=branch[0], else_branch=branch[1])]
        initializers = [condition]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        initializers,
    )
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=True, location=location, size_threshold=0)
    return path


@pytest.fixture(params=[False, True], ids=["initializer", "subgraph"])
def path(tmp_path, request):
    return save(tmp_path / "model", inside=request.param)


BATCH = np.ones((1, 1, 3, 4), np.float32)


def test_run(tmp_path, monkeypatch):
    """Weights are read from the folder of the network, in whatever folder the process runs."""
    path = save(tmp_path / "model")
    monkeypatch.chdir(os.sep)
    model = OnnxModel(path)

    assert (model(BATCH) == 2).all()
    assert [file.name for file in model.files] == ["net.onnx", "net.onnx.data"]


def test_identity(tmp_path):
    """Other weights are another model, although the network is the same."""
    first, same, other = (save(tmp_path / name, value) for name, value in (("a", 2), ("b", 2), ("c", 3)))

    assert first.read_bytes() == other.read_bytes()
    assert OnnxModel(first).identity == OnnxModel(same).identity != OnnxModel(other).identity


def test_missing(path):
    """A missing file is named."""
    path.with_name("net.onnx.data").unlink()

    with pytest.raises(
        ModelError, match=r"net\.onnx has weights in 'net\.onnx\.data', and there is no such file: put it beside the network"
    ):  # fmt: skip
        OnnxModel(path)


@pytest.mark.parametrize("how", ["parent", "absolute", "link"])
def test_outside(tmp_path, how):
    """A file outside the folder is not read, also if a link in the folder leads to it."""
    path = save(tmp_path / "model")
    outside = tmp_path / "net.onnx.data"
    shutil.move(path.with_name("net.onnx.data"), outside)
    location = {"parent": "../net.onnx.data", "absolute": str(outside), "link": "net.onnx.data"}[how]
    if how == "link":
        path.with_name("net.onnx.data").symlink_to(outside)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(model.SerializeToString())

    with pytest.raises(
        ModelError, match=r"has weights in .*, outside its own folder: only files in its folder are read"
    ):
        OnnxModel(path)


def test_bytes(path, monkeypatch):
    """A network given as bytes has no folder: a file of that name in the current directory is not read."""
    monkeypatch.chdir(path.parent)

    with pytest.raises(
        ModelError, match=r"has weights in another file, 'net\.onnx\.data', and is given as bytes: give the path"
    ):
        OnnxModel(path.read_bytes())


def test_truncated(path):
    """The error for a file that is too short names the network."""
    path.with_name("net.onnx.data").write_bytes(b"abc")

    with pytest.raises(ModelError, match=r"net\.onnx is not an ONNX model, or it is damaged"):
        OnnxModel(path)
