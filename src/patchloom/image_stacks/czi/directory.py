"""The directory of subblocks of a CZI: the planes of each scene, and checks of subblocks.

libCZI returns the extent of the whole document only, so that a scene with fewer slices than another would be filled up with
zeros. The directory lists every subblock with its coordinates. It is read as ZEISS describes the format
(https://zeiss.github.io/libczi/imaging_formats/czi.html). Directory and subblocks are checked before libCZI reads them, as libCZI
may end the process at damaged ones.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError

PLANE_DIMENSIONS = "BVHIRTZC"
"""Dimensions of planes, outermost first, by CZI's letters."""

_SEGMENT = struct.Struct("<16sqq")
_SIZES = struct.Struct("<iiq")
"""Numbers of bytes of the metadata, the attachment and the pixels of a subblock."""

_SUBBLOCK_HEAD = 256
_DIRECTORY_POSITION = 84
_ENTRIES_FROM = 128
_COUNT_OFFSET = 28
"""Of the number of dimensions in an entry, in bytes."""

_MOST_DIMENSIONS = 64
_ENTRY = np.dtype(
    {
        "names": ["schema", "pixel_type", "position", "n_dimensions"],
        "formats": ["S2", "<i4", "<i8", "<i4"],
        "offsets": [0, 2, 6, 28],
        "itemsize": 32,
    }
)
_DIMENSION = np.dtype([("name", "<u4"), ("start", "<i4"), ("size", "<i4"), ("coordinate", "<f4"), ("stored", "<i4")])

_COLUMNS = f"XY{PLANE_DIMENSIONS}S"
_COLUMN_OF_NAME = np.full(256, len(_COLUMNS))
_COLUMN_OF_NAME[[ord(axis) for axis in _COLUMNS]] = range(len(_COLUMNS))
"""Column of a dimension in a table of subblocks; the last one for any other name."""


@dataclass(frozen=True, slots=True)
class CziDirectory:
    """The subblocks of a document in full resolution, one row for each."""

    scenes: NDArray[np.int64]
    """`(n,)`: scene of each; 0 if the file has none."""

    planes: NDArray[np.int64]
    """`(n, 8)`: index of each along `PLANE_DIMENSIONS`; 0 for a dimension that the file lacks."""

    boxes: NDArray[np.int64]
    """`(n, 4)`: `x, y, width, height` on the stage, in pixels."""

    positions: NDArray[np.int64]
    """`(n,)`: position of each in the file, in bytes."""

    content: bytes
    """The directory as it is in the file."""

    spans: NDArray[np.int64]
    """`(n, 2)`: where the entry of each begins and ends in `content`."""

    def entry(self, row: int) -> bytes:
        """Return the entry of a subblock in the directory."""
        return self.content[slice(*self.spans[row].tolist())]

    def planes_of(self, path: str | Path, scene: int | None) -> dict[str, tuple[int, ...]]:
        """Return the indices that a scene has along each of `PLANE_DIMENSIONS`.

        Slices and times are missing if there are others before and after them. Of other dimensions, only the indices in the
        scene count.

        Parameters
        ----------
        path : str or Path
            Name of the file in messages.
        scene : int or None
            Index of the scene. If None, the whole document.

        Raises
        ------
        SourceError
            If there are no pixels, or some planes of the scene were never acquired.
        """
        found = self.planes if scene is None else self.planes[self.scenes == scene]
        if not len(found):
            raise SourceError(f"{path} has no pixels")
        firsts, lasts = found.min(axis=0).tolist(), found.max(axis=0).tolist()
        indices = {
            axis: tuple(range(first, last + 1) if axis in "TZ" or first == last else np.unique(column).tolist())
            for axis, first, last, column in zip(PLANE_DIMENSIONS, firsts, lasts, found.T, strict=True)
        }
        acquired = _distinct(found, firsts, lasts)
        n_planes = prod(map(len, indices.values()))
        if len(acquired) < n_planes:
            there = set(map(tuple, acquired.tolist()))
            missing = next(plane for plane in product(*indices.values()) if plane not in there)
            named = ", ".join(
                f"{axis} {index}"
                for axis, index in zip(PLANE_DIMENSIONS, missing, strict=True)
                if len(indices[axis]) > 1
            )
            raise SourceError(
                f"{path} lacks {n_planes - len(acquired)} of {n_planes} planes, such as {named}, which were never acquired: "
                "export the complete part, or choose a complete scene"
            )
        return indices


