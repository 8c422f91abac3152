"""MONAI bundles: our predictions are those of MONAI's transforms, networks and inferer, run as MONAI runs them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import patchloom as pl

bundle_tools = pytest.importorskip("monai.bundle")
nets = pytest.importorskip("monai.networks.nets")
metatensors = pytest.importorskip("monai.data.meta_tensor")

UNET = {
    "_target_": "UNet",
    "spatial_dims": "@dims",
    "in_channels": 1,
    "out_channels": 3,
    "channels": [4, 8, 16],
    "strides": [2, 2],
    "num_res_units": 1,
    "norm": "batch",
}
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": UNET,
    "DynUNet": {
        "_target_": "monai.networks.nets.DynUNet",
        "spatial_dims": "@dims",
        "in_channels": 1,
        "out_channels": 3,
        "kernel_size": [3, 3, 3],
        "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2],
        "filters": [4, 8, 16],
        "norm_name": "batch",
    },
    "SegResNet": {
        "_target_": "SegResNet",
        "spatial_dims": "@dims",
        "in_channels": 1,
        "out_channels": 3,
        "init_filters": 8,
        "blocks_down": [1, 1],
        "blocks_up": [1],
    },
}
PREPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {
            "_target_": "ScaleIntensityRanged",
            "keys": "@image_key",
            "a_min": 0,
            "a_max": 3000,
            "b_min": 0,
            "b_max": 1,
            "clip": True,
        },
        {"_target_": "EnsureTyped", "keys": "@image_key"},
    ],
}
NORMALIZING = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "ScaleIntensityd", "keys": "@image_key"},
        {"_target_": "NormalizeIntensityd", "keys": ["@image_key"], "channel_wise": True},
    ],
}
POSTPROCESSING = {
    "_target_": "Compose",
    "transforms": [
        {"_target_": "Activationsd", "keys": "pred", "softmax": True},
        {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
    ],
}
SIZES = {2: (101, 77), 3: (21, 45, 38)}


def write_bundle(
    root: Path, *, dims: int, definition: Mapping[str, Any], mode: str = "constant", **config: Any
) -> Path:
    """Write a bundle with random weights."""
    tree = {
        "image_key": "image",
        "dims": dims,
        "device": "$torch.device('cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [48, 32] if dims == 2 else [16, 32, 24],
            "sw_batch_size": 2,
            "overlap": 0.5,
            "mode": mode,
        },
        "preprocessing": PREPROCESSING,
        **config,
    }
    for folder in ("configs", "models"):
        (root / folder).mkdir(parents=True)
    (root / "configs" / "inference.json").write_text(json.dumps(tree))
    metadata = {
        "network_data_format": {
            "inputs": {"image": {"num_channels": 1, "spatial_shape": ["8*n"] * dims}},
            "outputs": {
                "pred": {"num_channels": 3, "channel_def": {"0": "background", "1": "nucleus", "2": "membrane"}}
            },
        }
    }
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.manual_seed(0)
    network = parser_of(root).get_parsed_content("network_def")
    for module in network.modules():  # as after a training
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2)
    torch.save({"model": network.state_dict()}, root / "models" / "model.pt")
    return root


def parser_of(root: Path) -> Any:
    parser = bundle_tools.ConfigParser()
    parser.read_config(str(root / "configs" / "inference.json"))
    return parser


def predict_by_monai(root: Path, image: np.ndarray, *, weights: Any = None) -> np.ndarray:
    """Return the prediction of `(C, …)` by MONAI's transforms, network, inferer and postprocessing.

    `weights` replace those of the inferer.
    """
    parser = parser_of(root)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True)["model"])
    item = {"image": metatensors.MetaTensor(torch.from_numpy(image.astype(np.float32)))}
    item = parser.get_parsed_content("preprocessing")(item)
    inferer = parser.get_parsed_content("inferer")
    inferer.roi_weight_map = weights if weights is None else weights[None, None]
    with torch.no_grad():
        item["pred"] = inferer(item["image"][None], network)[0]
    if "postprocessing" in parser:
        item = parser.get_parsed_content("postprocessing")(item)
    return np.asarray(item["pred"])


@pytest.fixture
def image(request) -> np.ndarray:
    """Return an image of noise and bumps, `(C, (Z), Y, X)`."""
    rng = np.random.default_rng(0)
    size = SIZES[request.param]
    smooth = np.prod([np.sin(0.3 * along) for along in np.meshgrid(*map(np.arange, size), indexing="ij")], axis=0)
    return rng.poisson(1000 + 800 * smooth)[None].astype(np.uint16)


def ours(root: Path, image: np.ndarray, **options: Any) -> np.ndarray:
    axes = "CYX" if image.ndim == 3 else "CZYX"
    return np.asarray(pl.predict(pl.load_model(root), image, axes=axes, progress=False, **options))


@pytest.mark.parametrize("image", [2, 3], indirect=True)
@pytest.mark.parametrize("name", NETWORKS)
def test_as_monai(tmp_path, image, name):
    """Tiles, blending and normalization of the bundle give the prediction of MONAI's sliding window."""
    root = write_bundle(tmp_path / "bundle", dims=image.ndim - 1, definition=NETWORKS[name])
    expected = predict_by_monai(root, image)
    np.testing.assert_allclose(ours(root, image), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("image", [2, 3], indirect=True)
def test_gaussian(tmp_path, image):
    """Blended by a Gaussian, the prediction is that of MONAI with weights that are not raised to a thousandth of the largest.

    The image has a size at which no tile is moved inside it. With the weights of MONAI the difference is small on average.
    """
    root = write_bundle(tmp_path / "bundle", dims=image.ndim - 1, definition=UNET, mode="gaussian")
    image = image[(slice(None), *map(slice, {3: (96, 64), 4: (16, 32, 36)}[image.ndim]))]
    size = json.loads((root / "configs" / "inference.json").read_text())["inferer"]["roi_size"]
    along = [np.exp(-32 * ((np.arange(side) - (side - 1) / 2) / side) ** 2) for side in size]
    gaussian = torch.from_numpy(np.prod(np.meshgrid(*along, indexing="ij"), axis=0).astype(np.float32))
    predicted = ours(root, image)
    np.testing.assert_allclose(predicted, predict_by_monai(root, image, weights=gaussian), rtol=1e-3, atol=1e-5)
    assert np.abs(predicted - predict_by_monai(root, image)).mean() < 0.01 * np.ptp(predicted)


@pytest.mark.parametrize("image", [2, 3], indirect=True)
@pytest.mark.parametrize("mode", ["constant", "gaussian"])
def test_tiled_equals_whole(tmp_path, image, mode):
    """A network without border effects gives the prediction of the whole image, whose sizes are no multiples of anything."""
    definition = {
        "_target_": "torch.nn.Conv2d" if image.ndim == 3 else "torch.nn.Conv3d",
        "in_channels": 1,
        "out_channels": 3,
        "kernel_size": 1,
    }
    root = write_bundle(
        tmp_path / "bundle", dims=image.ndim - 1, definition=definition, mode=mode, preprocessing=NORMALIZING
    )
    parser = parser_of(root)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(root / "models" / "model.pt", weights_only=True)["model"])
    item = {"image": metatensors.MetaTensor(torch.from_numpy(image.astype(np.float32)))}
    with torch.no_grad():
        whole = np.asarray(network(parser.get_parsed_content("preprocessing")(item)["image"][None])[0])
    np.testing.assert_allclose(ours(root, image), whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("image", [2], indirect=True)
def test_statistics(tmp_path, image):
    """Statistics are those of the whole image, as in MONAI, and not those of tiles."""
    root = write_bundle(tmp_path / "bundle", dims=2, definition=UNET, preprocessing=NORMALIZING)
    expected = predict_by_monai(root, image)
    np.testing.assert_allclose(ours(root, image), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("image", [2, 3], indirect=True)
def test_labels(tmp_path, image):
    """Postprocessing of the bundle gives the labels of MONAI."""
    root = write_bundle(tmp_path / "bundle", dims=image.ndim - 1, definition=UNET, postprocessing=POSTPROCESSING)
    labels = ours(root, image)
    assert labels.dtype == np.uint8
    assert (labels == predict_by_monai(root, image)).mean() > 0.9999


@pytest.mark.parametrize("image", [2], indirect=True)
def test_script(tmp_path, image):
    """A network that MONAI exported as TorchScript gives the same prediction, and is preferred."""
    root = write_bundle(tmp_path / "bundle", dims=2, definition=UNET)
    expected = ours(root, image)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bundle_tools.ckpt_export(
            "network_def",
            filepath=str(root / "models" / "model.ts"),
            ckpt_file=str(root / "models" / "model.pt"),
            meta_file=str(root / "configs" / "metadata.json"),
            config_file=[str(root / "configs" / "inference.json")],
            key_in_ckpt="model",
        )
    (root / "models" / "model.pt").unlink()
    np.testing.assert_allclose(ours(root, image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image", [2], indirect=True)
def test_trusted_code(tmp_path, image):
    """Expressions and classes of the bundle are run only if it is trusted."""
    definition = UNET | {"_target_": "scripts.network.Net", "channels": "$[4 * 2**i for i in range(3)]"}
    (tmp_path / "bundle" / "scripts").mkdir(parents=True)
    (tmp_path / "bundle" / "scripts" / "network.py").write_text(
        "from monai.networks.nets import UNet\n\n\nclass Net(UNet):\n    pass\n"
    )
    plain = write_bundle(tmp_path / "plain", dims=2, definition=UNET)
    root = tmp_path / "bundle"
    for folder in ("configs", "models"):
        (plain / folder).rename(root / folder)
    config = root / "configs" / "inference.json"
    tree = json.loads(config.read_text())
    config.write_text(json.dumps(tree | {"network_def": definition}))
    with pytest.raises(pl.ModelError, match=r"give trust=True \(--trust\)"):
        pl.load_model(root)
    trusted = pl.predict(pl.load_model(root, trust=True), image, axes="CYX", progress=False)
    config.write_text(json.dumps(tree))
    np.testing.assert_array_equal(trusted, ours(root, image))
