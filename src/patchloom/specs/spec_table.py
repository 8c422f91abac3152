"""Many patch specifications as a structure of arrays.

One dictionary for each patch is convenient and slow, so a million specifications are built, sliced and saved as columns of
`int64`. The two representations are equivalent, and are converted into each other without loss.
"""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from operator import itemgetter
from pathlib import Path
from typing import Any, cast, overload

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, shown, whole_number
from patchloom.array_archive import read_arrays
from patchloom.errors import NotIntegerError, PatchIndexError, SpecError
from patchloom.local_paths import normalize_path
from patchloom.specs.patch_specs import PatchSpecs

Column = NDArray[np.int64]

_PATCH_FIELDS = ("data_idx", "sample_idx", "coords", "patch_size")
_TILE_FIELDS = (*_PATCH_FIELDS, "crop_coords", "crop_size", "stitch_coords", "total_tiles")
_UNCORRELATED_FIELDS = (*_PATCH_FIELDS, "principal_channel", "all_data_idx", "all_sample_idx", "all_coords")
_KINDS = {frozenset(kind): kind for kind in (_PATCH_FIELDS, _TILE_FIELDS, _UNCORRELATED_FIELDS)}
_N_AXES = {field: 1 for kind in _KINDS for field in kind} | {
    "data_idx": 0,
    "sample_idx": 0,
    "total_tiles": 0,
    "principal_channel": 0,
    "all_coords": 2,
}
"""Number of axes of a field's value in one specification."""

_PER_CHANNEL = frozenset({"all_data_idx", "all_sample_idx", "all_coords"})
_INT64 = np.dtype(np.int64)
_PLAIN = {int}
_DICTIONARIES = {dict}
_SEQUENCES = {tuple, list}


