"""Weights of TorchScript and of PyTorch's state dicts; code of a package runs only if it is trusted."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ModelError, PatchloomError

torch = pytest.importorskip("torch")

Make = Callable[..., Any]

CODE = """
import pathlib
import torch

pathlib.Path(__file__).with_name("ran").touch()

class Scaled(torch.nn.Module):
    def __init__(self, bias):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(1))
        self.bias = bias

    def forward(self, x):
        return x * self.factor + self.bias
"""


class Scaled(torch.nn.Module):
    """A network of one number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.full((1,), factor))

    def forward(self, x):
        return x * self.factor


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The weights of a network in both formats of PyTorch, and its code."""
    folder = tmp_path / "files"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch calls the format deprecated
        torch.jit.script(Scaled(3.0)).save(folder / "net.pt")
    torch.save({"factor": torch.full((1,), 3.0)}, folder / "state.pt")
    (folder / "code.py").write_text(CODE)
    return folder


@pytest.fixture
def state_dict(files: Path) -> dict[str, Any]:
    """Describe the state dict."""
    return {
        "source": files / "state.pt",
        "architecture": {"callable": "Scaled", "source": files / "code.py", "kwargs": {"bias": 1}},
        "pytorch_version": "2.5",
    }


@pytest.fixture
def torchscript(files: Path) -> dict[str, Any]:
    """Describe the TorchScript."""
    return {"source": files / "net.pt", "pytorch_version": "2.5"}


def run(model: Any) -> float:
    return float(np.asarray(model(np.full((1, 1, 16, 16), 2, np.float32)))[0, 0, 0, 0])


@pytest.mark.parametrize("as_zip", [False, True])
def test_torchscript(as_zip: bool, torchscript: Any, make_package: Make) -> None:
    """TorchScript runs without code, and is opened again by its path."""
    model = pl.load_model(make_package(weights={"torchscript": torchscript}, as_zip=as_zip))
    assert run(model) == 6
    again = pickle.loads(pickle.dumps(model))
    assert (run(again), again.identity) == (6, model.identity)


def test_device(torchscript: Any, make_package: Make) -> None:
    """The network is moved, and opened again where it was."""
    model = pl.load_model(make_package(weights={"torchscript": torchscript}), device="cpu", precision="bfloat16")
    again = pickle.loads(pickle.dumps(model))
    assert again._network.model.precision == "bfloat16"
    assert again.identity == model.identity != pl.BioimageioModel(model.files[0]).identity
    with pytest.raises(PatchloomError, match="device is 'cuda:9'"):
        model.on("cuda:9", None)


@pytest.mark.parametrize("as_zip", [False, True])
def test_state_dict(as_zip: bool, state_dict: Any, make_package: Make) -> None:
    """The code of a network runs only if it is trusted."""
    package = make_package(weights={"pytorch_state_dict": state_dict}, as_zip=as_zip)
    with pytest.raises(
        ModelError, match=r"weights without a network, whose code is the file code\.py: run it with trust=True"
    ):
        pl.load_model(package)
    assert not list(package.parent.rglob("ran"))
    model = pl.load_model(package, trust=True)
    assert run(model) == 7
    assert run(pickle.loads(pickle.dumps(model))) == 7


def test_state_dict_of_library(files: Path, make_package: Make) -> None:
    """A network of an installed package is code that has to be trusted, too."""
    torch.save(torch.nn.Conv2d(1, 1, 1, bias=False).state_dict(), files / "conv.pt")
    entry = {
        "source": files / "conv.pt",
        "architecture": {
            "callable": "Conv2d",
            "import_from": "torch.nn",
            "kwargs": {"in_channels": 1, "out_channels": 1, "kernel_size": 1, "bias": False},
        },
        "pytorch_version": "2.5",
    }
    package = make_package(weights={"pytorch_state_dict": entry})
    with pytest.raises(ModelError, match=r"whose code is the installed torch\.nn\.Conv2d"):
        pl.load_model(package)
    weight = torch.load(files / "conv.pt", weights_only=True)["weight"].item()
    assert run(pl.load_model(package, trust=True)) == pytest.approx(2 * weight)


def test_preferred_weights(torchscript: Any, state_dict: Any, make_package: Make) -> None:
    """Weights that need no code are taken, unless others are asked for."""
    package = make_package(
        weights={"torchscript": torchscript, "pytorch_state_dict": state_dict | {"parent": "torchscript"}}
    )
    assert run(pl.load_model(package)) == 6
    assert run(pl.load_model(package, weights="pytorch_state_dict", trust=True)) == 7
    identities = {
        pl.load_model(package, weights=weights, trust=True).identity
        for weights in ("torchscript", "pytorch_state_dict")
    }
    assert len(identities) == 2


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_pickle_as_state_dict(files: Path, state_dict: Any, make_package: Make) -> None:
    """A state dict is not unpickled as code, even if the package is trusted."""
    (files / "state.pt").write_bytes(pickle.dumps({"factor": Bomb(files / "opened")}))
    package = make_package(weights={"pytorch_state_dict": state_dict})
    with pytest.raises(ModelError, match=r"state\.pt is not a state dict of this network, or it is damaged"):
        pl.load_model(package, trust=True)
    torch.save(Bomb(files / "opened"), files / "net.pt")
    package = make_package(weights={"torchscript": {"source": files / "net.pt", "pytorch_version": "2.5"}})
    with pytest.raises(ModelError, match=r"net\.pt is not a network of TorchScript, it is damaged"):
        pl.load_model(package)
    assert not (files / "opened").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"callable": "Missing"}, "the code Missing of its network fails .AttributeError"),
        ({"kwargs": {}}, "the code Scaled of its network fails .TypeError"),
        ({"callable": "pathlib", "kwargs": {}}, "the code pathlib of its network fails"),
    ],
)
def test_failing_code(change: Any, message: str, state_dict: Any, make_package: Make) -> None:
    """Code that fails is an error that names it."""
    entry = state_dict | {"architecture": state_dict["architecture"] | change}
    with pytest.raises(ModelError, match=message):
        pl.load_model(make_package(weights={"pytorch_state_dict": entry}), trust=True)


def test_other_state_dict(files: Path, state_dict: Any, make_package: Make) -> None:
    """A state dict of another network is refused."""
    torch.save({"other": torch.ones(1)}, files / "state.pt")
    with pytest.raises(ModelError, match="is not a state dict of this network"):
        pl.load_model(make_package(weights={"pytorch_state_dict": state_dict}), trust=True)


@pytest.mark.parametrize("letters", ["byxc", "bcyx"])
def test_axes(
    letters: str, files: Path, make_package: Make, axes: Make, out_axes: Make, rng: np.random.Generator
) -> None:
    """Axes of a network of PyTorch are in the order of the package."""

    class Last(torch.nn.Module):
        def forward(self, x):
            return x * torch.arange(1, 3) if x.shape[-1] == 2 else x * torch.arange(1, 3).reshape(1, 2, 1, 1)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(Last()).save(files / "last.pt")
    package = make_package(
        weights={"torchscript": {"source": files / "last.pt", "pytorch_version": "2.5"}},
        inputs=axes(letters, "rg"),
        outputs=out_axes(letters, "rg"),
    )
    image = rng.random((2, 50, 33), np.float32)
    result = pl.predict(pl.load_model(package), image, axes="CYX", progress=False)
    np.testing.assert_allclose(result, image * np.array([1, 2], np.float32)[:, None, None])
