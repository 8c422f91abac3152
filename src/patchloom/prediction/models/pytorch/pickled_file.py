"""Files that `torch.save` writes, read without running code that they contain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.errors import ModelError, ModelNotFoundError

_CODE = re.compile(r"GLOBAL ([\w.]+)")
_PICKLE = b"\x80"
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
    if not path.is_file():
        raise ModelNotFoundError(f"there is no model file {path}: check the path")
    torch = require("torch", extra="torch")
    try:
        return torch.load(path, map_location="cpu", weights_only=not trust)
    except Exception as error:  # damage and unpickled code raise any error
        raise ModelError(f"{path} {_fault(path, str(error), trust=trust)}") from error


def _fault(path: Path, message: str, *, trust: bool) -> str:
    """Return what is wrong with a file, by the message of PyTorch and by its first bytes."""
    with path.open("rb") as file:
        first = file.read(len(_GIT_LFS))
    code = _CODE.search(message)
    if first == _GIT_LFS:
        return "is a pointer to a file in Git LFS: download the file itself, by git lfs pull"
    if not trust and (code is not None or first.startswith(_PICKLE)):
        named = "" if code is None else f" ({code[1]})"
        return (
            f"contains more than tensors and plain values{named}, and reading that may run any code: save the state_dict alone, or give "
            "trust=True (--trust) if you trust its author"
        )
    reason = " ".join(message.split())[:200]
    return f"is not a file that torch.save wrote, or it is damaged{': ' + reason if trust and reason else ''}"
