"""The use of a model by a target: load it, predict a small image, and check that nothing but results comes of it."""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np

import patchloom as pl

FOLDER = "model"
"""Folder in which the files of every seed are; what is written beside it is found."""

_IMAGE = np.random.default_rng(5).normal(size=(40, 44)).astype(np.float32)

_FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect"}
"""Audit events of Python of which none belongs to the use of a model."""

_seen: list[str] = []
_hooks: list[Callable[..., None]] = []


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _FORBIDDEN:
        _seen.append(f"{event} {arguments!r:.200}")


def use_model(path: Path, load: Callable[[Path], Any]) -> None:
    """Load a model and predict an image with it.

    Parameters
    ----------
    path : Path
        A model, below a folder `FOLDER`.
    load : callable
        Loads it.

    Raises
    ------
    AssertionError
        If an error does not name the file, or if something is executed, written or left behind.
    """
    if not _hooks:
        _hooks.append(_watch)
        sys.addaudithook(_watch)
    root = next(parent for parent in path.parents if parent.name == FOLDER).parent
    (root / "temporary").mkdir()
    (root / "here").mkdir()
    before = _files_below(root)
    usual, tempfile.tempdir = tempfile.tempdir, str(root / "temporary")
    _seen.clear()
    try:
        with chdir(root / "here"):
            _load_and_predict(path, load)
    finally:
        tempfile.tempdir = usual
        executed = list(_seen)
        gc.collect()  # errors refer to models by their tracebacks, which are part of cycles
        changed = before ^ _files_below(root)
        if executed:
            raise AssertionError(f"executed: {executed}")
        if any(not name.startswith("temporary") for name, _, _ in changed):
            raise AssertionError(f"written or removed: {sorted(changed)}")
    if changed:
        raise AssertionError(f"left behind: {sorted(changed)}")


def _load_and_predict(path: Path, load: Callable[[Path], Any]) -> None:
    try:
        model = load(path)
    except pl.PatchloomError as error:
        if path.name not in str(error):
            raise AssertionError(f"the error does not name the file: {error}") from error
        raise
    hash(repr(getattr(model, "description", None)))
    pl.predict(model, _IMAGE, axes="YX", patch_size=32, overlaps=4, progress=False)


def _files_below(root: Path) -> set[tuple[str, int, int]]:
    """Return names, sizes and times of all files and folders, but those that Python compiles."""
    found: set[tuple[str, int, int]] = set()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in folders:
            found.add((str(Path(folder, name).relative_to(root)), 0, 0))
        for name in names:
            state = Path(folder, name).lstat()
            found.add((str(Path(folder, name).relative_to(root)), state.st_size, state.st_mtime_ns))
    return found
