"""Networks that CAREamics trained: our predictions are those of CAREamics."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from careamics.careamist import CAREamist
from careamics.config.factories import (
    create_advanced_care_config,
    create_advanced_n2n_config,
    create_advanced_n2v_config,
)
from careamics.models.unet import UNet
from typer.testing import CliRunner

import patchloom as pl
from patchloom.cli import app
from patchloom.prediction.models.careamics.careamics_model import unet_reach

COMMON: dict[str, Any] = {
    "data_type": "array",
    "batch_size": 2,
    "num_epochs": 1,
    "num_steps": 2,
    "n_val_patches": 1,
    "num_workers": 0,
    "trainer_params": {"accelerator": "cpu"},
}
FLAT = COMMON | {"patch_size": (32, 32), "axes": "YX"}
DEEP = COMMON | {"patch_size": (16, 32, 32), "axes": "ZYX"}
COLORED = FLAT | {"axes": "CYX"}
SMALL = {"depth": 2, "num_channels_init": 8}

CONFIGURATIONS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "n2v": (create_advanced_n2v_config, FLAT | {"model_params": SMALL}),
    "n2v2": (create_advanced_n2v_config, FLAT | {"model_params": SMALL, "use_n2v2": True}),
    "n2v-3d": (create_advanced_n2v_config, DEEP | {"model_params": SMALL | {"depth": 1}}),
    "n2v-channels": (create_advanced_n2v_config, COLORED | {"model_params": SMALL, "n_channels": 2}),
    "n2v-quantile": (create_advanced_n2v_config, FLAT | {"model_params": SMALL, "normalization": "quantile"}),
    "care": (create_advanced_care_config, COLORED | {"model_params": SMALL, "n_channels_in": 2, "n_channels_out": 2}),
    "n2n": (create_advanced_n2n_config, FLAT | {"model_params": SMALL, "normalization": "min_max"}),
}


class Trained(NamedTuple):
    """A network that CAREamics trained for two steps."""

    peer: CAREamist
    path: Path
    axes: str

    def predict(self, image: np.ndarray, **options: Any) -> np.ndarray:
        """Return the prediction of CAREamics."""
        (predicted,), _ = self.peer.predict(image, **options)
        return np.asarray(predicted)


def noisy(axes: str, size: tuple[int, ...], seed: int) -> np.ndarray:
    """Return an image of smooth bumps with noise."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*[np.arange(side) for side in size], indexing="ij")
    smooth = 1000 + 200 * np.prod([np.sin(0.2 * along) for along in grid], axis=0)
    shape = (2, *size) if "C" in axes else size
    return rng.poisson(np.broadcast_to(smooth, shape)).astype(np.uint16)


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def trained(request, tmp_path_factory) -> Trained:
    """Train a network with CAREamics."""
    folder = tmp_path_factory.mktemp(request.param)
    create, options = CONFIGURATIONS[request.param]
    peer = CAREamist(create(experiment_name="small", seed=1, **options), work_dir=folder, enable_progress_bar=False)
    image = noisy(options["axes"], (96, 96) if "Z" not in options["axes"] else (32, 64, 64), 0)
    target = (
        {}
        if request.param.startswith("n2v")
        else {"train_data_target": image[::-1] * 3 if "C" in options["axes"] else image * 3}
    )
    peer.train(train_data=image.astype(np.float32), **{name: data.astype(np.float32) for name, data in target.items()})
    (path,) = folder.rglob("*last.ckpt")
    return Trained(peer, path, options["axes"])


def size_of(trained: Trained, *, divisible: bool) -> tuple[int, ...]:
    flat, deep = ((148, 136), (40, 52, 44)) if divisible else ((147, 133), (39, 51, 43))
    return deep if "Z" in trained.axes else flat


def test_whole(trained):
    """The prediction of a whole image is that of CAREamics."""
    image = noisy(trained.axes, size_of(trained, divisible=True), 1)
    size = size_of(trained, divisible=True)
    ours = pl.predict(pl.load_model(trained.path), image, axes=trained.axes, patch_size=size, progress=False)
    np.testing.assert_allclose(ours, trained.predict(image), rtol=1e-6)


def test_tiled_equals_whole(trained):
    """Tiled by the description, an image whose sizes are no multiples of anything equals CAREamics' prediction of the whole."""
    image = noisy(trained.axes, size_of(trained, divisible=False), 2)
    spatial = image.ndim - len(trained.axes.replace("C", ""))
    padded = np.pad(image, [(0, 0)] * spatial + [(0, -side % 4) for side in image.shape[spatial:]], mode="reflect")
    whole = trained.predict(padded)[(..., *map(slice, image.shape[spatial:]))]
    model = pl.load_model(trained.path)
    for patch_size in (None, 24 if "Z" in trained.axes else 72):
        ours = pl.predict(model, image, axes=trained.axes, patch_size=patch_size, progress=False)
        np.testing.assert_allclose(ours, whole, rtol=1e-6, atol=1e-4)


