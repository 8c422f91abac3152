"""Where a TIFF keeps its pixels, and how to read a box of them.

A TIFF image is a series of pages, and a page is stored in segments: strips or tiles. The table of all segments, their
offsets and byte counts, is taken once, when the file is opened; from then on a box is read by

1. picking the pages and, on each, the segments that the box meets,
2. reading the bytes of those segments and no others,
3. decoding them with the page's own decoder, which tifffile makes,
4. copying what lies in the box.

Pages that are neither compressed nor cut up are mapped into memory instead, so that only the rows needed are read.

Everything here sees a page as `(planar samples, depth, length, width, interleaved samples)`, as tifffile does. Files
are opened for each read, and only the maps last used are kept: a series of thousands of TIFFs would run into the limit
on open files otherwise.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.errors import SourceError

Decoder = Callable[..., tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]]
"""tifffile's: from the bytes and number of a segment to its pixels, its place and its shape."""

MAPS_KEPT = 32
"""How many files stay mapped into memory. Mapped anew, a file costs a page fault for every page read."""

MISSING = -1
"""The file number of a page that was never written; its pixels are 0."""


@dataclass(frozen=True, slots=True)
class PageTable:
    """The segments of a series of equal pages; plain data that pickles.

    Examples
    --------
    >>> table = PageTable(
    ...     files=("a.tif",), file_of_page=np.zeros(2, int),
    ...     offsets=np.array([[8], [40]]), byte_counts=np.full((2, 1), 32),
    ...     page_shape=(1, 1, 4, 4, 1), segment_shape=(1, 1, 4, 4, 1), dtype=np.dtype("<u2"), mapped=True, fill=0,
    ...     keyframe=("a.tif", 72), jpeg_tables=(), jpeg_header=None,
    ... )
    >>> table.segment_counts
    (1, 1, 1, 1)
    """

    files: tuple[str, ...]
    """The files that pages lie in; mostly one."""

    file_of_page: NDArray[np.intp]
    """For each page the number of its file, or `MISSING`."""

    offsets: NDArray[np.int64]
    """Pages × segments: where a segment begins in its file. One segment a page if `mapped`."""

    byte_counts: NDArray[np.int64]
    """Pages × segments: how long a segment is as stored."""

    page_shape: tuple[int, ...]
    """Shape of a page."""

    segment_shape: tuple[int, ...]
    """Shape of a segment; those at the end of a page may be shorter."""

    dtype: np.dtype[Any]
    """The pixels' dtype, in the file's byte order."""

    mapped: bool
    """Whether each page is one run of plain pixels."""

    fill: float
    """Value of the pixels of a segment that was left out."""

    keyframe: tuple[str, int]
    """File and offset of the directory of a page that has everything a decoder must know."""

    jpeg_tables: tuple[bytes | None, ...]
    """For each page the tables that its JPEG segments share; empty where none has any."""

    jpeg_header: bytes | None
    """What JPEG segments lack at their beginning, in some formats."""

    @property
    def segment_counts(self) -> tuple[int, ...]:
        """How many segments a page has along each axis but the last, which is never cut."""
        sides = zip(self.page_shape[:4], self.segment_shape[:4], strict=True)
        return tuple(math.ceil(size / side) for size, side in sides)


