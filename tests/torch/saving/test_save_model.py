"""A saved network predicts as it was trained: nothing has to be given again."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import patchloom as pl
from patchloom.torch import MicroSplitDataset, PatchDataset, save_model

METADATA = pl.ImageMetadata(
    voxel_size={"Y": 500.0, "X": 0.25}, units={"Y": "nanometer", "X": "micrometer"}, channel_names=("DNA", "actin")
)


class ScaleAndOffset:
    """Fixed numbers, the same for all images."""

    def __init__(self, scale: Any, offset: Any) -> None:
        self.scale, self.offset = scale, offset


class Small(nn.Module):
    """A network with a stride of 4, batch normalization and dropout."""

    def __init__(self, n_inputs: int = 1, n_outputs: int = 1) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(n_inputs, 4, 3, padding=1), nn.BatchNorm2d(4), nn.AvgPool2d(4))
        self.up = nn.Sequential(nn.Dropout(0.5), nn.Upsample(scale_factor=4), nn.Conv2d(4, n_outputs, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :1] + self.up(self.down(image))


@pytest.fixture
def images(rng: np.random.Generator) -> list[Any]:
    """Two images of two channels and different brightness."""
    pixels = [rng.poisson(mean, (2, 70, 90)).astype(np.uint16) for mean in (60, 3000)]
    return [pl.ArrayStack(image, axes="CYX", metadata=METADATA) for image in pixels]


def dataset(images: list[Any], **options: Any) -> PatchDataset:
    patching = pl.RandomPatching([image.data_shape for image in images], (32, 32), seed=1)
    return PatchDataset(images, patching, **options)


def whole_prediction(network: nn.Module, normalized: np.ndarray) -> np.ndarray:
    """Run a network on a whole image, `CYX`, padded to a multiple of 4."""
    sizes = [(0, 0), *((0, -size % 4) for size in normalized.shape[1:])]
    padded = np.pad(normalized, sizes, mode="reflect").astype(np.float32)
    with torch.no_grad():
        output = network.eval()(torch.from_numpy(padded)[None])[0].numpy()
    return output[:, : normalized.shape[1], : normalized.shape[2]]


def predict(path: Path, image: np.ndarray, axes: str = "YX", **options: Any) -> np.ndarray:
    return pl.predict(pl.load_model(path, device="cpu"), image, axes=axes, progress=False, **options)


@pytest.mark.parametrize("suffix", [".pt2", ".pt"])
def test_round_trip(suffix: str, images: list[Any], rng: np.random.Generator, tmp_path: Path) -> None:
    """A network saved in training mode predicts a new image by its own statistics, in gray values, on any tiles."""
    torch.manual_seed(1)
    network = Small()
    measured = [pl.measure_normalization(image, "mean_std/channel") for image in images]
    code = {} if suffix == ".pt2" else {"factory": f"{__name__}:Small", "arguments": {"n_inputs": 1}}
    trained_on = dataset(images, channels=[1], normalization=measured)
    path = save_model(tmp_path / f"net{suffix}", network, trained_on, denormalize=True, **code)
    assert network.training, "the network was changed"

    model = pl.load_model(path, device="cpu", **({} if suffix == ".pt2" else {"trust": True}))
    declared = model.description
    assert (declared.size_step, declared.origin_multiple, declared.patch_size) == ((4, 4), (4, 4), None)
    assert (declared.in_channels, declared.out_channels, declared.pixel_size) == (1, 1, (0.5, 0.25))
    image = rng.normal(500, 30, (70, 90)).astype(np.float32)
    mean, deviation = image.mean(dtype=float), image.std(dtype=float)
    expected = whole_prediction(network, (image[None] - mean) / deviation) * deviation + mean
    for options in ({}, {"patch_size": 48, "overlaps": 24}, {"patch_size": 48, "overlaps": 24, "blend": "hann"}):
        result = pl.predict(model, image, axes="YX", progress=False, **options)
        # A blend contains pixels near the border of a tile, where the network sees zeros.
        np.testing.assert_allclose(result, expected[0], atol=0.2 if "blend" in options else 0.01)


@pytest.mark.parametrize("axes", ["YX", "ZYX"])
def test_fixed_numbers(axes: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Numbers that are the same for all images become a part of the network, exact also for a large offset."""
    image = (10_000 + rng.integers(0, 50, (2, 20, 24, 24)[: len(axes) + 1])).astype(np.uint16)
    stacks = pl.open_stacks([image, image], axes=f"C{axes}")
    numbers = ScaleAndOffset([0.02, 0.5], [-200.0, -5000.0])
    patching = pl.RandomPatching([stack.data_shape for stack in stacks], (8,) * len(axes))
    trained_on = PatchDataset(stacks, patching, normalization=numbers)
    np.testing.assert_allclose(
        trained_on[0].input.numpy().max(axis=(*range(1, len(axes) + 1),)), [0.98, 24.5], rtol=0.2
    )

    path = save_model(tmp_path / "net.pt2", nn.ReLU(), trained_on)
    shape = (2, *[1] * len(axes))
    scale, offset = np.reshape(numbers.scale, shape), np.reshape(numbers.offset, shape)
    normalized = image * scale + offset
    np.testing.assert_allclose(predict(path, image, f"C{axes}"), normalized, atol=1e-4)
    path = save_model(tmp_path / "net.pt2", nn.ReLU(), trained_on, denormalize=True)
    np.testing.assert_allclose(predict(path, image, f"C{axes}"), image, atol=2e-3)


