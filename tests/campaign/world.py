"""Values for the calls of the campaign: small images, patchings, files and networks."""

from __future__ import annotations

import json
import warnings
import zipfile
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pylibCZIrw.czi
import tifffile
import torch
from onnx import parser

import patchloom as pl

SHAPE = (2, 3, 64, 48)
SHAPES = [SHAPE]
CZANN = {
    "FormatVersion": "2.1.0",
    "Type": "Regression",
    "InputShape": [24, 20, 1],
    "OutputShape": [24, 20, 1],
    "MinOverlap": [8, 6],
    "Scaling": [1e-7, 1e-7],
}
SPEC = {"data_idx": 0, "sample_idx": 1, "coords": (4, 6), "patch_size": (16, 16)}


def pixels(dtype: Any = np.uint8) -> np.ndarray:
    """Return an image `SCYX`."""
    return (np.arange(np.prod(SHAPE)) % 251).reshape(SHAPE).astype(dtype)


def image() -> np.ndarray:
    """Return an image `YX`."""
    return pixels()[0, 0]


def stacks() -> list[pl.ImageStack]:
    """Return a series of one image."""
    return pl.open_stacks([pixels()], axes="SCYX")


def masks() -> list[pl.ImageStack]:
    """Return a mask of the image."""
    return pl.open_stacks([pixels()[:1, :1] > 9], axes="SCYX")


def tiling() -> pl.TiledPatching:
    """Return tiles of the image."""
    return pl.TiledPatching(SHAPES, patch_size=(32, 32), overlaps=(8, 8))


def random_plan() -> pl.RandomPatching:
    """Return random patches of the image."""
    return pl.RandomPatching(SHAPES, patch_size=(16, 16), n_patches=8, seed=1)


def strata() -> pl.StratifiedPatching:
    """Return stratified patches of the image."""
    return pl.StratifiedPatching(SHAPES, patch_size=(16, 16), seed=1)


def table() -> pl.SpecTable:
    """Return the specifications of tiles."""
    return tiling()[:]


def score_map() -> pl.ScoreMap:
    """Return scores of the image's cells, of the size of stratified patches."""
    return pl.score_cells(stacks(), (16, 16), [pl.MaxFilter()], cache=False)[0]


def model(batch: Any) -> Any:
    """Return a batch as it is: a model that changes nothing."""
    return batch


def tiles() -> np.ndarray:
    """Return the pixels of all tiles."""
    return pl.PatchExtractor(stacks()).extract_batch(table())


@cache
def files() -> Path:
    """Make a folder of images, tables and networks, which no call may change."""
    folder = Path(mkdtemp(prefix="campaign-files-"))
    np.save(folder / "image.npy", image())
    tifffile.imwrite(folder / "image.tif", image(), metadata={"axes": "YX"})
    pl.predict(model, image(), folder / "image.ome.zarr", axes="YX", patch_size=(32, 32), progress=False)
    table().save(folder / "specs.npz")
    (folder / "network.onnx").write_bytes(network())
    with zipfile.ZipFile(folder / "network.czann", "w") as archive:
        archive.writestr("model.json", json.dumps(CZANN))
        archive.writestr("model.model", network("float[N,24,20,1]"))
    torch.save(CHECKPOINT, folder / "run.ckpt")
    (folder / "own_model.py").write_text("def same(batch):\n    return batch\n")
    return folder


@cache
def czi() -> Path:
    """Make a CZI, which no call may change."""
    path = Path(mkdtemp(prefix="campaign-czi-")) / "image.czi"
    with pylibCZIrw.czi.create_czi(str(path)) as file:
        file.write(image()[..., np.newaxis])
    return path


@cache
def network(shape: str = "float[N,1,H,W]") -> bytes:
    """Return an ONNX network that returns its input."""
    text = f'<ir_version: 8, opset_import: ["": 17]> net ({shape} x) => ({shape} y) {{ y = Identity(x) }}'
    return bytes(parser.parse_model(text).SerializeToString())


@cache
def bundle() -> Path:
    """Make a MONAI bundle, which no call may change."""
    folder = Path(mkdtemp(prefix="campaign-bundle-"))
    for name in ("configs", "models"):
        (folder / name).mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps({"network_def": {"_target_": "torch.nn.ReLU"}}))
    torch.save({"state_dict": {"scale": torch.ones(1)}}, folder / "models" / "model.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.script(torch.nn.ReLU()).save(str(folder / "models" / "model.ts"))
    return folder


@cache
def package() -> Path:
    """Make a package of bioimage.io, which no call may change."""
    folder = Path(mkdtemp(prefix="campaign-package-"))
    (folder / "network.onnx").write_bytes(network())
    channel = {"type": "channel", "channel_names": ["dna"]}
    sizes = [{"type": "space", "id": axis, "size": {"min": 8, "step": 8}} for axis in "yx"]
    references = [{**axis, "size": {"tensor_id": "input", "axis_id": axis["id"]}} for axis in sizes]
    described = {
        "type": "model",
        "format_version": "0.5.4",
        "name": "a network",
        "description": "for the campaign",
        "license": "MIT",
        "authors": [{"name": "Ada"}],
        "documentation": {"source": "README.md"},
        "inputs": [{"id": "input", "axes": [{"type": "batch"}, channel, *sizes]}],
        "outputs": [{"id": "output", "axes": [{"type": "batch"}, channel, *references]}],
        "weights": {"onnx": {"source": "network.onnx", "opset_version": 17}},
    }
    (folder / "rdf.yaml").write_text(json.dumps(described))  # JSON is YAML
    return folder


def module(arguments: Any = None) -> Any:  # those of a network in a checkpoint
    """Return a network of PyTorch that returns its input."""
    return torch.nn.Identity()


CHECKPOINT = {
    "state_dict": {},
    "hyper_parameters": {
        "algorithm_config": {
            "algorithm": "n2v",
            "model": {"architecture": "UNet", "conv_dims": 2, "depth": 1, "in_channels": 1, "num_classes": 1},
        }
    },
    "datamodule_hyper_parameters": {"data_config": {"normalization": {"name": "none"}}},
}
"""What CAREamics saves, for a network without weights."""
