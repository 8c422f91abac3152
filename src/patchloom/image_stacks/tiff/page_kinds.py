"""How the pages of a TIFF are stored, read from their directories."""

from __future__ import annotations

from collections import Counter
from typing import Any, BinaryIO

import numpy as np
import tifffile

from patchloom.errors import SourceError
from patchloom.image_stacks.tiff.alike_pages import AlikePages
from patchloom.image_stacks.tiff.directories import (
    BYTE_COUNTS,
    JPEG_TABLES,
    OFFSETS,
    Directories,
    Directory,
    Tags,
    check_number_of_segments,
)
from patchloom.image_stacks.tiff.segments import DAMAGE
from patchloom.image_stacks.tiff.stored_page import PageKind, StoredPage

_DECODED_TO_RGB = {6, 7, 33007, 34892}
"""Compressions (JPEG) whose decoder converts YCbCr to RGB."""

_COMPARED = 4
"""Number of pages of a file with which the others are compared."""


class PageReader:
    """Determines how pages are stored, once for pages that are stored alike.

    Parameters
    ----------
    tif : TiffFile
        An open file, so that it is not opened again.
    """

    def __init__(self, tif: tifffile.TiffFile) -> None:
        self._tif = tif
        self._n_segments: Counter[str] = Counter()
        self._kinds: dict[tuple[object, ...], PageKind] = {}
        self._found: dict[Directories, dict[int, StoredPage]] = {}
        self._n_compared: Counter[Directories] = Counter()

    def page(self, directory: Directory, file: BinaryIO, *, index: int = 0) -> StoredPage:
        """Return the stored page of a directory.

        Parameters
        ----------
        directory : Directory
            Its directory.
        file : binary file
            The file of the directory, open.
        index : int
            Index of the page in the file.

        Raises
        ------
        SourceError
            If it is damaged, or stored in a way that is not supported; or if the tables of segments of all pages so far are
            longer than their file, which means that many pages share one.
        """
        found = self._found.get(directory.among)
        if found is None:
            found = self._found[directory.among] = {}
        page = found.get(directory.number)
        if page is None:
            tags = directory.tags()
            page = self._page(tags, file, index)
            if tags.layout.n_segments == 1:
                self._compare_others(tags, page, file)
        return page

    def _compare_others(self, tags: Tags, page: StoredPage, file: BinaryIO) -> None:
        """Find the pages of the file that are stored like this one, of which there may be none."""
        among = tags.directory.among
        if self._n_compared[among] < min(_COMPARED, len(among) - 1):
            self._n_compared[among] += 1
            alike = AlikePages.of(tags, page, file)
            self._found[among] |= alike.pages_like_it(among, file) if alike else {}

    def pages(self, directories: Directories, numbers: range, file: BinaryIO) -> list[StoredPage]:
        """Describe some pages of a file; see `page`."""
        found = self._found.setdefault(directories, {})
        return [found.get(number) or self.page(directories[number], file, index=number) for number in numbers]

    def _page(self, tags: Tags, file: BinaryIO, index: int) -> StoredPage:
        path = tags.directory.path
        self._n_segments[path] += tags.layout.n_segments
        check_number_of_segments(path, self._n_segments[path])
        offsets = tags.integers(file, *OFFSETS)
        byte_counts = tags.integers(file, *BYTE_COUNTS)
        kind = self.kind(tags, file, index=index)
        return StoredPage.of_segments(path, kind, offsets, byte_counts, tags.content(file, JPEG_TABLES))

    def kind(self, tags: Tags, file: BinaryIO, *, index: int = 0) -> PageKind:
        """Return how the page of a directory is stored; see `page`."""
        storage = tags.storage(file)
        kind = self._kinds.get(storage)
        if kind is None:
            kind = self._kinds[storage] = self._kind_at(tags.directory, index)
        return kind

    def _kind_at(self, directory: Directory, index: int) -> PageKind:
        try:
            if directory.path == self._tif.filehandle.path:
                return page_kind(_page_at(self._tif, directory.offset, index))
            with tifffile.TiffFile(directory.path) as tif:
                return page_kind(_page_at(tif, directory.offset, index))
        except DAMAGE as error:
            raise SourceError(
                f"{directory.path} cannot be read as a TIFF: page {index} is damaged: {type(error).__name__}: {error}"
            ) from error


def _page_at(tif: tifffile.TiffFile, offset: int, index: int) -> tifffile.TiffPage:
    if offset == tif.pages.first.offset:
        return tif.pages.first
    tif.filehandle.seek(offset)
    return tifffile.TiffPage(tif, index=index)


def page_kind(page: tifffile.TiffPage) -> PageKind:
    """Return how an open page is stored.

    Raises
    ------
    SourceError
        If its pixels are of a type or shape that is not supported.
    """
    path = page.parent.filehandle.path
    if page.dtype is None:
        raise SourceError(
            f"{path} keeps its pixels in a way that is not supported ({page.bitspersample} bits a sample)"
        )
    sides = (
        (page.tiledepth, page.tilelength, page.tilewidth) if page.is_tiled else (1, page.rowsperstrip, page.imagewidth)
    )
    page_shape, segment_shape = (tuple(map(int, shape)) for shape in (page.shaped, (1, *sides, page.shaped[-1])))
    if not all(0 < size < 2**32 for size in (*page_shape, *segment_shape)):
        raise SourceError(
            f"{path} is damaged: it has pages of {page.imagewidth} × {page.imagelength} pixels in pieces of {sides}"
        )
    return PageKind(
        page_shape=page_shape,
        segment_shape=segment_shape,
        dtype=page.dtype.newbyteorder(page.parent.byteorder),
        color=_color(page),
        fill=page.nodata,
        directory=(path, page.offset),
        jpeg_header=page.jpegheader,
        is_plain=_is_plain(page, page.dtype),
        is_reduced=page.is_reduced,
        axes=page.axes,
        shape=tuple(map(int, page.shape)),
    )


def _is_plain(page: tifffile.TiffPage, dtype: np.dtype[Any]) -> bool:
    """Return whether consecutive segments are the pixels of the page, except for the byte order."""
    pieces_in_order = not page.is_tiled or (
        page.tilewidth == page.imagewidth
        and page.imagelength % page.tilelength == 0
        and (page.tiledepth == 1 or page.tilelength == page.imagelength)
        and page.imagedepth % page.tiledepth == 0
    )
    return bool(
        page.compression == page.predictor == page.fillorder == 1
        and page.sampleformat != 5  # complex integers
        and page.bitspersample == 8 * dtype.itemsize
        and not page.is_subsampled
        and pieces_in_order
    )


def _color(page: tifffile.TiffPage) -> str:
    color = "RGB" if page.photometric == 6 and page.compression in _DECODED_TO_RGB else page.photometric
    return str(getattr(color, "name", color))
