"""The directories (IFDs) of a TIFF: which tags each of its pages has, read within bounds.

A directory is a list of entries, each a tag, a type, a count and a value or the offset of one, and then the offset of the
next directory. Nothing here trusts a file: a chain of directories ends, does not take more memory than the file has bytes,
and a value lies within the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
_USUAL_DIRECTORY = 512
"""Bytes that are read at once, in which most directories end."""

_LARGEST_STORAGE_VALUE = 4096
"""Bytes; no tag of `STORAGE_TAGS` needs more."""


class _Format(NamedTuple):
    """Sizes and byte order of the numbers in the directories of a file."""

    order: str
    length: str
    header: str
    """Of an entry: tag, type and count."""
    pointer: str

    @property
    def inline(self) -> int:
        """Bytes of a value that stand in its entry."""
        return struct.calcsize(self.pointer)


class Directory(NamedTuple):
    """The entries of one page."""

    path: str
    """The file."""

    offset: int
    """Position of the directory in the file, in bytes."""

    format: _Format
    """How its numbers are written."""

    entries: bytes
    """Its entries as they are in the file."""

    def tags(self) -> Tags:
        """Tell its entries apart."""
        parts = _splitter(self.format, len(self.entries)).unpack(self.entries)
        return Tags(self, _layout(self.format, parts[::2]), parts[1::2])


class Tags(NamedTuple):
    """The entries of a directory, told apart."""

    directory: Directory
    layout: _Layout
    """What the directories of most pages of a file have in common: tags, types and counts."""

    values: tuple[bytes, ...]
    """For each entry its value, or the offset of it."""

    @property
    def is_page(self) -> bool:
        """Whether it describes pixels at all."""
        return not self.layout.places.keys().isdisjoint({256, 257, STRIP_OFFSETS, TILE_OFFSETS})

    def storage(self, file: BinaryIO) -> tuple[object, ...]:
        """Return all that decides how the pixels are decoded; pages for which it is equal share a decoder."""
        inline = tuple([self.values[place] for place in self.layout.inline_storage])
        distant = tuple([self._distant_storage(file, place) for place in self.layout.distant_storage])
        return (self.directory.format, self.layout.storage, inline, distant)

    def integers(self, file: BinaryIO, *tags: int) -> Sequence[int] | NDArray[np.uint64]:
        """Return the values of the first of some tags that is there; none if there is none.

        Raises
        ------
        SourceError
            If they are not whole numbers, or do not lie within the file.
        """
        tag = next((tag for tag in tags if tag in self.layout.places), None)
        if tag is None:
            return ()
        place, kind, count = self.layout.places[tag]
        if kind not in _TYPES:
            raise SourceError(f"{self.directory.path} is damaged: tag {tag} of a page has type {kind}")
        if count == 1:
            order = "little" if self.directory.format.order == "<" else "big"
            return (int.from_bytes(self.values[place][: _TYPE_SIZES[kind]], order),)  # type: ignore[arg-type]
        dtype = np.dtype(f"{self.directory.format.order}{_TYPES[kind]}")
        return np.frombuffer(self._bytes(file, tag), dtype).astype(np.uint64)

    def content(self, file: BinaryIO, tag: int) -> bytes | None:
        """Return the bytes of a tag's value; None if there is no such tag."""
        return self._bytes(file, tag) if tag in self.layout.places else None

    def _distant_storage(self, file: BinaryIO, place: int) -> bytes:
        _, kind, count = next(entry for entry in self.layout.places.values() if entry[0] == place)
        (offset,) = struct.unpack(self.directory.format.pointer, self.values[place])
        file.seek(min(offset, _size(file)))
        return file.read(count * _TYPE_SIZES.get(kind, 1))

    def _bytes(self, file: BinaryIO, tag: int) -> bytes:
        place, kind, count = self.layout.places[tag]
        size = count * _TYPE_SIZES.get(kind, 1)
        if size <= self.directory.format.inline:
            return self.values[place][:size]
        (offset,) = struct.unpack(self.directory.format.pointer, self.values[place])
        if offset + size > _size(file):
            raise SourceError(
                f"{self.directory.path} is truncated: tag {tag} of a page lies beyond the end of the file"
            )
        file.seek(offset)
        return file.read(size)


@dataclass(frozen=True, eq=False)
class _Layout:
    """Where the entries of equal directories are."""

    places: dict[int, tuple[int, int, int]]
    """For each tag its place, type and count."""

    storage: tuple[bytes, ...]
    """Tags, types and counts of the entries that decide how pixels are decoded."""

    inline_storage: tuple[int, ...]
    """Places of the entries that decide how pixels are decoded and have their values in them."""

    distant_storage: tuple[int, ...]
    """Places of those that have the offset of a value in them."""

    n_segments: int
    """Number of segments of a page."""


