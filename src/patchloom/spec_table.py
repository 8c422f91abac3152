"""Many patch specifications as a structure of arrays.

A dictionary a patch is pleasant and slow; a million of them are built, sliced and saved as columns of `int64`. The two
forms hold the same and turn into each other without loss.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SpecError
from patchloom.local_paths import normalize_path
from patchloom.patch_specs import PatchSpecs

Column = NDArray[np.int64]

_PATCH_FIELDS = ("data_idx", "sample_idx", "coords", "patch_size")
_TILE_FIELDS = (*_PATCH_FIELDS, "crop_coords", "crop_size", "stitch_coords", "total_tiles")
_UNCORRELATED_FIELDS = (*_PATCH_FIELDS, "principal_channel", "all_data_idx", "all_sample_idx", "all_coords")
_KINDS = (_PATCH_FIELDS, _TILE_FIELDS, _UNCORRELATED_FIELDS)


class SpecTable(Sequence[PatchSpecs]):
    """Specifications of one kind, one row each, one `int64` array a field.

    Immutable: the arrays are read-only. An `int` index gives the dictionary, a slice or an integer array gives a table.

    Parameters
    ----------
    columns : mapping of str to array
        The fields of `PatchSpecs`, `TileSpecs` or `UncorrelatedPatchSpecs`: `(n,)` for single numbers, `(n, dims)` for
        spatial fields, `(n, channels)` for `all_data_idx` and `all_sample_idx`, `(n, channels, dims)` for `all_coords`.

    Raises
    ------
    SpecError
        If the fields are not those of one kind of specification, or the columns differ in length.

    Examples
    --------
    >>> table = SpecTable.from_specs([
    ...     {"data_idx": 0, "sample_idx": 0, "coords": (0, 8), "patch_size": (16, 16)},
    ...     {"data_idx": 1, "sample_idx": 3, "coords": (4, 2), "patch_size": (16, 16)},
    ... ])
    >>> table.columns["coords"].tolist()
    [[0, 8], [4, 2]]
    >>> table[1]
    {'data_idx': 1, 'sample_idx': 3, 'coords': (4, 2), 'patch_size': (16, 16)}
    """

    __slots__ = ("columns",)

    columns: Mapping[str, Column]
    """The fields, in the order of the specification."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        fields = next((kind for kind in _KINDS if set(kind) == set(columns)), None)
        if fields is None:
            raise SpecError(f"columns {sorted(columns)} are not the fields of any one kind of specification")
        table: dict[str, Column] = {}
        for field in fields:
            column = np.array(columns[field], dtype=np.int64, copy=None).view()
            column.flags.writeable = False
            table[field] = column
        lengths = {field: len(column) for field, column in table.items()}
        if len(set(lengths.values())) != 1:
            raise SpecError(f"columns differ in length: {lengths}")
        self.columns = table

    @classmethod
    def from_specs(cls, specs: Iterable[PatchSpecs]) -> SpecTable:
        """Make a table of dictionaries, all of one kind and dimension.

        Raises
        ------
        SpecError
            If there are none, or if they are of different kinds, dimensions or numbers of channels.
        """
        if isinstance(specs, SpecTable):
            return specs
        rows = cast("list[Mapping[str, Any]]", list(specs))
        if not rows:
            raise SpecError("a table needs at least one specification; there are none")
        for position, row in enumerate(rows):
            if row.keys() != rows[0].keys():
                raise SpecError(f"specification {position} has fields {list(row)}, the first has {list(rows[0])}")
        try:
            return cls({field: np.array([row[field] for row in rows], dtype=np.int64) for field in rows[0]})
        except (ValueError, TypeError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(f"specifications differ in dimensions or channels, or hold no integers: {error}") from error

    def to_specs(self) -> list[PatchSpecs]:
        """All rows as dictionaries of plain `int` and tuples."""
        return list(self)

    def __len__(self) -> int:
        return len(self.columns["data_idx"])

    def __iter__(self) -> Iterator[PatchSpecs]:
        # tolist() turns a whole column into plain ints at once, which is many times faster than row by row.
        columns = {field: column.tolist() for field, column in self.columns.items()}
        for values in zip(*columns.values(), strict=True):
            yield _to_spec(zip(columns, values, strict=True))

    @overload
    def __getitem__(self, index: int) -> PatchSpecs: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> SpecTable: ...
    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> PatchSpecs | SpecTable:
        if isinstance(index, (int, np.integer)):
            return _to_spec((field, column[index].tolist()) for field, column in self.columns.items())
        if not isinstance(index, slice):
            return SpecTable({field: column[np.asarray(index)] for field, column in self.columns.items()})
        rows = object.__new__(SpecTable)  # whose columns are read-only views, and fit each other as these do
        rows.columns = {field: column[index] for field, column in self.columns.items()}
        return rows

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpecTable):
            return NotImplemented
        return self.columns.keys() == other.columns.keys() and all(
            np.array_equal(column, other.columns[field]) for field, column in self.columns.items()
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value, and as large as its arrays

    def __repr__(self) -> str:
        return f"SpecTable({len(self)} specifications: {', '.join(self.columns)})"

    def __reduce__(self) -> tuple[type[SpecTable], tuple[dict[str, Column]]]:
        return SpecTable, (dict(self.columns),)

    def save(self, path: str | Path) -> Path:
        """Write the table to a file: `.npz` (compact) or `.jsonl` (one specification a line).

        Raises
        ------
        SpecError
            If the file name ends otherwise.
        """
        path = Path(normalize_path(path))
        if _storage_format(path) == ".npz":
            with path.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **self.columns)
        else:
            with path.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(spec) + "\n" for spec in self)
        return path

    @classmethod
    def load(cls, path: str | Path) -> SpecTable:
        """Read a table that `save` wrote.

        Raises
        ------
        SpecError
            If the file name ends otherwise, or the file holds no specifications.
        """
        path = Path(normalize_path(path))
        if _storage_format(path) == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return cls(dict(arrays))
        with path.open(encoding="utf-8") as file:
            return cls.from_specs(json.loads(line) for line in file if line.strip())


def _storage_format(path: Path) -> str:
    if path.suffix not in {".npz", ".jsonl"}:
        raise SpecError(f"cannot tell the format of {str(path)!r}: use a name that ends in .npz or .jsonl")
    return path.suffix


def _to_spec(items: Iterable[tuple[str, Any]]) -> PatchSpecs:
    return cast("PatchSpecs", {field: _plain(value) for field, value in items})


def _plain(value: Any) -> Any:
    """Nested lists as nested tuples; numbers as they are."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
