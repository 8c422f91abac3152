"""Each page is read by its own tags, or refused by name."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import AxesError, SeveralImagesError, SourceError
from patchloom.image_stacks import TiffStack, open_stacks

STORED_AS = [
    {},
    {"rowsperstrip": 5},
    {"tile": (16, 16)},
    {"tile": (32, 16), "compression": "zlib", "predictor": True},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": True, "rowsperstrip": 7},
    {"compression": "lzw"},
    {"compression": "packbits", "rowsperstrip": 3},
    {"compression": "zstd", "predictor": True},
    {"compression": "lzma", "tile": (16, 32)},
]
OME = '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{}">'


def described(shape, dtype, where, *, uuid="0", samples=1):
    n_slices, height, width = shape[:3]
    return (
        f'{OME.format(uuid)}<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="{np.dtype(dtype).name}" '
        f'SizeX="{width}" SizeY="{height}" SizeZ="{n_slices}" SizeC="{samples}" SizeT="1">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="{samples}"/>{where}</Pixels></Image></OME>'
    )


def write_pages(path, pages, options, *, description=None, byteorder="<", bigtiff=False):
    with tifffile.TiffWriter(path, byteorder=byteorder, bigtiff=bigtiff) as writer:
        for number, (page, own) in enumerate(zip(pages, options, strict=True)):
            told = description if number == 0 else None
            writer.write(
                page, contiguous=False, metadata=None, description=told, **{"photometric": "minisblack", **own}
            )


def whole(stack):
    return stack.extract_patch(0, None, (0,) * (len(stack.data_shape) - 2), stack.data_shape[2:])


def windows_agree(stack, image, rng):
    """Compare random windows with the whole image, `ZYX`."""
    for _ in range(8):
        low = [int(rng.integers(0, size)) for size in image.shape]
        size = [int(rng.integers(1, side - start + 1)) for start, side in zip(low, image.shape, strict=True)]
        box = tuple(slice(start, start + length) for start, length in zip(low, size, strict=True))
        np.testing.assert_array_equal(stack.extract_patch(0, None, low, size)[0], image[box])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_mixed_pages(tmp_path_factory, data):
    """Pages with different storage are one image with any description."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    image = rng.integers(0, 2**16, (data.draw(st.integers(2, 9)), 40, 30)).astype(
        data.draw(st.sampled_from(["uint8", "uint16", "float32"]))
    )
    options = [data.draw(st.sampled_from(STORED_AS)) for _ in image]
    if image.dtype.kind == "f":
        options = [{name: value for name, value in own.items() if name != "predictor"} for own in options]
    folder = tmp_path_factory.mktemp("mixture")
    form = {"byteorder": data.draw(st.sampled_from("<>")), "bigtiff": data.draw(st.booleans())}
    match data.draw(st.sampled_from(["pages", "ome", "imagej", "set"])):
        case "pages":
            write_pages(folder / "a.tif", image, options, **form)
            windows_agree(TiffStack(folder / "a.tif", "ZYX"), image, rng)
        case "imagej":
            told = f"ImageJ=1.54f\nimages={len(image)}\nslices={len(image)}\n"
            write_pages(folder / "a.tif", image, options, description=told, **form)
            # tifffile refuses numbers of strips that differ, and has no axes for stacks that are shorter than it expects.
            with contextlib.suppress(SourceError, AxesError):
                windows_agree(TiffStack(folder / "a.tif"), image, rng)
        case "ome":
            xml = described(image.shape, image.dtype, f'<TiffData IFD="0" PlaneCount="{len(image)}"/>')
            write_pages(folder / "a.ome.tif", image, options, description=xml, **form)
            windows_agree(TiffStack(folder / "a.ome.tif"), image, rng)
        case "set":
            names = [f"{z}.ome.tif" for z in range(len(image))]
            where = "".join(
                f'<TiffData FirstZ="{z}" IFD="0"><UUID FileName="{name}">urn:uuid:{z}</UUID></TiffData>'
                for z, name in enumerate(names)
            )
            for z, name in enumerate(names):
                xml = described(image.shape, image.dtype, where, uuid=z)
                own = {"byteorder": data.draw(st.sampled_from("<>")), "bigtiff": data.draw(st.booleans())}
                write_pages(folder / name, image[z : z + 1], options[z : z + 1], description=xml, **own)
            opened = data.draw(st.sampled_from(names))
            windows_agree(TiffStack(folder / opened), image, rng)


