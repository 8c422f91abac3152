"""Networks trained by CAREamics, as models: a small network stands for CAREamics' UNet."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.prediction.models.careamics.careamics_model import CareamicsModel, unet_reach

torch = pytest.importorskip("torch")

IMAGES = {2: (75, 93), 3: (19, 37, 41)}
TILES = {2: (None, 24, (32, 22)), 3: (None, (20, 24, 22), (20, 22, 38))}


def whole(model: CareamicsModel, make: Any, image: np.ndarray, *, scale: float, offset: float) -> np.ndarray:
    """Return the prediction of the whole image, `(C, (Z), Y, X)`, by PyTorch alone."""
    network = make({"conv_dims": image.ndim - 1, "in_channels": len(image), "num_classes": 1})
    content = torch.load(model.files[0], weights_only=True)
    network.load_state_dict({name.removeprefix("model."): value for name, value in content["state_dict"].items()})
    even = [(0, 0), *[(0, side % 2) for side in image.shape[1:]]]
    batch = np.pad((image.astype(np.float32) - offset) / scale, even, mode="reflect")
    with torch.no_grad():
        predicted = network.eval()(torch.from_numpy(batch)[None])[0].numpy()
    return (predicted * scale + offset)[(slice(None), *map(slice, image.shape[1:]))]


@pytest.mark.parametrize("n_dims", [2, 3])
def test_tiled_equals_whole(saved, small_unet, n_dims, rng):
    """Tiled by its own description, an image of odd sizes equals the whole image, normalized and restored."""
    model = CareamicsModel(saved(conv_dims=n_dims), make_network=small_unet)
    image = rng.integers(800, 1200, (1, *IMAGES[n_dims])).astype(np.uint16)
    expected = whole(model, small_unet, image, scale=50.25, offset=1000.5)
    axes = "CYX" if n_dims == 2 else "CZYX"
    for patch_size in TILES[n_dims]:
        predicted = pl.predict(model, image, axes=axes, patch_size=patch_size, progress=False)
        assert (predicted.dtype, predicted.shape) == (np.float32, expected.shape)
        np.testing.assert_allclose(predicted, expected, rtol=1e-6)


def test_description(saved, small_unet):
    """The stride, the size rule, the overlap and the channels follow from the depth of the network."""
    path = saved(conv_dims=3, in_channels=2, num_classes=3, depth=3, normalization={"name": "none"})
    declared = CareamicsModel(path, make_network=small_unet).description
    assert (declared.size_step, declared.origin_multiple, declared.overlaps) == ((8, 8, 8), (8, 8, 8), (116, 116, 116))
    assert (declared.in_channels, declared.out_channels, declared.n_dims) == (2, 3, 3)
    assert (declared.out_dtype, declared.scale) == ("float32", (Fraction(1),) * 3)
    assert declared.patch_size is None


def test_refused_sizes(saved, small_unet):
    """A tile size that the network cannot halve often enough is refused, and the next ones are named."""
    model = CareamicsModel(saved(depth=3), make_network=small_unet)
    with pytest.raises(pl.GeometryError, match=r"patch_size is 100 along Y.*take 96 or 104"):
        pl.plan(np.zeros((300, 300), np.uint16), model=model, axes="YX", patch_size=100)


def test_channels(saved, small_unet):
    """An image with other channels than the network takes is refused, before anything is run."""
    model = CareamicsModel(saved(in_channels=2), make_network=small_unet)
    with pytest.raises(pl.GeometryError, match="the model takes 2 channels"):
        pl.predict(model, np.zeros((3, 40, 40), np.uint16), axes="CYX", progress=False)


def test_statistics_of_other_channels(saved, small_unet):
    """Statistics of as many channels as neither the network nor 1 has are refused by their number."""
    path = saved(in_channels=3, normalization={"name": "mean_std", "input_means": [1.0, 2.0], "input_stds": [1.0, 1.0]})
    model = CareamicsModel(path, make_network=small_unet)
    with pytest.raises(pl.ModelError, match="numbers for 2 channels to subtract, and the batch has 3"):
        model(np.zeros((1, 3, 8, 8), np.uint16))


def test_pickle(saved, small_unet, tmp_path, monkeypatch):
    """A pickled model opens its file again, also in another directory, on the same device and in the same precision."""
    monkeypatch.chdir(tmp_path)
    model = CareamicsModel(saved().name, make_network=small_unet).on("cpu", "bfloat16")
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(model))
    batch = np.full((1, 1, 8, 8), 990, np.uint16)
    assert torch.equal(again(batch), model(batch))
    assert again.description == model.description
    assert again.files == model.files == (tmp_path / "run.ckpt",)


def test_identity(saved, small_unet, tmp_path):
    """A copy of a file is the same model, and other weights are another one."""
    path = saved()
    first = CareamicsModel(path, make_network=small_unet).identity
    copied = tmp_path / "copy.ckpt"
    copied.write_bytes(path.read_bytes())
    assert CareamicsModel(copied, make_network=small_unet).identity == first
    changed = saved(lambda content: content["state_dict"]["model.last.bias"].add_(1))
    assert CareamicsModel(changed, make_network=small_unet).identity != first


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights(saved, small_unet, change):
    """Weights that are missing or of another shape are named."""

    def damage(content: dict[str, Any]) -> None:
        weights = content["state_dict"]
        if change == "missing":
            del weights["model.last.bias"]
        else:
            weights["model.last.bias"] = torch.zeros(7)

    with pytest.raises(pl.ModelError, match=r"the weights in .*run.ckpt do not fit the UNet.*last.bias"):
        CareamicsModel(saved(damage), make_network=small_unet)


def test_without_careamics(saved):
    """Without CAREamics, the error names what to install, after the file was checked."""
    code = f"import sys; sys.modules['careamics'] = None; import patchloom as pl; pl.load_model({str(saved())!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert 'pip install "patchloom[careamics]"' in ran.stderr


def test_load_model(saved, tmp_path):
    """A checkpoint is loaded by its ending, and options for other kinds are refused."""
    with pytest.raises(pl.ModelError, match=r"layout is 'NCHW', which is for .*: leave it out, .*CAREamics"):
        pl.load_model(saved(), layout="NCHW")
    with pytest.raises(pl.ModelNotFoundError, match="there is no model file"):
        pl.load_model(tmp_path / "none.ckpt")


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("blur_pool", [False, True])
def test_reach(depth, blur_pool):
    """The reach is the largest distance at which a network of ones, without ReLU, passes on a change of one voxel."""
    size, stride = 2**depth * 48, 2**depth
    kernel = torch.ones(1, 1, 3)

    def level(batch: Any, depth: int) -> Any:
        batch = torch.conv1d(torch.conv1d(batch, kernel, padding=1), kernel, padding=1)
        if not depth:
            return batch
        if blur_pool:
            largest = torch.max_pool1d(batch, 2, stride=1)
            pooled = torch.conv1d(largest, torch.tensor([[[0.25, 0.5, 0.25]]]).to(batch), padding=1, stride=2)
        else:
            pooled = torch.max_pool1d(batch, 2)
        below = torch.nn.functional.interpolate(
            level(pooled, depth - 1)[..., None, :], scale_factor=(1, 2), mode="bilinear"
        )
        after = batch + below[:, :, 0]
        return torch.conv1d(torch.conv1d(after, kernel, padding=1), kernel, padding=1)

    kernel = kernel.double()
    plain = level(torch.ones(1, 1, size).double(), depth)
    found = 0
    for position in range(size // 2, size // 2 + stride):
        image = torch.ones(1, 1, size).double()
        image[..., position] += 1
        changed = (level(image, depth) != plain).nonzero()[:, -1]
        found = max(found, position - int(changed.min()), int(changed.max()) - position)
    assert unet_reach(depth, blur_pool=blur_pool) == found
