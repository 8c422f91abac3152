"""The directories (IFDs) of a TIFF, with the tags of its pages, read within bounds.

A directory is a list of entries, each a tag, a type, a count and a value or its offset, and then the offset of the next
directory. Files are not trusted: a chain of directories must end, needs no more memory than the file has bytes, and a value must
lie within the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError

STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS = 273, 279, 324, 325
OFFSETS, BYTE_COUNTS = (TILE_OFFSETS, STRIP_OFFSETS), (TILE_BYTE_COUNTS, STRIP_BYTE_COUNTS)
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
"""The tags that decide how the pixels of a page are decoded, except for their positions."""

_TYPES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
TYPE_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_USUAL_DIRECTORY, _LARGEST_WINDOW = 512, 1 << 16
"""Numbers of bytes that are read at once: the size of most directories, and the limit if one lies close to the next."""

_LARGEST_STORAGE_VALUE = 4096
"""Bytes of the longest value; no tag of `STORAGE_TAGS` needs more."""

_SMALL_TABLE = 1 << 16
"""Bytes that are read without a check of the file's size."""

LAST_POSITION = 2**62
"""A valid position beyond the end of any file."""


class _Format(NamedTuple):
    """Sizes and byte order of the numbers in the directories of a file."""

    order: str
    length: str
    header: str
    """Format of an entry's tag, type and count."""
    pointer: str

    @property
    def inline(self) -> int:
        """Largest number of bytes of a value inside an entry."""
        return struct.calcsize(self.pointer)

    @property
    def entry_dtype(self) -> np.dtype[np.void]:
        """Structured dtype of an entry."""
        count = f"{self.order}u{self.inline}"
        return np.dtype([("tag", f"{self.order}u2"), ("type", f"{self.order}u2"), ("count", count), ("value", count)])


@dataclass(frozen=True, eq=False, slots=True)
class Directories(Sequence["Directory"]):
    """The directories of the pages of a file, in their order."""

    path: str
    """The file."""

    format: _Format
    """How their numbers are written."""

    offsets: Sequence[int]
    """Position of each in the file, in bytes."""

    entries: bytes
    """The entries of all of them as they are in the file, one directory after the other."""

    bounds: Sequence[int]
    """Where in `entries` each begins, and where the last one ends."""

    def __len__(self) -> int:
        return len(self.offsets)

    @overload
    def __getitem__(self, index: int) -> Directory: ...

    @overload
    def __getitem__(self, index: slice) -> list[Directory]: ...

    def __getitem__(self, index: int | slice) -> Directory | list[Directory]:
        entries, bounds = self.entries, self.bounds
        numbers = range(len(bounds) - 1)[index]
        if isinstance(numbers, int):
            return Directory(self, numbers, entries[bounds[numbers] : bounds[numbers + 1]])
        return [Directory(self, number, entries[bounds[number] : bounds[number + 1]]) for number in numbers]

    def __iter__(self) -> Iterator[Directory]:
        return iter(self[:])

    def of_length(self, n_bytes: int) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
        """Find the directories that have this length: their numbers, and the bytes of each as a row."""
        bounds = np.array(self.bounds)
        numbers = np.flatnonzero(np.diff(bounds) == n_bytes)
        at_any_place = np.ndarray(len(self.entries) - n_bytes + 1, f"V{n_bytes}", self.entries, strides=(1,))
        return numbers, at_any_place[bounds[numbers]].view(np.uint8).reshape(-1, n_bytes)


class Directory(NamedTuple):
    """The directory of one page."""

    among: Directories
    """Those of all pages of its file."""

    number: int
    """Which of them it is."""

    entries: bytes
    """Its entries as they are in the file."""

    @property
    def path(self) -> str:
        """The file."""
        return self.among.path

    @property
    def format(self) -> _Format:
        """How its numbers are written."""
        return self.among.format

    @property
    def offset(self) -> int:
        """Position of the directory in the file, in bytes."""
        return self.among.offsets[self.number]

    def tags(self) -> Tags:
        """Split the directory into its entries."""
        form = self.among.format
        parts = _splitter(form, len(self.entries)).unpack(self.entries)
        return Tags(self, _layout(form, parts[::2]), parts[1::2])


