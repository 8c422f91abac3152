"""MONAI bundles as models: what is read from them, and that predictions are those of their networks.

Their networks are TorchScript, or layers of PyTorch, so MONAI is not needed; `make interop` uses MONAI.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import patchloom as pl
from patchloom.cli import app
from patchloom.prediction.models.monai.monai_model import MonaiModel

torch = pytest.importorskip("torch")

COMMON: dict[str, Any] = {"progress": False}
CONV = {"_target_": "torch.nn.Conv2d", "in_channels": 1, "out_channels": 2, "kernel_size": 3, "padding": 1}
INFERER = {
    "_target_": "SlidingWindowInferer",
    "roi_size": [32, 24],
    "sw_batch_size": 3,
    "overlap": 0.5,
    "mode": "gaussian",
}
METADATA = {
    "network_data_format": {
        "inputs": {"image": {"num_channels": 1, "spatial_shape": ["*", "8*n"]}},
        "outputs": {"pred": {"num_channels": 2, "channel_def": {"0": "background", "1": "spleen"}}},
    }
}


def network(dims: int = 2, channels: tuple[int, int] = (1, 2), kernel: int | tuple[int, ...] = 1) -> Any:
    """Return a convolution with fixed weights; one of a single voxel has no border effects."""
    torch.manual_seed(5)
    return getattr(torch.nn, f"Conv{dims}d")(*channels, kernel, padding="same").eval()


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a bundle and returns its folder."""

    def write(
        net: Any = None,
        *,
        weights: Any = None,
        metadata: Mapping[str, Any] | None = METADATA,
        name: str = "spleen",
        **config: Any,
    ) -> Path:
        root = tmp_path / name
        for folder in ("configs", "models"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        (root / "configs" / "inference.json").write_text(json.dumps(config))
        if metadata is not None:
            (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
        if net is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # TorchScript is deprecated
                torch.jit.script(net).save(str(root / "models" / "model.ts"))
        if weights is not None:
            torch.save(weights, root / "models" / "model.pt")
        return root

    return write


def run(net: Any, image: np.ndarray) -> np.ndarray:
    """Return the output of a network for a whole image `(C, …)`."""
    with torch.no_grad():
        return net(torch.from_numpy(image.astype(np.float32))[None])[0].numpy()


def test_tiled_equals_whole(bundle, rng):
    """Tiled and blended by its own description, an image whose sizes are no multiples of anything equals the whole image."""
    net = network()
    model = pl.load_model(bundle(net, inferer=INFERER))
    image = rng.normal(0, 3, (1, 75, 131)).astype(np.float32)
    predicted = pl.predict(model, image, axes="CYX", **COMMON)
    np.testing.assert_allclose(predicted, run(net, image), rtol=1e-5, atol=1e-5)


def test_tiled_3d(bundle, rng):
    """A 3D bundle takes images with X first, if its images are read so, and its sizes are in this order."""
    net = network(3, kernel=(1, 3, 5))
    loading = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": "image"}]
    inferer = INFERER | {"roi_size": [40, 20, 12], "overlap": [0.25, 0.5, 0.5], "mode": "constant"}
    model = pl.load_model(
        bundle(net, inferer=inferer, metadata=None, preprocessing={"_target_": "Compose", "transforms": loading})
    )
    assert (model.description.preferred_patch_size, model.description.overlaps) == ((12, 20, 40), (6, 10, 10))
    image = rng.normal(size=(1, 21, 33, 47)).astype(np.float32)
    whole = run(net, image.transpose(0, 3, 2, 1)).transpose(0, 3, 2, 1)
    cropped = pl.predict(model, image, axes="CZYX", blend="none", **COMMON)
    np.testing.assert_allclose(cropped, whole, rtol=1e-5, atol=1e-5)
    forward = pl.load_model(bundle(net, inferer=inferer, metadata=None, name="same"), layout="NCWHD")
    np.testing.assert_array_equal(pl.predict(forward, image, axes="CZYX", blend="none", **COMMON), cropped)


def test_description(bundle):
    """Tiles, overlap, blending, batch size, channels, their names and the size rule are read."""
    declared = MonaiModel(bundle(network(), inferer=INFERER)).description
    assert (declared.preferred_patch_size, declared.overlaps) == ((32, 24), (16, 12))
    assert (declared.blend, declared.preferred_batch_size) == ("gaussian", 3)
    assert (declared.n_dims, declared.in_channels, declared.size_step) == (2, 1, (1, 8))
    assert declared.out_channel_names == ("background", "spleen")
    assert (declared.normalize, declared.postprocess, declared.patch_size) == (None, None, None)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"overlap": 0.3}, {"overlaps": (10, 8)}),  # steps of int(22.4) and int(16.8)
        ({"overlap": 0}, {"overlaps": (0, 0)}),
        ({"roi_size": 40}, {"preferred_patch_size": (40, 40)}),
        ({"roi_size": [32, -1]}, {"preferred_patch_size": None, "overlaps": None, "blend": "gaussian"}),
        ({"roi_size": [32, 20]}, {"preferred_patch_size": (32, 20), "size_step": None}),
        ({"mode": "constant"}, {"blend": "mean"}),
        ({"_target_": "monai.inferers.SimpleInferer"}, {"preferred_patch_size": None, "blend": None}),
        ({"sw_batch_size": "$@batch"}, {"preferred_batch_size": 7}),
        ({"overlap": "$@overlap"}, {"overlaps": (8, 6)}),
    ],
)
def test_inferer(bundle, changed, expected):
    """The inferer is read as MONAI understands it."""
    declared = MonaiModel(bundle(network(), inferer=INFERER | changed, batch=7, overlap=0.25)).description
    assert {name: getattr(declared, name) for name in expected} == expected


