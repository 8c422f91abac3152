"""Programs of PyTorch are loaded only if they contain no code, unless their origin is trusted."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl

torch = pytest.importorskip("torch")


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program for tiles of any size."""
    path = tmp_path / "net.pt2"
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.MaxPool2d(2), torch.nn.Upsample(scale_factor=2)
    )
    free = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(network.eval(), (torch.rand(2, 1, 32, 32),), dynamic_shapes=(free,))
        torch.export.save(exported, path)
    return path


def rewrite(path: Path, changes: dict[str, Callable[[bytes], bytes]], **added: bytes) -> None:
    """Change members of an archive by the end of their names, and add others."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    for ending, change in changes.items():
        (name,) = [name for name in members if name.endswith(ending)]
        members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {f"{root}/{name}": content for name, content in added.items()}).items():
            archive.writestr(name, content)


class Touch:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def in_graph(change: Callable[[Any], None]) -> Callable[[bytes], bytes]:
    def changed(content: bytes) -> bytes:
        graph = json.loads(content)
        change(graph)
        return json.dumps(graph).encode()

    return changed


def test_loaded(program: Path) -> None:
    """A program without a description is run on tiles like any network."""
    image = np.random.default_rng(0).random((50, 70), np.float32)
    module = torch.export.load(program).module()
    with torch.no_grad():
        whole = module(torch.from_numpy(image)[None, None])[0].numpy()
    options: dict[str, Any] = {"patch_size": 32, "overlaps": 8, "origin_multiple": 2}
    result = pl.predict(pl.load_model(program, device="cpu"), image, axes="YX", progress=False, **options)
    np.testing.assert_allclose(result, whole, atol=1e-6)


EXPRESSION = "__import__('pathlib').Path('{}').touch()"


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("sample inputs", "pickled sample inputs"),
        ("weights", "a pickled"),
        ("operator", "the operator 'torch.os.system'"),
        ("file operator", "the operator 'torch.ops.aten.from_file.default'"),
        ("guard", "the expression"),
        ("size", "the expression"),
        ("library", "the part 'net/data/aotinductor/model/a.so'"),
    ],
)
def test_code(kind: str, found: str, program: Path, tmp_path: Path) -> None:
    """Code in a program is named and not run."""
    touched = tmp_path / "touched"
    expression = EXPRESSION.format(touched)
    pickled = pickle.dumps(Touch(touched))

    def first_node(graph: Any, target: str) -> None:
        graph["graph_module"]["graph"]["nodes"][0]["target"] = target

    def size(graph: Any) -> None:
        value = graph["graph_module"]["graph"]["tensor_values"]["input"]["sizes"][0]
        value["as_expr"]["expr_str"] = expression

    changes: dict[str, dict[str, Callable[[bytes], bytes]]] = {
        "sample inputs": {"sample_inputs/model.pt": lambda _: pickled},
        "weights": {"weights_config.json": lambda text: text.replace(b'"use_pickle": false', b'"use_pickle": true')},
        "operator": {"model.json": in_graph(lambda graph: first_node(graph, "torch.os.system"))},
        "file operator": {"model.json": in_graph(lambda graph: first_node(graph, "torch.ops.aten.from_file.default"))},
        "guard": {"model.json": in_graph(lambda graph: graph["guards_code"].append(expression))},
        "size": {"model.json": in_graph(size)},
        "library": {},
    }
    rewrite(program, changes[kind], **({"data/aotinductor/model/a.so": b"ELF"} if kind == "library" else {}))
    with pytest.raises(pl.ModelError, match=f"contains code.*{found}.*trust=True"):
        pl.load_model(program, device="cpu")
    assert not touched.exists()


def test_trusted(program: Path, tmp_path: Path) -> None:
    """Code is run if it is trusted: so the test above would notice it."""
    touched = tmp_path / "touched"
    rewrite(program, {"sample_inputs/model.pt": lambda _: pickle.dumps(Touch(touched))})
    with pytest.raises(pl.ModelError, match="is not a program that PyTorch"):
        pl.load_model(program, device="cpu", trust=True)
    assert touched.exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("net.pt2", b"nothing", "is not a program of torch.export"),
        ("net.pt", b"nothing", "is not a file that torch.save wrote"),
        ("net.pt", pickle.dumps({"a": print}), "contains more than tensors"),
    ],
    ids=["no program", "nothing", "pickle"],
)
def test_other_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    """A file that is something else is refused."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(pl.ModelError, match=message):
        pl.load_model(tmp_path / name, device="cpu")
    with pytest.raises(pl.ModelNotFoundError, match="there is no model file"):
        pl.load_model(tmp_path / f"other-{name}", device="cpu")
