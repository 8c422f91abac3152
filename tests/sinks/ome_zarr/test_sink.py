import json
import warnings

import numpy as np
import pytest
import tensorstore as ts
import yaozarrs
import zarr
from ome_zarr_models import v04, v05

from patchloom.axes import AxesMap
from patchloom.errors import ArgumentError, GeometryError, OutputExistsError, SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import open_stacks
from patchloom.sinks import OmeZarrSink
from patchloom.sinks.ome_zarr.pyramid import downsample, halving
from patchloom.testing.sink_conformance import ResumableSinkConformance

IN_MICRONS = ImageMetadata(
    name="cells",
    voxel_size={"Z": 2.0, "Y": 0.5, "X": 0.5},
    units=dict.fromkeys("ZYX", "micrometer"),
    channel_names=("a", "b"),
)


def make_sink(path, axes_map, dtype="uint16", *, chunk=16, chunks_a_shard=2, **options):
    """A sink with cubic chunks and shards, one sample and one channel each."""
    n_dims = len(axes_map.spatial)
    return OmeZarrSink(
        path,
        axes_map=axes_map,
        dtype=dtype,
        chunk_shape=(1, 1, *(chunk,) * n_dims),
        shard_shape=(1, 1, *(chunk * chunks_a_shard,) * n_dims),
        **options,
    )


def write_all(sink, image):
    for shard in sink.grid.shards(sink.grid.whole):
        sink.write(shard, image[shard])
    return sink.finalize()


def random_image(rng, shape, dtype):
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)


def files_written_by_tensorstore():
    name = "/tensorstore/kvstore/file/write"
    metrics = {metric["name"]: metric["values"] for metric in ts.experimental_collect_matching_metrics(name)}
    return metrics[name][0]["value"] if name in metrics else 0


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


class TestOmeZarrSink(ResumableSinkConformance):
    dtypes = ("bool", "uint8", "uint16", "uint64", "float16", "float32", "float64")
    version = "0.5"

    def make_sink(self, folder, axes_map, dtype):
        return make_sink(folder / "image.ome.zarr", axes_map, dtype, chunk=10, version=self.version)

    def resume_sink(self, folder, axes_map, dtype):
        return make_sink(folder / "image.ome.zarr", axes_map, dtype, chunk=10, resume=True, version=self.version)

    def block_shape(self, sink):
        return sink.shard_shape

    def read_back(self, result, axes_map):
        stored = zarr.open_group(result, mode="r")["0"]
        return np.asarray(stored[...]).reshape(axes_map.data_shape)


class TestSeveralShardsABlock(TestOmeZarrSink):
    axes_maps = (AxesMap("YX", (90, 50)), AxesMap("TCZYX", (3, 2, 30, 19, 40)))
    dtypes = ("uint8", "float32")

    def block_shape(self, sink):
        return tuple(2 * size for size in sink.shard_shape)


class TestOmeZarr04Sink(TestOmeZarrSink):
    dtypes = ("bool", "uint16", "int64", "float16", "float64")
    axes_maps = (AxesMap("YX", (37, 50)), AxesMap("STCZYX", (2, 1, 2, 5, 19, 21)))
    version = "0.4"


@pytest.mark.parametrize(
    ("axes", "shape", "stored_axes", "stored_shape"),
    [
        ("YX", (20, 30), "yx", (20, 30)),
        ("YXC", (20, 30, 3), "cyx", (3, 20, 30)),
        ("SYX", (4, 20, 30), "tyx", (4, 20, 30)),
        ("ZCYX", (5, 2, 20, 30), "czyx", (2, 5, 20, 30)),
        ("TSYX", (3, 2, 20, 30), "tyx", (6, 20, 30)),
        ("STCZYX", (2, 3, 2, 5, 20, 30), "tczyx", (6, 2, 5, 20, 30)),
        ("TCYX", (1, 1, 20, 30), "tcyx", (1, 1, 20, 30)),
    ],
)
def test_axes(tmp_path, rng, axes, shape, stored_axes, stored_shape):
    """The stored axes follow from the image's own axes, whose order can be restored."""
    image = random_image(rng, shape, "uint16")
    axes_map = AxesMap(axes, shape)
    group = zarr.open_group(write_all(make_sink(tmp_path / "a.zarr", axes_map), axes_map.to_data(image)), mode="r")
    assert "".join(axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]) == stored_axes
    assert group["0"].shape == stored_shape
    assert "".join(group["0"].metadata.dimension_names) == stored_axes
    kept = AxesMap(**group.attrs["patchloom"])
    np.testing.assert_array_equal(kept.from_data(np.asarray(group["0"][...])), image)


