"""ZEISS model files: metadata are described and applied, and damaged files are errors."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pylibCZIrw.czi import open_czi

from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models.load import load_model
from patchloom.prediction.models.model import ModelDescription, describe
from patchloom.prediction.models.zeiss.czann_model import CzannModel, read_archive
from patchloom.testing.model_conformance import ModelConformance

XML = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<Model Version="3.1.0">
  <ColorHandling>SplitRgb</ColorHandling>
  <Channels><Item PixelType="Gray16" /></Channels>
  <TrainingClasses>
    <Item colR="255" colG="16" colB="0" LabelValue="1" Name="nucleus" />
  </TrainingClasses>
  <BorderSize>5</BorderSize>
  <ScaleInputsByBitdepth>true</ScaleInputsByBitdepth>
  <TotalTileHeight>24</TotalTileHeight>
  <TotalTileWidth>20</TotalTileWidth>
</Model>"""
JSON = {
    "FormatVersion": "2.1.0",
    "Type": "Regression",
    "InputShape": [24, 20, 3],
    "OutputShape": [24, 20, 3],
    "MinOverlap": [8, 6],
    "Classes": ["a", "b", "c"],
    "Scaling": [1e-7, 1e-7],
}

Pack = Callable[..., Path]


@pytest.fixture
def pack(tmp_path) -> Pack:
    def write(network: bytes, metadata: str | dict, name: str | None = None, **options) -> Path:
        xml = isinstance(metadata, str)
        path = tmp_path / (name or ("net.czseg" if xml else "net.czann"))
        with zipfile.ZipFile(path, "w", **options) as archive:
            archive.writestr("modelid=1f", "")
            archive.writestr("1f.xml" if xml else "model.json", metadata if xml else json.dumps(metadata))
            archive.writestr("1f.model" if xml else "model.model", network)
        return path

    return write


@pytest.fixture
def gray(onnx_network) -> bytes:
    return onnx_network("float[N, 24, 20, 1]")


@pytest.fixture
def color(onnx_network) -> bytes:
    return onnx_network("float[N, 24, 20, 3]")


@pytest.fixture(scope="session")
def detector(sample_file) -> Path:
    return sample_file("napari-czann-segment", "PGC_20X_nucleus_detector.czseg")


class TestCzannConforms(ModelConformance):
    @pytest.fixture(autouse=True)
    def model_file(self, pack, color, rng):
        self.path = pack(color, JSON)
        self.tiles = rng.integers(0, 2**16, (3, 3, 24, 20), dtype=np.uint16)

    def make_model(self):
        return CzannModel(self.path)

    def make_batch(self, size):
        return self.tiles[:size]


def test_real_description(detector):
    """The description of a published model is complete."""
    described = describe(CzannModel(detector))
    assert described.identity, "a run is not resumed with another model"
    assert replace(described, identity="") == ModelDescription(
        patch_size=(1024, 1024),
        overlaps=(128, 128),
        n_dims=2,
        in_channels=1,
        out_channels=2,
        out_channel_names=("background", "nuc"),
        out_channel_colors=("FF0000", "00FF00"),
        out_dtype="float32",
    )


def test_real_prediction(detector, sample_file):
    """A published model finds nuclei, and its classes sum to 1."""
    with open_czi(str(sample_file("napari-czann-segment", "PGC_20X.czi"))) as image:
        tile = image.read(roi=(1000, 800, 1024, 1024))[..., 0]

    background, nucleus = CzannModel(detector)(tile[None, None])[0]

    np.testing.assert_allclose(background + nucleus, 1, atol=1e-5)
    # Unscaled, nearly everything is taken for a nucleus. In this phase gradient image, nuclei are where contrast is.
    assert 0.05 < (nucleus > 0.5).mean() < 0.2
    assert tile[nucleus > 0.5].std() > 1.2 * tile[nucleus < 0.5].std()


def test_xml_description(pack, gray):
    """Tile size, border and classes in XML are described."""
    description = describe(CzannModel(pack(gray, XML)))

    assert (description.patch_size, description.overlaps) == ((24, 20), (10, 10))
    assert (description.out_channel_names, description.out_channel_colors) == (("nucleus",), ("FF1000",))


def test_json_description(pack, color):
    """Tile size, overlap and classes in JSON are described."""
    description = describe(CzannModel(pack(color, JSON)))

    assert (description.patch_size, description.overlaps) == ((24, 20), (8, 6))
    assert (description.out_channel_names, description.out_channel_colors) == (("a", "b", "c"), ())


