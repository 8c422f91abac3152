"""What a run must not write is refused before a block is computed, and nothing that it reads is replaced."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array
import h5py
import numpy as np
import onnx
import pytest
import tifffile
import xarray
import zarr
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper, parser

from patchloom import SkipDark, SkipOutside, open_stacks
from patchloom.errors import ArgumentError, OutputExistsError, PatchloomError, SinkError
from patchloom.prediction import predict
from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.sinks.output_paths import output_path
from patchloom.sinks.publishing.destination import remove

OPTIONS: dict[str, Any] = {"axes": "YX", "patch_size": (16, 16), "overlaps": (0, 0), "progress": False}


class Counted:
    """A model that counts its calls."""

    def __init__(self, model: Callable[[np.ndarray], Any] = np.zeros_like) -> None:
        self.model, self.calls = model, 0

    def __call__(self, batch: np.ndarray) -> Any:
        self.calls += 1
        return self.model(batch)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that is in a folder, files with their content."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def pixels() -> np.ndarray:
    return np.random.default_rng(3).integers(1, 255, (64, 48), np.uint8)


def npy(path: Path) -> Path:
    np.save(path, pixels())
    return path


def tiff(path: Path) -> Path:
    tifffile.imwrite(path, pixels())
    return path


def zarr_array(path: Path) -> zarr.Array:
    array = zarr.create_array(path, shape=(64, 48), chunks=(32, 32), dtype="u1")
    array[...] = pixels()
    return array


def hdf5(path: Path) -> h5py.Dataset:
    with h5py.File(path, "w") as file:
        file["x"] = pixels()
    return h5py.File(path)["x"]


class Lazy:
    """Somebody's own array-like."""

    def __init__(self, path: Path) -> None:
        self.path, self.shape, self.dtype = str(path), (64, 48), np.dtype("u1")

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(tifffile.imread(self.path)[index])


SOURCES: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "npy": ("a.npy", npy),
    "memory map": ("a.npy", lambda path: np.load(npy(path), mmap_mode="r")),
    "view of a memory map": ("a.npy", lambda path: np.asarray(np.load(npy(path), mmap_mode="r"))[::-1]),
    "TIFF": ("a.tif", tiff),
    "mapped TIFF": ("a.tif", lambda path: tifffile.memmap(tiff(path), mode="r")),
    "own array-like": ("a.tif", lambda path: Lazy(tiff(path))),
    "zarr": ("a.zarr", lambda path: str(zarr_array(path).store.root)),
    "zarr array": ("a.zarr", zarr_array),
    "dask": ("a.zarr", lambda path: dask.array.from_zarr(zarr_array(path)) + 1),
    "xarray": ("a.zarr", lambda path: xarray.DataArray(dask.array.from_zarr(zarr_array(path)), dims=("Y", "X"))),
    "stack": ("a.npy", lambda path: open_stacks(npy(path), axes="YX")[0]),
}

SPELLINGS: dict[str, Callable[[Path], Path]] = {
    "same": lambda path: path,
    "dots": lambda path: path.parent / "x" / ".." / path.name,
    "symbolic link": lambda path: linked(path, os.symlink),
    "link to the folder": lambda path: linked(path.parent, os.symlink) / path.name,
    "inside": lambda path: path / f"out{path.suffix}" if path.is_dir() else path,
    "hard link": lambda path: path if path.is_dir() else linked(path, os.link),
}


def linked(path: Path, link: Callable[..., None]) -> Path:
    place = path.parent / f"link-to-{path.name}"
    link(path, place)
    return place


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("kind", SOURCES)
def test_source(kind: str, spelling: str, tmp_path: Path) -> None:
    """No source is replaced, by any name."""
    folder = tmp_path / "data"
    (folder / "x").mkdir(parents=True)
    name, make = SOURCES[kind]
    source = make(folder / name)
    output = SPELLINGS[spelling](folder / name)
    before, model = tree(tmp_path), Counted()
    with pytest.raises(SinkError, match=r"is the input|lies inside the input"):
        predict(model, source, output, overwrite=True, **OPTIONS)
    assert (tree(tmp_path), model.calls) == (before, 0)


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("series", [False, True])
def test_mask(kind: str, series: bool, tmp_path: Path) -> None:
    """No mask of a skip rule is replaced."""
    name, make = SOURCES[kind]
    folder = tmp_path / "out"
    folder.mkdir()
    place = folder / ("array.ome.zarr" if series and name.endswith("zarr") else name)
    mask = make(place)
    if series and not name.endswith("zarr"):
        pytest.skip("a series is written to OME-Zarr")
    before, model = tree(tmp_path), Counted()
    source: Any = [pixels()] if series else pixels()
    with pytest.raises(SinkError, match="is the input"):
        predict(
            model,
            source,
            folder if series else place,
            overwrite=True,
            skip=SkipOutside(open_stacks(mask, axes="YX")),
            **OPTIONS,
        )
    assert (tree(tmp_path), model.calls) == (before, 0)


