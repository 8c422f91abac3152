"""A package of bioimage.io is predicted as it describes itself: sizes, halo, scale, axes, weights."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

import patchloom as pl
from patchloom.errors import ModelError, ModelNotFoundError, PatchloomError

Make = Callable[..., Any]

BLUR = "w = Constant <value = float[1, 1, 5, 5] {" + ", ".join(["0.04"] * 25) + "}> () "
VALID = ("float[N, 1, H, W]", f"{BLUR} y = Conv(x, w)", "float[N, 1, H2, W2] y")
SAME = ("float[N, 1, H, W]", f"{BLUR} y = Conv <pads = [2, 2, 2, 2]> (x, w)")
HALVED = ("float[N, 1, H, W]", "y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)", "float[N, 1, H2, W2] y")
DOUBLED = (
    "float[N, 1, H, W]",
    'f = Constant <value = float[4] {1, 1, 2, 2}> () y = Resize <mode = "nearest"> (x, , f)',
    "float[N, 1, H2, W2] y",
)


@pytest.fixture
def image(rng: np.random.Generator) -> np.ndarray:
    """An image whose sizes are no multiples of anything."""
    return rng.integers(0, 4000, (83, 101)).astype(np.uint16)


def quiet(model: Any, image: np.ndarray, **settings: Any) -> Any:
    return pl.predict(model, image, progress=False, **{"axes": "YX"} | settings)


def run_whole(package: Path, tensor: np.ndarray) -> np.ndarray:
    """Run a network by onnxruntime alone."""
    session = onnxruntime.InferenceSession(package / "net.onnx")
    return session.run(None, {session.get_inputs()[0].name: tensor})[0]


def test_references(make_package: Make, image: np.ndarray) -> None:
    """A package is a folder, an archive or a description, and is the same model."""
    folder, archive = make_package(), make_package(as_zip=True)
    models = [pl.load_model(path) for path in (folder, folder / "rdf.yaml", str(folder), archive)]
    assert all(isinstance(model, pl.BioimageioModel) for model in models)
    assert len({model.identity for model in models[:3]}) == 1
    for model in models:
        np.testing.assert_array_equal(quiet(model, image), image.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "declared"),
    [
        (
            {},
            {"min_size": (16, 16), "size_step": (8, 8), "origin_multiple": (8, 8), "patch_size": None, "n_dims": 2},
        ),
        ({"y": {"size": 64}, "x": {"size": 48}}, {"patch_size": (64, 48), "min_size": None, "origin_multiple": None}),
        ({"y": {"size": 64}}, {"preferred_patch_size": (64, 512), "origin_multiple": (1, 8)}),
        ({"b": {"size": 1}}, {"batch_size": 1}),
        (
            {axis: {"unit": "nanometer", "scale": 250.0} for axis in "yx"},
            {"pixel_size": (0.25, 0.25)},
        ),
    ],
)
def test_sizes(changes: Any, declared: dict[str, Any], make_package: Make, axes: Make, out_axes: Make) -> None:
    """The sizes of the axes are declared as sizes of tiles."""
    units = {
        axis: {key: value for key, value in entry.items() if key in {"unit", "scale"}}
        for axis, entry in changes.items()
    }
    package = make_package(inputs=axes("bcyx", **changes), outputs=out_axes("bcyx", **units))
    description = pl.load_model(package).description
    assert {name: getattr(description, name) for name in declared} == declared


def test_one_fixed_size(make_package: Make, axes: Make, image: np.ndarray) -> None:
    """If only some sizes are fixed, other tiles are refused when they get to the model."""
    model = pl.load_model(make_package(inputs=axes("bcyx", y={"size": 64})))
    np.testing.assert_array_equal(quiet(model, image, patch_size=(64, 40)), image.astype(np.float32))
    for size, message in (
        ((48, 40), "size 48 along y: the package takes 64 only"),
        ((64, 42), "16 and more in steps of 8"),
    ):
        with pytest.raises(ModelError, match=message):
            quiet(model, image, patch_size=size)


def test_coupled_sizes(make_package: Make, axes: Make, out_axes: Make, image: np.ndarray) -> None:
    """A size that another one determines is required of each tile."""
    by_height = {"size": {"tensor_id": "input", "axis_id": "y", "offset": 8}}
    model = pl.load_model(make_package(inputs=axes("bcyx", x=by_height), outputs=out_axes("bcyx", x=by_height)))
    assert model.description.min_size == (16, 24)
    np.testing.assert_array_equal(quiet(model, image, patch_size=(32, 40)), image.astype(np.float32))
    with pytest.raises(ModelError, match="size 32 along x and 32 along y: the package requires 40 along x"):
        quiet(model, image, patch_size=(32, 32))


def test_halo(make_package: Make, out_axes: Make, image: np.ndarray) -> None:
    """Twice the halo is the overlap, and the tiled result is the whole one, except where a tile passes the end of the image."""
    package = make_package(network=SAME, outputs=out_axes("bcyx", y={"halo": 2}, x={"halo": 2}))
    model = pl.load_model(package)
    assert (model.description.halo, model.description.overlaps) == ((2, 2), (4, 4))
    whole = run_whole(package, image.astype(np.float32)[None, None])[0, 0]
    tiled = quiet(model, image, patch_size=32)
    np.testing.assert_allclose(tiled[:-2, :-2], whole[:-2, :-2], rtol=1e-5)


def test_margin(make_package: Make, out_axes: Make, image: np.ndarray) -> None:
    """An output that lacks a margin and has a halo is read with both, and equals the whole image with its margin padded."""
    shrunk = {axis: {"size": {"tensor_id": "input", "axis_id": axis, "offset": -4}} for axis in "yx"}
    package = make_package(network=VALID, outputs=out_axes("bcyx", y=shrunk["y"], x=shrunk["x"] | {"halo": 3}))
    model = pl.load_model(package)
    assert (model.description.overlaps, model.description.scale) == ((4, 10), (Fraction(1),) * 2)
    padded = np.pad(image, 2, mode="reflect").astype(np.float32)
    np.testing.assert_allclose(quiet(model, image), run_whole(package, padded[None, None])[0, 0], rtol=1e-5)


@pytest.mark.parametrize(("network", "factor"), [(HALVED, Fraction(1, 2)), (DOUBLED, Fraction(2))])
def test_scale(network: Any, factor: Fraction, make_package: Make, out_axes: Make, image: np.ndarray) -> None:
    """Output axes with voxels of another size have a scale."""
    scaled = {axis: {"scale": float(1 / factor), "halo": 2} for axis in "yx"}
    package = make_package(network=network, outputs=out_axes("bcyx", **scaled))
    model = pl.load_model(package)
    assert (model.description.scale, model.description.overlaps) == ((factor,) * 2, (int(4 / factor),) * 2)
    even = image[:82, :100]
    np.testing.assert_allclose(
        quiet(model, even, patch_size=48), run_whole(package, even.astype(np.float32)[None, None])[0, 0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("letters", "network"),
    [
        ("bcyx", "float[N, 2, H, W]"),
        ("byxc", "float[N, H, W, 2]"),
        ("bycx", "float[N, H, 2, W]"),
        ("cyx", "float[2, H, W]"),
        ("bczyx", "float[N, 2, D, H, W]"),
        ("bzcyx", "float[N, D, 2, H, W]"),
        ("bzyxc", "float[N, D, H, W, 2]"),
    ],
)
def test_axes(
    letters: str, network: str, make_package: Make, axes: Make, out_axes: Make, rng: np.random.Generator
) -> None:
    """Axes in any order are those of the image."""
    shape = [2 if letter == "c" else 1 for letter in letters]
    weights = f"w = Constant <value = float[{', '.join(map(str, shape))}] {{2, 3}}> () y = Mul(x, w)"
    package = make_package(
        network=(network, weights), inputs=axes(letters, ("a", "b")), outputs=out_axes(letters, ("a", "b"))
    )
    model = pl.load_model(package)
    assert model.description.n_dims == (3 if "z" in letters else 2)
    image = rng.random((2, 9, 41, 37), np.float32)
    result = quiet(model, image, axes="CZYX", patch_size=(6, 24, 24) if "z" in letters else 24, overlaps=0)
    np.testing.assert_allclose(result, image * np.array([2, 3], np.float32)[:, None, None, None])


def test_singleton_z(make_package: Make, axes: Make, out_axes: Make, image: np.ndarray) -> None:
    """A network with one plane along z is 2D."""
    one = {"z": {"size": 1}}
    package = make_package(
        network=("float[N, 1, 1, H, W]", "y = Neg(x)"), inputs=axes("bczyx", **one), outputs=out_axes("bczyx", **one)
    )
    model = pl.load_model(package)
    assert model.description.n_dims == 2
    np.testing.assert_array_equal(quiet(model, image), -image.astype(np.float32))


def test_without_channel(make_package: Make, axes: Make, out_axes: Make, image: np.ndarray) -> None:
    """Tensors without a channel axis have one channel."""
    model = pl.load_model(make_package(network=("float[N, H, W]",), inputs=axes("byx"), outputs=out_axes("byx")))
    assert (model.description.in_channels, model.description.out_channels) == (1, 1)
    np.testing.assert_array_equal(quiet(model, image), image.astype(np.float32))


def test_several_outputs(make_package: Make, out_axes: Make, image: np.ndarray, rewrite: Make) -> None:
    """Outputs have the names of the package, in the order of the network, each with its own processing and scale."""
    network = (
        "float[N, 1, H, W]",
        "a = Neg(x) b = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)",
        "float[N, 1, H, W] a, float[N, 1, H2, W2] b",
    )
    halved = out_axes("bcyx", y={"scale": 2.0}, x={"scale": 2.0})

    def add_output(content: Any) -> None:
        content["outputs"].append({"id": "small", "axes": halved})
        content["outputs"][0]["postprocessing"] = [{"id": "scale_linear", "kwargs": {"gain": 2}}]

    model = pl.load_model(rewrite(make_package(network=network), add_output))
    even = image[:82, :100]
    found = quiet(model, even, patch_size=32)
    np.testing.assert_array_equal(found["output"], -2 * even.astype(np.float32))
    means = even.reshape(41, 2, 50, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(found["small"], means, rtol=1e-6)


def test_further_outputs(make_package: Make, image: np.ndarray, rewrite: Make) -> None:
    """Outputs that the package does not describe are left out, and those that the network lacks are an error."""
    network = (
        "float[N, 1, H, W]",
        "y = Neg(x) style = GlobalAveragePool(x) s = Flatten(style)",
        "float[N, 1, H, W] y, float[N, 1] s",
    )
    package = make_package(network=network)
    np.testing.assert_array_equal(quiet(pl.load_model(package), image), -image.astype(np.float32))

    def add_outputs(content: Any) -> None:
        content["outputs"] += [content["outputs"][0] | {"id": name} for name in ("second", "third")]

    with pytest.raises(ModelError, match=r"has 2 output\(s\), and the package describes 3"):
        pl.load_model(rewrite(package, add_outputs))


def test_channel_names(make_package: Make, out_axes: Make) -> None:
    """Names of the channels of the output are written."""
    package = make_package(
        network=("float[N, 1, H, W]", "y = Concat <axis = 1> (x, x)", "float[N, 2, H, W] y"),
        outputs=out_axes("bcyx", ("nucleus", "border")),
    )
    assert pl.load_model(package).description.out_channel_names == ("nucleus", "border")


@pytest.mark.parametrize("as_zip", [False, True])
def test_pickle(as_zip: bool, make_package: Make, image: np.ndarray, tmp_path: Path) -> None:
    """A model is opened again by its path, also in another process that runs elsewhere."""
    model = pl.load_model(make_package(as_zip=as_zip), weights="onnx")
    again = pickle.loads(pickle.dumps(model))
    assert again.identity == model.identity
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(model))
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'model.pkl')!r}, 'rb')).identity)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", check=False)
    assert ran.stdout.strip() == model.identity, ran.stderr


def test_unpacked_folder(make_package: Make) -> None:
    """The temporary folder of an archive is removed with its model."""
    model = pl.load_model(make_package(as_zip=True))
    folder = model._package._folder
    assert folder.is_dir()
    model.close()
    assert not folder.exists()


def test_identity(make_package: Make) -> None:
    """Models of other weights or another description are told apart."""
    first, weights = make_package(), make_package(network=("float[N, 1, H, W]", "y = Neg(x)"))
    described = make_package(description="another one")
    assert len({pl.load_model(path).identity for path in (first, weights, described)}) == 3


def test_no_network_access(
    make_package: Make, monkeypatch: pytest.MonkeyPatch, image: np.ndarray, rewrite: Make
) -> None:
    """A package is opened without a connection, also if its description is full of addresses."""

    def refuse(*args: Any, **kwargs: Any) -> None:
        pytest.fail("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)

    def add_addresses(content: Any) -> None:
        content["git_repo"] = "https://github.com/somebody/somewhere"
        content["cite"] = [{"text": "a paper", "url": "https://doi.org/10.1234/none", "doi": "10.1234/none"}]
        content["covers"] = [{"source": "https://example.invalid/cover.png"}]
        content["parent"] = {"id": "affable-shark"}
        content["training_data"] = {"id": "uplifting-ice-cream"}

    model = pl.load_model(rewrite(make_package(), add_addresses))
    np.testing.assert_array_equal(quiet(model, image), image.astype(np.float32))


def test_missing(tmp_path: Path) -> None:
    """A path without anything is an error."""
    with pytest.raises(ModelNotFoundError, match=r"there is no bioimage\.io package"):
        pl.load_model(tmp_path / "none.zip")


def test_image_of_other_dtype(make_package: Make, image: np.ndarray) -> None:
    """An image whose values the described dtype would change is refused."""
    model = pl.load_model(make_package(network=("uint8[N, 1, H, W]",), data="uint8", out_data="uint8"))
    with pytest.raises(ModelError, match="batch has dtype uint16, and the package takes images of uint8"):
        quiet(model, image)
    np.testing.assert_array_equal(quiet(model, image.astype(np.uint8)), image.astype(np.uint8))


def _add_input(content: Any) -> None:
    content["inputs"].append({"id": "prompt", "axes": [{"type": "batch"}, {"type": "index", "size": 4}]})


def _add_optional_input(content: Any) -> None:
    _add_input(content)
    content["inputs"][1]["optional"] = True


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_add_input, "inputs 'input', 'prompt': only networks with one image"),
        (
            lambda content: content["inputs"][0].update(output_of="some-model"),
            "is the output of another model, 'some-model'",
        ),
        (
            lambda content: content["inputs"][0]["axes"].append({"type": "time", "size": 3}),
            "tensor 'input' has a time axis",
        ),
        (lambda content: content["inputs"][0]["axes"].pop(), "Invalid tensor axis reference"),
        (
            lambda content: content["outputs"][0]["axes"].append({"type": "index", "size": {"min": 1}}),
            "size that depends on the data",
        ),
        (
            lambda content: content["outputs"][0]["axes"][2].update(size=40),
            "axis y of output 'output' has the fixed size 40",
        ),
        (
            lambda content: content["outputs"][0]["axes"][2]["size"].update(offset=4),
            "larger than that of the input by 4 voxels",
        ),
        (
            lambda content: content["outputs"][0]["axes"][2].update(scale=0.75),
            "has 4/3 voxels for one of the input",
        ),
        (lambda content: content["outputs"][0]["axes"].reverse(), "ONNX networks must keep the order of the axes"),
        (lambda content: content.update(type="dataset"), "describes a 'dataset' of format"),
        (
            lambda content: content.update(format_version="0.3.2"),
            "of format '0.3.2': only models of the formats 0.4 and",
        ),
        (lambda content: content.pop("weights"), "its description is not valid: .*weights"),
        (
            lambda content: content.update(weights={"tensorflow_js": {"source": "a.zip", "tensorflow_version": "2.1"}}),
            "contains weights as tensorflow_js, and not as onnx or torchscript or pytorch_state_dict: get a package",
        ),
    ],
)
def test_refusals(change: Any, message: str, make_package: Make, rewrite: Make) -> None:
    """What cannot be run on tiles is refused when the package is opened."""
    with pytest.raises(ModelError, match=message):
        pl.load_model(rewrite(make_package(), change))


def test_optional_input(make_package: Make, rewrite: Make, image: np.ndarray) -> None:
    """Optional inputs are left out."""
    model = pl.load_model(rewrite(make_package(), _add_optional_input))
    np.testing.assert_array_equal(quiet(model, image), image.astype(np.float32))


@pytest.mark.parametrize("option", [{"layout": "NCHW"}, {"bgr": True}])
def test_options(option: Any, make_package: Make) -> None:
    """Options of other kinds of models are refused."""
    with pytest.raises(ModelError, match="leave it out"):
        pl.load_model(make_package(), **option)


def test_unknown_weights(make_package: Make) -> None:
    """Weights of an unknown format, or that the package does not contain, are refused."""
    with pytest.raises(PatchloomError, match="weights is 'keras'"):
        pl.load_model(make_package(), weights="keras")
    with pytest.raises(ModelError, match="contains weights as onnx, and not as torchscript: leave weights"):
        pl.load_model(make_package(), weights="torchscript")