def test_targets(images: list[Any], tmp_path: Path) -> None:
    """What is undone is the normalization of the targets; if it is not known in prediction, it is refused."""
    measured = [pl.measure_normalization(image) for image in images]
    fixed = ScaleAndOffset(0.5, 3.0)
    path, network = tmp_path / "net.pt2", nn.Identity()

    saved = save_model(path, network, dataset(images, targets=images, target_normalization=fixed), denormalize=True)
    np.testing.assert_allclose(predict(saved, np.full((2, 40, 40), 5.0), "CYX"), (5.0 - 3) / 0.5)
    both = dataset(images, targets=images, normalization=measured, target_normalization=measured)
    save_model(path, network, both, denormalize=True)
    assert pl.load_model(path, device="cpu").description.denormalize
    with pytest.raises(pl.GeometryError, match="targets of the dataset are not normalized"):
        save_model(path, network, dataset(images, targets=images, normalization=measured), denormalize=True)
    with pytest.raises(pl.GeometryError, match="measure both by the same method"):
        save_model(path, network, dataset(images, targets=images, target_normalization=measured), denormalize=True)


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        (lambda images: [ScaleAndOffset(1.0, 0.0), ScaleAndOffset(2.0, 0.0)], "not measured by one method"),
        (lambda images: [pl.measure_normalization(image) for image in images], "measured over all 2 channels"),
    ],
    ids=["numbers of each", "other channels"],
)
def test_unknown_normalization(normalize: Any, message: str, images: list[Any], tmp_path: Path) -> None:
    """A normalization that cannot be applied to another image is refused, unless the method is given."""
    trained_on = dataset(images, channels=[0], normalization=normalize(images))
    with pytest.raises(pl.GeometryError, match=message):
        save_model(tmp_path / "net.pt2", nn.Identity(), trained_on)
    assert not list(tmp_path.iterdir())


def test_given(images: list[Any], tmp_path: Path) -> None:
    """What the dataset does not know is given, and declared."""
    options: dict[str, Any] = {
        "normalize": pl.Percentiles(),
        "patch_size": 24,
        "overlaps": (4, 8),
        "voxel_size": (1, 2),
    }
    path = save_model(
        tmp_path / "net.pt2", Small(2, 2), dataset(images), **options, out_channel_names=["nuclei", "cells"]
    )
    declared = pl.load_model(path, device="cpu").description
    assert (declared.normalize, declared.patch_size, declared.overlaps) == ("percentiles:1,99.8", (24, 24), (4, 8))
    assert (declared.pixel_size, declared.out_channel_names) == ((1.0, 2.0), ("nuclei", "cells"))
    with zipfile.ZipFile(path) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("patchloom.json")]
        assert b'"channel_names": [\n   "DNA",\n   "actin"' in archive.read(name)