@pytest.mark.parametrize("axes_map", [AxesMap("YX", (300, 1100)), AxesMap("TCZYX", (2, 2, 3, 40, 70))])
@pytest.mark.parametrize("pyramid", ["auto", "mean", "mode", "nearest", None])
@pytest.mark.parametrize(("version", "reader"), [("0.4", v04.Image), ("0.5", v05.Image)])
def test_valid_metadata(tmp_path, rng, axes_map, pyramid, version, reader):
    """Other readers accept the metadata."""
    path = write_all(
        make_sink(tmp_path / "a.ome.zarr", axes_map, chunk=64, pyramid=pyramid, version=version),
        random_image(rng, axes_map.data_shape, "u2"),
    )
    yaozarrs.validate_zarr_store(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # ome-zarr-models' own
        model = reader.from_zarr(zarr.open_group(path, mode="r"))
    assert len(model.datasets[0]) == len(list(zarr.open_group(path, mode="r").array_keys()))


def test_version_04(tmp_path, rng):
    """OME-Zarr 0.4 stores the same metadata at other places, and one chunk in each file."""
    axes_map = AxesMap("CZYX", (2, 5, 70, 90))
    image = random_image(rng, axes_map.data_shape, "u2") + 1
    new, old = (
        write_all(
            make_sink(tmp_path / f"{version}.ome.zarr", axes_map, version=version, levels=2, metadata=IN_MICRONS), image
        )
        for version in ("0.5", "0.4")
    )
    said, said_before = dict(zarr.open_group(new, mode="r").attrs), dict(zarr.open_group(old, mode="r").attrs)
    ome = said.pop("ome")
    assert ome.pop("version") == "0.5"
    assert [scale.pop("version") for scale in said_before["multiscales"]] == ["0.4"]
    assert said_before == said | ome
    stored = json.loads((old / "0" / ".zarray").read_text())
    assert (stored["zarr_format"], stored["dimension_separator"], stored["chunks"]) == (2, "/", [1, 5, 16, 16])
    assert len([file for file in files(old / "0") if file.name != ".zarray"]) == 2 * 1 * 5 * 6
    (stack,) = open_stacks([old])
    assert (stack.original_axes, stack.metadata.voxel_size, stack.metadata.channel_names) == (
        "CZYX", {"Z": 2.0, "Y": 0.5, "X": 0.5}, ("a", "b"),
    )  # fmt: skip
    np.testing.assert_array_equal(stack.extract_patch(0, None, (0, 0, 0), (5, 70, 90)), image[0])


def test_metadata(tmp_path, rng):
    """Voxel sizes, channels and the name are stored."""
    metadata = ImageMetadata(
        name="embryo",
        voxel_size={"T": 30.0, "Z": 2.0, "Y": 0.227, "X": 0.227},
        units={"T": "second", "Z": "micrometer", "Y": "micrometer", "X": "micrometer"},
        channel_names=("DAPI", "GFP"),
        channel_colors=("0000FF", "00ff00"),
    )
    axes_map = AxesMap("TCZYX", (2, 2, 5, 40, 30))
    image = random_image(rng, axes_map.data_shape, "float32")
    image[:, 0, 0, 0, :3] = np.nan, np.inf, -np.inf
    sink = make_sink(tmp_path / "a.ome.zarr", axes_map, "float32", metadata=metadata, levels=2)
    ome = zarr.open_group(write_all(sink, image), mode="r").attrs["ome"]
    scale = ome["multiscales"][0]
    assert scale["name"] == "embryo"
    assert [axis.get("unit") for axis in scale["axes"]] == ["second", None, *["micrometer"] * 3]
    assert [level["coordinateTransformations"] for level in scale["datasets"]] == [
        [{"type": "scale", "scale": [30.0, 1.0, 2.0, 0.227, 0.227]}],
        [
            {"type": "scale", "scale": [30.0, 1.0, 4.0, 0.454, 0.454]},
            {"type": "translation", "translation": [0.0, 0.0, 1.0, 0.1135, 0.1135]},
        ],
    ]
    assert [(channel["label"], channel["color"], channel["active"]) for channel in ome["omero"]["channels"]] == [
        ("DAPI", "0000FF", True),
        ("GFP", "00FF00", True),
    ]
    for channel, window in enumerate(channel["window"] for channel in ome["omero"]["channels"]):
        finite = image[:, channel][np.isfinite(image[:, channel])]
        assert window == dict.fromkeys(("min", "start"), finite.min()) | dict.fromkeys(("max", "end"), finite.max())


def test_default_metadata(tmp_path):
    """Metadata that the source does not contain have defaults."""
    metadata = ImageMetadata(voxel_size={"Y": 0.0, "X": float("nan")}, units={"Y": "micrometer", "X": "pixel"})
    sink = make_sink(tmp_path / "flat.ome.zarr", AxesMap("YX", (20, 20)), "uint8", metadata=metadata)
    ome = zarr.open_group(write_all(sink, np.full((1, 1, 20, 20), 7, "uint8")), mode="r").attrs["ome"]
    scale = ome["multiscales"][0]
    assert scale["name"] == "flat"
    assert scale["axes"] == [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    assert scale["datasets"][0]["coordinateTransformations"] == [{"type": "scale", "scale": [1.0, 1.0]}]
    assert "type" not in scale  # one level: nothing was halved
    (channel,) = ome["omero"]["channels"]
    assert (channel["color"], channel["window"]) == ("FFFFFF", {"start": 7.0, "min": 7.0, "end": 8.0, "max": 8.0})


@pytest.mark.parametrize("unit", ["micrometer", "pixel", "µm"])
def test_unknown_units(tmp_path, unit):
    """A unit that OME-Zarr does not have is left out."""
    metadata = ImageMetadata(voxel_size={"Y": 0.5, "X": 0.5}, units={"Y": unit, "X": unit})
    sink = make_sink(tmp_path / "a.ome.zarr", AxesMap("YX", (20, 20)), "uint8", metadata=metadata)
    path = write_all(sink, np.zeros((1, 1, 20, 20), "uint8"))
    axes = zarr.open_group(path, mode="r").attrs["ome"]["multiscales"][0]["axes"]
    assert [axis.get("unit") for axis in axes] == ([unit] * 2 if unit == "micrometer" else [None] * 2)


@pytest.mark.parametrize(
    ("dtype", "method"),
    [
        ("uint8", "mean"),
        ("float32", "mean"),
        ("bool", "mode"),
        ("int64", "nearest"),
        ("int64", "mode"),
        ("float32", "mode"),
    ],
)
@pytest.mark.parametrize(
    "axes_map", [AxesMap("CYX", (2, 93, 70)), AxesMap("TZYX", (2, 1, 37, 50)), AxesMap("ZYX", (11, 35, 66))]
)
def test_levels(tmp_path, rng, dtype, method, axes_map):
    """The levels are those of the whole image, for all shapes of chunks and shards."""
    image = random_image(rng, axes_map.data_shape, dtype)
    found = []
    for n, (chunk, chunks_a_shard) in enumerate([(32, 1), (8, 4), (5, 3)]):
        sink = make_sink(
            tmp_path / f"{n}.zarr",
            axes_map,
            dtype,
            chunk=chunk,
            chunks_a_shard=chunks_a_shard,
            pyramid=method,
            levels=4,
        )
        group = zarr.open_group(write_all(sink, image), mode="r")
        found.append([np.asarray(group[str(level)][...]) for level in range(4)])
    expected = image
    for level in range(4):
        for levels in found:
            np.testing.assert_array_equal(levels[level].reshape(expected.shape), expected)
        expected = downsample(expected, (1, 1, *halving(expected.shape[2:])), method)


@pytest.mark.parametrize("method", ["mean", "nearest"])
def test_positions_of_levels(tmp_path, method):
    """In a ramp, each voxel of each level has the value of its position, except at an odd end."""
    shape = (53, 80)
    y, x = np.meshgrid(*(np.arange(size, dtype=float) for size in shape), indexing="ij")
    metadata = ImageMetadata(voxel_size={"Y": 0.5, "X": 3.0})
    for ramp, axis in ((0.5 * y, 0), (3.0 * x, 1)):
        path = tmp_path / f"{axis}.zarr"
        sink = make_sink(path, AxesMap("YX", shape), "float64", pyramid=method, levels=4, metadata=metadata)
        group = zarr.open_group(write_all(sink, ramp[None, None]), mode="r")
        for level, dataset in enumerate(group.attrs["ome"]["multiscales"][0]["datasets"]):
            scale, *translation = dataset["coordinateTransformations"]
            origin = translation[0]["translation"][axis] if translation else 0.0
            values = np.moveaxis(np.asarray(group[dataset["path"]][...]), axis, 0)[:, 0]
            places = origin + scale["scale"][axis] * np.arange(len(values))
            np.testing.assert_allclose(values[:-1], places[:-1], err_msg=f"level {level}")


@pytest.mark.parametrize(
    ("dtype", "method"),
    [("uint8", "mean"), ("float32", "mean"), ("uint32", "mode"), ("int64", "mode"), ("bool", "mode")],
)
def test_default_pyramid(tmp_path, rng, dtype, method):
    """By default the dtype selects the mean or the mode."""
    axes_map = AxesMap("YX", (70, 93))
    image = random_image(rng, axes_map.data_shape, dtype)
    group = zarr.open_group(write_all(make_sink(tmp_path / "a.zarr", axes_map, dtype, levels=2), image), mode="r")
    assert group.attrs["ome"]["multiscales"][0]["type"] == method
    np.testing.assert_array_equal(group["1"][...], downsample(image, (1, 1, 2, 2), method)[0, 0])


def test_files_are_written_once(tmp_path, rng):
    """TensorStore writes each shard, and each description of an array, once."""
    axes_map = AxesMap("CZYX", (2, 20, 100, 90))
    image = random_image(rng, axes_map.data_shape, "uint16") + 1  # a chunk of zeros is not stored

    before = files_written_by_tensorstore()
    path = write_all(make_sink(tmp_path / "a.zarr", axes_map, levels=3), image)
    stored = [file for file in files(path) if file != path / "zarr.json"]
    assert files_written_by_tensorstore() - before == len(stored)
    assert len([file for file in stored if file.is_relative_to(path / "0" / "c")]) == 2 * 1 * 4 * 3
    assert not [file for file in stored if "lock" in file.name]


def test_minus_zero_and_nan(tmp_path):
    """-0 and NaN are stored, although chunks of zeros are not."""
    axes_map = AxesMap("YX", (32, 96))
    image = np.zeros((1, 1, 32, 96), "float32")
    image[..., 32:64] = -0.0
    image[..., 64:] = np.nan
    path = write_all(make_sink(tmp_path / "a.zarr", axes_map, "float32"), image)
    assert np.asarray(zarr.open_group(path, mode="r")["0"][...]).tobytes() == image.tobytes()


def test_byte_order(tmp_path, rng):
    """Blocks of either byte order give the same image."""
    axes_map = AxesMap("YX", (40, 40))
    image = random_image(rng, axes_map.data_shape, "u2").astype(">u2")
    group = zarr.open_group(write_all(make_sink(tmp_path / "a.zarr", axes_map, ">u2"), image), mode="r")
    np.testing.assert_array_equal(group["0"][...], image[0, 0])


def test_clipping(tmp_path):
    """Chunks and shards are clipped to the image; if they are equal, there is no sharding codec."""
    sink = OmeZarrSink(
        tmp_path / "a.zarr", axes_map=AxesMap("YX", (600, 100)), dtype="u1",
        chunk_shape=(1, 1, 256, 256), shard_shape=(1, 1, 1024, 1024), levels=4,
    )  # fmt: skip
    assert (sink.chunk_shape, sink.shard_shape) == ((1, 1, 256, 100), (1, 1, 768, 100))
    group = zarr.open_group(write_all(sink, np.ones((1, 1, 600, 100), "u1")), mode="r")
    assert [(array.chunks, array.shards) for array in (group[str(level)] for level in range(4))] == [
        ((256, 100), (768, 100)),
        ((256, 50), (512, 50)),
        ((150, 25), None),
        ((75, 13), None),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "complex64"}, "complex64 cannot be stored"),
        ({"dtype": "S3"}, "cannot be stored"),
        ({"metadata": ImageMetadata(channel_names=("a", "b"))}, "channel_names has 2 entries"),
        ({"metadata": ImageMetadata(channel_colors=("reddish",))}, "metadata cannot be written"),
        ({"chunk": 0}, "must be one positive number"),
        ({"pyramid": "median"}, "must be 'auto', 'mean', 'mode', 'nearest', or None"),
        ({"levels": 0}, "must be at least 1"),
        ({"levels": 1.5}, "must be a whole number"),
    ],
)
def test_wrong_arguments(tmp_path, options, message):
    """Arguments that cannot be stored are refused before any file is made."""
    with pytest.raises((SinkError, ArgumentError), match=message):
        make_sink(tmp_path / "a.zarr", AxesMap("YX", (20, 20)), **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("chunk", "shard"), [((1, 1, 8, 8), (1, 1, 20, 16)), ((8, 8), (8, 8)), ((1, 1, 1, 8, 8),) * 2])
