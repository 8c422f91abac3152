"""All kinds of models, each with the same network: from Python, in the command line, on a device, and what is read from it.

`docs/models.md` names these tests in its table, and a test here checks that it names tests that exist.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser
from typer.testing import CliRunner

import patchloom as pl
from patchloom.cli import app
from patchloom.prediction.models.load import KINDS as FILE_KINDS
from patchloom.torch import PatchDataset, save_model

torch = pytest.importorskip("torch")

ROOT = Path(__file__).parents[3]
IMAGE = np.random.default_rng(3).normal(size=(75, 61)).astype(np.float32)
WEIGHTS = np.random.default_rng(4).normal(size=(2, 1, 3, 3)).astype(np.float32)
NUMBERS = ", ".join(f"{weight:.9g}" for weight in WEIGHTS.ravel())
TILES = ["--patch-size=32", "--overlaps=4"]

CODE = f"""
import numpy as np
import torch


class Network(torch.nn.Conv2d):
    def __init__(self, channels=2):
        super().__init__(1, channels, 3, padding=1, bias=False)


network = Network()
with torch.no_grad():
    network.weight[...] = torch.tensor([{NUMBERS}]).reshape(2, 1, 3, 3)


def function(batch):
    with torch.inference_mode():
        return network(torch.from_numpy(batch))
