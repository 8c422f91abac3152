"""The files or the memory in which the pixels of an image stack, an array of any library, a mask or a model lie.

`array_storage` finds the files and arrays that identify the pixels of an array, and reports if there are others. `files_read`
finds all files that an object reads, also in closures and graphs. It may find too many; then an output only needs another name.
Both walk through the parts of objects, and read no pixel.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks.protocols import HasFiles, HasStorage, HoldsPixels, ImageStack, Storage
from patchloom.image_stacks.zarr.node import DOCUMENTS
from patchloom.local_paths import normalize_path

_MOST_OBJECTS = 2_000_000
"""Number of objects after which a search for files ends: more than any graph of tasks that a machine can run."""

_MOST_TASK_PARTS = 500_000
"""Number of parts of a dask graph that are searched; the pixels of a larger one count as unknown."""

_MOST_WRAPPERS = 20
_LONGEST_NAME = 4096
_WITHOUT_PARTS = (
    *(type(None), bool, int, float, complex, slice, range, type, np.generic, np.dtype),
    *(types.ModuleType, types.BuiltinFunctionType, types.CodeType),
)


class _File(NamedTuple):
    """The name of a file that is certainly read."""

    name: Any


_NAMES = (_File, str, bytes, os.PathLike)


def storage_of(stack: ImageStack) -> Storage:
    """Find the files or the memory in which the pixels of an image lie.

    Parameters
    ----------
    stack : ImageStack
        Any stack, also one without any of the protocols for storage.
    """
    if isinstance(stack, HasStorage):
        return stack.storage
    if isinstance(stack, HasFiles) and stack.files:
        return Storage(tuple(stack.files), stack.image_in_files)
    pixels = stack.pixels if isinstance(stack, HoldsPixels) else None
    if pixels is not None:
        return array_storage(pixels)
    return Storage(unknown=f"a {type(stack).__qualname__} names neither its files nor its pixels")


def array_storage(array: Any) -> Storage:
    """Find the files or the memory behind an array-like; nothing is read or computed.

    Parameters
    ----------
    array : array-like
        A NumPy array or memory map, or an array of zarr, h5py, dask or xarray.

    Returns
    -------
    Storage
        Files are absolute.

    Examples
    --------
    >>> array_storage(np.zeros((2, 3))).arrays[0].shape
    (2, 3)
    >>> array_storage(range(3)).unknown
    'a builtins.range names neither its files nor its pixels'
    """
    if isinstance(array, np.ndarray):
        return _numpy_storage(array)
    find = {"zarr": _zarr_storage, "h5py": _hdf5_storage, "dask": _dask_storage, "xarray": _xarray_storage}.get(
        _library(array)
    )
    try:
        found = None if find is None else find(array)
    except Exception as error:  # noqa: BLE001  # another version of that library may have other attributes
        return Storage(unknown=f"{_kind(array)} cannot be traced to its files ({type(error).__name__}: {error})")
    return found or Storage(unknown=f"{_kind(array)} names neither its files nor its pixels")


def files_read(*things: Any, names: bool = True) -> set[Path]:
    """Find the local files, and folders of Zarr and similar formats, that an object reads.

    Parameters
    ----------
    *things : object
        Image stacks, array-likes (NumPy, memory maps, zarr, dask, h5py, xarray, TensorStore, and wrappers of them), masks,
        models, paths.
    names : bool
        Whether any text that is the name of a file counts. If False, only open and mapped files count, since a model may
        keep the name of an output.

    Returns
    -------
    set of Path
        Paths as the objects contain them; each exists.

    Notes
    -----
    Not found are files that a library does not expose, memory maps of the module `mmap` on systems without `/proc`, and
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
    for thing in itertools.islice(_walk(things, _parts), _MOST_OBJECTS):
        if isinstance(thing, _File):
            found.update(_existing(thing.name))
        elif names and isinstance(thing, (str, bytes, os.PathLike)):
            found.update(_existing(thing))
    return found


def _walk(things: Iterable[Any], parts_of: Callable[[Any], Iterable[Any]]) -> Iterator[Any]:
    """Yield objects and then their parts, each once."""
    todo = deque(things)
    seen: dict[int, Any] = {}  # the objects too, so that no other gets the same number
    while todo:
        thing = todo.popleft()
        if isinstance(thing, _WITHOUT_PARTS) or id(thing) in seen:
            continue
        seen[id(thing)] = thing
        yield thing
        if not isinstance(thing, _NAMES):
            todo.extend(parts_of(thing))


