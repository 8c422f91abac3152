import pickle
import shutil
import socket
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context

import numpy as np
import pytest
import tensorstore as ts
import zarr

from patchloom.axes import AxesMap
from patchloom.errors import AxesError, SourceError, SourceNotFoundError
from patchloom.image_stacks import Region, ZarrStack, open_stacks
from patchloom.image_stacks.zarr import node as zarr_node
from patchloom.testing.stack_conformance import ImageStackConformance


def random_image(shape, dtype="uint16"):
    return np.random.default_rng(4).integers(0, 250, shape).astype(dtype)


def write_zarr(path, image, **options):
    zarr.create_array(path, data=image, overwrite=True, **options)
    return path


def ome_attributes(axes, n_levels, *, version, names=None, **multiscale):
    """Return attributes of an OME-Zarr of which each level halves Y and X."""
    kinds = {"t": "time", "c": "channel"}
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    multiscale = {
        "name": "cells",
        "axes": [
            {"name": name, "type": kinds.get(axis, "space")} | ({"unit": units[axis]} if axis in units else {})
            for axis, name in zip(axes, names or axes, strict=True)
        ],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [0.5 * 2**level if axis in "yx" else 1.0 for axis in axes]}
                ],
            }
            for level in range(n_levels)
        ],
        **multiscale,
    }
    window = {"start": 0, "end": 1, "min": 0, "max": 1}
    channels = [
        {"label": label, "color": color, "window": window} for label, color in (("A", "FF0000"), ("B", "00ff00"))
    ]
    attributes = {"multiscales": [multiscale], "omero": {"channels": channels}}
    if version == "0.5":
        return {"ome": {"version": "0.5", **attributes}}
    multiscale["version"] = version
    return attributes


def write_ome_zarr(path, image, axes="tczyx", *, version="0.5", n_levels=2, **told):
    attributes = ome_attributes(axes, n_levels, version=version, **told)
    group = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2, attributes=attributes)
    sharded = {"shards": (1, 1, *[16] * (image.ndim - 2))} if version == "0.5" else {}
    for level in range(n_levels):
        pixels = image[..., :: 2**level, :: 2**level]
        group.create_array(str(level), data=pixels, chunks=(1, 1, *[8] * (image.ndim - 2)), **sharded)
    return path


