"""Model files: TorchScript, programs, weights, ONNX, ZEISS, packages of bioimage.io, checkpoints of CAREamics, MONAI bundles."""

from __future__ import annotations

import io
import json
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import torch
import yaml
from onnx import parser

import patchloom as pl
from archives import WITHIN
from bounded_process import Target
from model_use import FOLDER, use_model
from mutations import Seed


class Network(torch.nn.Module):
    """A small network with a branch, buffers and two layers."""

    def __init__(self, channels: int = 2) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(1, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.pool = torch.nn.MaxPool2d(2)
        self.up = torch.nn.Upsample(scale_factor=2)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        features = torch.relu(self.norm(self.first(batch)))
        return features + self.up(self.pool(features))


@cache
def _network() -> Network:
    torch.manual_seed(1)
    torch.set_num_threads(1)
    return Network().eval()


def _seed(name: str, files: Mapping[str, bytes], main: str) -> Seed:
    """Make a seed; archives are taken apart, so that their members are damaged, too."""
    apart: dict[str, bytes] = {}
    for path, content in files.items():
        if not zipfile.is_zipfile(io.BytesIO(content)):
            apart[f"{FOLDER}/{path}"] = content
            continue
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            apart |= {f"{FOLDER}/{path}{WITHIN}{member}": archive.read(member) for member in archive.namelist()}
    return Seed(name, apart, f"{FOLDER}/{main}", is_hostile=True)


def _saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def _script() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(_network()), file)
    return file.getvalue()


def _scripts() -> list[Seed]:
    return [_seed("script", {"net.ts": _script()}, "net.ts"), _seed("script .pt", {"net.pt": _script()}, "net.pt")]


def _program(*, described: bool) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        sizes = {axis: 2 * torch.export.Dim(name, min=4, max=2000) for axis, name in ((2, "h"), (3, "w"))}
        program = torch.export.export(_network(), (torch.zeros(1, 1, 32, 32),), dynamic_shapes=(sizes,))
        extra = {"patchloom.json": _DESCRIPTION} if described else {}
        path = Path(folder, "net.pt2")
        torch.export.save(program, path, extra_files=extra)
        return path.read_bytes()


_DESCRIPTION = json.dumps(
    {
        "format": 1,
        "model": {
            "size_step": [2, 2],
            "overlaps": [4, 4],
            "normalize": "mean_std",
            "in_channels": 1,
            "scale": ["1", "1"],
        },
        "training": {"axes": "YX"},
        "network": {"factory": "", "arguments": {}},
    }
)


def _programs() -> list[Seed]:
    return [_seed(f"program {told}", {"net.pt2": _program(described=told)}, "net.pt2") for told in (False, True)]


def _weights() -> list[Seed]:
    state = _network().state_dict()
    named = {"state_dict": state, "epoch": 3, "patchloom": _DESCRIPTION}
    seeds = [
        _seed("state dict", {"net.pth": _saved(state)}, "net.pth"),
        _seed("old format", {"net.pth": _saved(state, _use_new_zipfile_serialization=False)}, "net.pth"),
        _seed("checkpoint", {"net.pt": _saved(named)}, "net.pt"),
    ]
    if find_spec("safetensors") is not None:
        content = import_module("safetensors.torch").save(state)
        seeds.append(_seed("safetensors", {"net.safetensors": content}, "net.safetensors"))
    return seeds


def _load_weights(path: Path) -> Any:
    return pl.load_model(path, network=f"{__name__}:Network", device="cpu")


_ONNX = """<ir_version: 8, opset_import: ["": 17]> net (float[N, 1, H, W] x) => (float[N, 2, H, W] y)
<float[2, 1, 3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1}, float[2] b = {1, 2}>
{ c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
  y = Relu(c) }"""


def _onnx(*, external: bool) -> dict[str, bytes]:
    model = parser.parse_model(_ONNX)
    with tempfile.TemporaryDirectory() as folder:
        options = {"save_as_external_data": True, "location": "net.onnx.data", "size_threshold": 0} if external else {}
        onnx.save(model, Path(folder, "net.onnx"), **options)
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def _networks() -> list[Seed]:
    return [_seed(f"external {apart}", _onnx(external=apart), "net.onnx") for apart in (False, True)]


_PACKAGE = {
    "type": "model",
    "format_version": "0.5.4",
    "name": "a network",
    "description": "of many",
    "license": "MIT",
    "authors": [{"name": "Ada"}],
    "documentation": {"source": "README.md"},
    "inputs": [
        {
            "id": "input",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["raw"]},
                {"type": "space", "id": "y", "size": {"min": 16, "step": 2}},
                {"type": "space", "id": "x", "size": {"min": 16, "step": 2}},
            ],
            "preprocessing": [{"id": "zero_mean_unit_variance", "kwargs": {"axes": ["channel", "y", "x"]}}],
        }
    ],
    "outputs": [
        {
            "id": "output",
            "axes": [
                {"type": "batch"},
                {"type": "channel", "channel_names": ["a", "b"]},
                {"type": "space", "id": "y", "size": {"tensor_id": "input", "axis_id": "y"}, "halo": 2},
                {"type": "space", "id": "x", "size": {"tensor_id": "input", "axis_id": "x"}, "halo": 2},
            ],
            "postprocessing": [{"id": "clip", "kwargs": {"min": 0.0, "max": 1.0}}],
        }
    ],
}