def _existing(name: str | bytes | os.PathLike[Any]) -> Iterator[Path]:
    """Yield a path if a file or the folder of an image is there: not every word that happens to be a folder's name."""
    with suppress(OSError, ValueError, TypeError):
        text = normalize_path(os.fsdecode(name))
        if 0 < len(text) <= _LONGEST_NAME:
            path = Path(text)
            if path.is_file() or (path.is_dir() and any((path / document).exists() for document in DOCUMENTS)):
                yield path


def _library(thing: Any) -> str:
    return type(thing).__module__.partition(".")[0]


def _kind(thing: Any) -> str:
    return f"a {type(thing).__module__}.{type(thing).__qualname__}"


def _absolute(path: Any) -> Path:
    return Path(os.fsdecode(path)).absolute()


# Storage of the arrays of each library.


def _numpy_storage(array: NDArray[Any]) -> Storage:
    mapped = _memory_map(array)
    if mapped is None:
        return Storage(arrays=(array,))
    offset = mapped.offset + array.ctypes.data - mapped.ctypes.data
    part = f"{array.dtype.str} {array.shape} from byte {offset} in steps of {array.strides}"
    return Storage((_absolute(mapped.filename),), part)


def _memory_map(array: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Find the memory map that an array is a part of, unless its pages may differ from the file (copy on write)."""
    owner: Any = array
    found = None
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.filename is not None:
            found = owner
        owner = owner.base
    return None if found is None or found.mode == "c" else found


def _zarr_storage(array: Any) -> Storage | None:
    root = _zarr_root(array.store)
    if root is None or not root.exists():
        return None
    return Storage((root / array.path if root.is_dir() else root,), str(array.path))


def _zarr_root(store: Any) -> Path | None:
    """Return the folder or archive of a store of zarr 3 (`root`), or of zarr 2 or an archive (`path`)."""
    root = getattr(store, "root", None) or getattr(store, "path", None)
    return None if root is None else _absolute(root)


def _hdf5_storage(dataset: Any) -> Storage | None:
    files = _hdf5_files(dataset)
    return Storage(tuple(files), str(dataset.name)) if files[0].exists() else None  # else a file in memory


def _hdf5_files(thing: Any) -> list[Path]:
    """List the file of an HDF5 object, and the files of virtual sources and external storage of a dataset."""
    path = _absolute(thing.file.filename)
    sources = thing.virtual_sources() if getattr(thing, "is_virtual", False) else ()
    names = [source.file_name for source in sources if source.file_name != "."]  # which is the file itself
    names += [os.fsdecode(name) for name, *_ in getattr(thing, "external", None) or ()]
    return [path, *(path.parent / name for name in dict.fromkeys(names))]


def _xarray_storage(array: Any) -> Storage | None:
    """Look through xarray's wrappers, down to the array that is read; `.data` would read all of it."""
    held = array
    wrappers = [repr(array.encoding.get("source"))] if hasattr(array, "encoding") else []
    for _ in range(_MOST_WRAPPERS):
        inner = next(
            (getattr(held, name) for name in ("variable", "_data", "_array", "array") if hasattr(held, name)), None
        )
        if inner is None or inner is held:
            return None
        held = inner
        wrappers.append(repr(getattr(held, "key", "")))  # which part of the array is read
        if _library(held) != "xarray":
            storage = array_storage(held)
            return replace(storage, part=" ".join([storage.part, *wrappers]))
    return None


def _dask_storage(array: Any) -> Storage:
    """Identify a dask array by its token, and find the files and arrays that its graph begins with.

    The token covers how pixels are computed and arrays in memory; of files it covers the names only.
    """
    files: dict[Path, None] = {}
    unknown: dict[str, None] = {}
    inputs = itertools.chain.from_iterable(map(_layer_inputs, array.__dask_graph__().layers.values()))
    for number, item in enumerate(_walk(inputs, _task_parts)):
        if number == _MOST_TASK_PARTS:
            unknown[f"its dask graph has more than {_MOST_TASK_PARTS} parts"] = None
            break
        if isinstance(item, (str, Path)):
            files.update({_absolute(item): None} if _is_place(item) else {})
        elif _is_array(item) and (not isinstance(item, np.ndarray) or isinstance(item, np.memmap)):
            storage = array_storage(item)
            files.update(dict.fromkeys(storage.files))
            unknown.update({storage.unknown: None} if storage.unknown else {})
    return Storage(tuple(files), str(array.name), unknown="; ".join(unknown))


def _layer_inputs(layer: Any) -> list[Any]:
    """Return what goes into a layer of a graph."""
    if type(layer).__name__ == "Blockwise":  # its blocks are not listed: what goes into each of them is
        given = [item for item, index in layer.indices if index is None]
        return [
            given,
            getattr(layer, "task", None),
            [getattr(each, "io_deps", None) for each in layer.io_deps.values()],
        ]
    is_listed = type(layer).__name__ == "MaterializedLayer" or isinstance(layer, dict)
    return list(layer.values()) if is_listed else []


def _task_parts(item: Any) -> Iterable[Any]:
    if isinstance(item, (list, tuple, set, frozenset)):
        return item
    if isinstance(item, dict):
        return item.values()
    if not _is_array(item) and type(item).__module__.startswith("dask."):
        return [
            getattr(item, name, None) for name in ("value", "args", "kwargs", "_value")
        ]  # a task, or a value in one
    return ()


def _is_place(item: str | Path) -> bool:
    """Return whether a file or any folder of a name exists."""
    try:
        return len(str(item)) < _LONGEST_NAME and Path(item).exists() and bool(Path(item).name)
    except (OSError, ValueError):
        return False


def _is_array(item: Any) -> bool:
    return hasattr(item, "shape") and hasattr(item, "dtype") and getattr(item, "shape", None) != ()


# Parts of any object.


def _parts(thing: Any) -> Iterable[Any]:
    """Return the parts and files of an object."""
    if isinstance(thing, np.ndarray):
        return _parts_of_array(thing)
    if isinstance(thing, Mapping) and _library(thing) != "dask":  # graphs are larger than their layers
        return list(thing.values())
    if isinstance(thing, (list, tuple, set, frozenset, deque)):
        return thing
    if isinstance(thing, (types.FunctionType, types.MethodType, types.CellType, functools.partial)):
        return _parts_of_callable(thing)
    # Some objects return any attribute, so the class is inspected.
    if isinstance(getattr(type(thing), "files", None), property) and (files := thing.files):
        return map(_File, files)
    return [*_parts_by_library(thing), *_attributes(thing)]


def _parts_of_array(array: np.ndarray[Any, Any]) -> list[Any]:
    if isinstance(array, np.memmap):
        return [_File(array.filename) if array.filename is not None else array.base]
    base: Any = array.base
    if isinstance(base, memoryview):
        base = base.obj
    inside = array.flat if array.dtype == object else ()
    is_foreign = base is not None and not isinstance(base, np.ndarray)  # of `mmap`, or memory of another library
    return [_file_in_memory(array) if is_foreign else None, base, *inside]


def _file_in_memory(array: np.ndarray[Any, Any]) -> _File | None:
    """Find the file that is mapped to where an array is, if the system has a list of them."""
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


def _parts_by_library(thing: Any) -> Iterator[Any]:
    """Yield the files of objects whose attributes do not contain them."""
    with suppress(Exception):  # closed files raise all sorts of errors, and read nothing
        if isinstance(thing, io.IOBase):
            yield _File(getattr(thing, "name", None))
        elif _library(thing) == "h5py":
            yield from map(_File, _hdf5_files(thing))
        elif _library(thing) == "tensorstore":
            yield thing.base if thing.kvstore is None else list(_kvstore_files(thing.kvstore.spec().to_json()))
        elif _library(thing) == "zarr" and type(thing).__name__.endswith("Store"):
            yield _File(_zarr_root(thing))
        elif _library(thing) == "netCDF4":
            yield _File(thing.filepath() if hasattr(thing, "filepath") else thing.group().filepath())
        elif hasattr(type(thing), "__dask_graph__"):
            yield thing.__dask_graph__()


def _kvstore_files(spec: Any) -> Iterator[_File]:
    """Yield the files of a key-value store; one may be based on another, as an archive is on its file."""
    if isinstance(spec, str):
        yield _File(spec)
    elif isinstance(spec, dict):
        if spec.get("driver") == "file":
            yield _File(spec.get("path"))
        yield from _kvstore_files(spec.get("base"))


def _attributes(thing: Any) -> Iterator[Any]:
    with suppress(Exception):  # other kinds of attributes may raise any error
        yield from vars(thing).values()
    for of_class in type(thing).__mro__:
        slots = of_class.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            with suppress(Exception):
                yield getattr(thing, name)