class SpecTable(Sequence[PatchSpecs]):
    """A table of specifications of one kind: one row for each specification, one `int64` array for each field.

    It is immutable: the arrays are read-only. An `int` index returns a dictionary, a slice or an integer array returns a table.

    Parameters
    ----------
    columns : mapping of str to array
        The fields of `PatchSpecs`, `TileSpecs` or `UncorrelatedPatchSpecs`: `(n,)` for single numbers, `(n, dims)` for
        spatial fields, `(n, channels)` for `all_data_idx` and `all_sample_idx`, `(n, channels, dims)` for `all_coords`.

    Raises
    ------
    SpecError
        If the fields are not those of one kind of specification, the columns differ in length, or a column contains anything
        but whole numbers.

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
    """The columns by field, in the order of the specification."""

    def __init__(self, columns: Mapping[str, NDArray[Any]]) -> None:
        _check_mapping(columns)
        table: dict[str, Column] = {}
        for field in _fields_of_kind(columns):
            table[field] = column = _whole_numbers(field, columns[field]).view()
            column.setflags(write=False)
        _check_shapes(table)
        self.columns = table

    @classmethod
    def from_specs(cls, specs: Iterable[PatchSpecs]) -> SpecTable:
        """Make a table from dictionaries, all of one kind and with the same number of dimensions and channels.

        Raises
        ------
        SpecError
            If there are none, they differ in kind, dimensions or number of channels, or a number is not a whole number.
        """
        if isinstance(specs, SpecTable):
            return specs
        rows: list[Mapping[str, Any]] = listed(
            "specs", specs, "a sequence of specifications, such as a patching returns"
        )
        if not rows:
            raise SpecError("specs is empty: it must contain at least one specification")
        for row in () if _DICTIONARIES.issuperset(map(type, rows)) else rows:
            if not isinstance(row, Mapping):
                raise SpecError(
                    f"a specification is a {type(row).__name__}: it must be a dictionary, such as a patching returns"
                )
        fields = _fields_of_kind(rows[0])
        table = object.__new__(cls)  # its columns need no conversion by `__init__`
        table.columns = dict(zip(fields, map(_column, fields, _transposed(rows, fields)), strict=True))
        _check_shapes(table.columns)
        return table

    def to_specs(self) -> list[PatchSpecs]:
        """Return all rows as dictionaries of plain `int` and tuples."""
        return list(self)

    def __len__(self) -> int:
        return len(self.columns["data_idx"])

    def __iter__(self) -> Iterator[PatchSpecs]:
        for values in zip(*map(_plain_rows, self.columns.values()), strict=True):
            yield cast("PatchSpecs", dict(zip(self.columns, values, strict=True)))

    @overload
    def __getitem__(self, index: int) -> PatchSpecs: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | NDArray[Any]) -> SpecTable: ...
    def __getitem__(self, index: int | slice | Sequence[int] | NDArray[Any]) -> PatchSpecs | SpecTable:
        if isinstance(index, (int, np.integer)):
            row = self._row(index) % len(self)
            return next(iter(self[row : row + 1]))
        if not isinstance(index, slice):
            chosen = self._rows(index)
            return SpecTable({field: column[chosen] for field, column in self.columns.items()})
        rows = object.__new__(SpecTable)  # its columns are read-only views, and need no checks
        rows.columns = {field: column[index] for field, column in self.columns.items()}
        return rows

    def _row(self, index: Any) -> int:
        row = whole_number("index", index)
        if not -len(self) <= row < len(self):
            raise PatchIndexError(f"index is {shown(row)}, but the table has {len(self)} specifications")
        return row

    def _rows(self, index: Any) -> NDArray[Any]:
        try:
            rows = np.asarray(index)
        except ValueError:  # lists of different lengths
            rows = np.empty(())
        if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iub") or isinstance(index, (str, bytes, Mapping)):
            raise NotIntegerError(
                f"index is {shown(index)}: it must be a whole number, a slice, or a sequence of whole numbers"
            )
        if rows.dtype.kind == "b":
            if len(rows) != len(self):
                raise PatchIndexError(
                    f"index has {len(rows)} truth values, but the table has {len(self)} specifications"
                )
            return rows
        if rows.size:
            self._row(int(rows.min()))
            self._row(int(rows.max()))
        return rows if rows.size else rows.astype(np.int64)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SpecTable):
            return NotImplemented
        return self.columns.keys() == other.columns.keys() and all(
            np.array_equal(column, other.columns[field]) for field, column in self.columns.items()
        )

    __hash__ = None  # type: ignore[assignment]  # compared by value; hashing would read all arrays

    def __repr__(self) -> str:
        return f"SpecTable({len(self)} specifications: {', '.join(self.columns)})"

    def __reduce__(self) -> tuple[type[SpecTable], tuple[dict[str, Column]]]:
        return SpecTable, (dict(self.columns),)

    def save(self, path: str | Path) -> Path:
        """Write the table to a file: `.npz` (compact) or `.jsonl` (one specification on each line).

        Raises
        ------
        SpecError
            If the name has another ending, or the file cannot be written.
        """
        place = _table_path(path)
        storage_format = _storage_format(place)
        try:
            if storage_format == ".npz":
                with place.open("wb") as file:
                    np.savez_compressed(file, allow_pickle=False, **self.columns)
            else:
                with place.open("w", encoding="utf-8") as text:
                    text.writelines(json.dumps(spec) + "\n" for spec in self)
        except (OSError, ValueError) as error:
            raise SpecError(f"path is {shown(str(place))}: it cannot be written: {error}") from error
        return place

    @classmethod
    def load(cls, path: str | Path) -> SpecTable:
        """Load a table that `save` wrote; any other file is refused.

        Raises
        ------
        SpecError
            If the name has another ending, or the file does not exist, is damaged or contains no specifications.
        """
        path = _table_path(path)
        storage_format = _storage_format(path)
        try:
            if storage_format == ".npz":
                return cls(read_arrays(path))
            with path.open(encoding="utf-8") as file:
                return cls.from_specs(json.loads(line) for line in file if line.strip())
        except (OSError, ValueError, RecursionError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SpecError(f"{path} cannot be read as a table of specifications: {why}") from error


def _fields_of_kind(names: Iterable[str]) -> tuple[str, ...]:
    """Return the ordered fields of the kind of specification that has these names."""
    fields = _KINDS.get(frozenset(names))
    if fields is None:
        raise SpecError(
            f"columns {sorted(map(str, names))} are not the fields of one kind of specification: use those of PatchSpecs, TileSpecs or UncorrelatedPatchSpecs"
        )
    return fields


def _transposed(rows: list[Mapping[str, Any]], fields: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return the values of each field; all rows must have exactly these fields."""
    try:
        values = list(zip(*map(itemgetter(*fields), rows), strict=True))
        if set(map(len, rows)) == {len(fields)}:
            return values
    except KeyError:
        pass
    odd = next((position for position, row in enumerate(rows) if set(row) != set(fields)), 0)
    raise SpecError(
        f"specification {odd} has fields {list(rows[odd])}: it must have those of the first, {list(rows[0])}"
    )