@pytest.mark.parametrize("kind", SOURCES)
def test_source_by_named_output(kind: str, tmp_path: Path) -> None:
    """No source is replaced by one of several outputs, whose names are known late."""
    name, make = SOURCES[kind]
    source = make(tmp_path / f"out-{name}")
    model = Counted(lambda batch: {"a": batch, "b": batch})
    before = tree(tmp_path)
    with pytest.raises(SinkError, match=r"the model's output 'a': the output .* is the input"):
        predict(model, source, tmp_path / f"out{Path(name).suffix}", overwrite=True, **OPTIONS)
    assert (tree(tmp_path), model.calls) == (before, 1)


def test_mapped_file_of_model(tmp_path: Path) -> None:
    """No file that a model maps into memory is replaced."""
    flat_field = np.load(npy(tmp_path / "flat.npy"), mmap_mode="r")
    with pytest.raises(SinkError, match="is the input"):
        predict(lambda batch: batch + flat_field[:16, :16], pixels(), tmp_path / "flat.npy", overwrite=True, **OPTIONS)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("place", ["net.onnx", "weights/net.data"])
def test_network_files(place: str, wrapped: bool, tmp_path: Path) -> None:
    """No file of a network is removed."""
    folder = tmp_path / "net.zarr"  # which somebody keeps his network in
    (folder / "weights").mkdir(parents=True)
    weights = numpy_helper.from_array(np.full((1, 1, 1, 1), 2, np.float32), "w")
    network = parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        double (float[N, 1, H, W] x, float[1, 1, 1, 1] w) => (float[N, 1, H, W] y) { y = Mul(x, w) }
    """)
    del network.graph.input[1]
    network.graph.initializer.append(weights)
    onnx.save_model(
        network, folder / "net.onnx", save_as_external_data=True, location="weights/net.data", size_threshold=0
    )
    model: Any = OnnxModel(folder / "net.onnx")
    output = folder if place == "net.onnx" else folder / "weights"
    zarr.open_group(output, mode="a")
    if place != "net.onnx":
        output = linked(output, os.symlink).rename(tmp_path / "link.zarr")
    before = tree(tmp_path)
    with pytest.raises(SinkError, match="contains the input"):
        predict(AugmentedModel(model) if wrapped else model, pixels(), output, overwrite=True, **OPTIONS)
    assert tree(tmp_path) == before


def test_name_kept_by_model(tmp_path: Path) -> None:
    """A path that a model only stores as text may be replaced."""

    class Pipeline:
        def __init__(self) -> None:
            self.output = npy(tmp_path / "old.npy")

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            return batch // 2

    model = Pipeline()
    predict(model, pixels(), model.output, overwrite=True, **OPTIONS)
    assert np.array_equal(np.load(model.output), pixels() // 2)


def test_hdf5(tmp_path: Path) -> None:
    """An HDF5 file that is open as a source is not replaced."""
    source = hdf5(tmp_path / "a.npy")  # whatever it is called
    with pytest.raises(SinkError, match="is the input"):
        predict(Counted(), source, tmp_path / "a.npy", overwrite=True, **OPTIONS)


@pytest.mark.parametrize("name", ["out.npy", "out.tif", "out.ome.zarr"])
@pytest.mark.parametrize("output_name", ["", "mask", "decoder/mask:0"])
def test_existing_output(name: str, output_name: str, tmp_path: Path) -> None:
    """An output that exists is refused before a block is computed."""
    model = Counted(lambda batch: {"first": batch, output_name: batch} if output_name else batch)
    written = predict(model, pixels(), tmp_path / name, **OPTIONS)
    if output_name:
        first = written.pop("first")
        remove(first)
    before, model.calls = tree(tmp_path), 0
    with pytest.raises(OutputExistsError, match="exists already"):
        predict(model, pixels(), tmp_path / name, **OPTIONS)
    assert (tree(tmp_path), model.calls) == (before, 1 if output_name else 0)


@pytest.mark.parametrize(
    ("name", "options", "model", "message"),
    [
        ("o.tif", {}, lambda batch: batch.astype("u8"), "uint64 cannot be stored"),
        ("o.tif", {}, lambda batch: batch > 3, "bool cannot be stored"),
        ("o.tif", {"postprocess": "float16"}, np.zeros_like, "float16 cannot be stored"),
        ("o.zarr", {}, lambda batch: batch.astype("c8"), "complex64 cannot be stored"),
        ("o.zarr", {}, lambda batch: {"a": batch, "b": batch.astype("c8")}, "complex64 cannot be stored"),
        ("o.zarr", {"postprocess": "complex64"}, np.zeros_like, "complex64 cannot be stored"),
        ("o.zarr", {"skip": SkipDark(1, float("nan"))}, np.zeros_like, "whole number from 0 to 255"),
        ("o.zarr", {"skip": SkipDark(1, float("inf"))}, np.zeros_like, "whole number from 0 to 255"),
        ("o.zarr", {"skip": SkipDark(1, 300)}, np.zeros_like, "fill is 300"),
        ("o.zarr", {"skip": SkipDark(1, -1)}, np.zeros_like, "fill is -1"),
        ("o.zarr", {"skip": SkipDark(1, 0.7)}, np.zeros_like, "fill is 0.7"),
        ("o.zarr", {"skip": SkipDark(1, 2)}, lambda batch: batch > 1, "must be 0 or 1"),
        (
            "o.zarr",
            {"skip": SkipDark(1, 70000)},
            lambda batch: batch.astype("f2"),
            "it must be from -65504.0 to 65504.0",
        ),
        (None, {"skip": SkipDark(1, 300)}, np.zeros_like, "fill is 300"),
        ("o.zarr", {"skip": SkipDark(1, 256), "postprocess": "threshold:3"}, np.zeros_like, "fill is 256"),
    ],
)
def test_unwritable(name: str | None, options: dict[str, Any], model: Any, message: str, tmp_path: Path) -> None:
    """A dtype or fill value that cannot be stored is refused before a block is computed."""
    counted = Counted(model)
    with pytest.raises((SinkError, ArgumentError), match=message):
        predict(counted, pixels(), None if name is None else tmp_path / name, **OPTIONS | options)
    assert counted.calls <= 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fill", [None, "x", [0], 1j])
def test_fill_type(fill: Any) -> None:
    """A fill value is a real number."""
    with pytest.raises(ArgumentError, match=re.escape(f"fill is {fill!r}")):
        SkipDark(1, fill)


@pytest.mark.parametrize(
    ("dtype", "fill"), [("f4", np.nan), ("f2", np.inf), ("u8", 2**64 - 1), ("i8", -(2**63)), ("?", True), ("u1", 255.0)]
)
def test_fill_value(dtype: str, fill: Any, tmp_path: Path) -> None:
    """A fill value that fits the dtype is written exactly."""
    options = OPTIONS | {"skip": SkipDark(255, fill)}
    output = predict(lambda batch: batch.astype(dtype), pixels(), tmp_path / "o.npy", **options)
    expected = np.full((64, 48), fill, dtype)
    np.testing.assert_array_equal(np.load(output), expected)


NAMES = ("a/b", "../evil", "..", ".", "x\0y", "a\nb", "a:b*?", "%2F", "a\\b", "é 漢", "con", "-", " ", "\udcff")


@pytest.mark.parametrize("suffix", [".npy", ".ome.zarr"])
@pytest.mark.parametrize("name", NAMES)
def test_any_name(name: str, suffix: str, tmp_path: Path) -> None:
    """An output of any name is a file of its own in the folder of the output."""
    folder = tmp_path / "folder"
    folder.mkdir()
    written = predict(lambda batch: {name: batch, "other": batch // 2}, pixels(), folder / f"out{suffix}", **OPTIONS)
    assert set(written) == {name, "other"}
    assert {path.parent for path in written.values()} == {folder}
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in written.values())
    found = predict(lambda batch: batch, written[name], **OPTIONS)
    assert np.array_equal(found, pixels())
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@given(st.lists(st.text(st.characters(), min_size=1, max_size=12), min_size=2, unique=True))
def test_names_stay_in_folder(names: list[str]) -> None:
    """The files of outputs lie side by side, for all names."""
    destination = Path("folder") / "cells.ome.zarr"
    paths = [output_path(destination, name) for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        assert (path.parent, path.name.endswith(".ome.zarr")) == (destination.parent, True)
        assert not set(path.name) & set('/\\<>:"|?*\0\n')
        path.name.encode()


def test_escaped_names(tmp_path: Path) -> None:
    """Two names that are escaped stay different."""
    written = predict(lambda batch: dict.fromkeys(NAMES, batch), pixels(), tmp_path / "out.npy", **OPTIONS)
    assert len({str(path) for path in written.values()}) == len(NAMES) == len(list(tmp_path.iterdir()))


@pytest.mark.parametrize("names", [("n" * 300,), ("mask", "MASK"), ("é", "e\u0301"), (1, "1"), ("漢" * 90,)])
def test_refused_names(names: tuple[Any, ...], tmp_path: Path) -> None:
    """Names that differ in case only, or are too long, are refused."""
    model = Counted(lambda batch: dict.fromkeys(names, batch))
    with pytest.raises(PatchloomError, match=str(names[0])[:9]):
        predict(model, pixels(), tmp_path / "out.ome.zarr", **OPTIONS)
    assert model.calls == 1
    assert list(tmp_path.iterdir()) == []


def test_series_names(tmp_path: Path) -> None:
    """Outputs of two images never share a path."""
    sources = [npy(tmp_path / "a.npy"), npy(tmp_path / "a-b.npy")]
    with pytest.raises(SinkError, match="would both be written to"):
        predict(lambda batch: {"b-c": batch, "c": batch}, sources, tmp_path / "out", **OPTIONS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-b.npy", "a.npy"]


@pytest.mark.parametrize("name", ["out.npy", "out.tif"])
def test_no_room(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that does not fit on the disk is refused before a block is computed."""
    model = Counted()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=64 * 48 - 1))
    with pytest.raises(SinkError, match=r"takes 3072 bytes, but the disk has 3071 left"):
        predict(model, pixels(), tmp_path / name, **OPTIONS)
    assert model.calls == 1
    assert list(tmp_path.iterdir()) == []
