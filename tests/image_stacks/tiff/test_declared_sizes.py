"""What an image inside a segment of a TIFF declares is known before it is decoded, and is not decoded where it is too large."""

from __future__ import annotations

import tracemalloc

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import SourceError
from patchloom.image_stacks import TiffStack
from patchloom.image_stacks.tiff.declared_sizes import declared_pixels

JPEG, PNG, JPEG_2000, WEBP, JPEG_XL, JPEG_XR, LERC = 7, 34933, 34712, 50001, 50002, 22610, 34887

ENCODERS = {
    "jpeg": (JPEG, "gray", imagecodecs.jpeg_encode),
    "lossless jpeg": (JPEG, "gray", imagecodecs.ljpeg_encode),
    "png": (PNG, "gray", imagecodecs.png_encode),
    "jp2": (JPEG_2000, "gray", imagecodecs.jpeg2k_encode),
    "j2k": (JPEG_2000, "gray", lambda image: imagecodecs.jpeg2k_encode(image, codecformat="J2K")),
    "webp": (WEBP, "rgb", lambda image: imagecodecs.webp_encode(image, lossless=True)),
    "lossy webp": (WEBP, "rgb", lambda image: imagecodecs.webp_encode(image, lossless=False, level=50)),
    "webp of four": (WEBP, "rgba", lambda image: imagecodecs.webp_encode(image, lossless=False, level=50)),
    "jpeg xl": (JPEG_XL, "gray", lambda image: imagecodecs.jpegxl_encode(image, effort=1)),
    "jpeg xl in boxes": (JPEG_XL, "gray", lambda image: imagecodecs.jpegxl_encode(image, effort=1, usecontainer=True)),
    "jpeg xr": (JPEG_XR, "gray", imagecodecs.jpegxr_encode),
    "lerc": (LERC, "gray", imagecodecs.lerc_encode),
    "lerc 2": (LERC, "gray", lambda image: imagecodecs.lerc_encode(image, version=2)),
}
SAMPLES = {"gray": (), "rgb": (3,), "rgba": (4,)}


def encoded(name, height, width, value=None):
    """A random image, or one of one value."""
    compression, color, encode = ENCODERS[name]
    shape = (height, width, *SAMPLES[color])
    generator = np.random.default_rng(height * 1000 + width)
    image = np.full(shape, value, "uint8") if value is not None else generator.integers(0, 256, shape).astype("uint8")
    return compression, encode(image)


@pytest.mark.parametrize("name", ENCODERS)
@settings(max_examples=20, deadline=None)
@given(st.integers(8, 300), st.integers(8, 300), st.booleans())
def test_encoded_images(name, height, width, is_square):
    """The number of declared pixels is that of the encoded image."""
    height = width if is_square else height
    assert declared_pixels(*encoded(name, height, width)) == height * width


@pytest.mark.parametrize("name", ENCODERS)
def test_damaged_header(name):
    """A damaged or truncated header gives some number."""
    compression, whole = encoded(name, 40, 30)
    for stop in range(min(len(whole), 200)):
        assert declared_pixels(compression, whole[:stop]) >= 0
        flipped = bytearray(whole)
        flipped[stop] ^= 0xFF
        assert declared_pixels(compression, bytes(flipped)) >= 0


@pytest.mark.parametrize("name", ENCODERS)
def test_too_many_pixels(tmp_path, name):
    """An image that declares too many pixels is not decoded."""
    side = 4000
    compression, content = encoded(name, side, side, value=7)
    samples = SAMPLES[ENCODERS[name][1]]
    photometric = "rgb" if samples else "minisblack"
    with tifffile.TiffWriter(tmp_path / "bomb.tif") as writer:
        options = {"shape": (64, 64, *samples), "dtype": "uint8", "rowsperstrip": 64, "photometric": photometric}
        writer.write(iter([content]), compression=compression, metadata=None, **options)
    stack = TiffStack(tmp_path / "bomb.tif", "YXC" if samples else "YX")
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=rf"an image of {side * side} pixels, in a place for"):
            stack.extract_patch(0, None, (0, 0), (8, 8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < side * side // 2
