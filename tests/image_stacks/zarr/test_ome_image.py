"""What OME-Zarr metadata say, held against arithmetic of our own, and what they must not say."""

import json
import math
import os
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tensorstore as ts
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import patchloom as pl
from patchloom.errors import PatchloomError, SourceError
from patchloom.image_stacks import ZarrStack, select_channels
from patchloom.image_stacks.zarr.ome_image import ome_zarr_image, path_inside

SHAPE = (3, 40, 50)
AXES = [{"name": name, "type": "space", "unit": "micrometer"} for name in "zyx"]


def multiscale(*levels, common=None):
    datasets = [
        {"path": str(level), "coordinateTransformations": transformations}
        for level, transformations in enumerate(levels)
    ]
    told = {"axes": AXES, "datasets": datasets}
    return told if common is None else {**told, "coordinateTransformations": common}


def write(path, attributes, shapes=(SHAPE,)):
    group = zarr.open_group(path, mode="w", zarr_format=3 if "ome" in attributes else 2, attributes=attributes)
    for level, shape in enumerate(shapes):
        group.create_array(str(level), data=np.ones(shape, "uint8"), chunks=(1, 16, 16))
    return path


def attributes_of(told, version="0.5", **others):
    if version == "0.5":
        return {"ome": {"version": "0.5", "multiscales": [told], **others}}
    return {"multiscales": [{"version": "0.4", **told}], **others}


def place(index, transformations):
    """Apply transformations to an index, one after the other: the oracle."""
    for step in transformations:
        (kind, values) = step["type"], step[step["type"]]
        index = [a * b if kind == "scale" else a + b for a, b in zip(index, values, strict=True)]
    return index


numbers = st.sampled_from([0.2, -0.2, 2.0, -3.5, 1.0, 0.0])
scales = st.lists(numbers, min_size=3, max_size=3).map(lambda values: {"type": "scale", "scale": values})
translations = st.lists(st.sampled_from([0.0, 7.5, -20.0]), min_size=3, max_size=3).map(
    lambda values: {"type": "translation", "translation": values}
)
transformations = st.tuples(scales, st.lists(translations, max_size=1)).map(lambda pair: [pair[0], *pair[1]])


@given(own=transformations, common=st.none() | transformations, version=st.sampled_from(["0.4", "0.5"]))
@settings(max_examples=60, deadline=None)
def test_transformations(own, common, version):
    """Voxel sizes and origins are those of the transformations."""
    with TemporaryDirectory() as folder:
        told = ZarrStack(write(f"{folder}/a.zarr", attributes_of(multiscale(own, common=common), version))).metadata
    chain = own + (common or [])
    first, second, last = (place(index, chain) for index in ([0] * 3, [1] * 3, [size - 1 for size in SHAPE]))
    for axis, *places in zip("ZYX", first, second, last, strict=True):
        start, following, end = places
        if start == following:
            assert axis not in {**told.voxel_size, **told.units, **told.origin}
            continue
        assert told.voxel_size[axis] == pytest.approx(abs(following - start))
        assert told.origin[axis] == pytest.approx(min(start, end))
        assert told.units[axis] == "micrometer"


@pytest.mark.parametrize(
    "unknown",
    [
        [],
        None,
        [{"type": "identity"}],
        [{"type": "scale"}],
        [{"type": "scale", "path": "scales"}],
        *(
            [{"type": "scale", "scale": [value] * 3}]
            for value in (0, 0.0, math.nan, math.inf, 1e308, None, "0.2", True, [0.2])
        ),
        [{"type": "translation", "translation": [1.0, 2.0, 3.0]}],
    ],
)
def test_invalid_scales(tmp_path, unknown):
    """A voxel size that is not a number is unknown."""
    expected = {} if unknown != [{"type": "scale", "scale": [True] * 3}] else dict.fromkeys("ZYX", 1.0)
    stack = ZarrStack(write(tmp_path / "a.zarr", attributes_of(multiscale(unknown), "0.4")))
    assert (stack.original_axes, stack.metadata.voxel_size) == ("ZYX", expected)