class Tags(NamedTuple):
    """The entries of a directory, split into tags, types, counts and values."""

    directory: Directory
    layout: _Layout
    """Tags, types and counts, which are the same for most pages of a file."""

    values: tuple[bytes, ...]
    """For each entry its value, or the offset of the value."""

    @property
    def is_page(self) -> bool:
        """Whether the directory describes pixels."""
        return not self.layout.places.keys().isdisjoint({256, 257, *OFFSETS})

    def storage(self, file: BinaryIO) -> tuple[object, ...]:
        """Return everything that decides how the pixels are decoded; pages for which it is equal share a decoder."""
        inline = tuple([self.values[place] for place in self.layout.inline_storage])
        distant = tuple([self.distant_value(file, *value) for value in self.layout.distant_storage])
        return (self.directory.format, self.layout.storage, inline, distant)

    def integers(self, file: BinaryIO, *tags: int) -> Sequence[int] | NDArray[np.uint64]:
        """Return the values of the first of some tags that the directory has; empty if it has none.

        Raises
        ------
        SourceError
            If they are not whole numbers, or do not lie within the file.
        """
        for tag in tags:
            if tag in self.layout.places:
                break
        else:
            return ()
        place, kind, count = self.layout.places[tag]
        if kind not in _TYPES:
            raise SourceError(f"{self.directory.path} is damaged: tag {tag} of a page has type {kind}")
        if count == 1:
            order = "little" if self.directory.format.order == "<" else "big"
            return (int.from_bytes(self.values[place][: TYPE_SIZES[kind]], order),)  # type: ignore[arg-type]
        return np.frombuffer(self._bytes(file, tag), _dtype(self.directory.format.order, kind)).astype(np.uint64)

    def content(self, file: BinaryIO, tag: int) -> bytes | None:
        """Return the bytes of a tag's value; None if the directory does not have the tag."""
        return self._bytes(file, tag) if tag in self.layout.places else None

    def distant_value(self, file: BinaryIO, place: int, n_bytes: int) -> bytes:
        """Return the bytes of a value outside the directory, fewer at the end of the file."""
        (offset,) = struct.unpack(self.directory.format.pointer, self.values[place])
        file.seek(min(offset, LAST_POSITION))
        return file.read(n_bytes)

    def _bytes(self, file: BinaryIO, tag: int) -> bytes:
        place, kind, count = self.layout.places[tag]
        size = count * TYPE_SIZES.get(kind, 1)
        if size <= self.directory.format.inline:
            return self.values[place][:size]
        (offset,) = struct.unpack(self.directory.format.pointer, self.values[place])
        content = b""
        if size <= _SMALL_TABLE or offset + size <= _size(file):
            file.seek(min(offset, LAST_POSITION))
            content = file.read(size)
        if len(content) < size:
            raise SourceError(
                f"{self.directory.path} is truncated: tag {tag} of a page lies beyond the end of the file"
            )
        return content


@dataclass(frozen=True, eq=False)
class _Layout:
    """The places of entries in directories with the same tags, types and counts."""

    places: dict[int, tuple[int, int, int]]
    """For each tag its place, type and count."""

    storage: tuple[bytes, ...]
    """Tags, types and counts of the entries that decide how pixels are decoded."""

    inline_storage: tuple[int, ...]
    """Places of the entries that decide how pixels are decoded and have their values in them."""

    distant_storage: tuple[tuple[int, int], ...]
    """Places of the entries with the offset of a value, and the number of bytes of the value."""

    n_segments: int
    """Number of segments of a page."""


@lru_cache(1024)
def _layout(form: _Format, headers: tuple[bytes, ...]) -> _Layout:
    entries = [struct.unpack(form.header, header) for header in headers]
    sizes = {
        place: count * TYPE_SIZES.get(kind, 1)
        for place, (tag, kind, count) in enumerate(entries)
        if tag in STORAGE_TAGS
    }
    distant = {place: size for place, size in sizes.items() if form.inline < size <= _LARGEST_STORAGE_VALUE}
    return _Layout(
        {tag: (place, kind, count) for place, (tag, kind, count) in enumerate(entries)},
        tuple(headers[place] for place in sizes),
        tuple(place for place in sizes if place not in distant),
        tuple(distant.items()),
        max((count for tag, _, count in entries if tag in OFFSETS), default=0),
    )


@cache
def _dtype(order: str, kind: int) -> np.dtype[Any]:
    return np.dtype(f"{order}{_TYPES[kind]}")


