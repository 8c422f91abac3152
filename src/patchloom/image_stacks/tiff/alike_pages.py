"""Pages of a TIFF that are stored alike, told by comparing the bytes of their directories.

In a file of thousands of pages, directories mostly differ in nothing but where the pixels are. Only one of them is decoded
then, and that the others say the same is one comparison of integers.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Literal, NamedTuple

import numpy as np

from patchloom.image_stacks.tiff.directories import (
    BYTE_COUNTS,
    JPEG_TABLES,
    LAST_POSITION,
    OFFSETS,
    SUB_DIRECTORIES,
    TYPE_SIZES,
    Directory,
    Tags,
)
from patchloom.image_stacks.tiff.stored_page import StoredPage


class AlikePages(NamedTuple):
    """What pages of one segment have in common.

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
    ...         page = alike.page_like_it(second, file)
    ...     print(page.offsets[0] - alike.first.offsets[0], page.byte_counts, page.is_run)
    64 (64,) True
    """

    first: StoredPage
    n_bytes: int
    """Length of their directories."""
    mask: int
    """Bits of a directory, taken as one little-endian integer, that are equal in all."""
    expected: int
    """These bits of the first directory."""
    distant: tuple[tuple[slice, bytes], ...]
    """Values outside the directory that are equal in all: the bytes of a directory that are the offset, and the value."""
    offset: slice
    """Bytes of a directory that are the offset of the segment."""
    byte_count: slice
    """Bytes of a directory that are the byte count of the segment."""
    order: Literal["little", "big"]
    """Byte order of numbers."""

    @classmethod
    def of(cls, tags: Tags, first: StoredPage, file: BinaryIO) -> AlikePages | None:
        """Take a page as the first one; None if it does not have exactly one segment."""
        form, entries, layout = tags.directory.format, tags.directory.entries, tags.layout
        if layout.n_segments != 1 or len(first.byte_counts) != 1 or not first.offsets[0]:
            return None
        n_header = struct.calcsize(form.header)
        n_entry = n_header + form.inline

        def value(place: int, n_bytes: int) -> slice:
            return slice(place * n_entry + n_header, place * n_entry + n_header + n_bytes)

        found = [[layout.places[tag] for tag in group if tag in layout.places] for group in (OFFSETS, BYTE_COUNTS)]
        # The byte counts of pages that are one run are not needed, and may be missing.
        offset, byte_count = (
            value(group[0][0], TYPE_SIZES.get(group[0][1], 0)) if group else slice(0) for group in found
        )
        elsewhere = [layout.places[tag][0] for tag in (JPEG_TABLES, SUB_DIRECTORIES) if tag in layout.places]
        bits = np.zeros((len(entries) // n_entry, n_entry), np.uint8)
        bits[:, :n_header] = 255
        bits[[*layout.inline_storage, *elsewhere], n_header:] = 255
        mask = int.from_bytes(bits.tobytes(), "little")
        return cls(
            first=first,
            n_bytes=len(entries),
            mask=mask,
            expected=int.from_bytes(entries, "little") & mask,
            distant=tuple(
                (value(place, form.inline), tags.distant_value(file, place, size))
                for place, size in layout.distant_storage
            ),
            offset=offset,
            byte_count=byte_count,
            order="little" if form.order == "<" else "big",
        )

    def page_like_it(self, directory: Directory, file: BinaryIO) -> StoredPage | None:
        """Describe the page of a directory; None if it differs in more than where the segment is."""
        first, entries = self.first, directory.entries
        if (
            directory.path != first.path
            or len(entries) != self.n_bytes
            or int.from_bytes(entries, "little") & self.mask != self.expected
            or (self.distant and not all(self._is_equal(entries, file, *value) for value in self.distant))
        ):
            return None
        offset = int.from_bytes(entries[self.offset], self.order)
        if not offset:  # a segment that was left out
            return None
        byte_counts = first.byte_counts if first.is_run else (int.from_bytes(entries[self.byte_count], self.order),)
        return StoredPage(first.path, first.kind, (offset,), byte_counts, first.jpeg_tables, first.is_run)

    def _is_equal(self, entries: bytes, file: BinaryIO, place: slice, expected: bytes) -> bool:
        file.seek(min(int.from_bytes(entries[place], self.order), LAST_POSITION))
        return file.read(len(expected)) == expected