class TestZarr3Sharded(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((3, 2, 40, 50))
        names = {"dimension_names": ["t", "c", "y", "x"]}
        write_zarr(folder / "a.zarr", image, chunks=(1, 1, 8, 16), shards=(1, 2, 24, 32), **names)
        stack = ZarrStack(folder / "a.zarr")
        assert (stack.chunk_shape, stack.shard_shape) == ((1, 1, 8, 16), (1, 2, 24, 32))
        return stack, image


class TestZarr3AxesInOddOrder(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((20, 3, 5, 30, 2, 4), "float32")
        write_zarr(folder / "a.zarr", image, chunks=(7, 2, 2, 11, 1, 4))
        stack = ZarrStack(folder / "a.zarr", "XCZYST")
        assert stack.chunk_shape == (4, 2, 2, 11, 7)
        return stack, AxesMap("XCZYST", image.shape).to_data(image)


class TestZarr2(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((2, 20, 30, 3), "uint8")
        options = {"zarr_format": 2, "attributes": {"_ARRAY_DIMENSIONS": ["time", "y", "x", "channel"]}}
        return ZarrStack(write_zarr(folder / "a", image, chunks=(1, 8, 8, 3), **options)), image.transpose(0, 3, 1, 2)


class TestZarr2OfOtherByteOrder(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((20, 30), ">i4")
        path = write_zarr(folder / "a.zarr", image, chunks=(8, 8), zarr_format=2, order="F")
        return ZarrStack(path, "YX"), image.astype("i4")[np.newaxis, np.newaxis]


class TestTruthValues(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((9, 20, 30)) > 100
        return ZarrStack(write_zarr(folder / "mask.zarr", image, chunks=(4, 8, 8)), "ZYX"), image[
            np.newaxis, np.newaxis
        ]


class TestOmeZarr5(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((2, 2, 9, 20, 30))
        return ZarrStack(write_ome_zarr(folder / "cells.ome.zarr", image)), image


class TestOmeZarr4(ImageStackConformance):
    def make_stack(self, folder):
        image = random_image((2, 2, 9, 20, 30))
        return ZarrStack(write_ome_zarr(folder / "cells.ome.zarr", image, version="0.4"), level=1), image[..., ::2, ::2]


class TestSingleSlice(ImageStackConformance):
    """A five-dimensional OME-Zarr of a 2D image."""

    def make_stack(self, folder):
        image = random_image((2, 2, 1, 20, 30))
        stack = ZarrStack(write_ome_zarr(folder / "cells.ome.zarr", image))
        assert stack.original_axes == "TCYX"
        return stack, image[:, :, 0]


class TestN5(ImageStackConformance):
    def make_stack(self, folder):
        metadata = {
            "compression": {"type": "gzip"},
            "dataType": "uint16",
            "dimensions": [30, 20, 9],
            "blockSize": [8, 8, 4],
        }
        spec = {"driver": "n5", "kvstore": f"file://{folder}/a.n5/", "metadata": metadata}
        image = random_image((30, 20, 9))
        ts.open(spec, create=True).result().write(image).result()
        return ZarrStack(folder / "a.n5", "XYZ"), image.transpose(2, 1, 0)[np.newaxis, np.newaxis]


class TestPrecomputed(ImageStackConformance):
    """Its first voxel is not at 0."""

    def make_stack(self, folder):
        image = random_image((30, 20, 9, 2))
        scale = {"size": [30, 20, 9], "voxel_offset": [7, -5, 2], "encoding": "raw", "chunk_size": [8, 8, 8]}
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": f"file://{folder}/a/",
            "multiscale_metadata": {"data_type": "uint16", "num_channels": 2, "type": "image"},
            "scale_metadata": {**scale, "resolution": [8, 8, 40]},
        }
        ts.open(spec, create=True).result().write(image).result()
        stack = ZarrStack(folder / "a")
        assert stack.metadata.voxel_size == {"Z": 40.0, "Y": 8.0, "X": 8.0}
        assert stack.metadata.units["X"] == "nanometer"
        return stack, image.transpose(3, 2, 1, 0)[np.newaxis]


@pytest.fixture
def cells(tmp_path):
    """Return an OME-Zarr with two levels, and its image."""
    image = random_image((2, 2, 9, 20, 30))
    return write_ome_zarr(tmp_path / "cells.ome.zarr", image), image


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_path_of_level(tmp_path, version):
    """A level that is opened by its path has the metadata of its image."""
    image = random_image((2, 2, 9, 20, 30))
    path = write_ome_zarr(
        tmp_path / "cells.ome.zarr",
        image,
        version=version,
        coordinateTransformations=[{"type": "scale", "scale": [3.0, 1.0, 1.0, 1.0, 0.1]}],
    )
    for stack in (ZarrStack(path / "1"), ZarrStack(f"{path}/1/"), ZarrStack(path, level=1)):
        assert stack.data_shape == (2, 2, 9, 10, 15)
        assert stack.original_axes == "TCZYX"
        told = stack.metadata
        assert told.name == "cells"
        assert told.voxel_size == pytest.approx({"T": 3.0, "Z": 1.0, "Y": 1.0, "X": 0.1})
        assert told.units == {"T": "second", "Z": "micrometer", "Y": "micrometer", "X": "micrometer"}
        assert told.channel_names == ("A", "B")
        assert told.channel_colors == ("FF0000", "00FF00")


def test_types_of_axes(tmp_path):
    """Axes with other names have the letters of their types."""
    names = ["frame", "stain", "depth", "row", "col"]
    path = write_ome_zarr(tmp_path / "a.zarr", random_image((2, 2, 9, 20, 30)), names=names)
    assert ZarrStack(path).original_axes == "TCZYX"


def test_given_axes(cells):
    """Axes that are given override the metadata."""
    path, image = cells
    stack = ZarrStack(path, axes="SCTYX")
    assert stack.data_shape == (18, 2, 20, 30)
    np.testing.assert_array_equal(stack.extract_patch(11, [1], (0, 0), (20, 30))[0], image[1, 1, 2])
    assert stack.metadata.voxel_size == {"T": 1.0, "Y": 0.5, "X": 0.5}


def test_region(tmp_path):
    """A region decodes only the chunks that it overlaps.

    Every other chunk is made unreadable, and a region that overlaps one of them is an error.
    """
    image = random_image((64, 64))
    path = write_zarr(tmp_path / "a.zarr", image, chunks=(8, 8))
    for chunk in (path / "c").rglob("*"):
        if chunk.is_file() and chunk.relative_to(path / "c").parts not in {("1", "2"), ("1", "3")}:
            chunk.write_bytes(b"not what was written")
    stack = ZarrStack(path, "YX")
    np.testing.assert_array_equal(stack.extract_patch(0, None, (8, 16), (8, 16))[0], image[8:16, 16:32])
    with pytest.raises(SourceError, match=r"a\.zarr cannot be read at Y 8:16, X 15:31: .*a\.zarr/c/1/1"):
        stack.extract_patch(0, None, (8, 15), (8, 16))


def test_corrupt_chunk(tmp_path):
    """A corrupt chunk in a batch is an error that names its region.

    The message contains store, region and TensorStore's reason, and other regions can still be read.
    """
    path = write_ome_zarr(tmp_path / "cells.ome.zarr", random_image((2, 2, 9, 20, 30)), n_levels=1)
    shard = path / "0" / "c" / "1" / "0" / "0" / "1" / "1"
    content = bytearray(shard.read_bytes())
    content[5:-100] = bytes(len(content) - 105)
    shard.write_bytes(content)
    stack = ZarrStack(path)
    good = Region(0, slice(0, 2), (slice(0, 9), slice(0, 20), slice(0, 30)))
    bad = Region(1, slice(0, 1), (slice(0, 2), slice(16, 18), slice(16, 20)))
    out = [np.empty((2, 9, 20, 30)), np.empty((1, 2, 2, 4))]
    with pytest.raises(
        SourceError, match=r"cells\.ome\.zarr cannot be read at T 1, C 0:1, Z 0:2, Y 16:18, X 16:20: .*/c/1/0"
    ):
        stack.read_regions([good, bad], out)
    stack.read_regions([good], out[:1])
    np.testing.assert_array_equal(out[0], stack.extract_patch(0, None, (0, 0, 0), (9, 20, 30)))


def test_batch_after_error(tmp_path):
    """Nothing is written to a batch after its error was raised.

    The memory of the batch may have another use by then.
    """
    path = write_ome_zarr(tmp_path / "cells.ome.zarr", random_image((1, 1, 40, 64, 64)), n_levels=1)
    stack = ZarrStack(path)
    (first, *_) = sorted(file for file in (path / "0" / "c").rglob("*") if file.is_file())
    first.write_bytes(b"not what was written")
    regions = [Region(0, slice(0, 1), (slice(z, z + 1), slice(0, 64), slice(0, 64))) for z in range(40)]
    out = np.zeros((40, 1, 1, 64, 64), stack.data_dtype)

    with pytest.raises(SourceError, match="cannot be read"):
        stack.read_regions(regions, list(out))
    at_once = out.copy()

    time.sleep(0.2)
    np.testing.assert_array_equal(out, at_once)
    assert at_once[-1].any(), "the others were read all the same"


def test_concurrent_reads(cells, monkeypatch):
    """All regions of a batch are requested before the first one is awaited."""
    path, image = cells
    stack = ZarrStack(path)
    events = []

    class Watched:
        def __init__(self, target):
            self.target = target

        def __getitem__(self, selection):
            return Watched(self.target[selection])

        def read(self):
            events.append("read")
            return Watched(self.target.read())

        def result(self):
            events.append("result")
            return self.target.result()

    stack._stores = {True: Watched(stack._stores[True])}
    regions = [Region(0, slice(0, 2), (slice(0, 4), slice(y, y + 5), slice(0, 9))) for y in range(4)]
    out = np.zeros((4, 2, 4, 5, 9))
    stack.read_regions(regions, list(out))
    assert events == ["read"] * 4 + ["result"] * 4
    np.testing.assert_array_equal(out[2], image[0, :, :4, 2:7, :9])


def patch_sum(stack):
    return int(stack.extract_patch(1, None, (0, 0, 0), (9, 20, 30)).sum())


def test_worker(cells):
    """A worker reads the same pixels.

    The parent has read before, and the pickle contains only the place of the array.
    """
    path, image = cells
    stack = ZarrStack(path)
    assert patch_sum(stack) == image[1].sum()
    assert len(pickle.dumps(stack)) < 3000
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers:
        assert workers.submit(patch_sum, stack).result() == image[1].sum()


def test_lazy_pickle(cells):
    """Unpickling opens nothing."""
    pickled = pickle.dumps(ZarrStack(cells[0]))
    shutil.rmtree(cells[0])
    stack = pickle.loads(pickled)
    with pytest.raises(SourceError, match=r"cells\.ome\.zarr cannot be opened"):
        patch_sum(stack)


@pytest.fixture
def server(tmp_path):
    """Serve a folder, and note what is asked for."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            self.server.asked.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path)) as http:
        http.asked = []
        http.daemon_threads = True
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield http
        http.shutdown()
        thread.join()


@pytest.mark.parametrize("path", ["cells.ome.zarr", "cells.ome.zarr/", "cells.ome.zarr/0"])
def test_query_of_url(server, tmp_path, path):
    """The query of a URL is part of every request."""
    image = random_image((2, 2, 9, 20, 30))
    write_ome_zarr(tmp_path / "cells.ome.zarr", image, version="0.4")
    (stack,) = open_stacks(f"http://127.0.0.1:{server.server_port}/{path}?token=secret&version=2")
    np.testing.assert_array_equal(stack.extract_patch(1, None, (0, 0, 0), (9, 20, 30)), image[1])
    assert stack.metadata.voxel_size["X"] == 0.5
    assert len(server.asked) > 5
    assert all(asked.endswith("?token=secret&version=2") for asked in server.asked)


@pytest.mark.parametrize("inside", ["", "/0"])  # each on its own server: a chunk read before may come from the cache
def test_remote_image(server, tmp_path, inside):
    """Of a remote image only the chunks of a region are requested."""
    image = random_image((2, 2, 9, 20, 30))
    write_ome_zarr(tmp_path / "cells.ome.zarr", image, version="0.4")
    url = f"http://127.0.0.1:{server.server_port}/cells.ome.zarr"
    stack = ZarrStack(url + inside)
    assert stack.metadata.channel_names == ("A", "B")
    server.asked.clear()
    np.testing.assert_array_equal(stack.extract_patch(1, [1], (8, 8, 8), (1, 8, 9))[0], image[1, 1, 8:9, 8:16, 8:17])
    assert {path for path in server.asked if "/.z" not in path} == {
        "/cells.ome.zarr/0/1.1.1.1.1",
        "/cells.ome.zarr/0/1.1.1.1.2",
    }
    with pytest.raises(SourceNotFoundError, match=f"there is no Zarr at {url}/7"):
        ZarrStack(f"{url}/7")


def test_unreachable_server(monkeypatch):
    """An unreachable server is an error that names the URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/cells.zarr"
    monkeypatch.setattr(zarr_node, "context", lambda: ts.Context({"http_request_retries": {"max_retries": 0}}))
    with pytest.raises(SourceError, match=rf"{url}/ cannot be read: .*connect"):
        ZarrStack(url)


def test_other_urls():
    """URLs that TensorStore cannot read are refused."""
    with pytest.raises(SourceError, match=r"ftp://example\.org/a\.zarr is not a URL that can be read"):
        ZarrStack("ftp://example.org/a.zarr")


@pytest.mark.parametrize(
    ("inside", "level", "error", "message"),
    [
        ("", 2, SourceNotFoundError, r"cells\.ome\.zarr has no level 2: it has 2, counted from 0"),
        ("", -1, SourceNotFoundError, "has no level -1"),
        ("1", 0, SourceNotFoundError, "has no level 0: it is level 1 of its image"),
        ("7", None, SourceNotFoundError, "there is no Zarr at"),
        ("0/c", None, SourceError, "is not a Zarr: it contains neither zarr.json nor"),
    ],
)
def test_missing_levels(cells, inside, level, error, message):
    """Levels that do not exist are refused."""
    with pytest.raises(error, match=message):
        ZarrStack(cells[0] / inside, level=level)


def test_lost_level(cells):
    """A level that the metadata list and the store lacks is an error."""
    (cells[0] / "1" / "zarr.json").unlink()
    with pytest.raises(SourceError, match="is incomplete: its level 1 should be at '1'"):
        ZarrStack(cells[0], level=1)


def test_unknown_axes(tmp_path):
    """Axes without names must be given."""
    path = write_zarr(tmp_path / "a.zarr", random_image((3, 20, 30)))
    with pytest.raises(AxesError, match=r"a\.zarr has shape \(3, 20, 30\), but its axes are not known.*axes='ZYX'"):
        ZarrStack(path)
    path = write_zarr(tmp_path / "b.zarr", random_image((3, 20, 30)), dimension_names=["band", "lat", "lon"])
    with pytest.raises(AxesError, match="and its dimensions are named band, lat, lon"):
        ZarrStack(path)


def test_bad_axes(cells):
    """Axes that do not fit the array are refused."""
    with pytest.raises(AxesError, match="'ZYX' name 3 axes, but the image has 5"):
        ZarrStack(cells[0], axes="ZYX")


def test_other_versions(tmp_path):
    """Metadata of another version need a level and axes."""
    image = random_image((2, 2, 9, 20, 30))
    path = write_ome_zarr(tmp_path / "old.zarr", image, version="0.3")
    for source in (path, path / "0"):
        with pytest.raises(
            SourceError, match=r"another version than 0\.4 and 0\.5 .*such as .*old\.zarr/0 with axes='TCZYX'"
        ):
            ZarrStack(source)
    assert ZarrStack(path / "0", "TCZYX").data_shape == image.shape


def test_invalid_channels(cells):
    """Invalid metadata of channels lose only names and colors."""
    group = zarr.open_group(cells[0], mode="a")
    group.attrs["ome"] = {**group.attrs["ome"], "omero": {"channels": [{"color": "none such"}]}}
    assert ZarrStack(cells[0]).metadata.channel_names == ()


def test_converted_file(tmp_path):
    """A converted file with one image is opened as this image."""
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2, attributes={"bioformats2raw.layout": 3})
    image = random_image((2, 2, 9, 20, 30))
    write_ome_zarr(tmp_path / "a.zarr" / "0", image, version="0.4")
    assert ZarrStack(tmp_path / "a.zarr").data_shape == image.shape
    write_ome_zarr(tmp_path / "a.zarr" / "1", image, version="0.4")
    with pytest.raises(SourceError, match=r"a\.zarr contains several images: name one, such as .*a\.zarr/0"):
        ZarrStack(tmp_path / "a.zarr")
    assert ZarrStack(tmp_path / "a.zarr" / "1").data_shape == image.shape


def test_other_groups(tmp_path):
    """The error for other groups shows how to name an image."""
    zarr.open_group(tmp_path / "plate.zarr", mode="w", attributes={"ome": {"plate": {"wells": [{"path": "B/3"}]}}})
    with pytest.raises(SourceError, match=r"is a plate: name an image of it, such as .*plate\.zarr/B/3/0"):
        ZarrStack(tmp_path / "plate.zarr")
    group = zarr.open_group(tmp_path / "group.zarr", mode="w")
    group.create_array("raw", data=random_image((20, 30)))
    with pytest.raises(SourceError, match=r"is a group without OME-Zarr metadata: .*group\.zarr/raw"):
        ZarrStack(tmp_path / "group.zarr")
    assert ZarrStack(tmp_path / "group.zarr" / "raw", "YX").data_shape == (1, 1, 20, 30)


def test_truncated_metadata(cells):
    """Truncated metadata are an error that names the file."""
    (cells[0] / "zarr.json").write_text('{"zarr_format": 3, "node_')
    with pytest.raises(SourceError, match=r"cells\.ome\.zarr/zarr\.json is corrupt"):
        ZarrStack(cells[0])
