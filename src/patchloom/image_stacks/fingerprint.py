"""Whether an image is still the one it was: files by what the file system reports, arrays in memory by their bytes.

No fingerprint reads the pixels of a file. What it cannot notice is listed in docs/durability.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

from patchloom.digests import array_digest
from patchloom.errors import SourceChangedError, SourceError
from patchloom.image_stacks.protocols import ImageStack, Storage
from patchloom.image_stacks.storage import storage_of
from patchloom.image_stacks.zarr.node import DOCUMENTS

Level = Literal["quick", "portable", "full"]


class Fingerprint(NamedTuple):
    """What identifies the pixels of an image."""

    digest: str
    """Equal for equal pixels; empty if nothing is known of them."""

    unknown: str
    """Why some pixels cannot be identified; empty if all can."""


def fingerprint(stack: ImageStack | Storage, level: Level = "full") -> Fingerprint:
    """Identify the pixels of an image, to notice later that they have changed.

    ============  ================================  ===========================  ================
    level         of a file                         of a folder                  of an array
    ============  ================================  ===========================  ================
    `"quick"`     inode, size, modification,        inode, and the files of      nothing
                  change                            metadata in it
    `"portable"`  name, size, modification          all files in it              all bytes
    `"full"`      name, inode, size, modification,  all files in it              all bytes
                  change
    ============  ================================  ===========================  ================

    Parameters
    ----------
    stack : ImageStack or Storage
        The image, or where its pixels lie.
    level : {"quick", "portable", "full"}
        `"quick"` takes a few questions to the file system, and misses chunks of a Zarr that are rewritten in place.
        `"portable"` stays the same in a copy that keeps the times. `"full"` notices all that the file system reports. Of a
        dask array, the token counts at every level. Hidden files in folders never count, except for metadata of Zarrs.

    Returns
    -------
    Fingerprint
        Times are compared for equality, never ordered, so a wrong clock does no harm.

    Raises
    ------
    OSError
        If a file is missing; at `"quick"`, that it is missing is part of the fingerprint.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom import ArrayStack
    >>> image = np.arange(12).reshape(3, 4)
    >>> one, other = (fingerprint(ArrayStack(array, axes="YX")) for array in (image, image[:, ::-1]))
    >>> one.digest == other.digest, one.unknown
    (False, '')
    """
    storage = stack if isinstance(stack, Storage) else storage_of(stack)
    of_files = [_files_digest(storage.files, level)] if storage.files else []
    of_arrays = map(array_digest, () if level == "quick" else storage.arrays)
    return Fingerprint(" ".join([*of_files, *of_arrays, storage.part]).strip(), storage.unknown)


def _files_digest(files: Sequence[Path], level: Level) -> str:
    digest = hashlib.sha256()
    for path in files:
        for name, numbers in _quick_states(path) if level == "quick" else sorted(_states(path, level)):
            digest.update("\0".join([name, *map(str, numbers)]).encode("utf-8", "surrogateescape") + b"\n")
    return digest.hexdigest()[:32]


def _quick_states(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    try:
        status = path.stat()
    except OSError:
        yield "", ()
        return
    if stat.S_ISDIR(status.st_mode):
        yield "", (status.st_ino,)  # its own times change with every file that is added
        for name in DOCUMENTS:
            yield from _quick_states(path / name)
    else:
        yield "", _numbers(status)


def _states(path: Path, level: Level) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, status in _statuses(path):
        yield name, (status.st_size, status.st_mtime_ns) if level == "portable" else _numbers(status)


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


class SourceWatch:
    """The fingerprints of a series when it was opened, to be compared while it is read.

    A file counts as changed if it is another one, or its size or times differ; a Zarr if its folder is another one, or its
    metadata have changed. Chunks that are rewritten in place are noticed by `check_thoroughly` only. Arrays in memory and
    remote images are not watched.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series.
    masks : sequence of ImageStack
        Further images that are read with the series: one for each of its images in their order, or any number that are read
        with every one.
    thoroughly : bool
        Whether `check_thoroughly` will be called, for which all files in folders are looked at now.

    Raises
    ------
    SourceError
        If a file of an image is missing.
    """

    def __init__(
        self, stacks: Sequence[ImageStack], masks: Sequence[ImageStack] = (), *, thoroughly: bool = False
    ) -> None:
        every = [*stacks, *masks]
        self._n_images, self._n_masks = len(stacks), len(masks)
        self._sources = [stack.source for stack in every]
        self._with_arrays = [storage_of(stack) for stack in every]
        self._storages = [replace(storage, arrays=()) for storage in self._with_arrays]
        self.quick = [fingerprint(storage, "quick") for storage in self._storages]
        """The `"quick"` fingerprint of each image and mask, arrays excluded."""
        self._full = [self._full_fingerprint(number) for number in range(len(every))] if thoroughly else []

    def full_fingerprints(self) -> list[Fingerprint]:
        """Return the full fingerprint of each image and mask, as it was opened, with the bytes of arrays in memory."""
        return [
            fingerprint(storage) if storage.arrays else full
            for storage, full in zip(self._with_arrays, self._full, strict=True)
        ]

    def check(self, data_idxs: Iterable[int]) -> None:
        """Check that some images have not changed, by a few questions to the file system for each.

        Parameters
        ----------
        data_idxs : iterable of int
            Which images; numbers that the series does not have are ignored.

        Raises
        ------
        SourceChangedError
            If one has changed or is gone.
        """
        for data_idx in data_idxs:
            for number in self._read_with(data_idx):
                if fingerprint(self._storages[number], "quick") != self.quick[number]:
                    raise self._changed(number)

    def check_thoroughly(self, data_idx: int) -> None:
        """Check that an image has not changed, by looking at all of its files.

        Raises
        ------
        SourceChangedError
            If it has changed or is gone.
        """
        self.check([data_idx])
        for number in self._read_with(data_idx):
            if self._full_fingerprint(number) != self._full[number]:
                raise self._changed(number)

    def _read_with(self, data_idx: int) -> Sequence[int]:
        """List an image and its masks by their places in `_storages`."""
        if not 0 <= data_idx < self._n_images:
            return ()
        masks = range(self._n_images, self._n_images + self._n_masks)
        return (data_idx, *(masks[data_idx : data_idx + 1] if self._n_masks == self._n_images else masks))

    def _full_fingerprint(self, number: int) -> Fingerprint:
        try:
            return fingerprint(self._storages[number])
        except OSError as error:
            raise SourceError(f"{self._sources[number]} cannot be read: {error}") from error

    def _changed(self, number: int) -> SourceChangedError:
        return SourceChangedError(
            f"{self._sources[number]} has changed on disk since it was opened, and pixels of before and after must not be "
            "mixed: open it anew and start again"
        )
