"""What the pixels of an image are known by: files by what the file system reports, arrays in memory by their bytes.

A fingerprint never reads the pixels of a file. What it cannot notice is listed in docs/durability.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from patchloom.digests import array_digest
from patchloom.image_stacks.array_storage import Storage, array_storage
from patchloom.image_stacks.protocols import HasFiles, HasStorage, HoldsPixels, ImageStack
from patchloom.image_stacks.zarr.node import DOCUMENTS


class Fingerprint(NamedTuple):
    """What an image is known by."""

    digest: str
    """Equal for equal pixels; empty if nothing is known of them."""

    unknown: str
    """Why some pixels cannot be identified; empty if all can."""


def fingerprint(stack: ImageStack) -> Fingerprint:
    """Identify the pixels of an image, for another run that reads it again.

    Of files, all that `files_digest` covers counts, of arrays in memory their bytes, of a dask array its token as well.

    Parameters
    ----------
    stack : ImageStack
        The image.

    Returns
    -------
    Fingerprint
        Times are compared for equality, never ordered, so a wrong clock does no harm.

    Raises
    ------
    OSError
        If a file is missing.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom import ArrayStack
    >>> image = np.arange(12).reshape(3, 4)
    >>> one, other = (fingerprint(ArrayStack(array, axes="YX")) for array in (image, image[:, ::-1]))
    >>> one.digest == other.digest, one.unknown
    (False, '')
    """
    storage = storage_of(stack)
    of_files = [files_digest(storage.files)] if storage.files else []
    digest = " ".join([*of_files, *map(array_digest, storage.arrays), storage.part])
    return Fingerprint(digest.strip(), storage.unknown)


def storage_of(stack: ImageStack) -> Storage:
    """Find the files or the memory in which the pixels of an image lie.

    Parameters
    ----------
    stack : ImageStack
        Anything that is a stack; it need not say anything of its files.
    """
    if isinstance(stack, HasStorage):
        return stack.storage
    if isinstance(stack, HasFiles) and stack.files:
        return Storage(tuple(stack.files), stack.image_in_files)
    pixels = stack.pixels if isinstance(stack, HoldsPixels) else None
    if pixels is not None:
        return array_storage(pixels)
    return Storage(unknown=f"a {type(stack).__qualname__} names neither its files nor its pixels")


def files_digest(files: Sequence[Path], *, portable: bool = False) -> str:
    """Return the digest of what the file system reports of files, and of all files in folders.

    Names, inodes, sizes, times of modification and times of change count.

    Parameters
    ----------
    files : sequence of Path
        Files and folders. Hidden files in folders are excluded, except for those with metadata of Zarrs.
    portable : bool
        Whether only names, sizes and times of modification count, which can stay the same in a copy.

    Raises
    ------
    OSError
        If a file is missing.
    """
    digest = hashlib.sha256()
    for path in files:
        for name, status in sorted(_statuses(path)):
            numbers = (status.st_size, status.st_mtime_ns) if portable else _numbers(status)
            digest.update("\0".join([name, *map(str, numbers)]).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]


def glance(files: Sequence[Path]) -> tuple[tuple[int, ...], ...]:
    """Ask the file system for the state of files, with a few questions for each.

    Of a file, inode, size, time of modification and time of change count; of a folder, its inode and these of the metadata in
    it, not the other files. A missing file has a state as well, an empty one.

    Parameters
    ----------
    files : sequence of Path
        Files and folders.
    """
    return tuple(state for path in files for state in _states(path))


def _states(path: Path) -> Iterator[tuple[int, ...]]:
    try:
        status = path.stat()
    except OSError:
        yield ()
        return
    if stat.S_ISDIR(status.st_mode):
        yield (status.st_ino,)  # its own times change with every file that is added
        for name in DOCUMENTS:
            yield from _states(path / name)
    else:
        yield _numbers(status)


def _numbers(status: os.stat_result) -> tuple[int, ...]:
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _statuses(path: Path) -> Iterator[tuple[str, os.stat_result]]:
    if not path.is_dir():
        yield path.name, path.stat()
        return
    folders = [str(path)]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.path)
                elif not entry.name.startswith(".") or entry.name in DOCUMENTS:
                    yield os.path.relpath(entry.path, path), entry.stat()