def test_wrong_shapes(tmp_path, chunk, shard):
    """Chunks and shards that do not fit are refused."""
    with pytest.raises(GeometryError, match=r"shard_shape is 20 along Y|one positive number for each axis of SCYX"):
        OmeZarrSink(
            tmp_path / "a.zarr", axes_map=AxesMap("YX", (64, 64)), dtype="u1", chunk_shape=chunk, shard_shape=shard
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("y", [slice(0, 16), slice(16, 48), slice(32, 63), slice(8, 64)])
def test_part_of_a_shard(tmp_path, y):
    """A block that contains a part of a shard is refused."""
    sink = make_sink(tmp_path / "a.zarr", AxesMap("YX", (64, 64)))
    region = (slice(0, 1), slice(0, 1), y, slice(0, 64))
    with pytest.raises(SinkError, match="along Y contains a part of a shard: it must start at a multiple of 32"):
        sink.write(region, np.ones((1, 1, y.stop - y.start, 64), "uint16"))
    assert [file.name for file in files(tmp_path / "a.zarr.partial")] == ["zarr.json"]


def test_one_writer(tmp_path):
    """A second sink for the same image is refused."""
    axes_map = AxesMap("YX", (20, 20))
    first = make_sink(tmp_path / "a.zarr", axes_map)
    with pytest.raises(SinkError, match=r"a.zarr: another run is writing this output"):
        make_sink(tmp_path / "a.zarr", axes_map)
    first.abort()
    make_sink(tmp_path / "a.zarr", axes_map).abort()


def test_new_destination(tmp_path, rng):
    """An image that appears at the destination during the run is not replaced."""
    axes_map = AxesMap("YX", (20, 20))
    sink = make_sink(tmp_path / "a.zarr", axes_map)
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(OutputExistsError):
        write_all(sink, random_image(rng, axes_map.data_shape, "u2"))
    assert list((tmp_path / "a.zarr").iterdir()) == []
    sink.abort()
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_overwrite(tmp_path, rng):
    """The old image stays until the new one is complete."""
    axes_map = AxesMap("YX", (70, 70))
    old, new = (random_image(rng, axes_map.data_shape, "u2") for _ in range(2))
    path = write_all(make_sink(tmp_path / "a.zarr", axes_map), old)

    def stored():
        return np.asarray(zarr.open_group(path, mode="r")["0"][...])[None, None]

    with pytest.raises(OutputExistsError, match="--overwrite"):
        make_sink(path, axes_map)
    sink = make_sink(path, axes_map, overwrite=True)
    np.testing.assert_array_equal(stored(), old)
    sink.abort()
    np.testing.assert_array_equal(stored(), old)
    write_all(make_sink(path, axes_map, overwrite=True), new)
    np.testing.assert_array_equal(stored(), new)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]