@lru_cache(1024)
def _layout(form: _Format, headers: tuple[bytes, ...]) -> _Layout:
    entries = [struct.unpack(form.header, header) for header in headers]
    storage = [
        (place, form.inline < count * _TYPE_SIZES.get(kind, 1) <= _LARGEST_STORAGE_VALUE)
        for place, (tag, kind, count) in enumerate(entries)
        if tag in STORAGE_TAGS
    ]
    return _Layout(
        {tag: (place, kind, count) for place, (tag, kind, count) in enumerate(entries)},
        tuple(headers[place] for place, _ in storage),
        tuple(place for place, is_distant in storage if not is_distant),
        tuple(place for place, is_distant in storage if is_distant),
        max((count for tag, _, count in entries if tag in {STRIP_OFFSETS, TILE_OFFSETS}), default=0),
    )


@lru_cache(1024)
def _splitter(form: _Format, length: int) -> struct.Struct:
    header, value = struct.calcsize(form.header), struct.calcsize(form.pointer)
    return struct.Struct(f"{header}s{value}s" * (length // (header + value)))


def read_directories(path: str | Path) -> tuple[Directory, ...]:
    """Read the directories of all pages, in their order.

    Raises
    ------
    SourceError
        If the file is not a TIFF, ends before its last page, or has a chain of directories that does not end.
    """
    with open(path, "rb") as file:  # noqa: PTH123  # a string too
        form, position = _header(path, file)
        size = _size(file)
        found: dict[int, Directory] = {}
        left = 2 * size
        while position:
            if position in found:
                raise SourceError(f"{path} is damaged: its list of pages is a loop")
            directory, following = _read(str(path), file, size, form, position)
            found[position], position = directory, following
            left -= len(directory.entries)
            if left < 0:
                raise SourceError(f"{path} is damaged: the directories of its pages overlap")
    return tuple(found.values())


def check_tables(directories: Sequence[Directory]) -> None:
    """Refuse pages whose tables of segments, all together, are longer than their file.

    Raises
    ------
    SourceError
        If they are, so that many pages share one table.
    """
    path = directories[0].path
    check_number_of_segments(path, sum(directory.tags().layout.n_segments for directory in directories))


def check_number_of_segments(path: str, n_segments: int) -> None:
    """Refuse a file whose pages have this many segments; see `check_tables`."""
    if n_segments > os.stat(path).st_size:  # noqa: PTH116  # a string
        raise SourceError(f"{path} is damaged: its pages share the tables of where their pixels are")


def read_directory(path: str | Path, offset: int) -> Directory:
    """Read one directory, which need not be in the list of pages.

    Raises
    ------
    SourceError
        If it does not lie within the file.
    """
    with open(path, "rb") as file:  # noqa: PTH123  # a string too
        form, _ = _header(path, file)
        return _read(str(path), file, _size(file), form, offset)[0]


def _header(path: str | Path, file: BinaryIO) -> tuple[_Format, int]:
    start = file.read(16)
    order = {b"II": "<", b"MM": ">"}.get(start[:2])
    version = start[2:4] if order == "<" else start[3:1:-1]
    if order is None or version not in {b"*\0", b"+\0"} or len(start) < 8:
        raise SourceError(f"{path} cannot be read as a TIFF: it begins with {start[:4]!r}")
    if version == b"*\0":
        form = _Format(order, f"{order}H", f"{order}HHI", f"{order}I")
        return form, struct.unpack_from(form.pointer, start, 4)[0]
    form = _Format(order, f"{order}Q", f"{order}HHQ", f"{order}Q")
    if len(start) < 16:
        raise SourceError(f"{path} is truncated: it ends before its first page")
    return form, struct.unpack_from(form.pointer, start, 8)[0]


def _read(path: str, file: BinaryIO, size: int, form: _Format, position: int) -> tuple[Directory, int]:
    """Read a directory and the position of the next one."""
    length_size, entry_size, pointer_size = _sizes(form)
    file.seek(min(position, size))
    content = file.read(_USUAL_DIRECTORY)
    n_entries = struct.unpack_from(form.length, content)[0] if len(content) >= length_size else 0
    stop = length_size + n_entries * entry_size
    if position + stop + pointer_size > size or len(content) < length_size:
        raise SourceError(f"{path} is truncated: it ends before its last page")
    if stop + pointer_size > len(content):
        content += file.read(stop + pointer_size - len(content))
    return Directory(path, position, form, content[length_size:stop]), struct.unpack_from(form.pointer, content, stop)[
        0
    ]


@lru_cache(8)
def _sizes(form: _Format) -> tuple[int, int, int]:
    """Bytes of the number of entries, of an entry, and of the offset of the next directory."""
    pointer = struct.calcsize(form.pointer)
    return struct.calcsize(form.length), struct.calcsize(form.header) + pointer, pointer


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
