"""Where an output goes: may it go there, and how it appears there all at once.

While it is being written, an output lives beside its destination under the destination's name with `.partial` added. When
it is complete, one rename shows it. So whoever looks at the destination sees the whole output or none; and a run that was
killed leaves a `.partial` behind that tells of it. A folder that is replaced is called `.replaced` for the moment between
two renames; a file is replaced by one.
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
    """Return where an output is while it is being written; links in its path are followed."""
    return name_beside(path, ".partial")


def lock_path(path: str | Path) -> Path:
    """Return the file that is locked while an output is written."""
    return name_beside(path, ".lock")


def names_beside(path: str | Path) -> list[Path]:
    """Return the names beside an output that are written and removed while it comes about; see docs/durability.md."""
    return [name_beside(path, ending) for ending in _ENDINGS]


def check_destination(
    path: str | Path, *, overwrite: bool = False, resume: bool = False, kind: OutputKind | None = None
) -> None:
    """Check that an output can be written at a place, before any work is done; touches nothing.

    Parameters
    ----------
    path : str or Path
        Where the output is to be.
    overwrite : bool
        Whether an output of the same kind that is there may be replaced, and one that was left unfinished be discarded.
    resume : bool
        Whether one that was left unfinished is gone on with.
    kind : OutputKind, optional
        What is to be written; by default what the name's ending says.

    Raises
    ------
    OutputExistsError
        If something is there that is not to be replaced.
    SinkError
        If the place is no local path, its folder is missing or cannot be written to, the ending says nothing, or a run left
        an unfinished output there that is neither resumed nor discarded.
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
    """Check that something can be written beside a path.

    Raises
    ------
    SinkError
        If it is no local path, its name is too long, or its folder is missing or cannot be written to.
    """
    if is_url(normalize_path(path)):
        raise SinkError(f"{path}: outputs are written to local paths only; write to a folder and copy it from there")
    folder = resolved(path).parent
    _check_name(path, folder)
    if not folder.is_dir():
        raise SinkError(f"{path}: the folder {folder} does not exist: make it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SinkError(f"{path}: the folder {folder} cannot be written to")


def _check_name(path: str | Path, folder: Path) -> None:
    """Check that a name, and those beside it, are not longer than the file system allows."""
    name = Path(path).name
    longest = max(len(os.fsencode(name + ending)) for ending in _ENDINGS)
    try:
        allowed = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    except (OSError, ValueError):  # a folder that is not there is another matter
        return
    if longest > allowed:
        raise SinkError(
            f"{path}: the name is {longest - allowed} bytes too long: names end in up to {max(map(len, _ENDINGS))} more "
            f"characters while an output is written, and may have {allowed} bytes in {folder}: choose a shorter one"
        )


def check_replaceable(path: str | Path, kind: OutputKind, *, overwrite: bool) -> None:
    """Check that nothing is at a place, or something that may be replaced.

    Raises
    ------
    OutputExistsError
        If something is there and is not to be replaced, or is of another kind.
    """
    destination = resolved(path)
    if not os.path.lexists(destination):
        return
    if not overwrite:
        raise OutputExistsError(
            f"{path}: exists already and stays as it is: choose another output, or replace it with overwrite=True "
            "(--overwrite)"
        )
    if not kind.is_at(destination):
        raise OutputExistsError(
            f"{path}: exists and is no {kind.name}, so it is not replaced: choose another output, or remove it yourself"
        )


def publish(path: str | Path, kind: OutputKind, *, overwrite: bool) -> None:
    """Show a complete output at its destination by renaming it; what it replaces is removed after that.

    What is in the output is durable before; the renames are when this returns.

    Raises
    ------
    SinkError
        If that cannot be done; what was at the destination is there still.
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
    """Bring a destination back in order that a run was killed at while it was replacing it.

    Either the new output is there already, then the old one is removed; or neither is, then the old one is put back.

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
    """Remove a file, or a folder and all in it, if it is there.

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
    """Make the names in a folder durable; Windows neither needs nor has this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def name_beside(path: str | Path, ending: str) -> Path:
    """Return the name of an output with an ending added; links in its path are followed."""
    destination = resolved(path)
    if not destination.name:
        raise SinkError(f"{path}: this is not the name of an output: name a file or folder in it")
    return destination.with_name(destination.name + ending)


def _replaced_path(path: str | Path) -> Path:
    return name_beside(path, ".replaced")


def resolved(path: str | Path) -> Path:
    """Return where a path leads, all links followed.

    Raises
    ------
    SinkError
        If it holds a NUL, which no path does, or if its links are a loop.
    """
    if "\0" in str(path):
        raise SinkError(f"output is {str(path)!r}: a path has no NUL in it: choose another name")
    try:
        return Path(normalize_path(path)).resolve()
    except RuntimeError as error:
        raise SinkError(f"output is {str(path)!r}: its links are a loop: choose another name") from error