def test_no_configuration(bundle, rng):
    """A bundle without a configuration of inference is a network alone."""
    net = network()
    root = bundle(net)
    (root / "configs" / "inference.json").unlink()
    image = rng.normal(size=(1, 30, 40)).astype(np.float32)
    predicted = pl.predict(pl.load_model(root), image, axes="CYX", patch_size=16, **COMMON)
    np.testing.assert_allclose(predicted, run(net, image), rtol=1e-5, atol=1e-6)


def test_yaml(bundle, rng):
    """A configuration may be in YAML."""
    yaml = pytest.importorskip("yaml")
    root = bundle(network(), inferer=INFERER)
    config = root / "configs" / "inference.json"
    (root / "configs" / "inference.yaml").write_text(yaml.safe_dump(json.loads(config.read_text())))
    from_json = MonaiModel(root).description
    config.unlink()
    from_yaml = MonaiModel(root).description
    assert from_yaml.preferred_patch_size == from_json.preferred_patch_size == (32, 24)


@pytest.mark.parametrize("nested", [None, "model", "state_dict", "spread"])
def test_weights(bundle, nested, rng):
    """The network is made from its definition, with the weights in `model.pt`, however they are nested."""
    net = network(kernel=3)
    weights = net.state_dict()
    if nested == "spread":
        weights = {f"module.{name}": tensor for name, tensor in weights.items()}
    elif nested is not None:
        weights = {nested: weights, "epoch": 3}
    definition = CONV | {"in_channels": "@channels", "kernel_size": "$(3, 3)"}
    network_of_device = "$@network_def.to(@device)"
    root = bundle(weights=weights, network_def=definition, network=network_of_device, channels=1, inferer=INFERER)
    image = rng.normal(size=(1, 45, 50)).astype(np.float32)
    predicted = pl.predict(pl.load_model(root), image, axes="CYX", blend="none", **COMMON)
    np.testing.assert_allclose(predicted, run(net, image), rtol=1e-4, atol=1e-5)


def test_processing(bundle, rng):
    """Images are normalized over the whole image, and scores become labels after blending."""
    net = network()
    transforms = {
        "preprocessing": [{"_target_": "ScaleIntensityd", "keys": "image", "minv": -1, "maxv": 1}],
        "postprocessing": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
        ],
    }
    model = pl.load_model(bundle(net, inferer=INFERER, **transforms))
    image = rng.integers(100, 900, (1, 75, 61)).astype(np.uint16)
    scaled = 2 * (image - image.min()) / float(image.max() - image.min()) - 1
    scores = run(net, scaled)
    labels = pl.predict(model, image, axes="CYX", **COMMON)
    assert labels.dtype == np.uint8
    sure = np.abs(scores[0] - scores[1]) > 1e-5
    np.testing.assert_array_equal(labels[0][sure], scores.argmax(axis=0)[sure])
    kept = pl.predict(model, image, axes="CYX", postprocess="none", **COMMON)
    np.testing.assert_allclose(kept, scores, rtol=1e-4, atol=1e-5)


def test_command(bundle, tmp_path, rng):
    """The command line takes the folder of a bundle, and needs no size."""
    image = rng.normal(size=(75, 61)).astype(np.float32)
    np.save(tmp_path / "image.npy", image)
    root = bundle(network(), inferer=INFERER)
    command = ["predict", str(tmp_path / "image.npy"), "--axes", "YX", "--model", str(root), "--quiet"]
    result = CliRunner().invoke(app, [*command, "--output", str(tmp_path / "out.npy")])
    assert result.exit_code == 0, result.output
    expected = pl.predict(pl.load_model(root), image, axes="YX", **COMMON)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)


