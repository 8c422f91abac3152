"""Where the elements of an array-like lie: in files, in memory, or where nobody can tell."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST_GRAPH_ITEMS = 100_000
"""Tasks of a dask graph that are searched for files and arrays."""

_MOST_WRAPPERS = 20


@dataclass(frozen=True, slots=True)
class Storage:
    """Where pixels lie.

    Parameters
    ----------
    files : tuple of Path
        Local files, and folders with all that is in them.
    part : str
        Which part of the files, or how the pixels are computed from them.
    arrays : tuple of array
        Arrays in memory.
    unknown : str
        Why some pixels cannot be identified; empty if all can.
    """

    files: tuple[Path, ...] = ()
    part: str = ""
    arrays: tuple[NDArray[Any], ...] = ()
    unknown: str = ""


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
    library = type(array).__module__.partition(".")[0]
    find = {"zarr": _zarr_storage, "h5py": _h5py_storage, "dask": _dask_storage, "xarray": _xarray_storage}.get(library)
    try:
        found = None if find is None else find(array)
    except Exception as error:  # noqa: BLE001  # another version of that library may have other attributes
        return Storage(unknown=f"{_kind(array)} cannot be traced to its files ({type(error).__name__}: {error})")
    return found or Storage(unknown=f"{_kind(array)} names neither its files nor its pixels")


def _kind(array: Any) -> str:
    return f"a {type(array).__module__}.{type(array).__qualname__}"


def _numpy_storage(array: NDArray[Any]) -> Storage:
    mapped = _mapped_file(array)
    if mapped is None:
        return Storage(arrays=(array,))
    offset = mapped.offset + array.ctypes.data - mapped.ctypes.data
    part = f"{array.dtype.str} {array.shape} from byte {offset} in steps of {array.strides}"
    return Storage((_absolute(mapped.filename),), part)


def _mapped_file(array: NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Find the memory map that an array is a part of, unless its pages may differ from the file (copy on write)."""
    owner: Any = array
    found = None
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.filename is not None:
            found = owner
        owner = owner.base
    return None if found is None or found.mode == "c" else found


def _zarr_storage(array: Any) -> Storage | None:
    store = array.store
    root = getattr(store, "root", None) or getattr(store, "path", None)  # local stores of zarr 3; zarr 2 and zip stores
    if root is None or not Path(root).exists():
        return None
    place = _absolute(root)
    return Storage((place / array.path if place.is_dir() else place,), str(array.path))


def _h5py_storage(dataset: Any) -> Storage | None:
    path = _absolute(dataset.file.filename)
    if not path.exists():  # a file in memory
        return None
    sources = dataset.virtual_sources() if dataset.is_virtual else ()
    names = [source.file_name for source in sources if source.file_name != "."]
    names += [name for name, *_ in dataset.external or ()]
    return Storage((path, *(path.parent / name for name in dict.fromkeys(names))), str(dataset.name))


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
        if type(held).__module__.partition(".")[0] != "xarray":
            storage = array_storage(held)
            return replace(storage, part=" ".join([storage.part, *wrappers]))
    return None


def _dask_storage(array: Any) -> Storage:
    """Name a dask array by its token, and find the files and arrays that its graph begins with.

    The token covers how pixels are computed and arrays in memory; of files it covers the names only.
    """
    files: list[Path] = []
    unknown: list[str] = []
    for number, item in enumerate(_graph_items(array.__dask_graph__())):
        if number == _MOST_GRAPH_ITEMS:
            unknown.append(f"its dask graph has more than {_MOST_GRAPH_ITEMS} items")
            break
        if isinstance(item, (str, Path)):
            files += [_absolute(item)] if _is_file(item) else []
        elif not isinstance(item, np.ndarray) or isinstance(item, np.memmap):
            storage = array_storage(item)
            files += storage.files
            unknown += [storage.unknown] if storage.unknown else []
    return Storage(tuple(dict.fromkeys(files)), str(array.name), unknown="; ".join(dict.fromkeys(unknown)))


def _graph_items(graph: Any) -> Iterator[Any]:
    """Yield names and array-likes in the tasks of a graph."""
    for layer in graph.layers.values():
        if type(layer).__name__ == "Blockwise":
            # Its blocks are not listed: what goes into each of them is.
            yield from _task_items([item for item, index in layer.indices if index is None])
            yield from _task_items(getattr(layer, "task", None))
            yield from _task_items([getattr(given, "io_deps", None) for given in layer.io_deps.values()])
        elif type(layer).__name__ == "MaterializedLayer" or isinstance(layer, dict):
            yield from _task_items(list(layer.values()))


def _task_items(root: Any) -> Iterator[Any]:
    waiting = [root]
    seen = 0
    while waiting and seen <= _MOST_GRAPH_ITEMS:
        item = waiting.pop()
        seen += 1
        if isinstance(item, (list, tuple, set, frozenset)):
            waiting += item
        elif isinstance(item, dict):
            waiting += item.values()
        elif isinstance(item, (str, Path)) or _is_array(item):
            yield item
        elif type(item).__module__.startswith("dask."):  # a task, or a value in one
            waiting += [getattr(item, name, None) for name in ("value", "args", "kwargs", "_value")]


def _is_array(item: Any) -> bool:
    return hasattr(item, "shape") and hasattr(item, "dtype") and getattr(item, "shape", None) != ()


def _is_file(item: str | Path) -> bool:
    try:
        return len(str(item)) < 4096 and Path(item).exists() and bool(Path(item).name)
    except (OSError, ValueError):
        return False


def _absolute(path: Any) -> Path:
    return Path(path.decode(sys.getfilesystemencoding()) if isinstance(path, bytes) else path).absolute()