def test_mixed_colors(tmp_path, rng):
    """Color pages with different storage are one image."""
    image = rng.integers(0, 256, (4, 40, 30, 3)).astype("uint8")
    options = [{"photometric": "rgb", **own} for own in (STORED_AS[0], STORED_AS[2], STORED_AS[5], STORED_AS[6])]
    xml = described(image.shape, "uint8", '<TiffData IFD="0" PlaneCount="4"/>', samples=3)
    write_pages(tmp_path / "a.ome.tif", image, options, description=xml)
    stack = TiffStack(tmp_path / "a.ome.tif")
    assert stack.original_axes == "ZYXC"
    np.testing.assert_array_equal(whole(stack), image.transpose(3, 0, 1, 2))
    assert stack.metadata.is_rgb


OTHER_PAGES = {
    "photometric": (np.zeros((40, 30), "uint16"), {"photometric": "miniswhite"}),
    "sample format": (np.zeros((40, 30), "int16"), {}),
    "bits": (np.zeros((40, 30), "uint8"), {}),
    "size": (np.zeros((40, 31), "uint16"), {}),
    "samples": (np.zeros((40, 30, 3), "uint16"), {"photometric": "rgb"}),
    "planar configuration": (np.zeros((3, 40, 30), "uint16"), {"photometric": "rgb", "planarconfig": "separate"}),
}


@pytest.mark.parametrize("what", OTHER_PAGES)
@pytest.mark.parametrize("place", [1, 5])
def test_different_pages(tmp_path, what, place):
    """Pages that cannot be one image are refused by number."""
    page, options = OTHER_PAGES[what]
    pages = [np.full((40, 30), z, "uint16") for z in range(9)]
    pages[place], all_options = page, [{}] * 9
    all_options[place] = options
    write_pages(tmp_path / "a.tif", pages, all_options)
    with pytest.raises(SeveralImagesError, match=r"a\.tif has 2 images: choose one of .*a\.tif@0 .*, .*a\.tif@1 "):
        TiffStack(tmp_path / "a.tif", "ZYX")
    first = TiffStack(tmp_path / "a.tif", "ZYX", series=0)
    assert whole(first)[0, :, 0, 0].tolist() == [z for z in range(9) if z != place]
    xml = described((9, 40, 30), "uint16", '<TiffData IFD="0" PlaneCount="9"/>')
    write_pages(tmp_path / "a.ome.tif", pages, all_options, description=xml)
    with pytest.raises(
        SourceError, match=rf"a\.ome\.tif: page {place} has .*, but .*begins with 40 × 30 pixels of uint16"
    ):
        TiffStack(tmp_path / "a.ome.tif")


# Strips that are stored past the end of the image -----------------------------------------------------------------------

ENCODERS = {
    8: zlib.compress,
    5: imagecodecs.lzw_encode,
    32773: lambda data: imagecodecs.packbits_encode(data, axis=-1),
    50000: imagecodecs.zstd_encode,
    34925: imagecodecs.lzma_encode,
}


def raw_tiff(strips, *, size, rows, compression, bits=8, samples=1, planar=1, predictor=1):
    """Write a TIFF of given strips, whatever is in them."""
    width, length = size
    body = b"".join(strips)
    offsets = np.cumsum([8, *map(len, strips)])[:-1]
    tags = [
        (256, [width]), (257, [length]), (258, [bits] * samples), (259, [compression]), (262, [2 if samples == 3 else 1]),
        (273, offsets), (277, [samples]), (278, [rows]), (279, [len(strip) for strip in strips]), (284, [planar]),
        (317, [predictor]),
    ]  # fmt: skip
    begin = 8 + len(body)
    directory, values = struct.pack("<H", len(tags)), b""
    for tag, numbers in tags:
        packed = struct.pack(f"<{len(numbers)}I", *numbers)
        where = packed if len(numbers) == 1 else struct.pack("<I", begin + 6 + 12 * len(tags) + len(values))
        values += b"" if len(numbers) == 1 else packed
        directory += struct.pack("<HHI", tag, 4, len(numbers)) + where
    return struct.pack("<2sHI", b"II", 42, begin) + body + directory + bytes(4) + values