"""


def make_network() -> Any:
    """Return a convolution of 3 × 3 voxels."""
    network = torch.nn.Conv2d(1, 2, 3, padding=1, bias=False).eval()
    with torch.no_grad():
        network.weight[...] = torch.from_numpy(WEIGHTS)
    return network


def whole(multiple: int = 1) -> np.ndarray:
    """Return the convolution of the whole image by NumPy, with zeros around it, padded by reflection to a multiple before."""
    padded = np.pad(IMAGE, [(0, -side % multiple) for side in IMAGE.shape], mode="reflect")
    around = np.pad(padded, 1)
    rows, columns = padded.shape
    shifted = [[around[y : y + rows, x : x + columns] for x in range(3)] for y in range(3)]
    result = np.einsum("cij,ijyx->cyx", WEIGHTS[:, 0], np.array(shifted))
    return result[:, : IMAGE.shape[0], : IMAGE.shape[1]]


@dataclass(frozen=True)
class Kind:
    """A kind of model: how one is written, and what is expected of it."""

    write: Callable[[Path], str]
    """Writes a model into a folder, and returns what names it in the command line."""

    arguments: tuple[str, ...] = ()
    """More arguments of the command line."""

    load: Callable[[str], Any] = pl.load_model
    """Loads it."""

    options: dict[str, Any] = field(default_factory=dict)
    """Options of `predict`."""

    read: dict[str, Any] = field(default_factory=dict)
    """What the model declares."""

    multiple: int = 1
    """Images are padded to a multiple of this."""

    missing_device: str = "device is 'cuda:99'"
    """What the error for a device that is not there contains."""


def write_code(folder: Path) -> Path:
    path = code_path(folder)
    path.write_text(CODE)
    return path


def code_path(folder: Path) -> Path:
    """Return a name that no other folder has, as modules of one name exclude each other."""
    return folder / (re.sub(r"\W", "_", f"kinds_{folder.parent.name}_{folder.name}") + ".py")


def write_script(folder: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(make_network()).save(str(folder / "network.ts"))
    return str(folder / "network.ts")


def write_program(folder: Path) -> str:
    sizes = {2: torch.export.Dim("height", min=8), 3: torch.export.Dim("width", min=8)}
    program = torch.export.export(make_network(), (torch.zeros(1, 1, 32, 32),), dynamic_shapes=(sizes,))
    torch.export.save(program, folder / "network.pt2")
    return str(folder / "network.pt2")


def write_weights(folder: Path) -> str:
    write_code(folder)
    torch.save(make_network().state_dict(), folder / "weights.pth")
    return str(folder / "weights.pth")


def onnx_text(body: str, shape: str, outputs: str) -> bytes:
    weights = f"float[2, 1, 3, 3] w = {{{NUMBERS}}}"
    text = f'<ir_version: 8, opset_import: ["": 17]> net ({shape} x) => ({outputs} y) <{weights}> {{ {body} }}'
    return bytes(parser.parse_model(text).SerializeToString())


def onnx_network() -> bytes:
    return onnx_text("y = Conv<pads = [1, 1, 1, 1]>(x, w)", "float[N, 1, H, W]", "float[N, 2, H, W]")


def write_onnx(folder: Path) -> str:
    (folder / "network.onnx").write_bytes(onnx_network())
    return str(folder / "network.onnx")


def write_czann(folder: Path) -> str:
    body = """
        first = Transpose<perm = [0, 3, 1, 2]>(x)
        convolved = Conv<pads = [1, 1, 1, 1]>(first, w)
        y = Transpose<perm = [0, 2, 3, 1]>(convolved)
    """
    declared = {"FormatVersion": "2.1.0", "Type": "Regression", "MinOverlap": [8, 6], "Scaling": [1e-7, 1e-7]}
    shapes = {"InputShape": [32, 24, 1], "OutputShape": [32, 24, 2]}
    with zipfile.ZipFile(folder / "network.czann", "w") as archive:
        archive.writestr("model.json", json.dumps(declared | shapes))
        archive.writestr("model.model", onnx_text(body, "float[N, 32, 24, 1]", "float[N, 32, 24, 2]"))
    return str(folder / "network.czann")


def write_package(folder: Path) -> str:
    pytest.importorskip("bioimageio.spec")
    (folder / "network.onnx").write_bytes(onnx_network())
    sizes = [{"type": "space", "id": axis, "size": {"min": 16, "step": 1}} for axis in "yx"]
    channels = {"type": "channel", "channel_names": ["signal", "rest"]}
    kept = [{**axis, "size": {"tensor_id": "input", "axis_id": axis["id"]}, "halo": 2} for axis in sizes]
    described = {
        "type": "model",
        "format_version": "0.5.4",
        "name": "a network",
        "description": "one of many kinds",
        "license": "MIT",
        "authors": [{"name": "Ada"}],
        "documentation": {"source": "README.md"},
        "inputs": [{"id": "input", "axes": [{"type": "batch"}, {"type": "channel", "channel_names": ["raw"]}, *sizes]}],
        "outputs": [{"id": "output", "axes": [{"type": "batch"}, channels, *kept]}],
        "weights": {"onnx": {"source": "network.onnx", "opset_version": 17}},
    }
    (folder / "rdf.yaml").write_text(json.dumps(described))  # JSON is YAML
    return str(folder)


def write_checkpoint(folder: Path) -> str:
    model = {"architecture": "UNet", "conv_dims": 2, "depth": 1, "in_channels": 1, "num_classes": 2}
    content = {
        "state_dict": {f"model.{name}": value for name, value in make_network().state_dict().items()},
        "hyper_parameters": {"algorithm_config": {"algorithm": "care", "model": model}},
        "datamodule_hyper_parameters": {"data_config": {"normalization": {"name": "none"}}},
    }
    torch.save(content, folder / "run.ckpt")
    return str(folder / "run.ckpt")


def write_bundle(folder: Path) -> str:
    for name in ("configs", "models"):
        (folder / name).mkdir()
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 24], "overlap": 0.25, "mode": "gaussian"}
    outputs = {"pred": {"channel_def": {"0": "background", "1": "nucleus"}}}
    (folder / "configs" / "inference.json").write_text(json.dumps({"inferer": inferer}))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"network_data_format": {"outputs": outputs}}))
    Path(write_script(folder)).rename(folder / "models" / "model.ts")
    return str(folder)


def write_trained(folder: Path) -> str:
    images = [pl.ArrayStack(np.concatenate([IMAGE, IMAGE]), axes="YX")]
    patching = pl.RandomPatching([image.data_shape for image in images], (32, 32), seed=1)
    path = save_model(
        folder / "trained.pt2", make_network(), PatchDataset(images, patching), out_channel_names=("a", "b")
    )
    return str(path)


def load_weights(reference: str) -> Any:
    return pl.load_model(reference, network=f"{code_path(Path(reference).parent)}:Network")


def load_checkpoint(reference: str) -> Any:
    return pl.CareamicsModel(reference, make_network=lambda arguments: make_network())  # its own network


GIVEN = {"patch_size": 32, "overlaps": 4}

KINDS = {
    "callable": Kind(
        lambda folder: f"{write_code(folder)}:function",
        tuple(TILES),
        options=GIVEN,
        missing_device="device is 'cuda:99', and the model is a function",
    ),
    "module": Kind(
        lambda folder: f"{write_code(folder)}:network",
        tuple(TILES),
        load=lambda reference: make_network(),  # as it is, not from a file
        options=GIVEN,
    ),
    "script": Kind(write_script, tuple(TILES), options=GIVEN),
    "program": Kind(
        write_program, ("--overlaps=4",), options={"overlaps": 4}, read={"min_size": (8, 8), "in_channels": 1}
    ),
    "weights": Kind(write_weights, (*TILES, "--network={code}:Network"), load_weights, GIVEN),
    "onnx": Kind(
        write_onnx,
        ("--overlaps=4",),
        options={"overlaps": 4},
        read={"in_channels": 1, "out_channels": 2, "n_dims": 2, "out_dtype": "float32"},
    ),
    "zeiss": Kind(write_czann, read={"patch_size": (32, 24), "overlaps": (8, 6), "in_channels": 1}),
    "bioimageio": Kind(
        write_package,
        read={"overlaps": (4, 4), "min_size": (16, 16), "out_channel_names": ("signal", "rest")},
    ),
    "careamics": Kind(
        write_checkpoint,
        load=load_checkpoint,
        read={"size_step": (2, 2), "origin_multiple": (2, 2), "overlaps": (20, 20), "out_channels": 2},
        multiple=2,
    ),
    "monai": Kind(
        write_bundle,
        ("--blend=none",),
        options={"blend": "none"},  # blended tiles equal the whole image only without border effects
        read={
            "preferred_patch_size": (32, 24),
            "overlaps": (8, 6),
            "blend": "gaussian",
            "out_channel_names": ("background", "nucleus"),
        },
    ),
    "trained": Kind(write_trained, ("--overlaps=4",), options={"overlaps": 4}, read={"out_channel_names": ("a", "b")}),
}

EVERY = pytest.mark.parametrize("name", KINDS)


def predict(model: Any, kind: Kind, output: Path | None = None, **options: Any) -> Any:
    return pl.predict(model, IMAGE, output, axes="YX", progress=False, **kind.options, **options)


@EVERY
def test_python(name, tmp_path):
    """Tiled by what it declares, an image whose sizes are no multiples of anything equals the whole image."""
    kind = KINDS[name]
    model = kind.load(kind.write(tmp_path))
    planned = pl.plan(IMAGE, model=model, axes="YX", **kind.options)
    assert planned.n_tiles > 1 or planned.layout.patch_size[0] > 64, (
        "one tile may be the default of a model with free sizes"
    )
    np.testing.assert_allclose(predict(model, kind), whole(kind.multiple), rtol=1e-4, atol=1e-5)
    smaller = (
        kind.options
        if "patch_size" in kind.options or "patch_size" in kind.read
        else {"patch_size": 32, **kind.options}
    )
    tiled = pl.predict(model, IMAGE, axes="YX", progress=False, **smaller)
    np.testing.assert_allclose(tiled, whole(kind.multiple), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name != "careamics"]
)  # which is not installed: see tests/interop
def test_command(name, tmp_path):
    """The command line gives the same result."""
    kind = KINDS[name]
    (tmp_path / "model").mkdir()
    reference = kind.write(tmp_path / "model")
    np.save(tmp_path / "image.npy", IMAGE)
    arguments = [argument.format(code=code_path(tmp_path / "model")) for argument in kind.arguments]
    command = ["predict", str(tmp_path / "image.npy"), "--axes=YX", f"--model={reference}", *arguments]
    device = "auto" if name == "callable" else "cpu"
    result = CliRunner().invoke(app, [*command, f"--device={device}", "--quiet", f"--output={tmp_path / 'out.npy'}"])
    assert result.exit_code == 0, result.output
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), predict(kind.load(reference), kind), rtol=1e-5, atol=1e-6)


@EVERY
def test_device(name, tmp_path):
    """A device is named in `predict`; one that this machine does not have is refused before anything is written."""
    kind = KINDS[name]
    model = kind.load(kind.write(tmp_path))
    if name != "callable":
        np.testing.assert_allclose(predict(model, kind, device="cpu"), whole(kind.multiple), rtol=1e-4, atol=1e-5)
    with pytest.raises(pl.PatchloomError, match=re.escape(kind.missing_device)):
        predict(model, kind, tmp_path / "out.ome.zarr", device="cuda:99")
    assert not (tmp_path / "out.ome.zarr").exists()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.read])
def test_read(name, tmp_path):
    """What a model contains is declared, and need not be given."""
    kind = KINDS[name]
    declared = kind.load(kind.write(tmp_path)).description
    assert {field: getattr(declared, field) for field in kind.read} == kind.read


def test_all_file_kinds(tmp_path):
    """Each kind of model files is tested here."""
    tested = {
        name: Path(kind.write(folder)) for name, kind in KINDS.items() if (folder := tmp_path / name).mkdir() is None
    }
    for of_files in FILE_KINDS:
        by_suffix = [path for path in tested.values() if path.suffix in of_files.suffixes]
        folders = [path for path in tested.values() if of_files.is_folder is not None and of_files.is_folder(path)]
        assert by_suffix or folders, of_files.title


TABLE = re.compile(r"^\|.*\|$", re.MULTILINE)
NAME = re.compile(r"`(?:([\w/]+\.py)::)?(test_\w+)(?:\[([\w-]+)\])?`")


def test_documented():
    """The table of the documents has a row for each kind, and each of its cells names a test that exists."""
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = [row for row in TABLE.findall(text) if "test_" in row]
    assert len(rows) == len(KINDS)
    for row in rows:
        _, *cells = row.strip("|").split("|")
        for cell in cells:
            named = NAME.findall(cell)
            assert named or cell.strip() == "nothing", f"no test is named in {cell!r}"
            for path, function, parameter in named:
                tree = ast.parse((ROOT / path if path else Path(__file__)).read_text(encoding="utf-8"))
                assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, cell
                assert not parameter or parameter in KINDS, cell
    named = {match[2] for match in NAME.findall("".join(rows))}
    assert named >= set(KINDS)
