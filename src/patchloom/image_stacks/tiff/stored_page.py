"""How and where one page of a TIFF is stored.

A page is seen as `(planar samples, depth, length, width, interleaved samples)`, as tifffile does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError


@dataclass(frozen=True, eq=False)
class PageKind:
    """How pages are stored; plain data that pickles. Pages that are stored alike share one."""

    page_shape: tuple[int, ...]
    """Shape of a page."""

    segment_shape: tuple[int, ...]
    """Shape of a segment; those at the end of a page may be shorter."""

    dtype: np.dtype[Any]
    """The pixels' dtype, in the file's byte order."""

    color: str
    """What the values mean, such as `"MINISBLACK"`; pages of one image agree in it."""

    fill: float
    """Value of the pixels of a segment that was left out."""

    directory: tuple[str, int]
    """File and offset of a directory that has everything a decoder must know."""

    jpeg_header: bytes | None
    """What JPEG segments lack at their beginning, in some formats."""

    is_plain: bool
    """Whether segments that follow each other are the pixels of a page, as they are but for the byte order."""

    is_reduced: bool
    """Whether the page is a smaller copy of another."""

    axes: str
    """tifffile's letters for the axes of a page that are longer than 1, and `YX`."""

    shape: tuple[int, ...]
    """Size along each of these axes."""

    @cached_property
    def segment_counts(self) -> tuple[int, ...]:
        """How many segments a page has along each axis but the last, which is never cut."""
        sides = zip(self.page_shape[:4], self.segment_shape[:4], strict=True)
        return tuple(math.ceil(size / side) for size, side in sides)

    @cached_property
    def n_segments(self) -> int:
        """Number of segments of a page."""
        return math.prod(self.segment_counts)

    @cached_property
    def page_bytes(self) -> int:
        """Bytes of the pixels of a page."""
        return math.prod(self.page_shape) * self.dtype.itemsize

    def described(self) -> str:
        """Say what the pages have in common with those of an image."""
        sides = " × ".join(map(str, self.shape))
        return f"{sides} pixels of {self.dtype.newbyteorder('=')} ({self.color}{', reduced' * self.is_reduced})"

    @cached_property
    def image(self) -> tuple[object, ...]:
        """What is equal for all pages of one image."""
        return self.page_shape, self.axes, self.dtype.newbyteorder("="), self.color, self.is_reduced


class StoredPage(NamedTuple):
    """Where one page is stored."""

    path: str
    """Its file."""

    kind: PageKind
    """How it is stored."""

    offsets: Sequence[int] | NDArray[np.uint64]
    """Where its segments begin; the first alone where the page is one run of plain pixels."""

    byte_counts: Sequence[int] | NDArray[np.uint64]
    """How long they are as stored."""

    jpeg_tables: bytes | None = None
    """The tables that its JPEG segments share."""

    is_run: bool = False
    """Whether the page is one run of plain pixels."""

    @classmethod
    def of_segments(
        cls,
        path: str,
        kind: PageKind,
        offsets: Sequence[int] | NDArray[np.uint64],
        byte_counts: Sequence[int] | NDArray[np.uint64],
        jpeg_tables: bytes | None = None,
    ) -> StoredPage:
        """Describe a page by its segments.

        Raises
        ------
        SourceError
            If they are fewer or more than the page needs.
        """
        n_segments = len(offsets)
        begins = kind.is_plain and n_segments > 0 and offsets[0] > 0
        if begins and (n_segments == 1 or _follow_each_other(kind, np.asarray(offsets), np.asarray(byte_counts))):
            return cls(path, kind, offsets[:1], (kind.page_bytes,), is_run=True)
        if not n_segments == len(byte_counts) == kind.n_segments:
            raise SourceError(f"{path} is corrupt: its pages do not tell where all of their pixels are")
        return cls(path, kind, offsets, byte_counts, jpeg_tables)


def _follow_each_other(kind: PageKind, offsets: NDArray[np.uint64], byte_counts: NDArray[np.uint64]) -> bool:
    return bool(
        len(offsets) == len(byte_counts)
        and byte_counts.all()
        and byte_counts.sum() == kind.page_bytes
        and (offsets[:-1] + byte_counts[:-1] == offsets[1:]).all()
    )
