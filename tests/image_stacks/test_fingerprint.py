"""Whether a source is still the one that a run began with: told by what the file system says, or by all that is in memory."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import pytest
import tifffile
import xarray as xr
import zarr

from patchloom.image_stacks import ArrayStack, Fingerprint, ZarrStack, fingerprint, open_stacks, select_channels


def state(source: Any, axes: str = "YX") -> Fingerprint:
    return fingerprint(open_stacks(source, axes=axes)[0])


def write_npy(folder: Path, image: np.ndarray) -> Path:
    np.save(folder / "image.npy", image)
    return folder / "image.npy"


def write_tiff(folder: Path, image: np.ndarray) -> Path:
    tifffile.imwrite(folder / "image.tif", image)
    return folder / "image.tif"


def write_zarr(folder: Path, image: np.ndarray) -> Path:
    zarr.create_array(folder / "image.zarr", data=image, chunks=(8, 8), overwrite=True)
    return folder / "image.zarr"


@pytest.mark.parametrize("write", [write_npy, write_tiff, write_zarr])
def test_files_are_known_by_all_of_their_sizes_and_times(
    write: Callable[[Path, np.ndarray], Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    source = write(tmp_path, rng.integers(1, 255, (20, 30), np.uint8))
    before = state(source)
    assert before.digest
    assert not before.unknown
    assert state(source) == before
    deep = source if source.is_file() else source / "c" / "1" / "2"
    for change in (-(10**9), 10**9):
        os.utime(deep, ns=(0, deep.stat().st_mtime_ns + change))
        assert state(source) != before


@pytest.mark.parametrize("write", [write_npy, write_tiff, write_zarr])
def test_other_pixels_behind_the_old_size_and_time_are_noticed(
    write: Callable[[Path, np.ndarray], Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    image = rng.integers(1, 255, (20, 30), np.uint8)
    source = write(tmp_path, image)
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    times = {path: path.stat().st_mtime_ns for path in files}
    before = state(source)
    write(tmp_path, image[::-1])
    for path, when in times.items():
        os.utime(path, ns=(when, when))
    assert state(source) != before


def test_of_a_zarr_other_levels_labels_and_hidden_files_do_not_count(tmp_path: Path, rng: np.random.Generator) -> None:
    write_zarr(tmp_path, rng.integers(1, 255, (20, 30), np.uint8))
    group = zarr.open_group(tmp_path / "image.ome.zarr", mode="w", zarr_format=3)
    multiscale = {
        "axes": [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}],
        "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1, 1]}]}],
    }
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale]}
    group.create_array("0", data=rng.integers(1, 255, (20, 30), np.uint8), chunks=(8, 8))
    stack = ZarrStack(tmp_path / "image.ome.zarr")
    before = fingerprint(stack), fingerprint(stack, level="quick")
    group.create_array("labels/cells", data=np.ones((20, 30), np.uint8))
    (tmp_path / "image.ome.zarr" / "0" / ".DS_Store").touch()
    assert (fingerprint(stack), fingerprint(stack, level="quick")) == before
    (tmp_path / "image.ome.zarr" / "0" / "c" / "0" / "0").write_bytes(b"other")
    assert fingerprint(stack) != before[0]


def test_arrays_are_known_by_every_pixel_wherever_they_lie_in_memory(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (3, 20, 30), np.uint8)
    before = state(image, "CYX")
    assert state(np.asfortranarray(image), "CYX") == before
    image[2, 19, 29] += 1
    assert state(image, "CYX") != before


def test_a_large_array_is_known_by_every_pixel_of_every_slab(rng: np.random.Generator) -> None:
    image = rng.integers(0, 2**63, (1, 3, 700, 1000), np.uint64)
    before = state(image, "SCYX")
    assert state(np.asfortranarray(image), "SCYX") == before
    for place in [(0, 0, 0, 0), (0, 1, 699, 999), (0, 2, 350, 17)]:
        image[place] ^= 1
        assert state(image, "SCYX") != before
        image[place] ^= 1
    assert state(image, "SCYX") == before


def test_an_array_is_known_by_its_pixels_where_a_file_is_named_like_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("array").touch()
    assert state(np.zeros((4, 5))) != state(np.ones((4, 5)))


def test_a_mapped_array_is_known_by_its_file_and_not_read(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "pixels"
    rng.integers(0, 255, (40, 30), np.uint8).tofile(path)

    def mapped(**where: int) -> np.memmap:
        return np.memmap(path, np.uint8, "r", shape=(20, 30), **where)

    whole = mapped()
    views = [whole, whole[::-1], whole[:, ::-1], mapped(offset=600), whole[2:12], whole[4:14]]
    states = set(map(state, views))
    assert len(states) == 6
    assert {state(mapped()), state(mapped()[4:14])} <= states
    path.touch()
    assert state(mapped()) not in states


def test_a_map_that_is_copied_on_write_is_known_by_what_is_in_memory(tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((4, 5)))
    pixels = np.load(tmp_path / "image.npy", mmap_mode="c")
    before = state(pixels)
    pixels[2, 3] = 1
    assert state(pixels) != before


def open_zarr(path: Path) -> Any:
    return zarr.open_array(path, mode="r+")


def dask_of_zarr(path: Path) -> Any:
    return da.from_zarr(zarr.open_array(path)) * 2


def dask_of_zarr_inline(path: Path) -> Any:
    return da.from_array(zarr.open_array(path), inline_array=True).rechunk((5, 30))


def xarray_of_zarr(path: Path) -> Any:
    return xr.DataArray(da.from_zarr(zarr.open_array(path)), dims=("y", "x"))


@pytest.mark.parametrize("open_lazily", [open_zarr, dask_of_zarr, dask_of_zarr_inline, xarray_of_zarr])
def test_what_is_read_lazily_is_known_by_the_files_behind_it(
    open_lazily: Callable[[Path], Any], tmp_path: Path, rng: np.random.Generator
) -> None:
    path = write_zarr(tmp_path, rng.integers(1, 255, (20, 30), np.uint8))
    before = state(open_lazily(path))
    assert not before.unknown
    assert state(open_lazily(path)) == before
    open_zarr(path)[3, 4] += 1
    assert state(open_lazily(path)) != before


def test_a_dataset_of_hdf5_is_known_by_its_file(tmp_path: Path, rng: np.random.Generator) -> None:
    with h5py.File(tmp_path / "image.h5", "w") as file:
        file["one"], file["two"] = rng.random((2, 20, 30))
    with h5py.File(tmp_path / "image.h5") as file:
        before = state(file["one"])
        assert not before.unknown
        assert state(file["two"]) != before
        assert state(da.from_array(file["one"])).digest.split()[0] == before.digest.split()[0]
    with h5py.File(tmp_path / "image.h5", "r+") as file:
        file["one"][0, 0] = 7
    with h5py.File(tmp_path / "image.h5") as file:
        assert state(file["one"]) != before


def test_a_dask_array_is_known_by_how_it_is_computed(tmp_path: Path) -> None:
    ones = da.ones((20, 30), chunks=(8, 8))
    assert state(ones + 1) == state(da.ones((20, 30), chunks=(8, 8)) + 1)
    assert state(ones + 1) != state(ones + 2)
    assert state(da.from_array(np.zeros((4, 5)))) != state(da.from_array(np.ones((4, 5))))
    write_npy(tmp_path, np.zeros((4, 5)))
    lazily = da.map_blocks(np.load, str(tmp_path / "image.npy"), chunks=((4,), (5,)), dtype=float)
    before = state(lazily)
    write_npy(tmp_path, np.ones((4, 5)))
    assert state(lazily) != before


def test_a_zarr_in_a_zip_is_known_by_the_zip(tmp_path: Path) -> None:
    with zarr.storage.ZipStore(tmp_path / "image.zip", mode="w") as store:
        zarr.create_array(store, data=np.ones((4, 5)))
    with zarr.storage.ZipStore(tmp_path / "image.zip", mode="r") as store:
        before = state(zarr.open_array(store))
        assert not before.unknown
    with zipfile.ZipFile(tmp_path / "image.zip", "a") as file:
        file.writestr("other", b"")
    with zarr.storage.ZipStore(tmp_path / "image.zip", mode="r") as store:
        assert state(zarr.open_array(store)) != before


class Foreign:
    source = "somewhere"


class ArrayOfOnes:
    shape, dtype = (4, 5), np.dtype("u1")

    def __getitem__(self, index: Any) -> Any:
        return np.ones(self.shape, self.dtype)[index]


def test_of_what_cannot_be_identified_the_reason_is_given() -> None:
    assert fingerprint(Foreign()).unknown == "a Foreign names neither its files nor its pixels"  # type: ignore[arg-type]
    assert fingerprint(ArrayStack(ArrayOfOnes(), "YX")).unknown.endswith(
        "ArrayOfOnes names neither its files nor its pixels"
    )
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=np.ones((4, 5)))
    assert state(in_memory).unknown.endswith("names neither its files nor its pixels")
    assert state(da.from_array(in_memory)).unknown


def test_chosen_channels_are_known_by_their_image(rng: np.random.Generator) -> None:
    image = rng.random((3, 4, 5))
    stack = ArrayStack(image, "CYX")
    states = {fingerprint(select_channels(stack, channels)) for channels in ([0, 1], [1, 0], [2])}
    assert len(states) == 3
    image[0, 0, 0] += 1
    assert fingerprint(select_channels(stack, [0, 1])) not in states
