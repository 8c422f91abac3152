"""Networks of MONAI, exported to ONNX and by `torch.export`, give tiled what PyTorch gives for the whole image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchloom as pl

from .networks import NAMES, STRIDE, TRACED_SIZE, make, save_exported, save_onnx

SHAPES = {2: (151, 173), 3: (53, 51, 61)}
TILES = {2: 112, 3: 48}
OVERLAPS = {2: 64, 3: 40}
"""At least twice the reach of these networks."""

CONVOLUTIONAL = [name for name in NAMES if name != "SwinUNETR"]


@pytest.fixture(params=[2, 3], ids=["2D", "3D"])
def n_dims(request):
    return request.param


@pytest.fixture
def image(n_dims):
    return np.random.default_rng(0).normal(size=SHAPES[n_dims]).astype(np.float32)


def whole(network, image, stride):
    """Run a network on the whole image, mirrored at its end to a multiple of the stride."""
    padded = np.pad(image, [(0, -side % stride) for side in image.shape], mode="reflect")
    with torch.inference_mode():
        output = network(torch.from_numpy(padded[None, None]))[0].numpy()
    return output[(slice(None), *map(slice, image.shape))]


def tiled(model, image, **options):
    return pl.predict(model, image, axes="ZYX"[-image.ndim :], seams="grid", progress=False, **options)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_onnx(tmp_path, image, n_dims, name):
    """A network declares its sizes and stride, and is tiled by them."""
    network = make(name, n_dims)
    model = pl.OnnxModel(save_onnx(network, tmp_path / "network.onnx", n_dims), threads=1)
    declared = model.description

    result = tiled(model, image, patch_size=TILES[n_dims], overlaps=OVERLAPS[n_dims])

    assert declared.min_size == declared.size_step == declared.origin_multiple == (STRIDE[name],) * n_dims
    assert (declared.in_channels, declared.out_channels, declared.n_dims) == (1, 2, n_dims)
    np.testing.assert_allclose(result, whole(network, image, STRIDE[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_exported_program(tmp_path, image, n_dims, name):
    """A program of `torch.export` is tiled by the stride that is given."""
    network = make(name, n_dims)
    model = pl.load_model(save_exported(network, tmp_path / "network.pt2", n_dims), device="cpu")

    result = tiled(
        model, image, patch_size=TILES[n_dims], overlaps=OVERLAPS[n_dims], origin_multiple=STRIDE[name], batch_size=2
    )

    np.testing.assert_allclose(result, whole(network, image, STRIDE[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_module(image, n_dims, name):
    """A network itself gives the same as its files."""
    network = make(name, n_dims)

    result = tiled(network, image, patch_size=TILES[n_dims], overlaps=OVERLAPS[n_dims], origin_multiple=STRIDE[name])

    np.testing.assert_allclose(result, whole(network, image, STRIDE[name]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_norms_over_tiles(tmp_path, n_dims, norm):
    """Networks that normalize over the whole tile declare their sizes too; one tile equals the whole image."""
    network = make("SegResNet", n_dims, norm)
    model = pl.OnnxModel(save_onnx(network, tmp_path / "network.onnx", n_dims, with_names=False), threads=1)
    size = (52, 76) if n_dims == 2 else (32, 28, 36)
    image = np.random.default_rng(0).normal(size=size).astype(np.float32)

    assert model.description.size_step == (4,) * n_dims
    np.testing.assert_allclose(tiled(model, image, patch_size=size), whole(network, image, 4), rtol=1e-3, atol=1e-4)


def test_onnx_swin(tmp_path, n_dims):
    """A network with windowed attention accepts few of the sizes that it declares as free: the error contains sizes that work."""
    network = make("SwinUNETR", n_dims)
    model = pl.OnnxModel(save_onnx(network, tmp_path / "network.onnx", n_dims), threads=1)
    image = np.random.default_rng(0).normal(size=(TRACED_SIZE,) * n_dims).astype(np.float32)
    larger = np.tile(image, (3,) * n_dims)

    assert (model.description.min_size, model.description.size_step) == (None, None)
    np.testing.assert_allclose(
        tiled(model, image, patch_size=TRACED_SIZE), whole(network, image, 32), rtol=1e-3, atol=1e-4
    )
    with pytest.raises(pl.ModelError, match=r"failed on a tensor of shape .*; it accepts tiles of .*64 × 64"):
        tiled(model, larger, patch_size=128 if n_dims == 2 else 72)


def test_exported_swin(tmp_path, n_dims):
    """A program of fixed sizes gives what its network gives for a tile."""
    network = make("SwinUNETR", n_dims)
    path = save_exported(network, tmp_path / "network.pt2", n_dims, is_free=False)
    image = np.random.default_rng(0).normal(size=(TRACED_SIZE,) * n_dims).astype(np.float32)

    result = tiled(pl.load_model(path, device="cpu"), image, patch_size=TRACED_SIZE, batch_size=2)

    np.testing.assert_allclose(result, whole(network, image, 32), rtol=1e-3, atol=1e-4)
