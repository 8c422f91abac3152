"""Fingerprints identify files by their sizes and times and arrays by their bytes, and a watch notices changed files."""

from __future__ import annotations

import os
import shutil
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

from patchloom.errors import SourceChangedError
from patchloom.image_stacks import (
    ArrayStack,
    Fingerprint,
    SourceWatch,
    ZarrStack,
    open_stacks,
    select_channels,
)
from patchloom.image_stacks.fingerprint import fingerprint

FILES = ["a.npy", "a.tif", "a.zarr"]


def state(source: Any, axes: str = "YX") -> Fingerprint:
    return fingerprint(open_stacks(source, axes=axes)[0])


def write(path: Path, image: np.ndarray) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, image)
        case ".tif":
            tifffile.imwrite(path, image)
        case _:
            zarr.create_array(path, data=image, chunks=(8, 8), overwrite=True)
    return path


@pytest.mark.parametrize("name", FILES)
def test_times(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """A file or any file of a folder with another time changes the fingerprint."""
    source = write(tmp_path / name, rng.integers(1, 255, (20, 30), np.uint8))
    before = state(source)
    assert before.digest
    assert not before.unknown
    assert state(source) == before
    deep = source if source.is_file() else source / "c" / "1" / "2"
    for change in (-(10**9), 10**9):
        os.utime(deep, ns=(0, deep.stat().st_mtime_ns + change))
        assert state(source) != before


@pytest.mark.parametrize("name", FILES)
def test_old_times(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """Other pixels with the old size and time change the fingerprint."""
    image = rng.integers(1, 255, (20, 30), np.uint8)
    source = write(tmp_path / name, image)
    files = [source] if source.is_file() else [path for path in source.rglob("*") if path.is_file()]
    times = {path: path.stat().st_mtime_ns for path in files}
    before = state(source)
    write(source, image[::-1])
    for path, when in times.items():
        os.utime(path, ns=(when, when))
    assert state(source) != before


def test_other_files_of_zarr(tmp_path: Path, rng: np.random.Generator) -> None:
    """Labels and hidden files beside an array do not count."""
    write(tmp_path / "image.zarr", rng.integers(1, 255, (20, 30), np.uint8))
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


def test_arrays(rng: np.random.Generator) -> None:
    """Every pixel of an array counts, and its layout in memory does not."""
    image = rng.integers(0, 255, (3, 20, 30), np.uint8)
    before = state(image, "CYX")
    assert state(np.asfortranarray(image), "CYX") == before
    image[2, 19, 29] += 1
    assert state(image, "CYX") != before


def test_large_arrays(rng: np.random.Generator) -> None:
    """Every pixel of an array that is hashed in slabs counts."""
    image = rng.integers(0, 2**63, (1, 3, 700, 1000), np.uint64)
    before = state(image, "SCYX")
    assert state(np.asfortranarray(image), "SCYX") == before
    for place in [(0, 0, 0, 0), (0, 1, 699, 999), (0, 2, 350, 17)]:
        image[place] ^= 1
        assert state(image, "SCYX") != before
        image[place] ^= 1
    assert state(image, "SCYX") == before


def test_file_named_array(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file named array does not stand for an array in memory."""
    monkeypatch.chdir(tmp_path)
    Path("array").touch()
    assert state(np.zeros((4, 5))) != state(np.ones((4, 5)))


def test_maps(tmp_path: Path, rng: np.random.Generator) -> None:
    """Memory maps have the fingerprint of their file and of their part of it."""
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


def test_copy_on_write(tmp_path: Path) -> None:
    """A map that is copied on write has the fingerprint of its pixels."""
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
def test_lazy_arrays(open_lazily: Callable[[Path], Any], tmp_path: Path, rng: np.random.Generator) -> None:
    """Lazy arrays have the fingerprint of their files."""
    path = write(tmp_path / "image.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    before = state(open_lazily(path))
    assert not before.unknown
    assert state(open_lazily(path)) == before
    open_zarr(path)[3, 4] += 1
    assert state(open_lazily(path)) != before


def test_hdf5(tmp_path: Path, rng: np.random.Generator) -> None:
    """A dataset has the fingerprint of its file and of its name."""
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


def test_dask(tmp_path: Path) -> None:
    """A dask array has the fingerprint of its graph and of the files in it."""
    ones = da.ones((20, 30), chunks=(8, 8))
    assert state(ones + 1) == state(da.ones((20, 30), chunks=(8, 8)) + 1)
    assert state(ones + 1) != state(ones + 2)
    assert state(da.from_array(np.zeros((4, 5)))) != state(da.from_array(np.ones((4, 5))))
    write(tmp_path / "image.npy", np.zeros((4, 5)))
    lazily = da.map_blocks(np.load, str(tmp_path / "image.npy"), chunks=((4,), (5,)), dtype=float)
    before = state(lazily)
    write(tmp_path / "image.npy", np.ones((4, 5)))
    assert state(lazily) != before


def test_zip(tmp_path: Path) -> None:
    """A Zarr in an archive has the fingerprint of the archive."""
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


def test_unknown() -> None:
    """The fingerprint contains why pixels cannot be identified."""
    assert fingerprint(Foreign()).unknown == "a Foreign names neither its files nor its pixels"  # type: ignore[arg-type]
    assert fingerprint(ArrayStack(ArrayOfOnes(), "YX")).unknown.endswith(
        "ArrayOfOnes names neither its files nor its pixels"
    )
    in_memory = zarr.create_array(zarr.storage.MemoryStore(), data=np.ones((4, 5)))
    assert state(in_memory).unknown.endswith("names neither its files nor its pixels")
    assert state(da.from_array(in_memory)).unknown


def test_channels(rng: np.random.Generator) -> None:
    """Chosen channels have the fingerprint of their image and of their numbers."""
    image = rng.random((3, 4, 5))
    stack = ArrayStack(image, "CYX")
    states = {fingerprint(select_channels(stack, channels)) for channels in ([0, 1], [1, 0], [2])}
    assert len(states) == 3
    image[0, 0, 0] += 1
    assert fingerprint(select_channels(stack, [0, 1])) not in states


@pytest.mark.parametrize("name", FILES)
def test_copy(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """A copy with the same times has the same portable fingerprint, and others at the other levels."""
    source = write(tmp_path / name, rng.integers(1, 255, (20, 30), np.uint8))
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / name
    shutil.copytree(source, copy) if source.is_dir() else shutil.copy2(source, copy)
    one, other = (open_stacks(path, axes="YX")[0] for path in (source, copy))
    assert fingerprint(one, "portable") == fingerprint(other, "portable")
    assert fingerprint(one, "quick") != fingerprint(other, "quick")
    assert fingerprint(one, "full") != fingerprint(other, "full")


def test_levels(tmp_path: Path, rng: np.random.Generator) -> None:
    """A chunk that is rewritten in place changes the fingerprint of every level but quick; a missing file changes quick."""
    path = write(tmp_path / "a.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    (stack,) = open_stacks(path, axes="YX")
    before = {level: fingerprint(stack, level) for level in ("quick", "portable", "full")}
    zarr.open_array(path, mode="r+")[9, 9] = 0
    assert [fingerprint(stack, level) == before[level] for level in before] == [True, False, False]
    path.rename(tmp_path / "elsewhere")
    assert fingerprint(stack, "quick") != before["quick"]
    for level in ("portable", "full"):
        with pytest.raises(OSError, match=r"a\.zarr"):
            fingerprint(stack, level)


@pytest.mark.parametrize("name", FILES)
def test_watched_rename(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """An image that is replaced by a rename is noticed."""
    image = rng.integers(0, 255, (20, 30), np.uint8)
    path, newer = tmp_path / name, tmp_path / f"newer-{name}"
    write(path, image)
    shutil.copytree(path, newer) if path.is_dir() else shutil.copy2(path, newer)
    watch = SourceWatch([*open_stacks(path, "YX"), ArrayStack(image, "YX")])
    watch.check([0, 1])
    if path.is_dir():
        path.rename(tmp_path / "old")
    newer.replace(path)
    watch.check([1])
    with pytest.raises(SourceChangedError, match=rf"{name} has changed on disk"):
        watch.check([0, 1])


@pytest.mark.parametrize("name", FILES)
def test_watched_removal(name: str, tmp_path: Path, rng: np.random.Generator) -> None:
    """An image that is gone is noticed."""
    write(tmp_path / name, rng.integers(0, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / name, "YX"), thoroughly=True)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    for check in (lambda: watch.check([0]), lambda: watch.check_thoroughly(0)):
        with pytest.raises(SourceChangedError, match=rf"{name} has changed on disk"):
            check()


def test_watched_chunk(tmp_path: Path, rng: np.random.Generator) -> None:
    """A chunk that is rewritten in place is noticed by `check_thoroughly`."""
    write(tmp_path / "a.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / "a.zarr", "YX"), thoroughly=True)
    watch.check_thoroughly(0)
    zarr.open_array(tmp_path / "a.zarr", mode="r+")[9, 9] = 0
    with pytest.raises(SourceChangedError, match="has changed on disk"):
        watch.check_thoroughly(0)


def test_watched_metadata(tmp_path: Path, rng: np.random.Generator) -> None:
    """Metadata that are rewritten are noticed."""
    write(tmp_path / "a.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / "a.zarr", "YX"))
    zarr.open_array(tmp_path / "a.zarr", mode="r+").attrs["seen"] = True
    with pytest.raises(SourceChangedError, match="has changed on disk"):
        watch.check([0])


@pytest.mark.parametrize("n_masks", [1, 2, 3])
def test_watched_masks(n_masks: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """A mask is checked with its image, or with every image."""
    paths = [tmp_path / f"{number}.npy" for number in range(2 + n_masks)]
    for path in paths:
        write(path, rng.random((4, 5)))
    stacks = [open_stacks(path, "YX")[0] for path in paths]
    watch = SourceWatch(stacks[:2], stacks[2:], thoroughly=True)
    watch.check([0, 1])
    write(paths[-1], rng.random((4, 5)))
    if n_masks == 2:
        watch.check_thoroughly(0)
    for check in (lambda: watch.check([0, 1]), lambda: watch.check_thoroughly(1)):
        with pytest.raises(SourceChangedError, match=rf"{paths[-1].name} has changed"):
            check()
