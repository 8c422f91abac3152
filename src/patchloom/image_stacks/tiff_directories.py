"""The directories (IFDs) of a TIFF: which tags each of its pages has, read within bounds.

A directory is a list of entries, each a tag, a type, a count and a value or the offset of one, and then the offset of the
next directory. Nothing here trusts a file: a chain of directories ends, does not take more memory than the file has bytes,
and a value lies within the file.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError

STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS = 273, 279, 324, 325
SUB_DIRECTORIES, JPEG_TABLES = 330, 347

STORAGE_TAGS = frozenset([
    254, 255,  # kind of image
    256, 257, 32997,  # width, length, depth
    258, 277, 284, 338, 339,  # bits, samples, planar configuration, extra samples, sample format
    259, 262, 266, 292, 293, 317, 530,  # compression, photometric, fill order, fax options, predictor, subsampling
    278, 322, 323, 32998,  # rows a strip; tile width, length, depth
    42113,  # value of pixels that are left out
    65007, 65008, 65009,  # options of EER's compression
])  # fmt: skip
"""The tags that decide how the pixels of a page are decoded, apart from where they are."""

_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LARGEST_STORAGE_VALUE = 4096
"""Bytes; no tag of `STORAGE_TAGS` needs more."""


class _Format(NamedTuple):
    """Sizes and byte order of the numbers in the directories of a file."""

    order: str
    length: str
    entry: str
    pointer: str

    @property
    def inline(self) -> int:
        """Bytes of a value that stand in its entry."""
        return struct.calcsize(self.pointer)


@dataclass(frozen=True, slots=True)
class Directory:
    """The entries of one page.

    Parameters
    ----------
    path : str
        The file.
    offset : int
        Position of the directory in the file, in bytes.
    format : _Format
        How its numbers are written.
    entries : bytes
        Its entries as they are in the file.
    """

    path: str
    offset: int
    format: _Format
    entries: bytes

    @property
    def is_page(self) -> bool:
        """Whether it describes pixels at all."""
        tags = {entry[0] for entry in struct.iter_unpack(self.format.entry, self.entries)}
        return not tags.isdisjoint({256, 257, STRIP_OFFSETS, TILE_OFFSETS})

    def storage(self, file: BinaryIO) -> tuple[object, ...]:
        """Return all that decides how the pixels are decoded; pages for which it is equal share a decoder."""
        found = [
            (tag, kind, count, self._value(file, kind, count, value)) if tag in STORAGE_TAGS else None
            for tag, kind, count, value in struct.iter_unpack(self.format.entry, self.entries)
        ]
        return (self.format, *filter(None, found))

    def integers(self, file: BinaryIO, *tags: int) -> NDArray[np.uint64]:
        """Return the values of the first of some tags that is there; none if there is none.

        Raises
        ------
        SourceError
            If they are not whole numbers, or do not lie within the file.
        """
        entry = self._entry(tags)
        if entry is None:
            return np.zeros(0, np.uint64)
        tag, kind, count, value = entry
        if kind not in _TYPES:
            raise SourceError(f"{self.path} is damaged: tag {tag} of the directory at {self.offset} has type {kind}")
        content = self._bytes(file, tag, kind, count, value)
        return np.frombuffer(content, np.dtype(f"{self.format.order}{_TYPES[kind]}")).astype(np.uint64)

    def content(self, file: BinaryIO, tag: int) -> bytes | None:
        """Return the bytes of a tag's value; None if there is no such tag."""
        entry = self._entry((tag,))
        return None if entry is None else self._bytes(file, *entry)

    def _entry(self, tags: tuple[int, ...]) -> tuple[int, int, int, bytes] | None:
        entries = {entry[0]: entry for entry in struct.iter_unpack(self.format.entry, self.entries)}
        return next((entries[tag] for tag in tags if tag in entries), None)

    def _value(self, file: BinaryIO, kind: int, count: int, value: bytes) -> bytes:
        size = count * _TYPE_SIZES.get(kind, 1)
        if self.format.inline < size <= _LARGEST_STORAGE_VALUE:
            file.seek(min(struct.unpack(self.format.pointer, value)[0], 2**62))
            return file.read(size)
        return value

    def _bytes(self, file: BinaryIO, tag: int, kind: int, count: int, value: bytes) -> bytes:
        size = count * _TYPE_SIZES.get(kind, 1)
        if size <= self.format.inline:
            return value[:size]
        (offset,) = struct.unpack(self.format.pointer, value)
        if offset + size > _size(file):
            raise SourceError(
                f"{self.path} is truncated: tag {tag} of the directory at {self.offset} lies beyond the end of the file"
            )
        file.seek(offset)
        return file.read(size)


def read_directories(path: str | Path) -> tuple[Directory, ...]:
    """Read the directories of all pages, in their order.

    Raises
    ------
    SourceError
        If the file is not a TIFF, ends before its last page, or has a chain of directories that does not end.
    """
    with open(path, "rb") as file:  # noqa: PTH123  # a string too
        form, position = _header(path, file)
        found: dict[int, Directory] = {}
        left = 2 * _size(file)
        while position:
            if position in found:
                raise SourceError(f"{path} is damaged: its list of pages is a loop")
            found[position], position = _read(path, file, form, position)
            left -= len(next(reversed(found.values())).entries)
            if left < 0:
                raise SourceError(f"{path} is damaged: the directories of its pages overlap")
    return tuple(found.values())


def read_directory(path: str | Path, offset: int) -> Directory:
    """Read one directory, which need not be in the list of pages.

    Raises
    ------
    SourceError
        If it does not lie within the file.
    """
    with open(path, "rb") as file:  # noqa: PTH123  # a string too
        form, _ = _header(path, file)
        return _read(path, file, form, offset)[0]


def _header(path: str | Path, file: BinaryIO) -> tuple[_Format, int]:
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = start[2:4] if order == "<" else start[3:1:-1]
    if order is None or version not in {b"*\0", b"+\0"} or len(start) < 8:
        raise SourceError(f"{path} cannot be read as a TIFF: it begins with {start[:4]!r}")
    if version == b"*\0":
        form = _Format(order, f"{order}H", f"{order}HHI4s", f"{order}I")
        return form, struct.unpack_from(form.pointer, start, 4)[0]
    form = _Format(order, f"{order}Q", f"{order}HHQ8s", f"{order}Q")
    if len(start) < 16:
        raise SourceError(f"{path} is truncated: it ends before its first page")
    return form, struct.unpack_from(form.pointer, start, 8)[0]


def _read(path: str | Path, file: BinaryIO, form: _Format, position: int) -> tuple[Directory, int]:
    """Read a directory and the position of the next one."""
    count_size, entry_size, pointer_size = map(struct.calcsize, (form.length, form.entry, form.pointer))
    if position + count_size > _size(file):
        raise SourceError(f"{path} is truncated: it ends before its last page")
    file.seek(position)
    (count,) = struct.unpack(form.length, file.read(count_size))
    length = count * entry_size
    if position + count_size + length + pointer_size > _size(file):
        raise SourceError(f"{path} is truncated: it ends before its last page")
    content = file.read(length + pointer_size)
    return Directory(str(path), position, form, content[:length]), struct.unpack_from(form.pointer, content, length)[0]


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