def test_3d(pack, onnx_network, rng):
    """Sizes and overlaps of a 3D model have three numbers."""
    declared = JSON | {"InputShape": [8, 24, 20, 1], "MinOverlap": [2, 8, 6]}
    model = CzannModel(pack(onnx_network("float[N, 8, 24, 20, 1]"), declared))
    batch = rng.random((2, 1, 8, 24, 20), dtype=np.float32)

    assert (model.description.patch_size, model.description.overlaps) == ((8, 24, 20), (2, 8, 6))
    np.testing.assert_array_equal(model(batch), batch)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("metadata", [XML, JSON | {"InputShape": [24, 20, 1]}, XML.replace("ScaleInputs", "Other")])
def test_scaling(pack, gray, rng, dtype, metadata):
    """Integers are divided by the largest value of their dtype; floats are not."""
    model = CzannModel(pack(gray, metadata))
    batch = rng.integers(0, np.iinfo(dtype).max, (2, 1, 24, 20), dtype=dtype, endpoint=True)
    scaled = (batch / np.iinfo(dtype).max).astype(np.float32)

    np.testing.assert_array_equal(model(batch), scaled)
    np.testing.assert_array_equal(model(scaled), scaled)


def test_no_scaling(pack, gray, rng):
    """Inputs are not scaled if the file declares it."""
    model = CzannModel(pack(gray, XML.replace("Bitdepth>true", "Bitdepth>False")))
    batch = rng.integers(0, 2**16, (2, 1, 24, 20), dtype=np.uint16)

    np.testing.assert_array_equal(model(batch), batch)


def test_older_file(pack, gray):
    """Without a declared tile size, that of the network is used."""
    xml = re.sub("<TotalTile.*>", "", XML)

    assert describe(CzannModel(pack(gray, xml))).patch_size == (24, 20)


def test_free_network(pack, onnx_network):
    """The declared tile size is used if the network accepts any."""
    assert describe(CzannModel(pack(onnx_network("float[N, H, W, 1]"), XML))).patch_size == (24, 20)


@pytest.mark.parametrize(
    ("pixel_types", "n_channels", "order"),
    [
        (["Bgr24"], 3, [2, 1, 0]),
        (["Bgr96Float Bgr48"], 3, [2, 1, 0]),
        (["Bgra32"], 4, [2, 1, 0, 3]),
        (["Gray16", "Bgr48"], 4, [0, 3, 2, 1]),
        (["Gray8 Gray16"] * 3, 3, [0, 1, 2]),
    ],
)
def test_channel_order(pack, onnx_network, rng, pixel_types, n_channels, order):
    """Channels are put in the order of the declared pixel types."""
    items = "".join(f'<Item PixelType="{types}" />' for types in pixel_types)
    xml = XML.replace('<Item PixelType="Gray16" />', items)
    model = CzannModel(pack(onnx_network(f"float[N, 24, 20, {n_channels}]"), xml))
    batch = rng.random((2, n_channels, 24, 20), dtype=np.float32)

    np.testing.assert_array_equal(model(batch), batch[:, order])


def test_monochrome(pack, gray, rng):
    """Colors that become gray before the network are not reordered."""
    xml = XML.replace("Gray16", "Bgr24").replace("SplitRgb", "ConvertToMonochrome")
    batch = rng.random((1, 1, 24, 20), dtype=np.float32)

    np.testing.assert_array_equal(CzannModel(pack(gray, xml))(batch), batch)


def test_bgr(pack, color, rng):
    """`bgr` overrides the file."""
    batch = rng.random((1, 3, 24, 20), dtype=np.float32)
    czann, czseg = pack(color, JSON), pack(color, XML.replace("Gray16", "Bgr24"))

    np.testing.assert_array_equal(CzannModel(czann)(batch), batch)
    np.testing.assert_array_equal(CzannModel(czann, bgr=True)(batch), batch[:, ::-1])
    np.testing.assert_array_equal(load_model(czann, bgr=True)(batch), batch[:, ::-1])
    np.testing.assert_array_equal(CzannModel(czseg, bgr=False)(batch), batch)


def test_wrong_names(pack, color):
    """Class names that do not fit the number of channels are left out."""
    description = describe(CzannModel(pack(color, JSON | {"Classes": ["nucleus", "other"]})))

    assert description.out_channel_names == ()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_compressions(pack, gray, compression):
    """Any compression and suffix is read."""
    CzannModel(pack(gray, XML, "net.CZMODEL", compression=compression))


def test_no_unpacking(pack, gray, tmp_path):
    """No file is written."""
    path = pack(gray, XML)

    CzannModel(path)

    assert list(tmp_path.iterdir()) == [path]


