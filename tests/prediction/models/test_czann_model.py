"""ZEISS model files: what they declare is described and applied, and what is none of them is named."""

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
from patchloom.prediction.models import CzannModel, ModelDescription, czann_model, describe, load_model
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


def test_a_real_detector_says_what_it_wants(detector):
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


def test_a_real_detector_finds_nuclei_and_its_classes_share_every_pixel(detector, sample_file):
    with open_czi(str(sample_file("napari-czann-segment", "PGC_20X.czi"))) as image:
        tile = image.read(roi=(1000, 800, 1024, 1024))[..., 0]

    background, nucleus = CzannModel(detector)(tile[None, None])[0]

    np.testing.assert_allclose(background + nucleus, 1, atol=1e-5)
    # Unscaled, nearly everything is taken for a nucleus. In this phase gradient image, nuclei are where contrast is.
    assert 0.05 < (nucleus > 0.5).mean() < 0.2
    assert tile[nucleus > 0.5].std() > 1.2 * tile[nucleus < 0.5].std()


def test_tile_border_and_classes_of_xml_are_described(pack, gray):
    description = describe(CzannModel(pack(gray, XML)))

    assert (description.patch_size, description.overlaps) == ((24, 20), (10, 10))
    assert (description.out_channel_names, description.out_channel_colors) == (("nucleus",), ("FF1000",))


def test_tile_overlap_and_classes_of_json_are_described(pack, color):
    description = describe(CzannModel(pack(color, JSON)))

    assert (description.patch_size, description.overlaps) == ((24, 20), (8, 6))
    assert (description.out_channel_names, description.out_channel_colors) == (("a", "b", "c"), ())


def test_a_3d_model_has_three_of_everything(pack, onnx_network, rng):
    declared = JSON | {"InputShape": [8, 24, 20, 1], "MinOverlap": [2, 8, 6]}
    model = CzannModel(pack(onnx_network("float[N, 8, 24, 20, 1]"), declared))
    batch = rng.random((2, 1, 8, 24, 20), dtype=np.float32)

    assert (model.description.patch_size, model.description.overlaps) == ((8, 24, 20), (2, 8, 6))
    np.testing.assert_array_equal(model(batch), batch)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("metadata", [XML, JSON | {"InputShape": [24, 20, 1]}, XML.replace("ScaleInputs", "Other")])
def test_integers_are_scaled_by_their_dtype_and_floats_are_not(pack, gray, rng, dtype, metadata):
    model = CzannModel(pack(gray, metadata))
    batch = rng.integers(0, np.iinfo(dtype).max, (2, 1, 24, 20), dtype=dtype, endpoint=True)
    scaled = (batch / np.iinfo(dtype).max).astype(np.float32)

    np.testing.assert_array_equal(model(batch), scaled)
    np.testing.assert_array_equal(model(scaled), scaled)


def test_inputs_are_not_scaled_where_the_file_says_so(pack, gray, rng):
    model = CzannModel(pack(gray, XML.replace("Bitdepth>true", "Bitdepth>False")))
    batch = rng.integers(0, 2**16, (2, 1, 24, 20), dtype=np.uint16)

    np.testing.assert_array_equal(model(batch), batch)


def test_an_older_file_takes_its_tile_size_from_the_network(pack, gray):
    xml = re.sub("<TotalTile.*>", "", XML)

    assert describe(CzannModel(pack(gray, xml))).patch_size == (24, 20)


def test_a_declared_tile_size_holds_where_the_network_takes_any(pack, onnx_network):
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
def test_colors_are_fed_blue_first_where_the_file_says_so(pack, onnx_network, rng, pixel_types, n_channels, order):
    items = "".join(f'<Item PixelType="{types}" />' for types in pixel_types)
    xml = XML.replace('<Item PixelType="Gray16" />', items)
    model = CzannModel(pack(onnx_network(f"float[N, 24, 20, {n_channels}]"), xml))
    batch = rng.random((2, n_channels, 24, 20), dtype=np.float32)

    np.testing.assert_array_equal(model(batch), batch[:, order])


def test_colors_that_become_gray_before_the_network_have_no_order(pack, gray, rng):
    xml = XML.replace("Gray16", "Bgr24").replace("SplitRgb", "ConvertToMonochrome")
    batch = rng.random((1, 1, 24, 20), dtype=np.float32)

    np.testing.assert_array_equal(CzannModel(pack(gray, xml))(batch), batch)


def test_the_user_has_the_last_word_on_colors(pack, color, rng):
    batch = rng.random((1, 3, 24, 20), dtype=np.float32)
    czann, czseg = pack(color, JSON), pack(color, XML.replace("Gray16", "Bgr24"))

    np.testing.assert_array_equal(CzannModel(czann)(batch), batch)
    np.testing.assert_array_equal(CzannModel(czann, bgr=True)(batch), batch[:, ::-1])
    np.testing.assert_array_equal(load_model(czann, bgr=True)(batch), batch[:, ::-1])
    np.testing.assert_array_equal(CzannModel(czseg, bgr=False)(batch), batch)


