"""The pages of a TIFF image, and how to read a box of them.

A TIFF image is a series of pages, and a page is stored in segments: strips or tiles. The table of all segments, with their
offsets and byte counts, is made once, when the file is opened. Then a box is read in four steps:

1. find the segments of each page that the box overlaps,
2. read the bytes of these segments only,
3. decode them with the decoder of their page,
4. copy the pixels inside the box.

Pages may be stored differently: each has a `PageKind`, made from its own tags. Pages that are one run of plain pixels are mapped
into memory instead, so that only the rows needed are read.

A page has the axes `(planar samples, depth, length, width, interleaved samples)`, as in tifffile. Files are opened for each read,
and only the maps used last are kept: otherwise a series of thousands of TIFFs would exceed the limit on open files.
"""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError
from patchloom.image_stacks.tiff.segments import DAMAGE, Decoder
from patchloom.image_stacks.tiff.stored_page import PageKind, StoredPage

MAPS_KEPT = 32
"""Number of files that stay mapped into memory. Mapping a file again costs a page fault for every page read."""

MISSING = -1
"""The index of the file of a page that was never written; its pixels are 0."""


@dataclass(frozen=True, slots=True)
class PageTable:
    """The segments of pages of equal shape, as plain data that pickles.

    Examples
    --------
    >>> kind = PageKind(
    ...     page_shape=(1, 1, 4, 4, 1), segment_shape=(1, 1, 4, 4, 1), dtype=np.dtype("<u2"), color="MINISBLACK", fill=0,
    ...     directory=("a.tif", 72), jpeg_header=None, is_plain=True, is_reduced=False, axes="YX", shape=(4, 4),
    ... )
    >>> table = PageTable(
    ...     files=("a.tif",), file_of_page=np.zeros(2, int), kinds=(kind,), kind_of_page=np.zeros(2, int),
    ...     is_run=np.ones(2, bool), offsets=np.array([[8], [40]]), byte_counts=np.full((2, 1), 32), jpeg_tables=(),
    ... )
    >>> table.page_shape, table.segment_shape
    ((1, 1, 4, 4, 1), None)
    """

    files: tuple[str, ...]
    """The files in which pages lie; mostly one."""

    file_of_page: NDArray[np.intp]
    """For each page the index of its file, or `MISSING`."""

    kinds: tuple[PageKind, ...]
    """The ways in which pages are stored; mostly one."""

    kind_of_page: NDArray[np.intp]
    """For each page the index of its kind."""

    is_run: NDArray[np.bool_]
    """For each page whether it is one run of plain pixels, which is mapped into memory."""

    offsets: NDArray[np.int64]
    """Pages × segments: position of each segment in its file. A run has one segment."""

    byte_counts: NDArray[np.int64]
    """Pages × segments: number of stored bytes of each segment."""

    jpeg_tables: tuple[bytes | None, ...]
    """For each page the tables that its JPEG segments share; empty if no page has any."""

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Shape of a page."""
        return self.kinds[0].page_shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the pixels, in the byte order of the machine."""
        return self.kinds[0].dtype.newbyteorder("=")

    @property
    def segment_shape(self) -> tuple[int, ...] | None:
        """Shape of a segment, the largest if pages differ; None if nothing is decoded."""
        decoded = np.unique(self.kind_of_page[~self.is_run & (self.file_of_page != MISSING)])
        shapes = [self.kinds[number].segment_shape for number in decoded]
        return tuple(map(max, zip(*shapes, strict=True))) if shapes else None


