"""The files of saved networks: checked before, and written as a whole."""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from patchloom.argument_checks import file_path
from patchloom.errors import OutputExistsError, SinkError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.pytorch.saved_network import DESCRIPTION, ENTRY, SavedDescription

PROGRAM = ".pt2"
WEIGHTS = ".pt"
"""Suffixes of saved networks."""


def check_path(path: str | Path) -> Path:
    """Check that a network can be saved under a path.

    Parameters
    ----------
    path : str or Path
        The path.

    Raises
    ------
    SinkError
        If the suffix is another one, there is no such folder, or a file is there that is not a saved network.
    """
    place = Path(normalize_path(file_path("path", path, error=SinkError)))
    if place.suffix.lower() not in (PROGRAM, WEIGHTS):
        raise SinkError(
            f"path is {str(place)!r}: it must end in {PROGRAM} (a program, which needs no code) or {WEIGHTS} (weights)"
        )
    if not place.parent.is_dir():
        raise SinkError(f"there is no folder {place.parent}: create it first")
    if os.path.lexists(place) and not is_saved_network(place):
        raise OutputExistsError(f"{place} exists and is not a saved network: choose another path, or remove it")
    return place


def is_saved_network(path: Path) -> bool:
    """Return whether a file was written by `save_model`.

    Parameters
    ----------
    path : Path
        The file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith(f"/extra/{DESCRIPTION}") for name in archive.namelist()):
                return True
        content = torch.load(path, map_location="meta", weights_only=True)
    except Exception:  # noqa: BLE001  # whatever it is, it is something else
        return False
    return isinstance(content, dict) and isinstance(content.get(ENTRY), str)


def write_program(path: Path, program: Any, saved: SavedDescription) -> None:
    """Write a program and its description.

    Raises
    ------
    SinkError
        If the file cannot be written.
    """
    buffer = BytesIO()
    torch.export.save(program, buffer, extra_files={DESCRIPTION: saved.to_json()})
    _write(path, buffer.getbuffer())


def write_weights(path: Path, network: nn.Module, saved: SavedDescription) -> None:
    """Write the weights of a network and its description.

    Raises
    ------
    ArgumentError
        If an argument of the factory is not a plain value.
    SinkError
        If the file cannot be written.
    """
    buffer = BytesIO()
    torch.save({ENTRY: saved.to_json(), "weights": network.state_dict()}, buffer)
    _write(path, buffer.getbuffer())


def code_versions() -> dict[str, str]:
    """Return the versions of Patchloom and PyTorch."""
    return {"patchloom": str(sys.modules["patchloom"].__version__), "torch": str(torch.__version__)}


def _write(path: Path, content: memoryview) -> None:
    """Write a file beside its place and move it there, so that a kill leaves the old one."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o666 & ~_umask())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise SinkError(f"cannot write {path} ({error.strerror}): choose another path") from error


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
