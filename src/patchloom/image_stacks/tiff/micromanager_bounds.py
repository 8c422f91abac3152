"""Bounds on what Micro-Manager's metadata say, checked before tifffile makes lists of as many pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import tifffile

from patchloom.errors import SourceError

PLANES_FOR_EACH_STORED = 65_536
"""Planes that an image may have for each one that is stored; the others were never acquired."""


def check_micromanager(path: Path, tif: tifffile.TiffFile) -> None:
    """Check the numbers of planes, and the names of files, in the metadata of a file of Micro-Manager's.

    Raises
    ------
    SourceError
        If there are far more planes than are stored, or files outside the folder.
    """
    if tif.is_mmstack:
        told = tif.micromanager_metadata or {}
        largest = told["IndexMap"][:, :4].max(axis=0).tolist()
        sizes = [int(told["Summary"].get(name, 1)) for name in ("Channels", "Slices", "Frames", "Positions")]
        sizes = [max(size, last + 1) for size, last in zip(sizes, largest, strict=True)]
        _check_planes(path, sizes, len(told["IndexMap"]))
    elif tif.is_ndtiff:
        check_ndtiff_index(path)


def check_ndtiff_index(path: Path) -> None:
    """Check the index beside a file of an NDTiff data set; see `check_micromanager`."""
    places: dict[str, set[int | str]] = {}
    n_stored = 0
    for axes, name, *_ in tifffile.read_ndtiff_index(path.with_name("NDTiff.index")):
        named = path.parent / name
        if not named.resolve().is_relative_to(path.parent.resolve()) or not named.is_file():
            raise SourceError(
                f"{path} is one file of a set, and names another that is not in its folder, {name[:200]!r}"
            )
        n_stored += 1
        for axis, place in axes.items():
            places.setdefault(str(axis), set()).add(place)
    _check_planes(path, [_extent(found) for found in places.values()], n_stored)


def _extent(places: set[int | str]) -> int:
    numbers = [place for place in places if isinstance(place, int)]
    return max(numbers) - min(numbers) + 1 if numbers else len(places)


def _check_planes(path: Path, sizes: Sequence[int], n_stored: int) -> None:
    n_planes = math.prod(sizes)
    if n_planes > PLANES_FOR_EACH_STORED * n_stored:
        raise SourceError(f"{path} describes {n_planes} planes, of which {n_stored} are stored")