def page_table(pages: Sequence[StoredPage | None]) -> PageTable:
    """Make the table of the pages of an image.

    Parameters
    ----------
    pages : sequence of StoredPage or None
        None for a page that was never written; at least one page exists.

    Raises
    ------
    SourceError
        If the pages cannot be one image, or a file ends before its last pixel.
    """
    absent = next(filter(None, pages))._replace(path="", offsets=(), byte_counts=(), jpeg_tables=None, is_run=False)
    columns = zip(*[page or absent for page in pages], strict=True)
    paths, kinds_of_pages, offsets, byte_counts, jpeg_tables, is_run = columns
    files = {path: number for number, path in enumerate(dict.fromkeys(filter(None, paths)))}
    kinds = {kind: number for number, kind in enumerate(dict.fromkeys(kinds_of_pages))}
    _check_one_image(pages, tuple(kinds))
    width = max(map(len, offsets))
    table = PageTable(
        files=tuple(files),
        file_of_page=np.array([files.get(path, MISSING) for path in paths]),
        kinds=tuple(kinds),
        kind_of_page=np.array([kinds[kind] for kind in kinds_of_pages]),
        is_run=np.array(is_run),
        offsets=_rows(offsets, width),
        byte_counts=_rows(byte_counts, width),
        jpeg_tables=jpeg_tables if any(jpeg_tables) else (),
    )
    _check_within_files(table)
    return table


def _rows(rows: Sequence[Sequence[int] | NDArray[np.uint64]], width: int) -> NDArray[np.int64]:
    """Stack rows of numbers, filled with 0. Positions beyond any file stay beyond it."""
    if width == 1:
        numbers = np.array([row[0] if len(row) else 0 for row in rows], np.uint64)
        return np.minimum(numbers, np.uint64(_BEYOND)).astype(np.int64)[:, np.newaxis]
    arrays = [np.asarray(row, np.uint64) for row in rows]
    blank = np.zeros(width, np.uint64)
    whole = [row if len(row) == width else np.concatenate([row, blank[len(row) :]]) for row in arrays]
    table: NDArray[np.uint64] = np.concatenate(whole).reshape(-1, width)
    return np.minimum(table, np.uint64(_BEYOND)).astype(np.int64)


_BEYOND = 2**62


def _check_one_image(pages: Sequence[StoredPage | None], kinds: Sequence[PageKind]) -> None:
    """Check that pages differ only in the way in which they are stored."""
    others = [kind for kind in kinds if kind.image != kinds[0].image]
    if others:
        number, page = next((number, page) for number, page in enumerate(pages) if page and page.kind == others[0])
        first = next(page for page in pages if page)
        raise SourceError(
            f"{page.path}: page {number} has {page.kind.described()}, but {first.path} begins with {kinds[0].described()}: "
            "they cannot be one image"
        )


def _check_within_files(table: PageTable) -> None:
    ends = (table.offsets + table.byte_counts).max(axis=1)
    for number, path in enumerate(table.files):
        needed, size = int(ends[table.file_of_page == number].max()), os.stat(path).st_size  # noqa: PTH116  # a string
        if needed > size:
            raise SourceError(f"{path} is truncated: its pixels need {needed} bytes, and it has {size}")


def read_pages(
    table: PageTable, pages: Sequence[int], box: tuple[slice, ...], out: NDArray[Any], decoder: Callable[[int], Decoder]
) -> None:
    """Read the same box of some pages.

    Parameters
    ----------
    table : PageTable
        The segments of the image.
    pages : sequence of int
        Indices of the pages.
    box : tuple of slice
        Five slices with start and stop.
    out : array
        One box for each page, filled with 0.
    decoder : callable
        Returns the decoder of a kind by its index.

    Raises
    ------
    SourceError
        If a segment cannot be read or decoded.
    """
    for (number, is_run), group in itertools.groupby(
        enumerate(pages), lambda entry: (int(table.file_of_page[entry[1]]), bool(table.is_run[entry[1]]))
    ):
        if number == MISSING:
            continue
        path = table.files[number]
        places = list(group)
        try:
            if is_run:
                _copy_mapped(table, path, places, box, out)
                continue
            with open(path, "rb") as file:  # noqa: PTH123  # a string
                for place, page in places:
                    decode = decoder(int(table.kind_of_page[page]))
                    for segment in _decoded_segments(table, file, page, box, decode):
                        _copy_segment(segment, box, out[place])
        except SourceError:
            raise
        except OSError as error:
            raise SourceError(f"{path} cannot be read: {error}") from error


