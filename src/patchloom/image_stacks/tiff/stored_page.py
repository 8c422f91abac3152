"""The storage of one page of a TIFF.

A page has the axes `(planar samples, depth, length, width, interleaved samples)`, as in tifffile.
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
    """How a page is stored, as plain data that pickles. Pages that are stored alike share one."""

    page_shape: tuple[int, ...]
    """Shape of a page."""

    segment_shape: tuple[int, ...]
    """Shape of a segment; segments at the end of a page may be smaller."""

    dtype: np.dtype[Any]
    """Dtype of the pixels, in the byte order of the file."""

    color: str
    """Meaning of the values, such as `"MINISBLACK"`; the same for all pages of one image."""

    fill: float
    """Value of the pixels of a segment that was left out."""

    directory: tuple[str, int]
    """File and offset of a directory with all parameters of the decoder."""

    jpeg_header: bytes | None
    """Header that JPEG segments lack in some formats."""

    is_plain: bool
    """Whether consecutive segments are the pixels of a page, except for the byte order."""

    is_reduced: bool
    """Whether the page is a smaller copy of another."""

    axes: str
    """tifffile's letters for the axes of a page that are longer than 1, and `YX`."""

    shape: tuple[int, ...]
    """Size along each of these axes."""

    @cached_property
    def segment_counts(self) -> tuple[int, ...]:
        """Number of segments of a page along each axis, except the last, which is never divided."""
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
        """Describe size, dtype and color for a message."""
        sides = " × ".join(map(str, self.shape))
        return f"{sides} pixels of {self.dtype.newbyteorder('=')} ({self.color}{', reduced' * self.is_reduced})"

    @cached_property
    def image(self) -> tuple[object, ...]:
        """The properties that are equal for all pages of one image."""
        return self.page_shape, self.axes, self.dtype.newbyteorder("="), self.color, self.is_reduced


class StoredPage(NamedTuple):
    """One page, with the positions of its segments."""

    path: str
    """File of the page."""

    kind: PageKind
    """How the page is stored."""

    offsets: Sequence[int] | NDArray[np.uint64]
    """Positions of its segments in the file; only the first if the page is one run of plain pixels."""

    byte_counts: Sequence[int] | NDArray[np.uint64]
    """Numbers of stored bytes of its segments."""

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
        """Make a page from its segments.

        Raises
        ------
        SourceError
            If their number is not that of the page.
        """
        n_segments = len(offsets)
        begins = kind.is_plain and n_segments > 0 and offsets[0] > 0
        if begins and (n_segments == 1 or _follow_each_other(kind, np.asarray(offsets), np.asarray(byte_counts))):
            return cls(path, kind, offsets[:1], (kind.page_bytes,), is_run=True)
        if not n_segments == len(byte_counts) == kind.n_segments:
            raise SourceError(
                f"{path} is damaged: a page has {n_segments} positions and {len(byte_counts)} lengths of segments, and needs "
                f"{kind.n_segments} of both"
            )
        return cls(path, kind, offsets, byte_counts, jpeg_tables)


def _follow_each_other(kind: PageKind, offsets: NDArray[np.uint64], byte_counts: NDArray[np.uint64]) -> bool:
    return bool(
        len(offsets) == len(byte_counts)
        and byte_counts.all()
        and byte_counts.sum() == kind.page_bytes
        and (offsets[:-1] + byte_counts[:-1] == offsets[1:]).all()
    )
