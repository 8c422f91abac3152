"""Pages that are told to be stored alike are what each of them is by its own directory."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from patchloom.errors import PatchloomError
from patchloom.image_stacks import TiffStack
from patchloom.image_stacks.tiff.directories import read_directories
from patchloom.image_stacks.tiff.page_kinds import PageReader

WAYS = {
    "plain": {},
    "compressed": {"compression": "zlib"},
    "predictor": {"compression": "zlib", "predictor": True},
    "rgb": {"photometric": "rgb"},
    "tiles": {"tile": (16, 16), "compression": "zlib"},
}


def write(path, pages, ways, **options):
    with tifffile.TiffWriter(path, **options) as writer:
        for page, way in zip(pages, ways, strict=True):
            writer.write(page, contiguous=False, metadata=None, **WAYS[way])
    return path


def last_page(path, *, alone):
    """What is found for the last page, after the pages before it or alone; the type of the error where there is one."""
    with tifffile.TiffFile(path) as tif, path.open("rb") as file:
        reader = PageReader(tif)
        *before, last = read_directories(path)
        for directory in [] if alone else before:
            reader.page(directory, file)
        try:
            page = reader.page(last, file)
        except PatchloomError as error:
            return type(error)
        kind = page.kind
        same = (kind.page_shape, kind.segment_shape, kind.dtype, kind.color, kind.fill, kind.is_plain, kind.is_reduced)
        return (*same, list(map(int, page.offsets)), list(map(int, page.byte_counts)), page.jpeg_tables, page.is_run)


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}])
@pytest.mark.parametrize("way", WAYS)
def test_any_bit(tmp_path, way, options):
    """A page whose directory differs in any bit is read by its own directory."""
    shape = (4, 16, 16, 3) if way == "rgb" else (4, 16, 16)
    pages = np.random.default_rng(0).integers(0, 256, shape).astype("uint8")
    path = write(tmp_path / "a.tif", pages, [way] * 4, **options)
    content = path.read_bytes()
    directory = read_directories(path)[3]
    place = content.index(directory.entries, directory.offset)
    for bit in range(0, 8 * len(directory.entries), 7):
        changed = bytearray(content)
        changed[place + bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert last_page(path, alone=False) == last_page(path, alone=True), bit


@pytest.mark.parametrize("seed", range(20))
def test_alternating_pages(tmp_path, seed):
    """Pages that are stored in alternating ways are read by their own tags."""
    generator = np.random.default_rng(seed)
    ways = generator.choice([way for way in WAYS if way != "rgb"], 40)
    pages = generator.integers(0, 2**16, (40, 16, 16)).astype("uint16")
    path = write(tmp_path / "a.tif", pages, ways, bigtiff=bool(seed % 2), byteorder="<>"[seed // 2 % 2])
    np.testing.assert_array_equal(TiffStack(path, "ZYX").extract_patch(0, [0], (0, 0, 0), pages.shape)[0], pages)