@pytest.mark.parametrize("compression", ENCODERS)
@pytest.mark.parametrize("rows", [12, 7, 64])
@pytest.mark.parametrize(("dtype", "samples", "planar"), [("u1", 1, 1), ("<u2", 1, 1), ("u1", 3, 1), ("u1", 3, 2)])
@pytest.mark.parametrize("predictor", [1, 2])
def test_full_strip(tmp_path, rng, compression, rows, dtype, samples, planar, predictor):
    """A last strip that is stored in full is read."""
    image = rng.integers(0, 255, (20, 30, samples)).astype(dtype)
    padded = np.pad(image, ((0, -20 % rows), (0, 0), (0, 0)), mode="reflect" if rows < 20 else "wrap")
    planes = [padded] if planar == 1 else [padded[..., sample : sample + 1] for sample in range(samples)]
    if predictor == 2:
        planes = [np.diff(plane, axis=1, prepend=plane[:, :1] * 0) for plane in planes]
    strips = [
        ENCODERS[compression](np.ascontiguousarray(plane[row : row + rows]).tobytes())
        for plane in planes
        for row in range(0, 20, rows)
    ]
    content = raw_tiff(
        strips, size=(30, 20), rows=rows, compression=compression, bits=8 * image.itemsize, samples=samples, planar=planar,
        predictor=predictor,
    )  # fmt: skip
    (tmp_path / "padded.tif").write_bytes(content)
    np.testing.assert_array_equal(whole(TiffStack(tmp_path / "padded.tif")), image.transpose(2, 0, 1))


@pytest.mark.parametrize("bits", [1, 4, 12, 20])
def test_packed_strip(tmp_path, rng, bits):
    """A last strip of packed pixels that is stored in full is read."""
    image = rng.integers(0, 2**bits, (24, 32)).astype("uint8" if bits <= 8 else "uint16" if bits <= 16 else "uint32")
    strips = [zlib.compress(packed(image[row : row + 12], bits)) for row in (0, 12)]
    content = raw_tiff(strips, size=(32, 20), rows=12, compression=8, bits=bits)
    (tmp_path / "padded.tif").write_bytes(content)
    np.testing.assert_array_equal(whole(TiffStack(tmp_path / "padded.tif"))[0], image[:20])


def packed(image, bits):
    """Pack the lowest bits of each pixel, the highest first, each row from a new byte on."""
    places = np.arange(bits)[::-1].astype(image.dtype)
    rows = (image[..., None] >> places & 1).reshape(len(image), -1).astype("uint8")
    return np.packbits(rows, axis=-1).tobytes()


# What lies about its size -----------------------------------------------------------------------------------------------


def test_ratio(tmp_path):
    """A few bytes cannot be gigabytes of pixels."""
    side = 60_000
    content = raw_tiff([zlib.compress(bytes(1000))], size=(side, side), rows=side, compression=8)
    (tmp_path / "bomb.tif").write_bytes(content)
    stack = TiffStack(tmp_path / "bomb.tif")
    with pytest.raises(SourceError, match=rf"bomb\.tif: segment 0 .* cannot be the {side * side} bytes"):
        stack.extract_patch(0, None, (0, 0), (8, 8))


def test_large_jpeg(tmp_path):
    """A JPEG that is larger than its segment is not decoded."""
    jpeg = bytearray(imagecodecs.jpeg_encode(np.zeros((16, 16), "uint8")))
    place = jpeg.index(b"\xff\xc0") + 5
    jpeg[place : place + 4] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "bomb.tif").write_bytes(raw_tiff([bytes(jpeg)], size=(16, 16), rows=16, compression=7))
    with pytest.raises(SourceError, match=r"an image of 4225000000 pixels, in a place for 256"):
        TiffStack(tmp_path / "bomb.tif").extract_patch(0, None, (0, 0), (8, 8))


@pytest.mark.parametrize("offset", [10**6, 2**32 - 1])
@pytest.mark.parametrize("length", [1, 600, 2**32 - 1])
@pytest.mark.parametrize("compression", [1, 8])
def test_strips_outside(tmp_path, offset, length, compression):
    """Strips beyond the end of the file are refused."""
    content = bytearray(raw_tiff([bytes(600)], size=(30, 20), rows=20, compression=compression))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as tif:
        places = [tif.pages.first.tags[tag].offset + 8 for tag in (273, 279)]
    for place, number in zip(places, (offset, length), strict=True):
        content[place : place + 4] = struct.pack("<I", number)
    (tmp_path / "lie.tif").write_bytes(content)
    with pytest.raises(SourceError, match=r"lie\.tif is truncated: its pixels need \d+ bytes"):
        TiffStack(tmp_path / "lie.tif")


@pytest.mark.parametrize("sides", [(0, 20, 20), (30, 0, 20), (30, 20, 0), (2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_impossible_sizes(tmp_path, sides):
    """Impossible sizes are refused."""
    width, length, rows = sides
    (tmp_path / "odd.tif").write_bytes(raw_tiff([bytes(600)], size=(width, length), rows=rows, compression=1))
    with pytest.raises(SourceError, match=r"odd\.tif"):
        open_stacks(Path(tmp_path, "odd.tif"), "YX")
