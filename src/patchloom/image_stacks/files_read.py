"""Which local files something reads: an image stack, an array of any library, a mask, a model.

A stack names its files. Anything else is searched: its attributes, items, closures and graphs, down to memory maps, open
files, HDF5 files, TensorStore's key-value stores and the names of files that exist. The search only finds too much (a name
that is not read), which costs another name for an output; no pixel is read.
"""

from __future__ import annotations

import functools
import io
import os
import types
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patchloom.local_paths import normalize_path

_MOST_OBJECTS = 2_000_000
"""Number of objects after which the search ends: more than any graph of tasks that a machine can run."""

_LONGEST_NAME = 4096
_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs", "attributes.json", "info")
_WITHOUT_PARTS = (
    *(type(None), bool, int, float, complex, slice, range, type, np.generic, np.dtype),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType),
)


class _File(NamedTuple):
    """The name of a file that is read for certain."""

    name: Any


def files_read(*things: Any, names: bool = True) -> set[Path]:
    """Return the local files, and folders of Zarr and its kin, that something reads.

    Parameters
    ----------
    *things : object
        Image stacks, array-likes (NumPy, memory maps, zarr, dask, h5py, xarray, TensorStore, and what wraps them), masks,
        models, paths.
    names : bool
        Whether any text that is the name of a file counts. Without it only what is open or mapped does: a model may well
        keep the name of an output.

    Returns
    -------
    set of Path
        As they are spelled there; each exists.

    Notes
    -----
    Not found are files that a library keeps to itself, memory maps of the module `mmap` on systems without `/proc`, and
    files that compiled code opens.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "a.npy"), np.zeros((4, 4)))
    ...     mapped = np.load(Path(folder, "a.npy"), mmap_mode="r")
    ...     [path.name for path in files_read({"wrapped": [mapped.T[1:]]})]
    ['a.npy']
    """
    found: set[Path] = set()
    todo = deque(things)
    seen: dict[int, Any] = {}  # the objects too, so that no other gets the same number
    while todo and len(seen) < _MOST_OBJECTS:
        thing = todo.popleft()
        if isinstance(thing, _WITHOUT_PARTS) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        if isinstance(thing, _File):
            found.update(_existing(thing.name))
        elif isinstance(thing, (str, bytes, os.PathLike)):
            found.update(_existing(thing) if names else ())
        else:
            todo.extend(_parts(thing))
    return found


def _existing(name: str | bytes | os.PathLike[Any]) -> Iterator[Path]:
    """Give a path if a file or the folder of an image is there: not every word that happens to be a folder's name."""
    with suppress(OSError, ValueError, TypeError):
        text = normalize_path(os.fsdecode(name))
        if 0 < len(text) <= _LONGEST_NAME:
            path = Path(text)
            if path.is_file() or (path.is_dir() and any((path / document).exists() for document in _DOCUMENTS)):
                yield path


def _parts(thing: Any) -> Iterable[Any]:
    """Give what an object is made of, and its files."""
    if isinstance(thing, np.ndarray):
        return _parts_of_array(thing)
    if isinstance(thing, Mapping) and not _is_of("dask", thing):  # whose graphs are larger than what they are made of
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return thing
    if isinstance(thing, (types.FunctionType, types.MethodType, types.CellType, functools.partial)):
        return _parts_of_callable(thing)
    # Some objects have whatever attribute they are asked for, so their class is asked.
    if isinstance(getattr(type(thing), "files", None), property) and (files := thing.files):
        return map(_File, files)
    return [*_foreign_parts(thing), *_attributes(thing)]


def _parts_of_array(array: np.ndarray[Any, Any]) -> list[Any]:
    if isinstance(array, np.memmap):
        return [_File(array.filename) if array.filename is not None else array.base]
    base: Any = array.base
    if isinstance(base, memoryview):
        base = base.obj
    inside = array.flat if array.dtype == object else ()
    is_foreign = base is not None and not isinstance(base, np.ndarray)  # of `mmap`, or lent by another library
    return [_mapped_file(array) if is_foreign else None, base, *inside]


def _mapped_file(array: np.ndarray[Any, Any]) -> _File | None:
    """Look up which file is mapped to where an array is, where the system tells."""
    address = array.ctypes.data
    with suppress(OSError), Path("/proc/self/maps").open(encoding="utf-8", errors="surrogateescape") as maps:
        for line in maps:
            bounds, *_, name = line.rstrip("\n").split(maxsplit=5)
            start, stop = (int(bound, 16) for bound in bounds.split("-"))
            if start <= address < stop:
                return _File(name) if name.startswith("/") else None
    return None


def _parts_of_callable(thing: Any) -> list[Any]:
    if isinstance(thing, types.CellType):
        with suppress(ValueError):  # it may be empty
            return [thing.cell_contents]
        return []
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if isinstance(thing, types.MethodType):
        return [thing.__self__, thing.__func__]
    named = (thing.__globals__.get(name) for name in thing.__code__.co_names)
    used = [value for value in named if not callable(value)]
    return [thing.__closure__, thing.__defaults__, thing.__kwdefaults__, thing.__dict__, used]


def _foreign_parts(thing: Any) -> Iterator[Any]:
    """Ask objects of libraries, whose parts cannot be seen or mean something else, for their files."""
    with suppress(Exception):  # closed files raise all sorts of errors, and read nothing
        if isinstance(thing, io.IOBase):
            yield _File(getattr(thing, "name", None))
        elif _is_of("h5py", thing):
            folder = Path(os.fsdecode(thing.file.filename)).parent
            yield _File(thing.file.filename)
            yield [_File(folder / source.file_name) for source in (thing.virtual_sources() if thing.is_virtual else ())]
            yield [_File(folder / os.fsdecode(name)) for name, *_ in thing.external or ()]
        elif _is_of("tensorstore", thing):
            yield thing.base if thing.kvstore is None else list(_kvstore_files(thing.kvstore.spec().to_json()))
        elif _is_of("zarr", thing) and type(thing).__name__.endswith("Store"):
            yield [_File(vars(thing).get("root")), _File(vars(thing).get("path"))]
        elif _is_of("netCDF4", thing):
            yield _File(thing.filepath() if hasattr(thing, "filepath") else thing.group().filepath())
        elif hasattr(type(thing), "__dask_graph__"):
            yield thing.__dask_graph__()


def _kvstore_files(spec: Any) -> Iterator[_File]:
    """Give the files of a key-value store; one may be based on another, as an archive is on its file."""
    if isinstance(spec, str):
        yield _File(spec)
    elif isinstance(spec, dict):
        if spec.get("driver") == "file":
            yield _File(spec.get("path"))
        yield from _kvstore_files(spec.get("base"))


def _is_of(library: str, thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == library


def _attributes(thing: Any) -> Iterator[Any]:
    with suppress(Exception):  # what is no plain attribute may raise anything
        yield from vars(thing).values()
    for of_class in type(thing).__mro__:
        slots = of_class.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with suppress(Exception):
                yield getattr(thing, name)