def _distinct(rows: NDArray[np.int64], firsts: Sequence[int], lasts: Sequence[int]) -> NDArray[np.int64]:
    """Return each row of a table once, given the least and the largest number of each column."""
    extents = [last - first + 1 for first, last in zip(firsts, lasts, strict=True)]
    if prod(extents) > np.iinfo(np.int64).max:
        return np.unique(rows, axis=0)
    numbers = np.ravel_multi_index(tuple((rows - firsts).T), extents)
    return rows[np.unique(numbers, return_index=True)[1]]


def read_directory(path: str | Path) -> CziDirectory:
    """Read the directory of a CZI.

    Raises
    ------
    SourceError
        If the file is not a CZI, or its directory is damaged.
    """
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            content = _segment(file, size, 0, b"ZISRAWFILE")
            (position,) = struct.unpack_from("<q", content, _DIRECTORY_POSITION - _SEGMENT.size)
            return _parsed(_segment(file, size, position, b"ZISRAWDIRECTORY"), size)
    except (OSError, struct.error, ValueError) as error:
        raise SourceError(f"{path} cannot be opened as a CZI: {error}") from error


def _segment(file: BinaryIO, file_size: int, position: int, name: bytes) -> bytes:
    """Read the content of a segment, which is never longer than the file."""
    if not 0 <= position <= file_size - _SEGMENT.size:
        raise ValueError(f"its {name.decode()} should be at {position}, and it has {file_size} bytes")
    file.seek(position)
    found, allocated, used = _SEGMENT.unpack(file.read(_SEGMENT.size))
    n_bytes = used or allocated
    if found.rstrip(b"\0") != name or not 0 <= n_bytes <= file_size - position - _SEGMENT.size:
        raise ValueError(f"there is no complete {name.decode()} at {position}")
    return file.read(n_bytes)


def _parsed(content: bytes, file_size: int) -> CziDirectory:
    (n_entries,) = struct.unpack_from("<i", content)
    offsets, counts = _find_entries(content, n_entries)
    entries = _records(content, offsets, _ENTRY)
    if (entries["schema"] != b"DV").any():
        raise ValueError("its subblocks are listed in an unknown way")
    if ((entries["position"] < 0) | (entries["position"] > file_size - _SEGMENT.size)).any():
        raise ValueError("a subblock of it lies outside the file")
    return _full_resolution(content, offsets, counts, entries["position"])


