"""A network is written as a package of bioimage.io that validates, and that is the same network when it is read."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser

import patchloom as pl
from patchloom.errors import ArgumentError, ModelError, OutputExistsError

spec = pytest.importorskip("bioimageio.spec")
torch = pytest.importorskip("torch")

Make = Callable[..., Any]

BLUR = "w = Constant <value = float[1, 1, 3, 3] {" + ", ".join(["0.125"] * 9) + "}> () "
SAME = ("float[N, 1, H, W]", f"{BLUR} y = Conv <pads = [1, 1, 1, 1]> (x, w)", "float[N, 1, H, W] y")
VALID = ("float[N, 1, H, W]", f"{BLUR} y = Conv (x, w)", "float[N, 1, H2, W2] y")
LAST = ("float[N, H, W, 2]", "y = Neg (x)", "float[N, H, W, 2] y")
HALF = (
    "float[N, 1, H, W]",
    "y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
    "float[N, 1, H2, W2] y",
)
FIXED = ("float[1, 1, 64, 48]", f"{BLUR} y = Conv <pads = [1, 1, 1, 1]> (x, w)", "float[1, 1, 64, 48] y")
BOTH = ("float[N, 1, H, W]", "a = Neg (x) b = Abs (x)", "float[N, 1, H, W] a, float[N, 1, H, W] b")


@pytest.fixture
def network(tmp_path: Path) -> Make:
    """Write a network as an ONNX file."""

    def write(inputs: str, body: str, outputs: str) -> Path:
        text = f'<ir_version: 8, opset_import: ["": 17]> network ({inputs} x) => ({outputs}) {{ {body} }}'
        path = tmp_path / "net.onnx"
        path.write_bytes(parser.parse_model(text).SerializeToString())
        return path

    return write


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """An image whose sizes are no multiples of anything."""
    return rng.normal(100, 20, (83, 101)).astype(np.float32)


def validate(package: Path) -> Any:
    """Load a package by bioimageio.spec, with all checks of files."""
    if package.suffix == ".zip":
        folder = package.with_name("unpacked")
        shutil.unpack_archive(package, folder)
        return validate(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with spec.ValidationContext(log_warnings=False):
            described = spec.load_description(package, format_version="discover")
    assert not isinstance(described, spec.InvalidDescr), described.validation_summary.format()
    return described


def quiet(model: Any, image: np.ndarray, **settings: Any) -> Any:
    return pl.predict(model, image, progress=False, **{"axes": "YX"} | settings)


@pytest.mark.parametrize("name", ["a-package", "package.zip"])
@pytest.mark.parametrize(
    ("text", "overlaps"),
    [(SAME, (2, 2)), (VALID, (2, 2)), (VALID, (8, 6)), (HALF, (8, 4))],
    ids=["same", "valid", "valid with halo", "half"],
)
def test_onnx(name: str, text: Any, overlaps: Any, network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """An ONNX network is the same network in a package, which passes its own test."""
    model = pl.load_model(network(*text))
    package = pl.export_bioimageio(tmp_path / name, model, image, axes="YX", overlaps=overlaps, name="the network")
    validate(package)
    again = pl.load_model(package)
    assert again.description.overlaps == overlaps
    check = pl.check_model(again)
    assert check.passed, str(check)
    assert check.expected
    even = image[:82, :100]
    np.testing.assert_array_equal(
        quiet(again, even, patch_size=48), quiet(model, even, patch_size=48, overlaps=overlaps)
    )


@pytest.mark.parametrize(
    ("method", "declared"),
    [
        (pl.MeanStd("channel"), "mean_std:eps=1e-06/sample"),
        ("mean_std:eps=0.01", "mean_std:eps=0.01/sample"),
        (pl.Percentiles(2, 98, eps=0.001), "percentiles:2.0,98.0,eps=0.001/sample"),
    ],
)
def test_normalization(method: Any, declared: str, network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A statistic is measured for each image by whoever reads the package."""
    counts = (image * 10).astype(np.uint16)
    package = pl.export_bioimageio(
        tmp_path / "a-package", network(*SAME), counts, axes="YX", normalize=method, overlaps=4
    )
    validate(package)
    again = pl.load_model(package)
    assert again.description.normalize == declared
    expected = quiet(pl.load_model(network(*SAME)), counts, normalize=method, patch_size=32, overlaps=4)
    np.testing.assert_allclose(quiet(again, counts, patch_size=32), expected, atol=1e-5)


