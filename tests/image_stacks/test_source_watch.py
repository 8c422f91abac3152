"""Images that change on disk are noticed, however they are replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.errors import SourceChangedError
from patchloom.image_stacks import ArrayStack, SourceWatch, open_stacks


def write_tiff(path: Path, image: np.ndarray) -> None:
    tifffile.imwrite(path, image)


def write_zarr(path: Path, image: np.ndarray) -> None:
    zarr.create_array(path, data=image, chunks=(8, 8))


def write_npy(path: Path, image: np.ndarray) -> None:
    np.save(path, image)


WAYS = [(write_tiff, "a.tif"), (write_zarr, "a.zarr"), (write_npy, "a.npy")]


@pytest.mark.parametrize(("write", "name"), WAYS, ids=["tiff", "zarr", "npy"])
def test_an_image_that_is_replaced_by_a_rename_is_noticed(
    write: Callable[[Path, np.ndarray], None], name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
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


@pytest.mark.parametrize(("write", "name"), WAYS, ids=["tiff", "zarr", "npy"])
def test_an_image_that_is_gone_is_noticed(
    write: Callable[[Path, np.ndarray], None], name: str, tmp_path: Path, rng: np.random.Generator
) -> None:
    write(tmp_path / name, rng.integers(0, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / name, "YX"), thoroughly=True)
    (tmp_path / name).rename(tmp_path / "elsewhere")
    for check in (lambda: watch.check([0]), lambda: watch.check_thoroughly(0)):
        with pytest.raises(SourceChangedError, match=rf"{name} has changed on disk"):
            check()


def test_a_chunk_that_is_rewritten_in_place_is_noticed_by_a_thorough_look(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    write_zarr(tmp_path / "a.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / "a.zarr", "YX"), thoroughly=True)
    watch.check_thoroughly(0)
    zarr.open_array(tmp_path / "a.zarr", mode="r+")[9, 9] = 0
    with pytest.raises(SourceChangedError, match="has changed on disk"):
        watch.check_thoroughly(0)


def test_metadata_that_are_rewritten_are_noticed(tmp_path: Path, rng: np.random.Generator) -> None:
    write_zarr(tmp_path / "a.zarr", rng.integers(1, 255, (20, 30), np.uint8))
    watch = SourceWatch(open_stacks(tmp_path / "a.zarr", "YX"))
    zarr.open_array(tmp_path / "a.zarr", mode="r+").attrs["seen"] = True
    with pytest.raises(SourceChangedError, match="has changed on disk"):
        watch.check([0])


@pytest.mark.parametrize("n_masks", [1, 2, 3])
def test_a_mask_is_looked_at_with_its_image_or_with_every_one(
    n_masks: int, tmp_path: Path, rng: np.random.Generator
) -> None:
    paths = [tmp_path / f"{number}.npy" for number in range(2 + n_masks)]
    for path in paths:
        write_npy(path, rng.random((4, 5)))
    stacks = [open_stacks(path, "YX")[0] for path in paths]
    watch = SourceWatch(stacks[:2], stacks[2:], thoroughly=True)
    watch.check([0, 1])
    write_npy(paths[-1], rng.random((4, 5)))
    if n_masks == 2:
        watch.check_thoroughly(0)
    for check in (lambda: watch.check([0, 1]), lambda: watch.check_thoroughly(1)):
        with pytest.raises(SourceChangedError, match=rf"{paths[-1].name} has changed"):
            check()
