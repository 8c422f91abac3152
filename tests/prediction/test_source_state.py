"""Whether a source is still the one that a run began with: told by what its files say, or by all that is in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from patchloom.image_stacks import ArrayStack, open_stacks
from patchloom.prediction.source_state import source_state


def state(source: Path) -> str | None:
    return source_state(open_stacks(source, axes="YX")[0])


def write_tiff(folder: Path, image: np.ndarray) -> Path:
    tifffile.imwrite(folder / "image.tif", image)
    return folder / "image.tif"


def write_zarr(folder: Path, image: np.ndarray) -> Path:
    zarr.create_array(folder / "image.zarr", data=image, chunks=(8, 8))
    return folder / "image.zarr"


@pytest.mark.parametrize("write", [write_tiff, write_zarr])
def test_files_are_told_by_all_of_their_sizes_and_times(
    write: Callable[[Path, np.ndarray], Path], tmp_path: Path, rng: np.random.Generator
) -> None:
    source = write(tmp_path, rng.integers(1, 255, (20, 30), np.uint8))
    before = state(source)
    assert before is not None
    assert state(source) == before
    deep = source if source.is_file() else source / "c" / "1" / "2"
    for change in (-(10**9), 10**9):
        os.utime(deep, ns=(0, deep.stat().st_mtime_ns + change))
        assert state(source) != before
        os.utime(deep, ns=(0, deep.stat().st_mtime_ns - change))
        assert state(source) == before


def test_arrays_are_told_by_every_pixel_wherever_they_lie_in_memory(rng: np.random.Generator) -> None:
    image = rng.integers(0, 255, (3, 20, 30), np.uint8)
    before = source_state(ArrayStack(image, "CYX"))
    assert source_state(ArrayStack(np.asfortranarray(image), "CYX")) == before
    image[2, 19, 29] += 1
    assert source_state(ArrayStack(image, "CYX")) != before


def test_a_mapped_array_is_told_by_its_file_and_not_read(tmp_path: Path, rng: np.random.Generator) -> None:
    path = tmp_path / "pixels"
    rng.integers(0, 255, (40, 30), np.uint8).tofile(path)

    def mapped(**where: int) -> np.memmap:
        return np.memmap(path, np.uint8, "r", shape=(20, 30), **where)

    whole = mapped()
    states = {
        source_state(ArrayStack(view, "YX"))
        for view in (whole, whole[::-1], whole[:, ::-1], mapped(offset=600), whole[2:12], whole[4:14])
    }
    assert None not in states
    assert len(states) == 6
    assert source_state(ArrayStack(mapped(), "YX")) in states
    assert source_state(ArrayStack(mapped()[4:14], "YX")) in states
    path.touch()
    assert source_state(ArrayStack(mapped(), "YX")) not in states


def test_of_a_stack_that_tells_nothing_nothing_is_said() -> None:
    class Foreign:
        source = "somewhere"

    assert source_state(Foreign()) is None  # type: ignore[arg-type]  # all that is asked of it