def test_flipped_image(tmp_path):
    """All levels of a flipped image are opened."""
    scale = [[{"type": "scale", "scale": [1.0, -0.5 * factor, 0.5 * factor]}] for factor in (1, 2, 4)]
    shapes = [(3, 40 // factor, 50 // factor) for factor in (1, 2, 4)]
    path = write(tmp_path / "a.zarr", attributes_of(multiscale(*scale)), shapes)
    assert [ZarrStack(path, level=level).metadata.voxel_size["Y"] for level in range(3)] == [0.5, 1.0, 2.0]


def test_order_of_levels(tmp_path):
    """Levels that are not ordered from fine to coarse are refused."""
    scale = [[{"type": "scale", "scale": [1.0, factor, factor]}] for factor in (2, 1)]
    with pytest.raises(SourceError, match="not ordered from fine to coarse"):
        ZarrStack(write(tmp_path / "a.zarr", attributes_of(multiscale(*scale)), [SHAPE, SHAPE]))


def first_dataset(path):
    told = json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["multiscales"][0]
    return {step["type"]: step[step["type"]] for step in told["datasets"][0]["coordinateTransformations"]}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("level", [0, 1])
def test_place_of_result(tmp_path, version, level):
    """A result covers the same part of space as its source."""
    steps = [
        [{"type": "scale", "scale": [2.0, 0.5, -0.25]}, {"type": "translation", "translation": [5.0, -7.0, 100.0]}],
        [{"type": "scale", "scale": [2.0, 1.0, -0.5]}, {"type": "translation", "translation": [5.0, -6.75, 99.875]}],
    ]
    path = write(tmp_path / "a.zarr", attributes_of(multiscale(*steps)), [SHAPE, (3, 20, 25)])
    stack = ZarrStack(path, level=level)
    out = pl.predict(
        lambda batch: batch,
        stack,
        pl.OmeZarr(tmp_path / "out.zarr", version),
        patch_size=(2, 16, 16),
        progress=False,
    )
    result = ZarrStack(out)
    assert (
        result.metadata.voxel_size == stack.metadata.voxel_size == {"Z": 2.0, "Y": 0.5 * 2**level, "X": 0.25 * 2**level}
    )
    assert result.metadata.origin == stack.metadata.origin
    assert result.metadata.origin["Y"] == [-7.0, -6.75][level]
    assert result.metadata.units == dict.fromkeys("ZYX", "micrometer")


def test_place_of_levels(tmp_path):
    """The origin of a lower level is the center of its first voxel."""
    steps = [{"type": "scale", "scale": [1.0, 0.5, 0.5]}, {"type": "translation", "translation": [3.0, 7.0, 9.0]}]
    path = write(tmp_path / "a.zarr", attributes_of(multiscale(steps)), [(3, 600, 300)])
    out = pl.predict(lambda batch: batch, path, tmp_path / "out.zarr", patch_size=(3, 300, 300), progress=False)
    first, second = (ZarrStack(out, level=level).metadata for level in range(2))
    assert first.origin == {"Z": 3.0, "Y": 7.0, "X": 9.0}
    ratio = {axis: second.voxel_size[axis] / first.voxel_size[axis] for axis in "ZYX"}
    assert ratio["Y"] == 2
    assert second.origin == {
        axis: first.origin[axis] + (ratio[axis] - 1) / 2 * first.voxel_size[axis] for axis in "ZYX"
    }


@pytest.mark.parametrize("origin", [[0.0, 0.0, 0.0], [3.0, -8.0, 0.5]])
def test_place_of_enlarged_result(tmp_path, origin):
    """An enlarged result covers the same part of space as its source."""
    steps = [{"type": "scale", "scale": [2.0, 0.5, 0.5]}, {"type": "translation", "translation": origin}]
    path = write(tmp_path / "a.zarr", attributes_of(multiscale(steps)))

    def enlarge(batch):
        return batch.repeat(2, -1).repeat(2, -2).repeat(2, -3)

    out = pl.predict(enlarge, path, tmp_path / "out.zarr", patch_size=(3, 20, 25), progress=False)
    told = {axis: (size, start) for axis, size, start in zip("ZYX", *first_dataset(out).values(), strict=True)}
    for axis, (size, start), source_size, source_start in zip(
        "ZYX", told.values(), [2.0, 0.5, 0.5], origin, strict=True
    ):
        assert size == source_size / 2, axis
        assert start - size / 2 == source_start - source_size / 2  # where the first voxel begins


WINDOW = {"start": 0, "end": 255, "min": 0, "max": 255}


def omero(colors, windows):
    return {"channels": [{"color": color, "window": window} for color, window in zip(colors, windows, strict=True)]}


def write_colors(path, image, colors, windows):
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 3}]}
    told = {"axes": axes, "datasets": [dataset]}
    group = zarr.open_group(path, mode="w", attributes=attributes_of(told, omero=omero(colors, windows)))
    group.create_array("0", data=image, chunks=(1, 16, 16))
    return path


def channels_written(path):
    return json.loads((path / "zarr.json").read_text())["attributes"]["ome"]["omero"]["channels"]


@pytest.mark.parametrize("version", ["rgb", "one dim channel", "stains"])
def test_color_image(tmp_path, version, rng):
    """A color image is written as a color image.

    Red, green and blue with one range of values are a color image; three stains of these colors with their own ranges are not.
    """
    image = rng.integers(0, [[[60]], [[255]], [[120]]], (3, 40, 50)).astype("uint8")
    windows = [WINDOW] * 3 if version == "rgb" else [WINDOW, WINDOW, {**WINDOW, "end": 90}]
    colors = ["FF0000", "00ff00", "0000FF"] if version != "stains" else ["FF0000", "00FF00", "FF00FF"]
    source = write_colors(tmp_path / "a.zarr", image, colors, windows)
    out = pl.predict(lambda batch: batch, source, tmp_path / "out.zarr", patch_size=(16, 16), progress=False)
    written = channels_written(out)
    assert [channel["color"].upper() for channel in written] == [color.upper() for color in colors]
    ranges = [(channel["window"]["start"], channel["window"]["end"]) for channel in written]
    if version == "rgb":
        assert ranges == [(image.min(), image.max())] * 3
    else:
        assert ranges == [(values.min(), values.max()) for values in image]
    assert ZarrStack(out).metadata.is_rgb == (version == "rgb")


def test_other_channels(tmp_path, rng):
    """Channels with other colors or ranges are not a color image."""
    source = write_colors(
        tmp_path / "a.zarr", rng.integers(0, 255, (3, 40, 50), "uint8"), ["FF0000", "00FF00", "0000FF"], [WINDOW] * 3
    )

    def first_two(batch):
        return batch[:, :2]

    out = pl.predict(first_two, source, tmp_path / "out.zarr", patch_size=(16, 16), progress=False)
    assert not ZarrStack(out).metadata.is_rgb
    assert not select_channels(ZarrStack(source), [2, 1, 0]).metadata.is_rgb
    assert select_channels(ZarrStack(source), [0, 1, 2]).metadata.is_rgb


SECRET = "secret.zarr/0"
ESCAPES = [f"../{SECRET}", f"x/../../{SECRET}", "/", "", ".", "..", "a//b", "a\0b", "..\\secret.zarr\\0"]


@pytest.mark.parametrize("escape", [*ESCAPES, "absolute", "URL"])
def test_levels_outside(tmp_path, escape):
    """Levels outside the image's folder are refused."""
    secret = write(tmp_path / "secret.zarr", attributes_of(multiscale([{"type": "scale", "scale": [1.0] * 3}])))
    path = {"absolute": str(secret / "0"), "URL": (secret / "0").as_uri()}.get(escape, escape)
    told = multiscale([{"type": "scale", "scale": [1.0] * 3}])
    told["datasets"][0]["path"] = path
    hostile = write(tmp_path / "a.zarr", attributes_of(told))
    for axes in (None, "ZYX"):
        with pytest.raises(
            SourceError, match=r"a\.zarr has OME-Zarr metadata that are not valid|a\.zarr is incomplete"
        ):
            ZarrStack(hostile, axes)


@pytest.mark.parametrize("path", [*ESCAPES, "/tmp/0", "0/../.."])
def test_paths_outside(path):
    """Paths that lead out of a store are refused."""
    with pytest.raises(ValueError, match="leads out of the image"):
        path_inside(path)


@pytest.mark.parametrize(("path", "inside"), [("0", "0"), ("0/", "0"), ("./0", "0"), ("a/b..c/0", "a/b..c/0")])
def test_paths_inside(path, inside):
    """Paths within a store are accepted."""
    assert path_inside(path) == inside


def test_precomputed_outside(tmp_path):
    """Scales outside the folder of a precomputed image are refused."""
    scale = {"size": [30, 20, 9], "encoding": "raw", "chunk_size": [8, 8, 8], "resolution": [8, 8, 40]}
    spec = {
        "driver": "neuroglancer_precomputed",
        "kvstore": f"file://{tmp_path}/secret/",
        "multiscale_metadata": {"data_type": "uint16", "num_channels": 1, "type": "image"},
        "scale_metadata": scale,
    }
    ts.open(spec, create=True).result().write(np.ones((30, 20, 9, 1), "uint16")).result()
    info = json.loads((tmp_path / "secret" / "info").read_text())
    (tmp_path / "a").mkdir()
    for key in (f"../secret/{info['scales'][0]['key']}", "/secret", 5, None):
        changed = {**info, "scales": [{**info["scales"][0], "key": key}]}
        (tmp_path / "a" / "info").write_text(json.dumps(changed))
        with pytest.raises(SourceError, match=r"a has scales that cannot be used"):
            ZarrStack(tmp_path / "a")