def test_lateral_context(rng: np.random.Generator, tmp_path: Path) -> None:
    """A network with lateral context sees around each tile what it saw in training."""
    image = rng.random((2, 70, 90), np.float32)
    stacks = pl.open_stacks(image, axes="CYX")
    patching = pl.RandomPatching([stacks[0].data_shape], (16, 16))
    path = save_model(tmp_path / "net.pt2", nn.Identity(), MicroSplitDataset(patching, targets=stacks, n_scales=3))

    mixed = pl.open_stacks(image.mean(axis=0), axes="YX")
    tiling = pl.TiledPatching([mixed[0].data_shape], (16, 16), (4, 4))
    trained_with = MicroSplitDataset(tiling, inputs=mixed, n_scales=3)
    expected = pl.stitch_tiles([patch.input.numpy() for patch in trained_with], list(tiling))
    model = pl.load_model(path, device="cpu")
    result = pl.predict(model, mixed[0], seams=tiling.seams, progress=False)
    np.testing.assert_allclose(result, expected[0], atol=1e-6)


@pytest.mark.parametrize(
    ("network", "patch_size"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(2048, 1024), nn.Unflatten(1, (1, 32, 32))), (32, 32)),
        (nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()), None),
    ],
    ids=["one size", "valid"],
)
def test_sizes(network: nn.Module, patch_size: Any, images: list[Any], tmp_path: Path) -> None:
    """A network for one size of tiles declares it; one without padding is used on any size."""
    path = save_model(tmp_path / "net.pt2", network, dataset(images))
    declared = pl.load_model(path, device="cpu").description
    assert declared.patch_size == patch_size
    result = predict(path, np.random.default_rng(0).random((2, 70, 90), np.float32), "CYX", patch_size=32)
    assert np.isfinite(result).all()
    assert result.shape[1:] == (70, 90)


def test_replaced(images: list[Any], tmp_path: Path) -> None:
    """A saved network is replaced; another file, such as an image, is not."""
    path, trained_on = tmp_path / "net.pt2", dataset(images)
    save_model(path, Small(2), trained_on)
    save_model(path, nn.Identity(), trained_on)
    assert pl.load_model(path, device="cpu").description.out_channels == 2
    path.write_bytes(b"an image")
    with pytest.raises(pl.OutputExistsError, match="is not a saved network"):
        save_model(path, nn.Identity(), trained_on)
    assert path.read_bytes() == b"an image"


class Counter(nn.Module):
    """A network that cannot be exported, as what it does depends on pixels."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image if float(image.sum()) > 0 else -image


@pytest.mark.parametrize(
    ("name", "network", "options", "error", "message"),
    [
        ("net.onnx", nn.Identity(), {}, pl.SinkError, r"it must end in \.pt2"),
        ("net.pt", nn.Identity(), {}, pl.ArgumentError, "give factory="),
        ("no/net.pt2", nn.Identity(), {}, pl.SinkError, "there is no folder"),
        ("net.pt2", np.negative, {}, pl.ArgumentTypeError, "network is"),
        ("net.pt2", nn.Conv2d(3, 1, 3), {}, pl.ArgumentError, r"network fails for an input of shape \(1, 2, 32, 32\)"),
        ("net.pt2", Counter(), {}, pl.ModelError, "cannot be exported.*factory="),
        (
            "net.pt",
            nn.Identity(),
            {"factory": "a:b", "arguments": {"x": np.negative}},
            pl.ArgumentError,
            "arguments is",
        ),
        ("net.pt2", nn.Identity(), {"denormalize": True}, pl.GeometryError, "inputs of the dataset are not normalized"),
        ("net.pt2", nn.Identity(), {"normalize": "minmax"}, pl.GeometryError, "normalize is 'minmax'"),
    ],
    ids=["suffix", "no factory", "no folder", "function", "channels", "export", "arguments", "undo", "method"],
)
def test_refused(
    name: str, network: Any, options: Any, error: Any, message: str, images: list[Any], tmp_path: Path
) -> None:
    """What cannot be saved is refused, and nothing is written."""
    with pytest.raises(error, match=message):
        save_model(tmp_path / name, network, dataset(images), **options)
    assert not list(tmp_path.iterdir())