def _copy_mapped(
    table: PageTable, path: str, places: Sequence[tuple[int, int]], box: tuple[slice, ...], out: NDArray[Any]
) -> None:
    status = os.stat(path)  # noqa: PTH116  # a string
    if status.st_size < max(table.offsets[page, 0] + table.byte_counts[page, 0] for _, page in places):
        # Reading beyond the end of a mapped file would end the process.
        raise SourceError(f"{path} has become shorter since it was opened: open it again")
    mapping = _mapping(path, status.st_size, status.st_mtime_ns)
    for place, page in places:
        dtype = table.kinds[table.kind_of_page[page]].dtype
        pixels: NDArray[Any] = np.ndarray(table.page_shape, dtype, mapping, int(table.offsets[page, 0]))
        out[place] = pixels[box]


@lru_cache(MAPS_KEPT)
def _mapping(path: str, size: int, changed: int) -> mmap.mmap:  # noqa: ARG001  # another size or time is another file
    with open(path, "rb") as file:  # noqa: PTH123  # a string
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Segment(NamedTuple):
    """A decoded segment and its place in the page."""

    corner: tuple[int, ...]
    """First pixel, along the five axes of the page."""

    shape: tuple[int, ...]
    """Size along the same axes."""

    pixels: NDArray[Any] | float
    """Pixels without the axis of planar samples, or the value of all pixels."""


def _decoded_segments(
    table: PageTable, file: BinaryIO, page: int, box: tuple[slice, ...], decode: Decoder
) -> Iterator[_Segment]:
    """Read and decode the segments of a page that a box overlaps."""
    kind = table.kinds[table.kind_of_page[page]]
    tables = table.jpeg_tables[page] if table.jpeg_tables else None
    for number in _segment_numbers(kind, box):
        encoded = read_segment(file, int(table.offsets[page, number]), int(table.byte_counts[page, number]))
        try:
            pixels, corner, shape = decode(encoded, number, jpegtables=tables, jpegheader=kind.jpeg_header)
        except DAMAGE as error:
            raise SourceError(f"{file.name}: segment {number} of page {page} cannot be decoded: {error}") from error
        yield _Segment(corner, (1, *shape), kind.fill if pixels is None else pixels)


def _copy_segment(segment: _Segment, box: tuple[slice, ...], out: NDArray[Any]) -> None:
    """Copy the pixels of a segment that lie in the box."""
    common = [
        (max(part.start, start), min(part.stop, start + side), part.start, start)
        for part, start, side in zip(box, segment.corner, segment.shape, strict=True)
    ]
    there = tuple(slice(start - origin, stop - origin) for start, stop, origin, _ in common)
    here = tuple(slice(start - origin, stop - origin) for start, stop, _, origin in common[1:])
    out[there] = segment.pixels[here] if isinstance(segment.pixels, np.ndarray) else segment.pixels


def read_segment(file: BinaryIO, offset: int, byte_count: int) -> bytes | None:
    """Read the bytes of one segment; None if it was left out.

    Raises
    ------
    SourceError
        If the file ends before the segment does.
    """
    if not byte_count:
        return None
    file.seek(offset)
    encoded = file.read(byte_count)
    if len(encoded) < byte_count:
        raise SourceError(f"{file.name} is truncated: it does not contain all {byte_count} bytes at {offset}")
    return encoded


def _segment_numbers(kind: PageKind, box: tuple[slice, ...]) -> Iterator[int]:
    """Yield the indices of the segments that a box overlaps."""
    met = [
        range(part.start // side, (part.stop - 1) // side + 1)
        for part, side in zip(box[:4], kind.segment_shape[:4], strict=True)
    ]
    for index in itertools.product(*met):
        yield int(np.ravel_multi_index(index, kind.segment_counts))
