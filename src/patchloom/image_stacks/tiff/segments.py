"""Decoders of segments (strips or tiles) of a TIFF, within bounds.

The decoders are those of tifffile, with two additions: a few compressed bytes may not declare gigabytes, and the last strip of a
page may be stored in full, beyond the end of the image, as some programs do.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tifffile
from numpy.typing import NDArray

from patchloom.errors import SourceError
from patchloom.image_stacks.tiff.declared_sizes import declared_pixels

Decoded = tuple[NDArray[Any] | None, tuple[int, ...], tuple[int, ...]]
"""The pixels of a segment (None if it was left out), its corner in the page and its shape."""

Decoder = Callable[..., Decoded]
"""A function from the bytes and the index of a segment to its pixels."""

DAMAGE = (
    tifffile.TiffFileError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, struct.error,
    ImportError,
)  # fmt: skip
"""Exceptions of tifffile and the codecs for segments that are damaged or not supported."""

SMALL_SEGMENT = 64 << 20
"""Bytes that any segment may have when decoded."""

LARGEST_RATIO = 40_000
"""Decoded bytes for each stored byte of larger segments: more than any lossless compression reaches."""

_FULL_STRIP_TAG = 278


def segment_decoder(path: str | Path, offset: int) -> Decoder:
    """Make the decoder of the segments of a page.

    Parameters
    ----------
    path : str or Path
        The file.
    offset : int
        Position of the page's directory in the file, in bytes.

    Raises
    ------
    SourceError
        If the way in which the pixels are stored is not supported.
    """
    try:
        with tifffile.TiffFile(path) as tif:
            tif.filehandle.seek(offset)
            return bounded_decoder(tifffile.TiffPage(tif, index=0))
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error}") from error
    except DAMAGE as error:
        raise SourceError(f"{path} is stored in a way that is not supported: {error}") from error


def bounded_decoder(page: tifffile.TiffPage) -> Decoder:
    """Make the decoder of the segments of an open page."""
    decode: Decoder = page.decode
    item_size = 1 if page.dtype is None else page.dtype.itemsize
    segment_bytes = math.prod(page.chunks) * item_size
    full_strip = _full_strip_bytes(page)
    compression = int(page.compression)
    compressed_as_bytes = compression != 1 and compression not in tifffile.TIFF.IMAGE_COMPRESSIONS
    uncompressed = _uncompressed(page) if full_strip and compressed_as_bytes else None

    def bounded(encoded: bytes | None, number: int, **tables: bytes | None) -> Decoded:
        if encoded is None:
            return decode(encoded, number, **tables)
        _check_ratio(segment_bytes, len(encoded))
        _check_declared_size(compression, encoded, math.prod(page.chunks))
        try:
            return decode(encoded, number, **tables)
        except RuntimeError:
            if uncompressed is None:
                raise
        # The buffer of the codec had no space for the rows beyond the end of the image.
        _check_ratio(full_strip, len(encoded))
        content = tifffile.TIFF.DECOMPRESSORS[compression](encoded, out=full_strip)
        return uncompressed(content, number, **tables)

    return bounded


def _full_strip_bytes(page: tifffile.TiffPage) -> int:
    """Return the number of bytes of a strip that is stored in full, if it is small; 0 for tiles."""
    if page.is_tiled or not isinstance(page.bitspersample, int):
        return 0
    row = math.ceil(page.imagewidth * page.shaped[-1] * page.bitspersample / 8)
    rows = page.tags.valueof(_FULL_STRIP_TAG, page.rowsperstrip)
    size = max(rows, page.rowsperstrip) * row if isinstance(rows, int) else 0
    return size if size <= SMALL_SEGMENT else page.rowsperstrip * row


def _uncompressed(page: tifffile.TiffPage) -> Decoder:
    """Make the decoder of segments that are already decompressed."""
    page.parent.filehandle.seek(page.offset)
    plain = tifffile.TiffPage(page.parent, index=page.index)
    plain.compression = 1
    plain.fillorder = 1
    decode: Decoder = plain.decode
    return decode


def _check_ratio(decoded: int, encoded: int) -> None:
    if decoded > max(SMALL_SEGMENT, LARGEST_RATIO * encoded):
        raise ValueError(f"its {encoded} bytes cannot be the {decoded} bytes of pixels that are declared")


def _check_declared_size(compression: int, encoded: bytes, n_pixels: int) -> None:
    """Refuse an image inside a segment that declares far more pixels than the segment has."""
    declared = declared_pixels(compression, encoded)
    if declared > max(4 * n_pixels, 2**20):
        raise ValueError(f"it is an image of {declared} pixels, in a place for {n_pixels}")
