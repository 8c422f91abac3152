"""Chains of directories that do not end, or end outside the file."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import tifffile

from patchloom.errors import SourceError
from patchloom.image_stacks import TiffStack
from patchloom.image_stacks.tiff.directories import STRIP_OFFSETS, read_directories


def write(path, n_pages, **options):
    pages = np.random.default_rng(0).integers(0, 99, (n_pages, 8, 8)).astype("uint8")
    with tifffile.TiffWriter(path, **options) as writer:
        for page in pages:
            writer.write(page, contiguous=False, metadata=None)
    return path


def next_offsets(path):
    """Positions of the offsets of the next directories, and the directories' own."""
    with tifffile.TiffFile(path) as tif:
        big, order = tif.is_bigtiff, tif.byteorder
        length, size, form = ("Q", 20, "Q") if big else ("H", 12, "I")
        places = []
        for page in tif.pages:
            tif.filehandle.seek(page.offset)
            (count,) = struct.unpack(f"{order}{length}", tif.filehandle.read(struct.calcsize(length)))
            places.append((page.offset + struct.calcsize(length) + count * size, page.offset))
    return places, f"{order}{form}"


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}, {"bigtiff": True, "byteorder": ">"}])
def test_like_tifffile(tmp_path, options):
    """Directories are those that tifffile finds."""
    path = write(tmp_path / "a.tif", 5, **options)
    found = read_directories(path)
    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        assert [directory.offset for directory in found] == [page.offset for page in tif.pages]
        assert [directory.tags().integers(file, STRIP_OFFSETS) for directory in found] == [
            page.dataoffsets for page in tif.pages
        ]


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("changed", [None, "shorter", "skips"])
def test_equal_distances(tmp_path, options, changed):
    """Directories at equal distances are those that tifffile finds.

    ImageJ and tifffile write all pages first and then their directories, one of which may be shorter or lead past the next.
    """
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((700, 8, 8), "uint8"), **options)
    places, form = next_offsets(tmp_path / "a.tif")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    end, begin = places[350]
    n_bytes, length_size = struct.calcsize(form), 8 if form[1] == "Q" else 2
    if changed == "shorter":
        size = 20 if form[1] == "Q" else 12
        length = (end - begin - length_size) // size - 1
        content[begin : begin + length_size] = length.to_bytes(length_size, "little" if form[0] == "<" else "big")
        content[end - size : end - size + n_bytes] = content[end : end + n_bytes]
    if changed == "skips":
        content[end : end + n_bytes] = struct.pack(form, places[352][1])
    (tmp_path / "a.tif").write_bytes(content)
    found = read_directories(tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as tif:
        assert [directory.offset for directory in found] == [page.offset for page in tif.pages]
        assert [list(directory.tags().layout.places) for directory in found] == [
            [tag.code for tag in tifffile.TiffPage(tif, index=0).tags]
            for page in tif.pages
            if tif.filehandle.seek(page.offset)
        ]
    assert len(found) == (699 if changed == "skips" else 700)


@pytest.mark.parametrize("n_pages", [1, 5, 150])
@pytest.mark.parametrize("target", [0, -1, "middle"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_loop(tmp_path, n_pages, target, bigtiff):
    """A list of pages that is a loop is refused."""
    path = write(tmp_path / "loop.tif", n_pages, bigtiff=bigtiff)
    places, form = next_offsets(path)
    to = places[n_pages // 2 if target == "middle" else target][1]
    with path.open("r+b") as file:
        file.seek(places[-1][0])
        file.write(struct.pack(form, to))
    with pytest.raises(SourceError, match=r"loop\.tif is damaged: its list of pages is a loop"):
        TiffStack(path, "ZYX")


@pytest.mark.parametrize("to", [1, 7, 2**31, 2**32 - 1])
def test_outside_file(tmp_path, to):
    """A list of pages that leads out of the file is refused."""
    path = write(tmp_path / "cut.tif", 3)
    places, form = next_offsets(path)
    with path.open("r+b") as file:
        file.seek(places[1][0])
        file.write(struct.pack(form, to))
    with pytest.raises(SourceError, match=r"cut\.tif (is truncated|is damaged|has \d images)"):
        TiffStack(path, "ZYX")


def test_overlapping(tmp_path):
    """Overlapping directories do not need more memory than the file.

    There is a directory of 4 kB at every other byte.
    """
    size = 1 << 16
    content = bytearray(size)
    content[:8] = struct.pack("<2sHI", b"II", 42, 8)
    n_entries = 300
    for position in range(8, size - 12 * n_entries - 400, 2):
        content[position : position + 2] = struct.pack("<H", n_entries)
        content[position + 2 + 12 * n_entries : position + 6 + 12 * n_entries] = struct.pack("<I", position + 2)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.tif is (damaged|truncated)"):
        TiffStack(tmp_path / "a.tif", "ZYX")


@pytest.mark.parametrize("description", [None, "ImageJ=1.54f\nimages=900\nslices=900\n"])
def test_shared_tables(tmp_path, description):
    """Shared tables do not need more memory than the file.

    Each of 900 pages has the same table of 40,000 strips.
    """
    n_strips, n_pages = 40_000, 900
    image = np.zeros((n_strips, 1), "uint8")
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(image, rowsperstrip=1, metadata=None, description=description, photometric="minisblack")
    content = bytearray((tmp_path / "a.tif").read_bytes())
    places, form = next_offsets(tmp_path / "a.tif")
    end, begin = places[0]
    directory = bytes(content[begin:end])
    content[end : end + 4] = struct.pack(form, len(content))
    for page in range(1, n_pages):
        following = len(content) + len(directory) + 4
        content += directory + struct.pack(form, following if page < n_pages - 1 else 0)
    (tmp_path / "a.tif").write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.tif is damaged: its pages share the tables"):
        TiffStack(tmp_path / "a.tif", "ZYX")