def test_notes(bundle):
    """Transforms that are not applied are named in one warning."""
    geometry = [
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RA"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [0.5, 0.25]},
    ]
    largest = [{"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}]
    root = bundle(network(), preprocessing=geometry, postprocessing=largest)
    with pytest.warns(
        UserWarning, match=r"spleen: Orientationd\(axcodes='RA'\) is not applied; Spacingd.*; KeepLargest"
    ):
        model = pl.load_model(root)
    assert model.description.pixel_size == (500, 250)


def test_pixel_size(bundle, rng):
    """An image is predicted at the pixel size of `Spacing`, in millimeters, if that is asked for."""
    spacing = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [0.5, 0.25]},
    ]
    root = bundle(network(), preprocessing=spacing, inferer=INFERER | {"roi_size": [24, 32]})
    with pytest.warns(UserWarning, match=r"unless pixel_size='model' is given"):
        model = pl.load_model(root)
    assert model.description.pixel_size == (250, 500)  # y, x
    image = rng.normal(size=(60, 90)).astype(np.float32)
    options = {"axes": "YX", "voxel_size": (125, 500), "blend": "none", **COMMON}
    rescaled = pl.predict(model, image, pixel_size="model", **options)
    np.testing.assert_array_equal(rescaled, pl.predict(model, image, pixel_size=(250, 500), **options))
    assert np.abs(rescaled - pl.predict(model, image, **options)).max() > 0.1


def test_without_preprocessing(bundle):
    """With `preprocess=False` an image is taken as it is, also if a transform could not be applied."""
    root = bundle(network(), preprocessing=[{"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True}])
    with pytest.raises(pl.ModelError, match=r"NormalizeIntensityd.*Give preprocess=False"):
        pl.load_model(root)
    assert MonaiModel(root, preprocess=False).description.normalize is None


def test_pickle(bundle, tmp_path, monkeypatch):
    """A pickled model opens its bundle again, also in another directory and without warning again."""
    bundle(network(), inferer=INFERER, postprocessing=[{"_target_": "FillHolesd", "keys": "pred"}])
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match="FillHolesd"):
        model = MonaiModel("spleen", layout="NCWH").on("cpu", "bfloat16")
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(model))
    batch = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    assert torch.equal(again(batch), model(batch))
    assert again.description == model.description
    assert again.identity == model.identity


def test_identity(bundle, tmp_path):
    """A copy of a bundle is the same model; another network or another configuration is another one."""
    root = bundle(network(), inferer=INFERER)
    shutil.copytree(root, tmp_path / "copy")
    first = MonaiModel(root).identity
    assert MonaiModel(tmp_path / "copy").identity == first
    assert MonaiModel(root, layout="NCWH").identity != first
    assert MonaiModel(bundle(network(kernel=3), inferer=INFERER, name="other")).identity != first
    assert MonaiModel(bundle(network(), inferer=INFERER | {"overlap": 0.1}, name="third")).identity != first


def change(**changed: Any) -> dict[str, Any]:
    return {"network_def": CONV | changed, "weights": network(kernel=3).state_dict()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "contains neither models/model.ts nor models/model.pt: download its large files"),
        ({"weights": {}}, "network_def in its configuration does not define their network"),
        (
            change(_target_="os.system"),
            r"needs 'os.system', and only classes of monai.networks. and torch.nn..*trust=True",
        ),
        (change(_target_="scripts.net.Net"), r"needs 'scripts.net.Net', and only classes"),
        (change(_target_="torch.hub.load"), r"needs 'torch.hub.load', and only classes"),
        (change(_target_="torch.nn.functional.relu"), r"'torch.nn.functional.relu', which is not a class of networks"),
        (change(_target_="torch.nn.NoSuchLayer"), "'torch.nn.NoSuchLayer', which is not installed"),
        (change(_target_=3), "_target_ of the bundle is 3: it must be the name of a class"),
        (change(stride="$int('1')"), r"needs \"\$int\('1'\)\", which is code: give trust=True"),
        (change(_mode_="callable"), "_mode_ 'callable': it must be 'default'"),
        (change(kernel=1), r"torch.nn.Conv2d of the bundle cannot be made \(TypeError"),
        (change(out_channels=3), "do not fit the network that the bundle defines"),
        (change() | {"weights": {"epoch": 3}}, r"contains \['epoch'\]: it must be the state_dict"),
        (
            change() | {"inferer": INFERER | {"_target_": "PatchInferer"}},
            "has the inferer 'PatchInferer': only Sliding",
        ),
        (
            change() | {"inferer": INFERER | {"_target_": "my.SlidingWindowInferer"}},
            "has the inferer 'my.SlidingWindowInferer'",
        ),
        (change() | {"inferer": INFERER | {"overlap": 1}}, "an inferer with overlap 1: it must be a number from 0"),
        (change() | {"inferer": INFERER | {"mode": "cosine"}}, "an inferer with mode 'cosine'"),
        (change(in_channels="@nothing"), "the reference @nothing leads nowhere"),
        (change(in_channels="@channels") | {"channels": "@channels"}, "@channels leads back to itself"),
        (change(in_channels="%../../secret.json::a"), "leaves the folder of the bundle: keep its files inside"),
    ],
)
def test_refused(bundle, content, message):
    """What cannot be used is named, and the remedy with it."""
    with pytest.raises(pl.ModelError, match=message):
        pl.load_model(bundle(**content))


