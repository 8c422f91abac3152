"""Number of pixels that an image inside a segment of a TIFF declares, read before it is decoded.

Some compressions of TIFF are image formats themselves. Their decoders allocate the declared size, even if the segment is smaller:
a LERC of 70 bytes may declare gigabytes. If a format is found by a marker that may occur several times, the largest image counts.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator

_JPEG_SIZES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}

_JXL_STARTS = re.compile(rb"\A(?=\xff\x0a)|jxlc(?=\xff\x0a)|jxlp.{4}(?=\xff\x0a)", re.DOTALL)
_JXL_LENGTHS = (9, 13, 18, 30)
_JXL_RATIOS = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


def declared_pixels(compression: int, encoded: bytes) -> int:
    """Return the number of pixels that an image declares; 0 if the compression is not an image format, or no image is found.

    Examples
    --------
    >>> import imagecodecs, numpy as np
    >>> image = np.zeros((300, 200), np.uint8)
    >>> declared_pixels(34933, imagecodecs.png_encode(image)), declared_pixels(34887, imagecodecs.lerc_encode(image))
    (60000, 60000)
    """
    sizes = _SIZES.get(compression)
    try:
        return 0 if sizes is None else sizes(encoded)
    except struct.error:  # the header is cut off, which the decoder refuses
        return 0


def _jpeg(encoded: bytes) -> int:
    position = 2
    while position + 9 <= len(encoded) and encoded[position] == 0xFF:
        marker, length = encoded[position + 1], int.from_bytes(encoded[position + 2 : position + 4], "big")
        if marker in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", encoded, position + 5)
            return int(height * width)
        position += 1 if marker == 0xFF else 2 + length
    return 0


def _jpeg_2000(encoded: bytes) -> int:
    return max((_area(encoded, start + 8, ">II") for start in _places(encoded, b"\xff\x4f\xff\x51\0")), default=0)


def _png(encoded: bytes) -> int:
    return _area(encoded, 16, ">II")


def _webp(encoded: bytes) -> int:
    """Return the size of the canvas, or else of the only frame."""
    kind = encoded[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(encoded[start : start + 3], "little") + 1 for start in (24, 27))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", encoded, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", encoded, 26))
    return width * height


def _jpeg_xl(encoded: bytes) -> int:
    return max((_jpeg_xl_size(encoded[start.end() + 2 :][:12]) for start in _JXL_STARTS.finditer(encoded)), default=0)


def _jpeg_xl_size(header: bytes) -> int:
    """Return the size of a codestream: numbers of different lengths, from the lowest bit on."""
    bits = int.from_bytes(header, "little")

    def take(n_bits: int) -> int:
        nonlocal bits
        number, bits = bits & ((1 << n_bits) - 1), bits >> n_bits
        return number

    def side(*, is_small: int) -> int:
        return 8 * (take(5) + 1) if is_small else take(_JXL_LENGTHS[take(2)]) + 1

    is_small = take(1)
    height = side(is_small=is_small)
    ratio = take(3)
    if not ratio:
        return height * side(is_small=is_small)
    numerator, denominator = _JXL_RATIOS[ratio - 1]
    return height * (height * numerator // denominator)


def _jpeg_xr(encoded: bytes) -> int:
    return max((_jpeg_xr_size(encoded, start) for start in _places(encoded, b"WMPHOTO\0")), default=0)


def _jpeg_xr_size(encoded: bytes, start: int) -> int:
    (flags,) = struct.unpack_from("B", encoded, start + 10)
    height, width = struct.unpack_from(">HH" if flags & 0x80 else ">II", encoded, start + 12)
    return int((height + 1) * (width + 1))


def _lerc(encoded: bytes) -> int:
    """Return the size of all bands, which are consecutive."""
    newer = (_lerc_2_size(encoded, start) for start in _places(encoded, b"Lerc2 "))
    older = (_area(encoded, start + 18, "<II") for start in _places(encoded, b"CntZImage "))
    return sum(newer) + sum(older)


def _lerc_2_size(encoded: bytes, start: int) -> int:
    (version,) = struct.unpack_from("<i", encoded, start + 6)
    sides = struct.unpack_from("<III" if version >= 4 else "<II", encoded, start + (14 if version >= 3 else 10))
    return int(sides[0] * sides[1] * (sides[2] if version >= 4 else 1))


def _area(encoded: bytes, start: int, sides: str) -> int:
    first, second = struct.unpack_from(sides, encoded, start)
    return int(first * second)


def _places(encoded: bytes, mark: bytes) -> Iterator[int]:
    return (found.start() for found in re.finditer(re.escape(mark), encoded))


_SIZES: dict[int, Callable[[bytes], int]] = {
    **dict.fromkeys((6, 7, 33007, 34892), _jpeg),
    **dict.fromkeys((33003, 33004, 33005, 34712), _jpeg_2000),
    34933: _png,
    **dict.fromkeys((34927, 50001), _webp),
    **dict.fromkeys((50002, 52546), _jpeg_xl),
    **dict.fromkeys((22610, 34934), _jpeg_xr),
    34887: _lerc,
}
"""By the number of the compression."""