def _package(weights: Mapping[str, Any], files: Mapping[str, bytes], *, as_json: bool = False) -> dict[str, bytes]:
    described = {**_PACKAGE, "weights": dict(weights)}
    text = json.dumps(described) if as_json else yaml.safe_dump(described)
    return {"rdf.yaml": text.encode(), "README.md": b"# Validation", **files}


def _packages() -> list[Seed]:
    onnx_weights = {"onnx": {"source": "net.onnx", "opset_version": 17}}
    script_weights = {"torchscript": {"source": "net.ts", "pytorch_version": "2.0"}}
    folder = _package(onnx_weights, _onnx(external=False))
    other = _package(script_weights, {"net.ts": _script()}, as_json=True)
    return [
        _seed("folder", {f"package/{name}": content for name, content in folder.items()}, "package"),
        _seed("rdf.yaml", {f"package/{name}": content for name, content in other.items()}, "package/rdf.yaml"),
        *(_zipped(name, files) for name, files in (("zip", folder), ("zip of script", other))),
    ]


def _zipped(name: str, files: Mapping[str, bytes]) -> Seed:
    members = {f"{FOLDER}/package.zip{WITHIN}{file}": content for file, content in files.items()}
    return Seed(name, members, f"{FOLDER}/package.zip", is_hostile=True)


def _checkpoints() -> list[Seed]:
    normalization = {
        "name": "mean_std",
        "input_means": [1.5],
        "input_stds": [2.5],
        "target_means": None,
        "target_stds": None,
    }
    model = {"architecture": "UNet", "conv_dims": 2, "depth": 1, "in_channels": 1, "num_classes": 2}
    content = {
        "state_dict": {f"model.{name}": value for name, value in _network().state_dict().items()},
        "hyper_parameters": {"algorithm_config": {"algorithm": "care", "model": model}},
        "datamodule_hyper_parameters": {"data_config": {"normalization": {**normalization, "skip_target": True}}},
    }
    return [_seed("care", {"run.ckpt": _saved(content)}, "run.ckpt")]


def _load_checkpoint(path: Path) -> Any:
    return pl.CareamicsModel(path, make_network=lambda arguments: Network(arguments["num_classes"]))


def _bundles() -> list[Seed]:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": "@size", "overlap": 0.25, "mode": "gaussian"}
    conv = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": "@out", "kernel_size": 3, "padding": 1}
    steps = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "ScaleIntensityd", "keys": "image"}]
    config = {
        "size": [32, 32],
        "out": "$2",
        "inferer": inferer,
        "network_def": conv,
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
        },
    }
    outputs = {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "nucleus"}}}
    metadata = {"network_data_format": {"inputs": {"image": {"num_channels": 1}}, "outputs": outputs}}
    torch.manual_seed(2)
    weights = torch.nn.Conv2d(1, 2, 3, padding=1).state_dict()
    files = {"configs/metadata.json": json.dumps(metadata).encode()}
    as_json, as_yaml = json.dumps(config).encode(), yaml.safe_dump(config).encode()
    many = {
        "definition": {"configs/inference.json": as_json, "models/model.pt": _saved(weights)},
        "yaml": {"configs/inference.yaml": as_yaml, "models/model.pt": _saved({"state_dict": weights})},
        "script": {"configs/inference.json": as_json, "models/model.ts": _script()},
    }
    return [
        _seed(name, {f"spleen/{path}": content for path, content in {**files, **own}.items()}, "spleen")
        for name, own in many.items()
    ]


def _czann_files() -> list[Seed]:
    text = _ONNX.replace("float[N, 1, H, W] x", "float[N, 32, 32, 1] x").replace("[N, 2, H, W]", "[N, 32, 32, 2]")
    text = text.replace("{ c =", "{ first = Transpose<perm = [0, 3, 1, 2]>(x)\n c =").replace(
        "(x, w, b)", "(first, w, b)"
    )
    text = text.replace("y = Relu(c)", "y = Transpose<perm = [0, 2, 3, 1]>(c)")
    declared = {"Type": "Regression", "InputShape": [32, 32, 1], "OutputShape": [32, 32, 2], "MinOverlap": [4, 4]}
    network = parser.parse_model(text).SerializeToString()
    files = {"model.json": json.dumps(declared).encode(), "model.model": network}
    members = {f"{FOLDER}/net.czann{WITHIN}{name}": content for name, content in files.items()}
    return [Seed("czann", members, f"{FOLDER}/net.czann", is_hostile=True)]


def _load(path: Path) -> Any:
    return pl.load_model(path, device="cpu")


def _target(seeds: Callable[[], list[Seed]], load: Callable[[Path], Any] = _load, share: float = 0.1) -> Target:
    return Target(seeds, partial(use_model, load=load), share)


TORCH_SCRIPT = _target(_scripts, share=0.06)
TORCH_PROGRAM = _target(_programs, share=0.03)
TORCH_WEIGHTS = _target(_weights, _load_weights)
ONNX = _target(_networks)
CZANN = _target(_czann_files)
BIOIMAGEIO = _target(_packages, share=0.06)
CAREAMICS = _target(_checkpoints, _load_checkpoint)
MONAI = _target(_bundles, share=0.06)