def test_plan(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A plan says how images are normalized and tiled."""
    model = pl.load_model(network(*SAME))
    planned = pl.plan(image, model=model, axes="YX", patch_size=48, overlaps=6, normalize="mean_std")
    package = pl.export_bioimageio(tmp_path / "a-package", model, image, axes="YX", plan=planned)
    described = pl.load_model(package).description
    assert (described.overlaps, described.normalize) == ((6, 6), "mean_std:eps=1e-06/sample")


def test_axes_and_names(network: Make, rng: np.random.Generator, tmp_path: Path) -> None:
    """The package has the axes of the network, and the names of channels that are given."""
    image = rng.random((2, 70, 60), np.float32) - np.float32(0.5)
    model = pl.load_model(network(*LAST), layout="NHWC")
    package = pl.export_bioimageio(
        tmp_path / "a-package",
        model,
        image,
        axes="CYX",
        overlaps=0,
        channel_names=("dna", "actin"),
        out_channel_names=("a", "b"),
    )
    described = validate(package)
    assert [axis.type for axis in described.inputs[0].axes] == ["batch", "space", "space", "channel"]
    assert list(described.inputs[0].axes[3].channel_names) == ["dna", "actin"]
    again = pl.load_model(package)
    assert again.description.out_channel_names == ("a", "b")
    np.testing.assert_array_equal(quiet(again, image, axes="CYX"), -image)


def test_fixed_size(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A network of one size is written with this size; a smaller example is extended."""
    package = pl.export_bioimageio(tmp_path / "a-package", network(*FIXED), image[:50, :40], axes="YX", overlaps=4)
    assert pl.load_model(package).description.patch_size == (64, 48)
    assert pl.check_model(pl.load_model(package)).passed


def test_several_outputs(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """Each output has a name and a test tensor."""
    package = pl.export_bioimageio(tmp_path / "a-package", network(*BOTH), image - 100, axes="YX", overlaps=0)
    validate(package)
    check = pl.check_model(pl.load_model(package))
    assert check.passed
    assert [entry.output for entry in check.expected] == ["output_a", "output_b"]


class Network(torch.nn.Module):
    """A network with layers that behave differently in training."""

    def __init__(self, n_dims: int) -> None:
        super().__init__()
        conv, norm = ((torch.nn.Conv2d, torch.nn.BatchNorm2d), (torch.nn.Conv3d, torch.nn.BatchNorm3d))[n_dims - 2]
        self.layers = torch.nn.Sequential(conv(1, 2, 3, padding=1), norm(2), torch.nn.Dropout(0.5))

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize("kind", ["module", "script", "model"])
@pytest.mark.parametrize("n_dims", [2, 3])
def test_torch(kind: str, n_dims: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """A network of PyTorch is written as TorchScript, in evaluation mode, and is itself not changed."""
    torch.manual_seed(0)
    module = Network(n_dims).train()
    image = rng.random((40, 50) if n_dims == 2 else (14, 30, 34), np.float32)
    axes = "ZYX"[-n_dims:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the format deprecated
        model: Any = torch.jit.script(module) if kind == "script" else module
    if kind == "model":
        model = pl.TorchModel(module, pl.ModelDescription(overlaps=(2,) * n_dims, n_dims=n_dims))
    overlaps = None if kind == "model" else 2
    package = pl.export_bioimageio(tmp_path / "a-package.zip", model, image, axes=axes, overlaps=overlaps)
    assert module.training
    validate(package)
    again = pl.load_model(package)
    check = pl.check_model(again, tolerance=pl.Tolerance(1e-5, 1e-5, 0))
    assert check.passed, str(check)
    expected = quiet(pl.TorchModel(module), image, axes=axes, patch_size=24, overlaps=2)
    found = quiet(again, image, axes=axes, patch_size=24)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_description(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """Authors, license and citations are those that are given."""
    package = pl.export_bioimageio(
        tmp_path / "nuclei 2.zip",
        network(*SAME),
        image,
        axes="YX",
        description="Finds nuclei.",
        authors=("Ada", "Grace"),
        license="MIT",
        cite=("A paper, 10.1038/s41592-018-0216-7",),
    )
    described = validate(package)
    assert (described.name, described.description, str(described.license)) == ("nuclei 2", "Finds nuclei.", "MIT")
    assert [author.name for author in described.authors] == ["Ada", "Grace"]
    assert str(described.cite[0].doi) == "10.1038/s41592-018-0216-7"


def test_existing(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A package is replaced only on request, and anything else never."""
    arguments: Any = (network(*SAME), image)
    package = pl.export_bioimageio(tmp_path / "a-package", *arguments, axes="YX")
    with pytest.raises(OutputExistsError, match="replace it with overwrite=True"):
        pl.export_bioimageio(package, *arguments, axes="YX")
    pl.export_bioimageio(package, *arguments, axes="YX", license="MIT", overwrite=True)
    assert str(validate(package).license) == "MIT"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(OutputExistsError, match=r"is not a package of bioimage\.io"):
        pl.export_bioimageio(tmp_path / "mine", *arguments, axes="YX", overwrite=True)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "keep"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": lambda batch: batch}, ArgumentError, "only an OnnxModel of a file, or a TorchModel"),
        ({"example": [[1]]}, ArgumentError, "example is .*: it must be a NumPy array"),
        ({"license": "my own"}, ModelError, "the package is not valid: .*license"),
        ({"name": "a"}, ModelError, "the package is not valid: .*name"),
        ({"cite": ("a paper",)}, ModelError, "cite contains 'a paper': it must end with a DOI"),
        ({"channel_names": ("a", "b")}, ModelError, "channel_names has 2 names, and there are 1 channels"),
        ({"normalize": 3}, ArgumentError, "normalize is 3: a package measures each image"),
    ],
)
def test_refusals(change: Any, error: Any, message: str, network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """Nothing is written if an argument is wrong."""
    arguments = {"model": network(*SAME), "example": image, "axes": "YX"} | change
    with pytest.raises(error, match=message):
        pl.export_bioimageio(tmp_path / "made" / "a-package", **arguments)
    assert not (tmp_path / "made").exists()


def test_options_of_a_model(network: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A model with options that a package cannot express is refused, not written as another model."""
    model = pl.OnnxModel(network(*SAME), scale=0.5)
    with pytest.raises(ModelError, match="does not return what the network returns"):
        pl.export_bioimageio(tmp_path / "a-package", model, image, axes="YX")
    assert not (tmp_path / "a-package").exists()


def test_short_name(tmp_path: Path, image: np.ndarray) -> None:
    """A short file name becomes a name that the format accepts; a short name that is given is refused."""
    module = torch.nn.Conv2d(1, 1, 1)
    package = pl.export_bioimageio(tmp_path / "den.zip", module, image, axes="YX", overlaps=0)
    assert validate(package).name == "den model"
    with pytest.raises(ModelError, match=r"not valid: name: .*: give other arguments"):
        pl.export_bioimageio(tmp_path / "den2.zip", module, image, axes="YX", overlaps=0, name="den")