@lru_cache(1024)
def _splitter(form: _Format, length: int) -> struct.Struct:
    header, value = struct.calcsize(form.header), struct.calcsize(form.pointer)
    return struct.Struct(f"{header}s{value}s" * (length // (header + value)))


def read_directories(path: str | Path) -> Directories:
    """Read the directories of all pages, in their order.

    Raises
    ------
    SourceError
        If the file is not a TIFF, ends before its last page, or has a chain of directories that does not end.
    """
    with open(path, "rb") as file:  # noqa: PTH123  # a string too
        form, position = _header(path, file)
        reader = _DirectoryReader(str(path), file, form)
        entries = bytearray()
        offsets: list[int] = []
        lengths: list[int] = []
        found: set[int] = set()
        while position:
            positions, content, position = reader.read(position)
            if not found.isdisjoint(positions):
                raise SourceError(f"{path} is damaged: its list of pages is a loop")
            found.update(positions)
            offsets += positions
            lengths += [len(content) // len(positions)] * len(positions)
            entries += content
            if len(entries) > 2 * reader.size:
                raise SourceError(f"{path} is damaged: the directories of its pages overlap")
    return Directories(str(path), form, offsets, bytes(entries), list(accumulate(lengths, initial=0)))


def check_tables(directories: Directories) -> None:
    """Check that the tables of segments of all pages together are not longer than the file.

    Raises
    ------
    SourceError
        If they are longer, which means that many pages share one table.
    """
    entries = np.frombuffer(directories.entries, directories.format.entry_dtype)
    is_table = np.isin(entries["tag"], OFFSETS)
    check_number_of_segments(directories.path, int(entries["count"][is_table].sum(dtype=np.float64)))


def check_number_of_segments(path: str, n_segments: int) -> None:
    """Check that the pages of a file can have this number of segments; see `check_tables`."""
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
        _, entries, _ = _DirectoryReader(str(path), file, form).read(offset)
    return Directories(str(path), form, [offset], entries, [0, len(entries)])[0]


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


class _DirectoryReader:
    """Reads the directories of one file; directories that lie close together are read at once, through a growing window."""

    def __init__(self, path: str, file: BinaryIO, form: _Format) -> None:
        self.size = _size(file)
        self._path, self._file, self._format = path, file, form
        self._sizes = _sizes(form)
        self._length, self._pointer = struct.Struct(form.length).unpack_from, struct.Struct(form.pointer).unpack_from
        self._start, self._window = 0, b""
        self._distance = 0

    def read(self, position: int) -> tuple[Sequence[int], bytes, int]:
        """Read a directory; and those after it in the window, where they have its length and are as far apart as the last two.

        Returns
        -------
        positions : sequence of int
            Where they are in the file.
        entries : bytes
            Their entries, one directory after the other.
        following : int
            Where the next one is; 0 if there is none.
        """
        length_size, entry_size, pointer_size = self._sizes
        start = self._place(position, length_size)
        stop = start + length_size + self._length(self._window, start)[0] * entry_size
        if stop + pointer_size > len(self._window):
            n_bytes = stop - start
            start = self._place(position, n_bytes + pointer_size)
            stop = start + n_bytes
        (following,) = self._pointer(self._window, stop)
        distance, self._distance = self._distance, following - position
        if distance == self._distance and distance >= stop + pointer_size - start:
            return self._read_run(position, start, stop + pointer_size)
        return (position,), self._window[start + length_size : stop], following

    def _read_run(self, position: int, start: int, stop: int) -> tuple[Sequence[int], bytes, int]:
        """Read directories from `start` in the window on, the first of which ends at `stop`; see `read`."""
        length_size, _, pointer_size = self._sizes
        n_rows = (len(self._window) - stop) // self._distance + 1
        rows = np.ndarray((n_rows, stop - start), np.uint8, self._window, start, (self._distance, 1))
        positions = range(position, position + n_rows * self._distance, self._distance)
        pointers = np.ascontiguousarray(rows[:, -pointer_size:]).view(f"{self._format.order}u{pointer_size}")[:, 0]
        leads_on = pointers.astype(np.int64) == np.arange(position, positions.stop, self._distance) + self._distance
        leads_on &= (rows[:, :length_size] == rows[0, :length_size]).all(axis=1)
        n_read = n_rows if leads_on.all() else int(leads_on.argmin())  # at least 1: the first leads on at this distance
        entries = rows[:n_read, length_size:-pointer_size].tobytes()
        return positions[:n_read], entries, position + n_read * self._distance

    def _place(self, position: int, n_bytes: int) -> int:
        """Return the place of a position in the window, which is moved if it does not contain the bytes from there on."""
        place = position - self._start
        if 0 <= place <= len(self._window) - n_bytes:
            return place
        if position + n_bytes > self.size:
            raise SourceError(f"{self._path} is truncated: it ends before its last page")
        is_near = 0 <= place < 2 * len(self._window)
        length = min(2 * len(self._window), _LARGEST_WINDOW) if is_near else _USUAL_DIRECTORY
        self._file.seek(position)
        self._start, self._window = position, self._file.read(max(length, n_bytes))
        return 0


@lru_cache(8)
def _sizes(form: _Format) -> tuple[int, int, int]:
    """Return the sizes in bytes of the number of entries, of an entry, and of the offset of the next directory."""
    pointer = struct.calcsize(form.pointer)
    return struct.calcsize(form.length), struct.calcsize(form.header) + pointer, pointer


def _size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
