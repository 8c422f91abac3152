"""Every local file that something reads is found, however it is wrapped."""

from __future__ import annotations

import functools
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array
import h5py
import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from patchloom import SkipOutside, open_stacks
from patchloom.image_stacks import files_read

PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


class Wrapped:
    """An array-like of somebody's own."""

    def __init__(self, array: Any) -> None:
        self.inner = {"an": [array]}
        self.shape, self.dtype = array.shape, array.dtype

    def __getitem__(self, index: Any) -> Any:
        return self.inner["an"][0][index]


class WithSlots:
    __slots__ = ("inner",)

    def __init__(self, array: Any) -> None:
        self.inner = array


def mapped(path: Path) -> np.ndarray:
    np.save(path, PIXELS)
    return np.load(path, mmap_mode="r")


def bare_map(path: Path) -> mmap.mmap:
    path.write_bytes(PIXELS.tobytes())
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def stored(path: Path) -> zarr.Array:
    array = zarr.create_array(path, shape=(8, 8), chunks=(4, 4), dtype="u1", dimension_names=["y", "x"])
    array[...] = PIXELS
    return array


def stored_in_group(path: Path) -> zarr.Array:
    array = zarr.open_group(path, mode="w").create_array("x", shape=(8, 8), dtype="u1", dimension_names=["y", "x"])
    array[...] = PIXELS
    return array


def zipped(path: Path) -> zarr.Array:
    return zarr.create_array(zarr.storage.ZipStore(path, mode="w"), shape=(8, 8), dtype="u1")


def dataset(path: Path) -> h5py.Dataset:
    return h5py.File(path, "w").create_dataset("x", data=PIXELS)


def virtual_dataset(path: Path) -> h5py.Dataset:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=PIXELS)
    layout = h5py.VirtualLayout((8, 8), "u1")
    layout[...] = h5py.VirtualSource(path.name, "x", shape=(8, 8))
    return h5py.File(path.with_name("virtual.h5"), "w").create_virtual_dataset("v", layout)


def opened(path: Path) -> Any:
    stored(path)
    return tensorstore.open({"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}).result()


def times(weights: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    return lambda batch: batch * weights


MAKERS: dict[str, Callable[[Path], Any]] = {
    "memory map": mapped,
    "view of one": lambda path: mapped(path)[2:].T,
    "plain array over one": lambda path: np.asarray(mapped(path))[1:],
    "reshaped": lambda path: np.asarray(mapped(path)).reshape(-1),
    "other dtype": lambda path: mapped(path).view("u2"),
    "one in an array of objects": lambda path: np.array([None, mapped(path)], dtype=object),
    "zarr array": stored,
    "zarr array in a group": stored_in_group,
    "zarr array in an archive": zipped,
    "wrapped zarr array": lambda path: Wrapped(Wrapped(stored(path))),
    "slots": lambda path: WithSlots(Wrapped(stored(path))),
    "HDF5": dataset,
    "virtual HDF5": virtual_dataset,
    "TensorStore": opened,
    "view of TensorStore": lambda path: opened(path)[2:, ::2],
    "cast TensorStore": lambda path: tensorstore.cast(opened(path), tensorstore.float32),
    "dask of zarr": lambda path: dask.array.from_zarr(stored(path)),
    "computed dask": lambda path: ((dask.array.from_zarr(stored(path)) + 1)[3:].rechunk(2).T).sum(0)[None],
    "dask of HDF5": lambda path: dask.array.from_array(dataset(path), chunks=4).map_blocks(np.sqrt),
    "dask of delayed reads": lambda path: dask.array.from_delayed(
        dask.delayed(np.load)(str(mapped(path).filename)), (8, 8), "u1"
    ),
    "xarray of a memory map": lambda path: xarray.DataArray(mapped(path), dims=("y", "x"))[2:],
    "xarray of dask": lambda path: xarray.DataArray(dask.array.from_zarr(stored(path)), dims=("y", "x")) * 2,
    "xarray of a Zarr": lambda path: xarray.open_dataset(
        stored_in_group(path).store.root, engine="zarr", chunks=None, consolidated=False
    )["x"],
    "stack": lambda path: open_stacks(mapped(path), axes="YX"),
    "stack of a path": lambda path: open_stacks(str(mapped(path).filename), axes="YX"),
    "channels of a stack": lambda path: open_stacks(np.asarray(mapped(path))[None], axes="CYX"),
    "mask": lambda path: SkipOutside(open_stacks(stored(path), axes="YX")),
    "closure": lambda path: times(mapped(path)),
    "partial": lambda path: functools.partial(np.multiply, mapped(path)),
    "method": lambda path: Wrapped(mapped(path)).__getitem__,
    "open file": lambda path: (mapped(path), path.open("rb"))[1],
}


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", MAKERS)
def test_wrapped_files(kind: str, tmp_path: Path) -> None:
    """A file is found through any object that reads it."""
    path = tmp_path / ("data.zip" if "archive" in kind else "data.npy")
    found = files_read(MAKERS[kind](path))
    assert path.resolve() in {each.resolve() for each in found}
    assert all(each.resolve().is_relative_to(tmp_path.resolve()) for each in found)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell what is mapped")
@pytest.mark.parametrize(
    "take",
    [
        np.frombuffer,
        lambda held, dtype: np.ndarray((8, 8), dtype, buffer=held)[2:],
        lambda held, dtype: np.from_dlpack(np.frombuffer(held, dtype)),
    ],
    ids=["buffer", "array", "lent by DLPack"],
)
def test_bare_map(take: Any, tmp_path: Path) -> None:
    """A memory map of the module `mmap` is found."""
    held = bare_map(tmp_path / "data")
    array = take(held, np.uint8)
    assert files_read(array[1:]) == {tmp_path / "data"}
    del array
    held.close()


def test_names(tmp_path: Path) -> None:
    """The name of a file counts only if names are searched."""
    stored(tmp_path / "old.zarr")

    class Pipeline:
        def __init__(self) -> None:
            self.output = tmp_path / "old.zarr"

        def model(self, batch: np.ndarray) -> np.ndarray:
            return batch

    assert files_read(Pipeline().model, names=False) == set()
    assert files_read(Pipeline().model) == {tmp_path / "old.zarr"}


def test_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other objects read no file."""
    monkeypatch.chdir(tmp_path)
    Path("getitem").mkdir()  # a word that is a folder's name by accident
    recursive: list[Any] = [
        "getitem",
        "",
        "\0",
        "x" * 10_000,
        b"raw",
        None,
        3,
        np.zeros(3),
        {"a": object()},
        "s3://a/b",
    ]
    recursive.append(recursive)
    assert files_read(recursive, dask.array.zeros((100, 100), chunks=10).sum()) == set()