def test_pickle(pack, gray, monkeypatch, rng):
    """A pickled model contains the absolute path and not the network."""
    path = pack(gray, XML)
    monkeypatch.chdir(path.parent)
    pickled = pickle.dumps(CzannModel(path.name))
    monkeypatch.chdir(path.anchor)
    batch = rng.random((1, 1, 24, 20), dtype=np.float32)

    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled)(batch), batch)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        (XML.replace(">24<", ">32<"), r"declares tiles of \(32, 20\), but its network takes \(24, 20\)"),
        (JSON | {"InputShape": [24, 20, 3]}, "declares channels of 3, but its network takes 1"),
        (XML.replace(">5<", ">five<"), "BorderSize is 'five': it must be a whole number"),
        (XML.replace(">5<", ">-5<"), "BorderSize is '-5': it must be a whole number"),
        (XML[:-4], "its metadata are not XML"),
        ("<Image />", "its metadata are XML of a <Image>: it must be a <Model>"),
        (JSON | {"Type": "ObjectDetection"}, "of type ObjectDetection, whose output is not an image"),
        (JSON | {"InputShape": [24, 20]}, r"InputShape is \[24, 20\]: it must be \[y, x, c\] or \[z, y, x, c\]"),
        (JSON | {"InputShape": [24, 20, "1"]}, r"InputShape is \[.*: it must be a list of whole numbers of at least 1"),
        ({"Type": "Regression"}, "InputShape is None: it must be"),
        (JSON | {"MinOverlap": [8]}, r"MinOverlap is \[8\]: it must have one number for each of 2 axes"),
        (JSON | {"MinOverlap": [8, -6]}, r"MinOverlap is \[8, -6\]: it must be a list of whole numbers of at least 0"),
        (JSON | {"Classes": "nucleus"}, "Classes is 'nucleus': it must be a list of names"),
        ([], "not an object"),
    ],
)
def test_invalid_metadata(pack, gray, metadata, message):
    """Errors of metadata name the file and the field."""
    path = pack(gray, metadata)

    with pytest.raises(ModelError, match=f"{re.escape(str(path))}.*{message}"):
        CzannModel(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities(tmp_path, gray, encoding):
    """XML with a document type is refused."""
    xml = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE Model [<!ENTITY a "{"ha" * 99}">]><Model>&a;</Model>'
    path = tmp_path / "net.czseg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1f.xml", xml.encode(encoding))
        archive.writestr("1f.model", gray)

    with pytest.raises(ModelError, match="XML with a document type"):
        CzannModel(path)


def test_large_network(pack, gray):
    """A network that unpacks to more than the limit is refused."""
    path = pack(gray, XML)

    with pytest.raises(ModelError, match=rf"1f\.model in its archive unpacks to {len(gray)} bytes: at most"):
        read_archive(path, largest_network=len(gray) - 1)
    assert read_archive(path, largest_network=len(gray))[1] == gray


def test_wrong_size(pack, gray):
    """At most the declared size is unpacked."""
    path = pack(gray, " " * 50_000_000 + XML, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory_entry = content.index(b"1f.xml", content.index(b"PK\1\2")) - 46
    content[directory_entry + 24 : directory_entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()

    with pytest.raises(ModelError, match=r"net\.czseg is not a ZEISS model file"):
        CzannModel(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("members", "missing"),
    [
        ({"1f.xml": XML}, r"\['1f\.xml'\], but not \*\.model"),
        ({"1f.model": b""}, r"\['1f\.model'\], but not \*\.json or \*\.xml"),
        ({"picture.png": b""}, r"\['picture\.png'\], but not \*\.json or \*\.xml"),
        ({}, r"\[\], but not \*\.json or \*\.xml"),
    ],
)
def test_missing_member(tmp_path, members, missing):
    """The error names the missing member of the archive."""
    path = tmp_path / "net.czseg"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    with pytest.raises(ModelError, match=rf"net\.czseg is not a ZEISS model file .* archive contains {missing}"):
        CzannModel(path)


def test_invalid_network(pack):
    """The error for an invalid network names the file."""
    with pytest.raises(ModelError, match=r"net\.czseg is not an ONNX model, or it is damaged"):
        CzannModel(pack(b"not a network", XML))


@pytest.mark.parametrize("damage", [lambda content: content[:-60], lambda content: b"plain text", lambda content: b""])
def test_no_archive(pack, gray, damage):
    """The error for a file that is not an archive names it."""
    path = pack(gray, XML)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ModelError, match=r"net\.czseg is not a ZEISS model file, or it is damaged"):
        CzannModel(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage(pack, gray, compression):
    """Damage to the network is an error with each compression."""
    path = pack(gray, XML, compression=compression)
    content = bytearray(path.read_bytes())
    start = content.index(b"1f.model") + len("1f.model")
    content[start + 10 : start + 30] = bytes(20)
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"net\.czseg is not a ZEISS model file, or it is damaged: "):
        CzannModel(path)


def test_missing_file(tmp_path):
    """The error for a missing file names it."""
    with pytest.raises(ModelNotFoundError, match=r"there is no model file .*missing\.czseg"):
        CzannModel(tmp_path / "missing.czseg")
