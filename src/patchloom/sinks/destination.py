"""Where an output goes: may it go there, and how it appears there all at once.

While it is being written, an output lives beside its destination under the destination's name with `.partial` added. When
it is complete, one rename shows it. So whoever looks at the destination sees the whole output or none; and a run that was
killed leaves a `.partial` behind that tells of it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from patchloom.errors import OutputExistsError, SinkError

_ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zarray")


def partial_path(path: str | Path) -> Path:
    """Where an output is while it is being written; links in its path are followed."""
    return _beside(path, ".partial")


def check_destination(path: str | Path, *, overwrite: bool = False) -> None:
    """Check that an output can be written at a place, before any work is done; touches nothing.

    Parameters
    ----------
    path : str or Path
        Where the output is to be.
    overwrite : bool
        Whether a Zarr that is there may be replaced.

    Raises
    ------
    OutputExistsError
        If something is there that is not to be replaced.
    SinkError
        If the place is no local path, its folder is missing or cannot be written to, or another run is writing there.
    """
    if "://" in str(path):
        raise SinkError(f"{path}: outputs are written to local paths only; write to a folder and copy it from there")
    folder = Path(path).resolve().parent
    if not folder.is_dir():
        raise SinkError(f"{path}: the folder {folder} does not exist: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"{path}: the folder {folder} cannot be written to")
    _check_replaceable(path, overwrite=overwrite)
    for leftover, remedy in (
        (partial_path(path), "another run may be writing this output; if none is, a run was interrupted: remove it"),
        (
            _replaced_path(path),
            "a run was interrupted while it replaced this output, and the old one is there: move it",
        ),
    ):
        if os.path.lexists(leftover):
            raise SinkError(f"{path}: {leftover} exists: {remedy}, and run again")


def check_apart(path: str | Path, sources: Iterable[str | Path]) -> None:
    """Check that writing an output touches no input.

    Parameters
    ----------
    path : str or Path
        Where the output is to be.
    sources : iterable of str or Path
        The inputs; arrays (`"array"`) and remote ones are passed over.

    Raises
    ------
    SinkError
        If the output is an input, lies inside one or holds one; the message names both.

    Examples
    --------
    >>> check_apart("raw.zarr/out.zarr", ["other.tif", "raw.zarr"])
    Traceback (most recent call last):
        ...
    patchloom.errors.SinkError: the output raw.zarr/out.zarr lies inside the input raw.zarr: choose another output
    """
    output = Path(path).resolve()
    for source in sources:
        local = _local_path(source)
        if local is None:
            continue
        place = local.resolve()
        if output == place:
            relation = "is the input"
        elif output.is_relative_to(place):
            relation = "lies inside the input"
        elif place.is_relative_to(output):
            relation = "holds the input"
        else:
            continue
        raise SinkError(f"the output {path} {relation} {source}: choose another output")


def claim(path: str | Path) -> Path:
    """Make the folder in which an output is written; only one run can.

    Raises
    ------
    SinkError
        If it is there already, or cannot be made.
    """
    partial = partial_path(path)
    try:
        partial.mkdir()
    except OSError as error:
        raise SinkError(f"{path}: cannot make {partial}: {error.strerror}") from error
    return partial


def publish(path: str | Path, *, overwrite: bool) -> None:
    """Show a complete output at its destination by renaming it; what it replaces is removed after that.

    Everything written before is on disk first: folders are synced here, files by whoever wrote them.

    Raises
    ------
    SinkError
        If that cannot be done; what was at the destination is there still.
    """
    partial, replaced, destination = partial_path(path), _replaced_path(path), Path(path).resolve()
    _check_replaceable(path, overwrite=overwrite)
    try:
        for folder, _, _ in os.walk(partial):
            sync_folder(Path(folder))
        if os.path.lexists(destination):
            destination.rename(replaced)
        try:
            partial.rename(destination)
        except OSError:
            if os.path.lexists(replaced):
                replaced.rename(destination)
            raise
        sync_folder(destination.parent)
    except OSError as error:
        raise SinkError(f"{path}: cannot move the finished output from {partial}: {error.strerror}") from error
    remove_folder(replaced)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all in it, if it is there.

    Raises
    ------
    SinkError
        If it cannot be removed.
    """
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        raise SinkError(f"cannot remove {folder}: {error.strerror}: remove it by hand") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable; Windows neither needs nor has this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _check_replaceable(path: str | Path, *, overwrite: bool) -> None:
    destination = Path(path).resolve()
    if not os.path.lexists(destination):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{path}: exists already and stays as it is: choose another output, or replace it with overwrite=True "
            "(--overwrite)"
        )
    if not any((destination / mark).is_file() for mark in _ZARR_MARKS):
        raise OutputExistsError(
            f"{path}: exists and is no Zarr, so it is not replaced: choose another output, or remove it yourself"
        )


def _beside(path: str | Path, ending: str) -> Path:
    destination = Path(path).resolve()
    return destination.with_name(destination.name + ending)


def _replaced_path(path: str | Path) -> Path:
    return _beside(path, ".replaced")


def _local_path(source: str | Path) -> Path | None:
    text = str(source)
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return None if text == "array" or "://" in text else Path(source)