def _check_shapes(columns: Mapping[str, Column]) -> None:
    """Refuse columns that differ in length, spatial axes or channels."""
    spatial = columns["coords"].shape
    wanted = {1: spatial[:1], 2: spatial}
    for field, column in columns.items():
        if field in _PER_CHANNEL:
            channels = columns["all_data_idx"].shape[1:]
            wanted = {2: (spatial[0], *channels), 3: (spatial[0], *channels, spatial[1])}
        if column.shape != wanted[column.ndim]:
            raise SpecError(
                f"column {field} has shape {column.shape}: it must have shape {wanted[column.ndim]}, one row for each "
                "specification, as many numbers as coords and as many channels as all_data_idx"
            )


def _whole_numbers(field: str, values: Any) -> Column:
    """Return a column as `int64`; no value is rounded."""
    if type(values) is np.ndarray and values.dtype is _INT64 and values.ndim == 1 + _N_AXES[field]:
        return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise SpecError(f"column {field} is not an array of whole numbers: {error}") from error
    if array.ndim != 1 + _N_AXES[field]:
        raise SpecError(
            f"column {field} has shape {array.shape}: it must have {1 + _N_AXES[field]} axes, one row for each specification"
        )
    if array.dtype.kind not in "iu" and array.size:
        raise SpecError(
            f"column {field} is {array.dtype}: it must be of whole numbers; round the numbers first if you mean that"
        )
    if array.dtype == np.uint64 and array.max(initial=0) > np.iinfo(np.int64).max:
        raise SpecError(f"column {field} contains {array.max()}: it must be below 2**63")
    return array.astype(np.int64, copy=False)


def _column(field: str, values: Sequence[Any]) -> Column:
    """Make a read-only column from the values of a field in many specifications."""
    flat, shape = values, [len(values)]
    for _ in range(_N_AXES[field]):
        if not _SEQUENCES.issuperset(map(type, flat)):
            return _column(field, _all_plain(field, values))
        lengths = set(map(len, flat))
        if len(lengths) > 1:
            raise SpecError(
                f"specifications differ in dimensions or channels: {field} has {sorted(lengths)} numbers: all must have the same"
            )
        shape += lengths
        flat = list(chain.from_iterable(flat))
    if not _PLAIN.issuperset(map(type, flat)):
        return _column(field, _all_plain(field, values))
    try:
        column = np.fromiter(flat, np.int64, len(flat)).reshape(shape)
    except OverflowError as error:
        raise SpecError(f"{field} contains a number that is too large: it must be below 2**63") from error
    column.setflags(write=False)
    return column


def _all_plain(field: str, values: Sequence[Any]) -> list[Any]:
    """Return the values of a field as nested tuples of `int`, of the field's depth."""
    names = (f"{field} of specification {position}" for position in range(len(values)))
    return [_plain_integers(name, value, _N_AXES[field]) for name, value in zip(names, values, strict=True)]


def _plain_integers(name: str, value: Any, n_axes: int) -> Any:
    if n_axes:
        if not isinstance(value, (list, tuple, range)) and not np.ndim(value):
            raise SpecError(
                f"{name} is {value!r} of type {type(value).__name__}: it must be a sequence of whole numbers"
            )
        return tuple(_plain_integers(f"{name}[{position}]", item, n_axes - 1) for position, item in enumerate(value))
    try:
        if not isinstance(value, (bool, np.bool_)):
            return operator.index(value)
    except TypeError:
        pass
    raise SpecError(f"{name} is {value!r} of type {type(value).__name__}: it must be a whole number")


def _check_mapping(columns: Any) -> None:
    if not isinstance(columns, Mapping):
        raise SpecError(f"columns is {shown(columns)}: it must be a mapping from the names of fields to arrays")


def _table_path(path: Any) -> Path:
    if not isinstance(path, (str, os.PathLike)) or isinstance(path, bytes):
        raise SpecError(f"path is {shown(path)}: it must be a path with the ending .npz or .jsonl")
    return Path(normalize_path(path))


def _storage_format(path: Path) -> str:
    if path.suffix not in {".npz", ".jsonl"}:
        raise SpecError(f"path is {shown(str(path))}: its ending must be .npz or .jsonl")
    return path.suffix


def _plain_rows(column: Column) -> Iterable[Any]:
    """Return the rows of a column as plain `int`, or as nested tuples of them."""
    rows: list[Any] = column.tolist()  # a whole column at once is many times faster than row by row
    if column.ndim == 1:
        return rows
    return map(tuple, rows) if column.ndim == 2 else (tuple(map(tuple, row)) for row in rows)
