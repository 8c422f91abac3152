import itertools

import numpy as np
import pytest
import tifffile

from patchloom.axes import AxesMap
from patchloom.errors import OutputExistsError, SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import open_stacks
from patchloom.sinks import TiffSink
from patchloom.testing.sink_conformance import ImageSinkConformance


def write_all(sink, image, block_shape=None):
    """Write an image in blocks of a shape that need not have to do with tiles."""
    block_shape = block_shape or image.shape
    for start in itertools.product(
        *(range(0, size, step) for size, step in zip(image.shape, block_shape, strict=True))
    ):
        region = tuple(
            slice(a, min(a + step, size)) for a, step, size in zip(start, block_shape, image.shape, strict=True)
        )
        sink.write(region, image[region])
    return sink.finalize()


class TestTiffSink(ImageSinkConformance):
    dtypes = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float64", "float32")
    axes_maps = (*ImageSinkConformance.axes_maps, AxesMap("YX", (700, 290)), AxesMap("ZTCYX", (3, 2, 2, 300, 270)))

    def make_sink(self, folder, axes_map, dtype):
        return TiffSink(folder / "image.ome.tif", axes_map=axes_map, dtype=dtype)

    def read_back(self, result, axes_map):
        """Read with the public reader; samples, and samples and times together, are its times."""
        (stack,) = open_stacks([result])
        whole = [stack.extract_patch(s, None, [0] * (len(stack.data_shape) - 2), stack.data_shape[2:])
                 for s in range(stack.data_shape[0])]  # fmt: skip
        return np.asarray(whole).reshape(axes_map.data_shape)


@pytest.mark.parametrize(
    ("axes", "stored"),
    [("YX", "YX"), ("YXC", "CYX"), ("YXZ", "ZYX"), ("XYC", "CYX"), ("SCYX", "TCYX"), ("ZSTYX", "ZTYX")]
    + [("".join(order) + "YX",) * 2 for order in itertools.permutations("TCZ")],
)
def test_order_of_axes(tmp_path, rng, axes, stored):
    """tifffile reads the axes in the image's own order."""
    sizes = {"S": 2, "T": 3, "C": 2, "Z": 4, "Y": 33, "X": 20}
    axes_map = AxesMap(axes, [sizes[axis] for axis in axes])
    image = rng.integers(0, 255, axes_map.shape, dtype="uint8")
    path = write_all(TiffSink(tmp_path / "a.tif", axes_map=axes_map, dtype="uint8"), axes_map.to_data(image))
    if "S" in axes:  # folds into T, sample outermost
        axes_map = AxesMap("TC"[: 1 + ("C" in axes)] + axes_map.spatial, [
            size for size, axis in zip(axes_map.data_shape, "SC" + axes_map.spatial, strict=True)
            if axis != "C" or "C" in axes
        ])  # fmt: skip
        image = axes_map.from_data(AxesMap(axes, image.shape).to_data(image))
    with tifffile.TiffFile(path) as tif:
        assert (tif.is_ome, tif.is_bigtiff, tif.series[0].axes) == (True, True, stored)
        expected = image.transpose([axes_map.axes.index(axis) for axis in stored])
        np.testing.assert_array_equal(tif.asarray(), expected)


def test_metadata(tmp_path, rng):
    """Voxel sizes, channels and the name are stored."""
    metadata = ImageMetadata(
        name="embryo <3> & 'µ'",
        voxel_size={"T": 30.0, "Z": 2000.0, "Y": 0.227, "X": 0.227},
        units={"T": "second", "Z": "nanometer", "Y": "micrometer", "X": "micrometer"},
        channel_names=("DAPI", "GFP"),
        channel_colors=("0000FF", "FF8000"),
    )
    axes_map = AxesMap("TCZYX", (2, 2, 5, 40, 30))
    sink = TiffSink(tmp_path / "a.ome.tiff", axes_map=axes_map, dtype="float32", metadata=metadata)
    (stack,) = open_stacks([write_all(sink, rng.normal(size=axes_map.data_shape).astype("float32"))])
    assert stack.metadata == metadata