def page_table(series: tifffile.TiffPageSeries) -> PageTable:
    """Take the table of a series while its file is open.

    Raises
    ------
    SourceError
        If the pages do not tell where all their pixels are.
    """
    keyframe = series.keyframe
    pages = list(_Stored.of_series(series))
    paths = tuple(dict.fromkeys(page.path for page in pages if page.path))
    n_segments = max(len(page.offsets) for page in pages)
    table = PageTable(
        files=paths,
        file_of_page=np.array([paths.index(page.path) if page.path else MISSING for page in pages]),
        offsets=_rows([page.offsets for page in pages], n_segments),
        byte_counts=_rows([page.byte_counts for page in pages], n_segments),
        page_shape=tuple(keyframe.shaped),
        segment_shape=_segment_shape(keyframe),
        dtype=np.dtype(series.dtype).newbyteorder(keyframe.parent.byteorder),
        mapped=False,
        fill=keyframe.nodata,
        keyframe=(keyframe.parent.filehandle.path, keyframe.offset),
        jpeg_tables=tuple(page.jpeg_tables for page in pages) if any(page.jpeg_tables for page in pages) else (),
        jpeg_header=keyframe.jpegheader,
    )
    if math.prod(table.segment_counts) != n_segments or len(table.offsets) != _n_pages(series):
        raise SourceError(f"{paths[0]} is corrupt: its pages do not tell where all of their pixels are")
    return _mapped(table) if keyframe.is_final and _is_plain(table) else table


def decoder(table: PageTable) -> Decoder:
    """Make the decoder of a table's segments anew, as a decoder does not pickle."""
    path, offset = table.keyframe
    with tifffile.TiffFile(path) as tif:
        tif.filehandle.seek(offset)
        decode: Decoder = tifffile.TiffPage(tif, index=0).decode
    return decode


def check_within_files(table: PageTable) -> None:
    """Refuse a file that ends before its last pixel.

    Raises
    ------
    SourceError
        If a segment passes the end of its file.
    """
    ends = (table.offsets + table.byte_counts).max(axis=1)
    for number, path in enumerate(table.files):
        needed, size = int(ends[table.file_of_page == number].max()), os.stat(path).st_size  # noqa: PTH116  # a string
        if needed > size:
            raise SourceError(f"{path} is truncated: its pixels need {needed} bytes, and it has {size}")


def read_pages(
    table: PageTable, pages: Sequence[int], box: tuple[slice, ...], out: NDArray[Any], decode: Decoder
) -> None:
    """Read the same box of some pages.

    Parameters
    ----------
    table : PageTable
        Where the pixels are.
    pages : sequence of int
        Which pages.
    box : tuple of slice
        Five slices; start and stop given.
    out : array
        One box a page, zeroed.
    decode : callable
        The decoder of the table's segments.

    Raises
    ------
    SourceError
        If a segment cannot be read or decoded.
    """
    for number, group in itertools.groupby(enumerate(pages), lambda entry: int(table.file_of_page[entry[1]])):
        if number == MISSING:
            continue
        path = table.files[number]
        places = list(group)
        try:
            if table.mapped:
                _copy_mapped(table, path, places, box, out)
                continue
            with open(path, "rb") as file:  # noqa: PTH123  # a string
                for place, page in places:
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
        # To read on would end the process.
        raise SourceError(f"{path} has become shorter since it was opened")
    mapping = _mapping(path, status.st_size, status.st_mtime_ns)
    for place, page in places:
        pixels: NDArray[Any] = np.ndarray(table.page_shape, table.dtype, mapping, int(table.offsets[page, 0]))
        out[place] = pixels[box]


@lru_cache(MAPS_KEPT)
def _mapping(path: str, size: int, changed: int) -> mmap.mmap:  # noqa: ARG001  # another size or time is another file
    with open(path, "rb") as file:  # noqa: PTH123  # a string
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class _Segment(NamedTuple):
    """A decoded segment and where it lies in its page."""

    corner: tuple[int, ...]
    """Its first pixel, in the page's five axes."""

    shape: tuple[int, ...]
    """Its extent, likewise."""

    pixels: NDArray[Any] | float
    """Its pixels, without an axis for planar samples, or the value of all of them."""


def _decoded_segments(
    table: PageTable, file: BinaryIO, page: int, box: tuple[slice, ...], decode: Decoder
) -> Iterator[_Segment]:
    """Read and decode the segments of a page that a box meets."""
    tables = table.jpeg_tables[page] if table.jpeg_tables else None
    for number in _segment_numbers(table, box):
        encoded = read_segment(file, int(table.offsets[page, number]), int(table.byte_counts[page, number]))
        try:
            pixels, corner, shape = decode(encoded, number, jpegtables=tables, jpegheader=table.jpeg_header)
        except (ValueError, RuntimeError, TypeError, IndexError, ImportError, tifffile.TiffFileError) as error:
            raise SourceError(f"{file.name}: segment {number} of page {page} cannot be decoded: {error}") from error
        yield _Segment(corner, (1, *shape), table.fill if pixels is None else pixels)