def test_no_files(tmp_path, bundle):
    """A folder that is not there or is not a bundle, a damaged network and damaged configurations are refused."""
    with pytest.raises(pl.ModelNotFoundError, match="there is no folder"):
        MonaiModel(tmp_path / "none")
    with pytest.raises(pl.ModelError, match=r"is not a MONAI bundle: it contains neither configs/metadata.json nor"):
        MonaiModel(tmp_path)
    root = bundle(network())
    script = root / "models" / "model.ts"
    script.write_bytes(script.read_bytes()[:500])
    with pytest.raises(pl.ModelError, match=r"model.ts is damaged"):
        MonaiModel(root)
    for text, message in (
        ("{", "cannot be read"),
        ("[1]", r"contains \[1\]: it must be a mapping"),
        ("[" * 10**5, "cannot be read"),
    ):
        (root / "configs" / "inference.json").write_text(text)
        with pytest.raises(pl.ModelError, match=message):
            MonaiModel(root)


def test_several_inputs(bundle):
    """A network with two inputs is refused."""
    inputs = {"image": {"num_channels": 1}, "condition": {"num_channels": 1}}
    with pytest.raises(pl.ModelError, match=r"a network with 2 inputs \(image, condition\): it must have one"):
        pl.load_model(bundle(network(), metadata={"network_data_format": {"inputs": inputs}}))


def test_wrong_layout(bundle):
    """A layout of the wrong number of axes, or one that does not exist, is refused."""
    root = bundle(network(), inferer=INFERER)
    with pytest.raises(pl.ModelError, match=r"layout is 'NCDHW', and the network of .* is 2D: leave it out"):
        pl.load_model(root, layout="NCDHW")
    with pytest.raises(pl.ArgumentError, match="layout is 'NHWC': it must be one of 'NCHW', 'NCWH'"):
        pl.load_model(root, layout="NHWC")


def test_hostile_weights(bundle, tmp_path):
    """Code in the weights is not run."""
    trap = tmp_path / "trap"

    class Hostile:
        def __reduce__(self) -> Any:
            return trap.mkdir, ()

    root = bundle(weights={"model": Hostile()}, network_def=CONV, metadata=METADATA)
    with pytest.raises(pl.ModelError, match=r"contains more than tensors and plain values"):
        pl.load_model(root)
    assert not trap.exists()


def test_without_monai(bundle):
    """A network of MONAI needs MONAI, and the error names the extra."""
    root = bundle(weights={}, network_def={"_target_": "UNet", "spatial_dims": 2})
    code = f"import sys; sys.modules['monai'] = None; import patchloom as pl; pl.load_model({str(root)!r})"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=False)
    assert 'pip install "patchloom[monai]"' in ran.stderr


LAUGHING = {f"a{n}": [f"@a{n - 1}"] * 10 for n in range(1, 12)} | {"a0": ["x"] * 10}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHING | {"network_def": CONV | {"stride": "@a11"}}, "more than 200000 values"),
        ({"network_def": CONV | {"stride": json.loads("[" * 900 + "]" * 900)}}, "nested too deep"),
        ({"network_def": CONV | {"out_channels": 10**7, "in_channels": 10**6}}, "it has 90000010000000 parameters"),
        ({"network_def": {"_target_": "torch.nn.Identity", "pretrained": True}}, "nothing is downloaded"),
        (
            {"network_def": {"_target_": "torch.nn.Identity", "weights": "https://example.org/net.pt"}},
            "nothing is downloaded",
        ),
    ],
    ids=["many references", "deep", "huge", "pretrained", "url"],
)
def test_hostile_configuration(bundle, content, message):
    """A configuration that would take memory or time without bounds, or download, is refused by an error with its name."""
    root = bundle(weights=network().state_dict(), **content)
    with pytest.raises(pl.ModelError, match=message) as refused:
        pl.load_model(root)
    assert str(root) in str(refused.value)


def test_aliases(bundle):
    """Aliases of YAML that are expanded without end, or contain themselves, are refused."""
    pytest.importorskip("yaml")
    root = bundle(weights=network().state_dict())
    (root / "configs" / "inference.json").unlink()
    for text in (
        "network_def: &a [*a]\n",
        "a: &a0 [x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12))
        + "network_def: *a11",
    ):
        (root / "configs" / "inference.yaml").write_text(text)
        with pytest.raises(pl.ModelError, match=re.escape(str(root))):
            pl.load_model(root)
