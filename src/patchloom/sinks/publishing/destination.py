"""The destination of an output: checked before a run, and replaced in one step at its end.

An unfinished output is beside its destination and has the destination's name with `.partial` added. One rename publishes it
when it is complete, so that a reader finds the whole output or none. A run that was killed leaves its `.partial` behind. A
folder that is replaced has `.replaced` added to its name between two renames; a file is replaced by one rename.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from patchloom.errors import OutputExistsError, SinkError
from patchloom.local_paths import is_url, normalize_path
from patchloom.sinks.output_kinds import OutputKind, output_kind
from patchloom.sinks.write_errors import explain

_ENDINGS = (".partial", ".replaced", ".ledger", ".lock")


def partial_path(path: str | Path) -> Path:
    """Return the path of an unfinished output, with links resolved."""
    return name_beside(path, ".partial")


def lock_path(path: str | Path) -> Path:
    """Return the path of the lock file of an output, with links resolved."""
    return name_beside(path, ".lock")


def names_beside(path: str | Path) -> list[Path]:
    """Return the paths beside an output that are written and removed during a run; see docs/durability.md."""
    return [name_beside(path, ending) for ending in _ENDINGS]


def check_destination(
    path: str | Path, *, overwrite: bool = False, resume: bool = False, kind: OutputKind | None = None
) -> None:
    """Check that an output can be written, without touching any file.

    Parameters
    ----------
    path : str or Path
        The output.
    overwrite : bool
        Whether an output of the same kind is replaced, and an unfinished one is discarded.
    resume : bool
        Whether an unfinished output is resumed.
    kind : OutputKind, optional
        Kind of the output. If None, the ending of the name selects it.

    Raises
    ------
    OutputExistsError
        If the output exists and is not to be replaced.
    SinkError
        If the path is not local, its folder is missing or cannot be written to, its ending selects no kind, or an unfinished
        output is there that is neither resumed nor discarded.
    """
    check_folder(path)
    kind = kind or output_kind(path)
    check_replaceable(path, kind, overwrite=overwrite)
    if overwrite or resume:
        return
    remedy = "resume it or start afresh" if kind.resumable else f"a {kind.name} cannot be resumed, so start afresh"
    for leftover in (partial_path(path), _replaced_path(path)):
        if os.path.lexists(leftover):
            raise SinkError(
                f"{path}: {leftover} exists: a run was interrupted here: {remedy} with overwrite=True (--overwrite)"
            )


def check_folder(path: str | Path) -> None:
    """Check that files can be written in the folder of an output.

    Raises
    ------
    SinkError
        If the path is not local, its name is too long, or its folder is missing or cannot be written to.
    """
    if is_url(normalize_path(path)):
        raise SinkError(f"{path}: outputs are written to local paths only; write to a folder and copy it from there")
    folder = resolved(path).parent
    _check_name(path, folder)
    if not folder.is_dir():
        raise SinkError(f"{path}: the folder {folder} does not exist: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"{path}: the folder {folder} cannot be written to: choose another one")


def _check_name(path: str | Path, folder: Path) -> None:
    """Check that a name, and the names beside it, are not longer than the file system allows."""
    name = Path(path).name
    longest = max(len(os.fsencode(name + ending)) for ending in _ENDINGS)
    try:
        allowed = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    except (OSError, ValueError):  # another check finds a missing folder
        return
    if longest > allowed:
        raise SinkError(
            f"{path}: the name is {longest - allowed} bytes too long: names end in up to {max(map(len, _ENDINGS))} more "
            f"characters while an output is written, and may have {allowed} bytes in {folder}: choose a shorter one"
        )


def check_replaceable(path: str | Path, kind: OutputKind, *, overwrite: bool) -> None:
    """Check that a path does not exist, or may be replaced.

    Raises
    ------
    OutputExistsError
        If it exists and is not to be replaced, or is of another kind.
    """
    destination = resolved(path)
    if not os.path.lexists(destination):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{path} exists already and was not changed: choose another output, or replace it with overwrite=True "
            "(--overwrite)"
        )
    if not kind.is_at(destination):
        raise OutputExistsError(
            f"{path} exists and is not a {kind.name}, so it is not replaced: choose another output, or remove it yourself"
        )


def publish(path: str | Path, kind: OutputKind, *, overwrite: bool) -> None:
    """Publish a complete output by renaming it, then remove the output that it replaces.

    The content of the output has to be durable before. The renames are durable when this returns.

    Raises
    ------
    SinkError
        If that cannot be done. The old output is then still at the destination.
    """
    partial, replaced, destination = partial_path(path), _replaced_path(path), resolved(path)
    check_replaceable(path, kind, overwrite=overwrite)
    try:
        if destination.is_dir():
            destination.rename(replaced)
        try:
            partial.replace(destination)
        except OSError:
            if os.path.lexists(replaced):
                replaced.rename(destination)
            raise
        sync_folder(destination.parent)
    except OSError as error:
        raise SinkError(f"{path}: cannot move the finished output from {partial}: {explain(error)}") from error
    remove(replaced)


def undo_interrupted_replacement(path: str | Path) -> None:
    """Undo or complete the replacement of an output during which a run was killed.

    If the new output is at the destination, the old one is removed. If neither is, the old one is moved back.

    Raises
    ------
    SinkError
        If that cannot be done.
    """
    replaced, destination = _replaced_path(path), resolved(path)
    if os.path.lexists(destination):
        remove(replaced)
    elif os.path.lexists(replaced):
        try:
            replaced.rename(destination)
        except OSError as error:
            raise SinkError(f"{path}: cannot move it back from {replaced}: {explain(error)}") from error


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists.

    Raises
    ------
    SinkError
        If it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise SinkError(f"cannot remove {path}: {error.strerror}: remove it by hand") from error


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable. Windows does not need this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_beside(path: str | Path, ending: str) -> Path:
    """Return the path of an output with an ending added, and with links resolved."""
    destination = resolved(path)
    if not destination.name:
        raise SinkError(f"{path}: this is a folder, not the name of an output: name a file or folder in it")
    return destination.with_name(destination.name + ending)


def _replaced_path(path: str | Path) -> Path:
    return name_beside(path, ".replaced")


def resolved(path: str | Path) -> Path:
    """Return a path with all links resolved.

    Raises
    ------
    SinkError
        If it contains a NUL, or if its links are a loop.
    """
    if "\0" in str(path):
        raise SinkError(f"output is {str(path)!r}: a path cannot contain a NUL: choose another name")
    try:
        return Path(normalize_path(path)).resolve()
    except RuntimeError as error:
        raise SinkError(f"output is {str(path)!r}: its links are a loop: choose another name") from error