def _find_entries(content: bytes, n_entries: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the positions of the entries and their numbers of dimensions; in most files all numbers equal the first."""
    (first,) = struct.unpack_from("<i", content, _ENTRIES_FROM + _COUNT_OFFSET) if n_entries > 0 else (0,)
    size = _ENTRY.itemsize + first * _DIMENSION.itemsize
    if 2 <= first <= _MOST_DIMENSIONS and _ENTRIES_FROM + n_entries * size <= len(content):
        alike = np.ndarray(n_entries, "<i4", content, _ENTRIES_FROM + _COUNT_OFFSET, (size,))
        if (alike == first).all():
            return _ENTRIES_FROM + size * np.arange(n_entries), alike.astype(np.int64)
    offsets, counts, offset = [], [], _ENTRIES_FROM
    for _ in range(n_entries):
        (count,) = struct.unpack_from("<i", content, offset + _COUNT_OFFSET)
        if not 2 <= count <= _MOST_DIMENSIONS:
            raise ValueError(f"a subblock of it has {count} dimensions")
        offsets.append(offset)
        counts.append(count)
        offset += _ENTRY.itemsize + count * _DIMENSION.itemsize
    if offset > len(content):
        raise ValueError(f"its directory of {n_entries} subblocks is cut off")
    return np.array(offsets, np.int64), np.array(counts, np.int64)


def _full_resolution(
    content: bytes, offsets: NDArray[np.int64], counts: NDArray[np.int64], positions: NDArray[np.int64]
) -> CziDirectory:
    rows = np.repeat(np.arange(len(offsets)), counts)
    of_entry = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    dimensions = _records(content, offsets[rows] + _ENTRY.itemsize + of_entry * _DIMENSION.itemsize, _DIMENSION)
    if (dimensions["size"] < 1).any():
        raise ValueError("a subblock of it has a size of 0")
    columns = _COLUMN_OF_NAME[np.where(dimensions["name"] < len(_COLUMN_OF_NAME), dimensions["name"], 0)]
    starts, sizes = np.zeros((2, len(offsets), len(_COLUMNS) + 1), np.int64)
    starts[rows, columns] = dimensions["start"]
    sizes[rows, columns] = dimensions["size"]
    is_full = np.ones(len(offsets), bool)
    is_full[rows[(columns < 2) & (dimensions["stored"] != dimensions["size"])]] = False
    planes, scenes = starts[is_full, 2:-2], starts[is_full, -2]
    boxes = np.concatenate([starts[is_full, :2], sizes[is_full, :2]], axis=1)
    spans = np.stack([offsets, offsets + _ENTRY.itemsize + counts * _DIMENSION.itemsize], axis=1)[is_full]
    return CziDirectory(scenes, planes, boxes, positions[is_full], content, spans)


def check_subblock(file: BinaryIO, file_size: int, position: int, entry: bytes) -> None:
    """Check that a subblock lies within the file, is as long as it declares, and is the one that the directory lists.

    Raises
    ------
    ValueError
        If not; libCZI may end the process at it.
    """
    file.seek(position)
    head = file.read(_SEGMENT.size + _SIZES.size + len(entry))
    name, allocated, used = _SEGMENT.unpack_from(head)
    metadata, attachment, data = _SIZES.unpack_from(head, _SEGMENT.size)
    n_bytes = max(_SUBBLOCK_HEAD, _SIZES.size + len(entry)) + metadata + attachment + data
    fits = min(metadata, attachment, data) >= 0 and n_bytes <= max(allocated, used)
    if name.rstrip(b"\0") != b"ZISRAWSUBBLOCK" or not fits or position + _SEGMENT.size + n_bytes > file_size:
        raise ValueError(f"the subblock at {position} is damaged")
    if _decoding_of(head[_SEGMENT.size + _SIZES.size :]) != _decoding_of(entry):
        raise ValueError(f"the subblock at {position} is not the one that the directory lists there")


def _decoding_of(entry: bytes) -> tuple[object, ...]:
    """Return the part of an entry that decides how pixels are decoded."""
    pixel_type, compression, count = (struct.unpack_from("<i", entry, offset)[0] for offset in (2, 18, _COUNT_OFFSET))
    if len(entry) != _ENTRY.itemsize + count * _DIMENSION.itemsize:
        return ()
    dimensions = np.frombuffer(entry, _DIMENSION, offset=_ENTRY.itemsize)
    return pixel_type, compression, dimensions["name"].tolist(), dimensions["stored"].tolist()


def _records(content: bytes, offsets: NDArray[np.int64], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Read records at any offsets."""
    at_any_offset = np.ndarray(max(0, len(content) - dtype.itemsize + 1), f"V{dtype.itemsize}", content, strides=(1,))
    return at_any_offset[offsets].view(dtype)


class SubblockChecks:
    """Checks of the subblocks of a file, each once, before it is read for the first time.

    Parameters
    ----------
    path : Path
        The file.
    directory : CziDirectory
        Its subblocks.
    """

    def __init__(self, path: Path, directory: CziDirectory) -> None:
        self._path = path
        self._directory = directory
        self._is_checked = np.zeros(len(directory.positions), bool)

    @cached_property
    def _of_plane(self) -> dict[tuple[int, ...], NDArray[np.intp]]:
        """Which subblocks each plane has."""
        planes, number = np.unique(self._directory.planes, axis=0, return_inverse=True)
        order = np.argsort(number.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(number.ravel(), minlength=len(planes)))
        rows = [order[end - count : end] for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]
        return dict(zip(map(tuple, planes.tolist()), rows, strict=True))

    def check(self, plane: Mapping[str, int], box: Sequence[int]) -> None:
        """Check the subblocks of a plane that a box on the stage, `x, y, width, height`, overlaps.

        Raises
        ------
        ValueError
            If one is damaged.
        """
        rows = self._of_plane.get(tuple(plane[axis] for axis in PLANE_DIMENSIONS))
        if rows is None:
            return
        unchecked = rows[~self._is_checked[rows]]
        met = unchecked[self._meets(unchecked, box)].tolist() if len(unchecked) else []
        if not met:
            return
        with self._path.open("rb") as file:
            size = file.seek(0, 2)
            for row in met:
                try:
                    check_subblock(file, size, int(self._directory.positions[row]), self._directory.entry(row))
                except struct.error as error:
                    raise ValueError(f"a subblock is cut off: {error}") from error
                self._is_checked[row] = True

    def _meets(self, rows: NDArray[np.intp], box: Sequence[int]) -> NDArray[np.bool_]:
        boxes = self._directory.boxes[rows]
        starts, ends = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
        first = np.array(box[:2])
        met = (starts < first + box[2:]) & (ends > first)
        return np.asarray(met.all(axis=1))