def test_unknown_units(tmp_path):
    """A voxel size that is not positive, or without a known unit, is left out."""
    metadata = ImageMetadata(voxel_size={"Z": 0.0, "Y": 2.0, "X": 3.0}, units={"Z": "micrometer", "X": "parsec"})
    sink = TiffSink(tmp_path / "a.b.tif", axes_map=AxesMap("ZYX", (2, 8, 8)), dtype="u1", metadata=metadata)
    with tifffile.TiffFile(write_all(sink, np.zeros((1, 1, 2, 8, 8), "u1"))) as tif:
        assert "PhysicalSize" not in tif.ome_metadata
        assert 'Image ID="Image:0" Name="a.b"' in tif.ome_metadata


def test_byte_order(tmp_path, rng):
    """Blocks of either byte order give the same file."""
    axes_map = AxesMap("YX", (40, 40))
    image = rng.integers(0, 60000, axes_map.data_shape).astype(">u2")
    path = write_all(TiffSink(tmp_path / "a.tif", axes_map=axes_map, dtype=">u2"), image)
    np.testing.assert_array_equal(tifffile.imread(path), image[0, 0])


def test_names_in_xml(tmp_path):
    """Characters that XML cannot contain are removed from names."""
    metadata = ImageMetadata(name='a "quote"\x00\n', channel_names=('"', "b"))
    sink = TiffSink(tmp_path / "a.tif", axes_map=AxesMap("CYX", (2, 8, 8)), dtype="u1", metadata=metadata)
    (stack,) = open_stacks([write_all(sink, np.zeros((1, 2, 8, 8), "u1"))])
    assert (stack.metadata.name, stack.metadata.channel_names) == ("a 'quote'", ("'", "b"))


def test_small_image(tmp_path):
    """The tiles of a small image are small."""
    sink = TiffSink(tmp_path / "a.tif", axes_map=AxesMap("TYX", (100, 20, 30)), dtype="u1")
    path = write_all(sink, np.zeros((100, 1, 20, 30), "u1"))
    assert path.stat().st_size < 100 * (32 * 32 + 400) + 10_000


def test_blocks_across_tiles(tmp_path, rng):
    """Blocks may start and end inside tiles."""
    axes_map = AxesMap("CZYX", (2, 5, 530, 270))
    image = rng.integers(0, 60000, axes_map.data_shape, dtype="uint16")
    sink = TiffSink(tmp_path / "a.tif", axes_map=axes_map, dtype="uint16")
    assert sink.layout.tile_counts == (3, 2)
    np.testing.assert_array_equal(tifffile.imread(write_all(sink, image, (1, 2, 3, 101, 97))), image[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "uint64"}, "uint64 cannot be stored as OME-TIFF, which has int8.*or write OME-Zarr"),
        ({"dtype": "bool"}, "convert it to uint8"),
        ({"dtype": "complex64"}, "cannot be stored"),
        ({"metadata": ImageMetadata(channel_names=("a", "b"))}, "has 2 channels .*the image has 1"),
        ({"metadata": ImageMetadata(channel_colors=("reddish",))}, "give colors as RRGGBB"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    """Dtypes and metadata that cannot be stored are refused before any file is made."""
    with pytest.raises(SinkError, match=message):
        TiffSink(tmp_path / "a.tif", **{"axes_map": AxesMap("YX", (20, 20)), "dtype": "uint8", **options})
    assert list(tmp_path.iterdir()) == []


def test_overwrite(tmp_path, rng):
    """The old image stays until the new one is complete."""
    axes_map = AxesMap("YX", (70, 70))
    old, new = rng.integers(0, 255, (2, *axes_map.data_shape), dtype="uint8")
    path = write_all(TiffSink(tmp_path / "a.tif", axes_map=axes_map, dtype="uint8"), old)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        TiffSink(path, axes_map=axes_map, dtype="uint8")
    sink = TiffSink(path, axes_map=axes_map, dtype="uint8", overwrite=True)
    sink.write(tuple(slice(0, size) for size in axes_map.data_shape), new)
    np.testing.assert_array_equal(tifffile.imread(path), old[0, 0])
    sink.finalize()
    np.testing.assert_array_equal(tifffile.imread(path), new[0, 0])
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.tif"]
