"""Files that `torch.save` writes, read without running code that they contain."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models.archives import check_archive

_CODE = re.compile(r"GLOBAL ([\w.]+)|(?:instruction|global|class)\W+([a-zA-Z_][\w.]*\.[\w.]+)")
_GIT_LFS = b"version https://git-lfs"


def read_pickled(path: Path, *, trust: bool = False) -> Any:
    """Read a file that `torch.save` wrote, with its tensors on the CPU.

    Such a file is a pickle, which may run any code when it is read. Without `trust`, only tensors and plain values are read, by
    `torch.load(weights_only=True)`.

    Parameters
    ----------
    path : Path
        The file.
    trust : bool
        Whether code in the file may be run.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If it contains code and is not trusted, is damaged, or is another file.
    MissingExtraError
        If PyTorch is not installed.

    Examples
    --------
    >>> read_pickled(Path("network.pt"))
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelNotFoundError: there is no model file network.pt: check the path
    """
    check_file(path)
    torch = require("torch", extra="torch")
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        check_archive(path)
    options: dict[str, Any] = {"map_location": "cpu", "weights_only": True, "mmap": is_archive}
    try:
        return torch.load(path, **options)
    except Exception as error:  # of a damaged file, any error
        needed = _needed_code(str(error)) if is_archive or _starts_as_pickle(path) else None
        if needed is None or not trust:
            raise ModelError(f"{path} {_fault(path, str(error), needed)}") from error
    try:
        return torch.load(path, **options | {"weights_only": False, "mmap": False})
    except Exception as error:  # code in the file may raise any error
        raise ModelError(f"{path} {_fault(path, str(error), None)}") from error


def check_file(path: Path) -> None:
    """Check that there is a model file, with content.

    Raises
    ------
    ModelNotFoundError
        If there is none.
    ModelError
        If it is a folder, or empty.
    """
    if not path.exists():
        raise ModelNotFoundError(f"there is no model file {path}: check the path")
    if path.is_dir():
        raise ModelError(f"{path} is a folder: give a file")
    if not path.stat().st_size:
        raise ModelError(f"{path} is empty: it may be the rest of a download or a copy that was stopped")


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def _needed_code(message: str) -> str | None:
    """Return what a pickle needs beside tensors and plain values, by the message of PyTorch; None if the file is damaged."""
    if "Detected pickle protocol" in message:  # torch.save writes another one
        return ""
    if "weights_only" not in message and "Weights only load failed" not in message:
        return None
    if named := _CODE.search(message):
        return f" ({named.group(1) or named.group(2)})"
    return "" if re.search("Unsupported|not allowed|not an allowed", message) else None


def _fault(path: Path, message: str, needed: str | None) -> str:
    """Return what is wrong with a file, by the message of PyTorch and by its first bytes."""
    with path.open("rb") as file:
        first = file.read(len(_GIT_LFS))
    if first == _GIT_LFS:
        return "is a pointer to a file in Git LFS: download the file itself, by git lfs pull"
    if needed is not None:
        return (
            f"contains more than tensors and plain values{needed}, and reading that may run any code: save the state_dict alone, "
            "and give the function that makes the network; or give trust=True (--trust) if you trust its author"
        )
    reason = " ".join(message.split())[:200]
    return f"is not a file that torch.save wrote, or it is damaged ({reason}): copy it again"
