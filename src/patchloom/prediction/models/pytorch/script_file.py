"""Networks of TorchScript: checked for what reaches files, then loaded.

TorchScript is a language of its own. Its functions compute with tensors, and a few read and write files of any name, also while a
network is loaded (`__setstate__`). So its code is searched first, in all files of code of an archive.
"""

from __future__ import annotations

import ast
import io
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from patchloom._optional import require
from patchloom.errors import ModelError
from patchloom.prediction.models.archives import pack_members, read_members

_FILE_FUNCTIONS = frozenset({"from_file", "save", "load_tensor"})
"""Functions of PyTorch that take the name of a file."""

_LIBRARIES = frozenset(
    {"aten", "prim", "prims", "quantized", "_quantized", "mkldnn", "onednn", "sparse", "torchvision", "prepacked"}
)
"""Libraries of operators that compute with tensors, as `ops.quantized.conv2d`."""

_TOKEN = re.compile(
    r"""#[^\n]*|"{3}.*?"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|\w+|[^\s\w]""", re.DOTALL
)

_DEBUGGING = ".debug_pkl"
"""Members that only name lines in errors of the author; PyTorch ends the process if one is damaged."""

_BYTES = {
    "Double": 8,
    "Float": 4,
    "Half": 2,
    "BFloat16": 2,
    "Long": 8,
    "Int": 4,
    "Short": 2,
    "ComplexFloat": 8,
    "ComplexDouble": 16,
}
"""Bytes of a number in a storage of PyTorch; 1 in any other."""


def open_script(path: Path, *, trust: bool = False) -> Any:
    """Load a network of TorchScript.

    Parameters
    ----------
    path : Path
        The file.
    trust : bool
        Whether its code may read and write files.

    Returns
    -------
    torch.jit.ScriptModule
        The network, on the CPU.

    Raises
    ------
    ModelError
        If the file cannot be loaded, or its code reaches files and is not trusted.
    """
    torch = require("torch", extra="torch")
    members = {name: content for name, content in read_members(path).items() if not name.endswith(_DEBUGGING)}
    for name, content in members.items():
        found = None if trust or not name.lower().endswith(".py") else next(_reaching(content.decode("latin-1")), None)
        if found is not None:
            raise ModelError(
                f"{path} contains code that may read and write files ({found}): if you trust its origin, load it with trust=True "
                "(--trust)"
            )
    try:
        _check_tensors(members)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch calls the format deprecated
            return torch.jit.load(pack_members(members), map_location="cpu")
    except Exception as error:  # of a damaged file, any error
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{path} is not a network of TorchScript, it is damaged, or it needs another version of PyTorch than {torch.__version__} "
            f"({reason}): export it again"
        ) from error


def _reaching(code: str) -> Iterator[str]:
    r"""Yield the names in code by which files could be reached.

    Examples
    --------
    >>> list(_reaching('torch.save(x, "out.pt")')), list(_reaching('getattr(torch, "sa\x76e")')), list(_reaching("ops.other.run(x)"))
    (['save'], ['save'], ['ops.other'])
    >>> list(_reaching('torch.conv2d(x, ops.quantized.linear(saved), "save it")'))
    []
    """
    tokens = [part for part in _TOKEN.findall(code) if not part.startswith(("#", "\\"))]
    for before, token in zip(["", *tokens], tokens, strict=False):
        name = _text_in(token)
        if name in _FILE_FUNCTIONS and (before == "." or name != token):
            yield name
    for owner, dot, library in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if owner == "ops" and dot == "." and library not in _LIBRARIES:
            yield f"ops.{library}"


def _text_in(token: str) -> str:
    """Return the text in a literal; another token as it is."""
    if token[0] not in "\"'":
        return token
    try:
        return str(ast.literal_eval(token))
    except (ValueError, SyntaxError):
        return token


def _check_tensors(members: Mapping[str, bytes]) -> None:
    """Check that the numbers of all tensors are there; PyTorch ends the process if they are not."""
    for member, content in members.items():
        folder, _, name = member.partition("/")
        if name not in ("data.pkl", "constants.pkl"):
            continue
        for _, kind, key, _, length in _Storages(content).found:
            held = len(members[f"{folder}/{name.removesuffix('.pkl')}/{key}"])
            if held < length * _BYTES.get(kind.name.removesuffix("Storage"), 1):
                raise ValueError(f"the tensor {key} has {held} bytes, which is too few")


class _Storages(pickle.Unpickler):
    """The storages of tensors that a pickle refers to, found without making any other object."""

    def __init__(self, content: bytes) -> None:
        super().__init__(io.BytesIO(content))
        self.found: list[Any] = []
        self.load()

    def persistent_load(self, pid: Any) -> None:
        self.found.append(pid)

    def find_class(self, _: str, name: str, /) -> Any:
        return type("Named", (_Named,), {"name": name})


class _Named:
    """Stands for any object in a pickle, and does nothing."""

    name = ""

    def __new__(cls, *_: object) -> Self:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None:
        pass

    def append(self, value: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass
