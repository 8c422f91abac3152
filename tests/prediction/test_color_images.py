"""A color image, of whatever format, stays one for whoever looks at a result."""

import json

import numpy as np
import pytest
import tifffile
import zarr
from pylibCZIrw import czi

import patchloom as pl

IMAGE = np.random.default_rng(2).integers(0, [60, 255, 120], (40, 50, 3)).astype("uint8")


def write_czi(path):
    with czi.create_czi(str(path)) as file:
        file.write(np.ascontiguousarray(IMAGE[..., ::-1]), plane={"C": 0})


def write_ome_zarr(path):
    axes = [{"name": "c", "type": "channel"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    dataset = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0] * 3}]}
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    channels = [{"color": color, "window": window} for color in ("ff0000", "00FF00", "0000ff")]
    told = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": [dataset]}], "omero": {"channels": channels}}
    zarr.open_group(path, mode="w", attributes={"ome": told}).create_array("0", data=IMAGE.transpose(2, 0, 1))


SOURCES = {
    "image.tif": lambda path: tifffile.imwrite(path, IMAGE, photometric="rgb"),
    "planar.tif": lambda path: tifffile.imwrite(
        path, np.ascontiguousarray(IMAGE.transpose(2, 0, 1)), photometric="rgb", planarconfig="separate"
    ),
    "image.ome.tif": lambda path: tifffile.imwrite(path, IMAGE, photometric="rgb", metadata={"axes": "YXS"}),
    "image.czi": write_czi,
    "image.ome.zarr": write_ome_zarr,
}


@pytest.fixture(params=SOURCES)
def source(tmp_path, request):
    SOURCES[request.param](tmp_path / request.param)
    return tmp_path / request.param


def predict(model, source, output, **options):
    return pl.predict(model, source, output, patch_size=(16, 16), overlaps=(4, 4), progress=False, **options)


def channels_of(path):
    name = "zarr.json" if (path / "zarr.json").exists() else ".zattrs"
    told = json.loads((path / name).read_text())
    return told.get("attributes", {}).get("ome", told)["omero"]["channels"]


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr(source, tmp_path, version):
    """An OME-Zarr has the colors of its source, and one window."""
    channels = channels_of(predict(lambda batch: batch, source, pl.OmeZarr(tmp_path / "out.zarr", version)))
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    windows = [(channel["window"]["start"], channel["window"]["end"]) for channel in channels]
    assert windows == [(IMAGE.min(), IMAGE.max())] * 3


def test_ome_tiff(source, tmp_path):
    """An OME-TIFF has the colors of its source."""
    predict(lambda batch: batch, source, tmp_path / "out.ome.tif")
    assert pl.open_stacks(tmp_path / "out.ome.tif")[0].metadata.channel_colors == ("FF0000", "00FF00", "0000FF")


def test_result_of_result(source, tmp_path):
    """A result of a result is a color image, too."""
    predict(lambda batch: batch, source, tmp_path / "first.zarr")
    channels = channels_of(predict(lambda batch: batch, tmp_path / "first.zarr", tmp_path / "second.zarr"))
    assert [channel["color"] for channel in channels] == ["FF0000", "00FF00", "0000FF"]
    assert len({channel["window"]["end"] for channel in channels}) == 1


def test_other_channels(source, tmp_path):
    """A result with other channels has colors and windows of its own."""

    def gray_and_red(batch):
        return np.stack([batch.mean(axis=1), batch[:, 0]], axis=1).astype("float32")

    channels = channels_of(predict(gray_and_red, source, tmp_path / "out.zarr"))
    assert len({channel["window"]["end"] for channel in channels}) == 2


def test_real_stain(sample_file, tmp_path):
    """A real stained section has one window."""
    source = sample_file("napari-czann-segment", "Tumor_HE_Stain_T76.czi")
    out = pl.predict(
        lambda batch: batch, source, tmp_path / "out.zarr", patch_size=(400, 400), overlaps=(0, 0), progress=False
    )
    windows = [channel["window"] for channel in channels_of(out)]
    assert windows[0] == windows[1] == windows[2]