def test_tiled(trained):
    """With the tiles and overlaps of CAREamics, our tiled prediction is that of CAREamics."""
    image = noisy(trained.axes, size_of(trained, divisible=True), 3)
    flat = "Z" not in trained.axes
    tile, overlap = ((64, 64), (16, 16)) if flat else ((16, 32, 32), (8, 8, 8))
    theirs = trained.predict(image, tile_size=tile, tile_overlap=overlap)
    ours = pl.predict(
        pl.load_model(trained.path),
        image,
        axes=trained.axes,
        patch_size=tile,
        overlaps=overlap,
        seams="centered",
        progress=False,
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-4)


def test_statistics(trained):
    """The statistics of the training are used, not those of the image: a brighter image is predicted as CAREamics does."""
    image = noisy(trained.axes, size_of(trained, divisible=True), 4) * 3
    ours = pl.predict(
        pl.load_model(trained.path),
        image,
        axes=trained.axes,
        patch_size=size_of(trained, divisible=True),
        progress=False,
    )
    np.testing.assert_allclose(ours, trained.predict(image), rtol=1e-6)


def test_command(trained, tmp_path):
    """The command line predicts with a checkpoint, and needs no size."""
    image = noisy(trained.axes, size_of(trained, divisible=False), 5)
    np.save(tmp_path / "image.npy", image)
    command = ["predict", str(tmp_path / "image.npy"), "--axes", trained.axes, "--model", str(trained.path)]
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out.npy"), "--quiet"])
    assert result.exit_code == 0, result.output
    expected = pl.predict(pl.load_model(trained.path), image, axes=trained.axes, progress=False)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


@pytest.mark.parametrize("trained", ["n2v", "n2v-3d", "n2v-channels"], indirect=True)
def test_exported_package(trained, tmp_path):
    """The package of bioimage.io that CAREamics exports gives the same predictions; its network needs trust."""
    size = (128, 96) if "Z" not in trained.axes else (32, 64, 48)
    image = noisy(trained.axes, size, 6)
    path = tmp_path / "exported.zip"
    trained.peer.export_to_bmz(
        path,
        friendly_model_name="small",
        input_array=image.astype(np.float32),
        authors=[{"name": "Ada"}],
        general_description="a small network",
        data_description="noise",
        channel_names=["one", "two"] if "C" in trained.axes else None,
    )
    with pytest.raises(pl.ModelError, match=r"trust=True \(--trust\)"):
        pl.load_model(path)
    model = pl.load_model(path, trust=True)
    assert model.description.patch_size == size
    whole = pl.predict(model, image, axes=trained.axes, progress=False)
    np.testing.assert_allclose(whole, trained.predict(image), rtol=1e-5)
    # The package declares one tile size and no halo: the overlap that the network needs is given.
    larger = noisy(trained.axes, tuple(2 * side + 3 for side in size), 7)
    reach = pl.load_model(trained.path).description
    options = {
        "overlaps": reach.overlaps,
        "origin_multiple": reach.origin_multiple,
        "axes": trained.axes,
        "progress": False,
    }
    tiled = pl.predict(model, larger, **options)
    np.testing.assert_allclose(
        tiled, pl.predict(pl.load_model(trained.path), larger, **options, patch_size=size), rtol=1e-5
    )


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("n2v2", [False, True])
def test_reach(depth, n2v2):
    """A voxel at the declared reach changes the prediction of a network of positive weights, and one beyond does not."""
    torch.manual_seed(0)
    network = UNet(conv_dims=2, depth=depth, num_channels_init=8, use_batch_norm=False, n2v2=n2v2).eval().double()
    with torch.no_grad():
        for weights in network.parameters():
            weights.fill_(0.01 if weights.ndim > 1 else 0)
    found, stride = 0, 2**depth
    with torch.inference_mode():
        plain = network(torch.ones(1, 1, 8, 40 * stride).double())
        for position in range(20 * stride, 21 * stride):
            image = torch.ones(1, 1, 8, 40 * stride).double()
            image[..., position] = 1e6
            changed = (network(image) != plain).nonzero()[:, -1]
            found = max(found, position - int(changed.min()), int(changed.max()) - position)
    assert unet_reach(depth, blur_pool=n2v2) == found