HOSTILE = {
    "multiscales is text": {"multiscales": "x"},
    "multiscales is a number": {"multiscales": 5},
    "multiscales holds nothing": {"multiscales": [None]},
    "multiscales holds text": {"multiscales": ["x"]},
    "a mapping": {"multiscales": {"a": 1}},
    "no axes": {"multiscales": [{"datasets": [{"path": "0"}]}]},
    "axes are a number": {"multiscales": [{"axes": 3, "datasets": [{"path": "0"}]}]},
    "four axes of space": {
        "multiscales": [{"axes": [{"name": n, "type": "space"} for n in "wzyx"], "datasets": [{"path": "0"}]}]
    },
    "datasets are text": {"multiscales": [{"axes": AXES, "datasets": "0"}]},
    "a dataset is text": {"multiscales": [{"axes": AXES, "datasets": ["0"]}]},
    "a path is a number": {"multiscales": [{"axes": AXES, "datasets": [{"path": 0}]}]},
    "transformations are a number": {"multiscales": [multiscale(5)]},
    "a transformation is text": {"multiscales": [multiscale(["scale"])]},
    "a scale is too short": {"multiscales": [multiscale([{"type": "scale", "scale": [1.0]}])]},
    "a scale is too large": {"multiscales": [multiscale([{"type": "scale", "scale": [10**400] * 3}])]},
    "a plate of text": {"plate": "x"},
    "a plate of wells of text": {"plate": {"wells": "x"}},
    "a plate of numbers": {"plate": {"wells": [5]}},
    "a layout": {"bioformats2raw.layout": {}},
    "ome is text": {"ome": "x"},
    "ome is a number": {"ome": 5},
    "a list": [],
    "nothing": None,
}


@pytest.mark.parametrize("told", HOSTILE.values(), ids=HOSTILE)
def test_any_metadata(tmp_path, told):
    """Metadata of any form give an image or one of our errors."""
    path = write(tmp_path / "a.zarr", attributes_of(multiscale([])))
    for attributes in (told, {"ome": told}):
        (path / "zarr.json").write_text(json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes}))
        for axes in (None, "ZYX"):
            try:
                ZarrStack(path, axes)
            except PatchloomError as error:
                assert "a.zarr" in str(error)  # noqa: PT017  # an image is fine too


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 50_000, b"", b"\xff", b"{", b"[]", b"5", b"1" * 5000, b"NaN"]
)
@pytest.mark.parametrize("name", ["zarr.json", ".zattrs", ".zarray", "attributes.json", "info"])
def test_documents_without_json(tmp_path, name, content):
    """Documents without JSON are refused, or ignored if other programs use their names."""
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / name).write_bytes(content)
    with pytest.raises(SourceError, match=r"a\.zarr"):
        ZarrStack(tmp_path / "a.zarr", "YX")


def test_long_document(tmp_path):
    """A document that is too long is refused unread."""
    path = write(tmp_path / "a.zarr", attributes_of(multiscale([])))
    os.truncate(path / "zarr.json", 2**40)  # sparse
    with pytest.raises(SourceError, match=r"a\.zarr/ cannot be read: zarr\.json has more than \d+ bytes"):
        ZarrStack(path)


def test_common_names(tmp_path):
    """Files of other programs with the names of documents do not make a folder a Zarr."""
    np.save(tmp_path / "image.npy", np.ones((4, 4)))
    (tmp_path / "info").write_text("taken on Monday")
    (tmp_path / "attributes.json").write_text("{")
    assert [stack.data_shape for stack in pl.open_stacks(tmp_path, "YX")] == [(1, 1, 4, 4)]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_huge_chunk(tmp_path, zarr_format):
    """A chunk that may fill the memory is refused."""
    zarr.create_array(
        tmp_path / "a.zarr", shape=(10, 10), chunks=(2**16, 2**16), dtype="uint8", zarr_format=zarr_format
    )
    with pytest.raises(SourceError, match=r"a\.zarr has chunks of 4294967296 bytes, shape \(65536, 65536\)"):
        ZarrStack(tmp_path / "a.zarr", "YX")


def test_attributes():
    """Metadata are read from plain attributes."""
    told = multiscale([{"type": "scale", "scale": [1.0, -0.2, 0.0]}])
    image = ome_zarr_image("a", attributes_of(told))
    assert image.scales[0][:2] == (1.0, -0.2)
    assert math.isnan(image.scales[0][2])
    assert image.paths == ("0",)
    assert ome_zarr_image("a", {}) is None