def _copy_segment(segment: _Segment, box: tuple[slice, ...], out: NDArray[Any]) -> None:
    """Copy what lies in the box."""
    common = [
        (max(part.start, start), min(part.stop, start + side), part.start, start)
        for part, start, side in zip(box, segment.corner, segment.shape, strict=True)
    ]
    there = tuple(slice(start - origin, stop - origin) for start, stop, origin, _ in common)
    here = tuple(slice(start - origin, stop - origin) for start, stop, _, origin in common[1:])
    out[there] = segment.pixels[here] if isinstance(segment.pixels, np.ndarray) else segment.pixels


def read_segment(file: BinaryIO, offset: int, byte_count: int) -> bytes | None:
    """Read the bytes of one segment; `None` for one that was left out.

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
        raise SourceError(f"{file.name} is truncated: {byte_count} bytes at {offset} are not all there")
    return encoded


def _segment_numbers(table: PageTable, box: tuple[slice, ...]) -> Iterator[int]:
    """Give the numbers of the segments that a box meets."""
    met = [
        range(part.start // side, (part.stop - 1) // side + 1)
        for part, side in zip(box[:4], table.segment_shape[:4], strict=True)
    ]
    for index in itertools.product(*met):
        yield int(np.ravel_multi_index(index, table.segment_counts))


class _Stored(NamedTuple):
    """What one page tells of where it is stored."""

    path: str
    offsets: Sequence[int]
    byte_counts: Sequence[int]
    jpeg_tables: bytes | None

    @classmethod
    def of_series(cls, series: tifffile.TiffPageSeries) -> Iterator[_Stored]:
        keyframe = series.keyframe
        if series.dataoffset is not None and not series.is_multifile:
            # The pages follow each other, and may have no directories of their own.
            shift = series.dataoffset - keyframe.dataoffsets[0]
            path = keyframe.parent.filehandle.path
            for number in range(_n_pages(series)):
                start = shift + number * keyframe.nbytes
                offsets = [offset + start for offset in keyframe.dataoffsets]
                yield cls(path, offsets, keyframe.databytecounts, None)
            return
        for page in series:
            if page is None:
                yield cls("", (), (), None)
            else:
                tables = getattr(page, "jpegtables", None)
                yield cls(page.parent.filehandle.path, page.dataoffsets, page.databytecounts, tables)


def _n_pages(series: tifffile.TiffPageSeries) -> int:
    return math.prod(series.get_shape(squeeze=False)) // math.prod(series.keyframe.shape)


def _segment_shape(page: tifffile.TiffPage) -> tuple[int, ...]:
    sides = (
        (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else (1, page.rowsperstrip, page.imagewidth)
    )
    return (1, *sides, page.shaped[-1])


def _rows(rows: Sequence[Sequence[int]], width: int) -> NDArray[np.int64]:
    """Stack rows of numbers; those of missing pages are 0."""
    table = np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        table[number, : len(row)] = row
    return table


def _is_plain(table: PageTable) -> bool:
    """Whether the segments of each page follow each other."""
    there = table.file_of_page != MISSING
    ends = table.offsets + table.byte_counts
    return bool((table.offsets[there, 1:] == ends[there, :-1]).all())


def _mapped(table: PageTable) -> PageTable:
    page_bytes = math.prod(table.page_shape) * table.dtype.itemsize
    byte_counts = np.where(table.file_of_page != MISSING, page_bytes, 0)[:, np.newaxis]
    return replace(table, offsets=table.offsets[:, :1], byte_counts=byte_counts, mapped=True)
