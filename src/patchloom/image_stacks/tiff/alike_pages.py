"""Pages of a TIFF that are stored alike, found by comparing the bytes of their directories.

In a file of thousands of pages, most directories differ only in the positions of the pixels. Then one of them is decoded, and the
others are compared with it all at once.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks.tiff.directories import (
    BYTE_COUNTS,
    JPEG_TABLES,
    LAST_POSITION,
    OFFSETS,
    SUB_DIRECTORIES,
    TYPE_SIZES,
    Directories,
    Tags,
)
from patchloom.image_stacks.tiff.stored_page import StoredPage


class AlikePages(NamedTuple):
    """The common parts of the directories of pages with one segment.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np, tifffile
    >>> from patchloom.image_stacks.tiff.directories import read_directories
    >>> from patchloom.image_stacks.tiff.page_kinds import PageReader
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.tif")
    ...     tifffile.imwrite(path, np.zeros((3, 8, 8), "uint8"), photometric="minisblack", metadata=None)
    ...     _, first, second = read_directories(path)
    ...     with tifffile.TiffFile(path) as tif, path.open("rb") as file:
    ...         alike = AlikePages.of(first.tags(), PageReader(tif).page(first, file), file)
    ...         pages = alike.pages_like_it(first.among, file)
    ...     print({number: page.offsets[0] - alike.first.offsets[0] for number, page in pages.items()})
    {1: 0, 2: 64}
    """

    first: StoredPage
    mask: NDArray[np.uint8]
    """Mask of the bits that are equal in all directories."""
    expected: NDArray[np.uint8]
    """These bits of the first directory."""
    distant: tuple[tuple[slice, bytes], ...]
    """Values outside the directory that are equal in all: the bytes of the directory with the offset, and the value."""
    offset: slice
    """Bytes of a directory with the offset of the segment."""
    byte_count: slice
    """Bytes of a directory with the byte count of the segment."""
    order: str
    """Byte order of numbers, `<` or `>`."""

    @classmethod
    def of(cls, tags: Tags, first: StoredPage, file: BinaryIO) -> AlikePages | None:
        """Compare with this first page; None if it does not have exactly one segment."""
        form, entries, layout = tags.directory.format, tags.directory.entries, tags.layout
        if layout.n_segments != 1 or len(first.byte_counts) != 1 or not first.offsets[0]:
            return None
        n_header = struct.calcsize(form.header)
        n_entry = n_header + form.inline

        def value(place: int, n_bytes: int) -> slice:
            return slice(place * n_entry + n_header, place * n_entry + n_header + n_bytes)

        found = [[layout.places[tag] for tag in group if tag in layout.places] for group in (OFFSETS, BYTE_COUNTS)]
        # Pages that are one run need no byte counts, which may be missing.
        offset, byte_count = (
            value(group[0][0], TYPE_SIZES.get(group[0][1], 0)) if group else slice(0) for group in found
        )
        elsewhere = [layout.places[tag][0] for tag in (JPEG_TABLES, SUB_DIRECTORIES) if tag in layout.places]
        bits = np.zeros((len(entries) // n_entry, n_entry), np.uint8)
        bits[:, :n_header] = 255
        bits[[*layout.inline_storage, *elsewhere], n_header:] = 255
        mask = bits.ravel()
        return cls(
            first=first,
            mask=mask,
            expected=np.frombuffer(entries, np.uint8) & mask,
            distant=tuple(
                (value(place, form.inline), tags.distant_value(file, place, size))
                for place, size in layout.distant_storage
            ),
            offset=offset,
            byte_count=byte_count,
            order=form.order,
        )

    def pages_like_it(self, directories: Directories, file: BinaryIO) -> dict[int, StoredPage]:
        """Return the pages that differ only in the position of their segment, by their index in the file."""
        first = self.first
        numbers, rows = directories.of_length(len(self.mask))
        offsets = self._integers(rows, self.offset)
        is_alike = ((rows & self.mask) == self.expected).all(axis=1)
        is_alike &= offsets > 0  # a segment at 0 was left out
        if self.distant:
            alike = np.flatnonzero(is_alike)
            is_alike[alike] = [self._has_distant(row, file) for row in rows[alike]]
        counts = (
            repeat(first.byte_counts) if first.is_run else zip(self._integers(rows, self.byte_count)[is_alike].tolist())
        )
        parts = zip(
            repeat(first.path), repeat(first.kind), zip(offsets[is_alike].tolist()), counts,
            repeat(first.jpeg_tables), repeat(first.is_run),
        )  # fmt: skip
        return dict(zip(numbers[is_alike].tolist(), map(StoredPage._make, parts), strict=False))

    def _integers(self, rows: NDArray[np.uint8], place: slice) -> NDArray[np.unsignedinteger]:
        return np.ascontiguousarray(rows[:, place]).view(f"{self.order}u{place.stop - place.start}")[:, 0]

    def _has_distant(self, row: NDArray[np.uint8], file: BinaryIO) -> bool:
        """Return whether all values outside the directory equal those of the first one."""
        for place, expected in self.distant:
            file.seek(min(int(self._integers(row[np.newaxis], place)[0]), LAST_POSITION))
            if file.read(len(expected)) != expected:
                return False
        return True