def test_linked_destination(tmp_path, rng):
    """If the destination is a link, the image is written to its target."""
    axes_map = AxesMap("YX", (20, 20))
    (tmp_path / "disk").mkdir()
    (tmp_path / "link.zarr").symlink_to(tmp_path / "disk" / "real.zarr")
    write_all(make_sink(tmp_path / "link.zarr", axes_map), random_image(rng, axes_map.data_shape, "u2"))
    assert (tmp_path / "link.zarr").is_symlink()
    assert (tmp_path / "disk" / "real.zarr" / "zarr.json").is_file()


def test_working_directory(tmp_path, rng, monkeypatch):
    """A relative path is resolved once, in the first working directory."""
    axes_map = AxesMap("YX", (20, 20))
    monkeypatch.chdir(tmp_path)
    sink = make_sink("a.zarr", axes_map)
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    write_all(sink, random_image(rng, axes_map.data_shape, "u2"))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zarr", "other"]


def test_finalize_stopped(tmp_path, rng):
    """An image whose levels were interrupted is not published, and is finalized again to the same bytes."""
    axes_map, contents = AxesMap("YX", (300, 200)), []
    image = rng.integers(0, 255, axes_map.data_shape).astype("uint8")
    for name in ("whole", "stopped"):
        grid = {"chunk_shape": (1, 1, 32, 32), "shard_shape": (1, 1, 64, 64)}
        path = tmp_path / name / "a.zarr"
        path.parent.mkdir()
        sink = OmeZarrSink(path, axes_map=axes_map, dtype="uint8", **grid, levels=3)
        for region in sink.grid.shards(sink.grid.whole):
            sink.write(region, image[region])
        steps = []

        def advance(number, steps=steps):
            steps.append(number)
            if len(steps) == 5:
                raise KeyboardInterrupt

        if name == "stopped":
            with pytest.raises(KeyboardInterrupt):
                sink.finalize(advance)
            assert not path.exists()
            steps *= 2
            sink.finalize(advance)
            assert sum(steps[10:]) == sink.n_steps
        else:
            sink.finalize()
        contents.append({str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()})
    assert contents[0] == contents[1]