def test_names_that_are_not_one_for_each_channel_are_left_out(pack, color):
    description = describe(CzannModel(pack(color, JSON | {"Classes": ["nucleus", "other"]})))

    assert description.out_channel_names == ()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_any_compression_and_suffix_will_do(pack, gray, compression):
    CzannModel(pack(gray, XML, "net.CZMODEL", compression=compression))


def test_nothing_is_unpacked(pack, gray, tmp_path):
    path = pack(gray, XML)

    CzannModel(path)

    assert list(tmp_path.iterdir()) == [path]


def test_a_pickled_model_is_small_and_finds_its_file_from_another_directory(pack, gray, monkeypatch, rng):
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
        (XML.replace(">5<", ">five<"), "BorderSize must be a whole number, not 'five'"),
        (XML.replace(">5<", ">-5<"), "BorderSize must be a whole number, not '-5'"),
        (XML[:-4], "its metadata are not XML"),
        ("<Image />", "its metadata are XML of a <Image>"),
        (JSON | {"Type": "ObjectDetection"}, "of type ObjectDetection, which returns no image"),
        (JSON | {"InputShape": [24, 20]}, r"InputShape must be \[y, x, c\] or \[z, y, x, c\], not \[24, 20\]"),
        (JSON | {"InputShape": [24, 20, "1"]}, "InputShape must be a list of whole numbers of at least 1"),
        ({"Type": "Regression"}, "InputShape must be"),
        (JSON | {"MinOverlap": [8]}, r"MinOverlap must have one number for each of 2 axes, not \[8\]"),
        (JSON | {"MinOverlap": [8, -6]}, "MinOverlap must be a list of whole numbers of at least 0"),
        (JSON | {"Classes": "nucleus"}, "Classes must be a list of names"),
        ([], "not an object"),
    ],
)
def test_metadata_that_cannot_be_used_are_named_with_their_file(pack, gray, metadata, message):
    path = pack(gray, metadata)

    with pytest.raises(ModelError, match=f"{re.escape(str(path))}.*{message}"):
        CzannModel(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_never_expanded(tmp_path, gray, encoding):
    xml = f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE Model [<!ENTITY a "{"ha" * 99}">]><Model>&a;</Model>'
    path = tmp_path / "net.czseg"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("1f.xml", xml.encode(encoding))
        archive.writestr("1f.model", gray)

    with pytest.raises(ModelError, match="XML with a document type"):
        CzannModel(path)


def test_an_archive_that_says_it_unpacks_to_too_much_is_not_unpacked(pack, gray, monkeypatch):
    path = pack(gray, XML)
    monkeypatch.setattr(czann_model, "LARGEST_NETWORK", len(gray) - 1)

    with pytest.raises(ModelError, match=rf"1f\.model in its archive is said to be of {len(gray)} bytes"):
        CzannModel(path)


def test_an_archive_that_lies_about_its_size_is_not_unpacked_either(pack, gray):
    path = pack(gray, " " * 50_000_000 + XML, compression=zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    directory_entry = content.index(b"1f.xml", content.index(b"PK\1\2")) - 46
    content[directory_entry + 24 : directory_entry + 28] = (1000).to_bytes(4, "little")
    path.write_bytes(content)
    tracemalloc.start()

    with pytest.raises(ModelError, match=r"net\.czseg is no ZEISS model file"):
        CzannModel(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize(
    ("members", "missing"),
    [
        ({"1f.xml": XML}, r"\*\.model"),
        ({"1f.model": b""}, r"\*\.json or \*\.xml"),
        ({"picture.png": b""}, r"\*\.json or \*\.xml, but \['picture\.png'\]"),
        ({}, r"\*\.json or \*\.xml"),
    ],
)
def test_an_archive_that_lacks_a_part_says_which(tmp_path, members, missing):
    path = tmp_path / "net.czseg"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)

    with pytest.raises(ModelError, match=rf"net\.czseg is no ZEISS model file .* holds no {missing}"):
        CzannModel(path)


def test_a_network_that_is_none_is_named_with_its_file(pack):
    with pytest.raises(ModelError, match=r"cannot load .*net\.czseg as an ONNX model"):
        CzannModel(pack(b"not a network", XML))


@pytest.mark.parametrize("damage", [lambda content: content[:-60], lambda content: b"plain text", lambda content: b""])
def test_a_file_that_is_no_archive_is_named(pack, gray, damage):
    path = pack(gray, XML)
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(ModelError, match=r"net\.czseg is no ZEISS model file, or it is damaged"):
        CzannModel(path)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_to_the_network_is_seen(pack, gray, compression):
    path = pack(gray, XML, compression=compression)
    content = bytearray(path.read_bytes())
    start = content.index(b"1f.model") + len("1f.model")
    content[start + 10 : start + 30] = bytes(20)
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"net\.czseg is no ZEISS model file, or it is damaged: "):
        CzannModel(path)


def test_a_missing_file_is_a_file_not_found(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"there is no model file .*missing\.czseg"):
        CzannModel(tmp_path / "missing.czseg")
