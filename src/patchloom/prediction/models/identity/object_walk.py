"""The walk through all that a model computes with: code and all that it refers to, weights, files and settings.

The walk starts at the object that is called, and follows attributes, closures, default values and the globals that its code
refers to, into classes and modules of the user. Code of installed packages counts by their version and source files. Numbers
and text count by their value, arrays, tensors and files of weights by their bytes. Addresses in memory and the order of sets do
not count, so the digests are equal in another process. Objects that cannot be inspected are reported, never skipped.
"""

from __future__ import annotations

import copyreg
import functools
import threading
import types
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from patchloom.digests import array_digest, file_digest
from patchloom.image_stacks import array_storage
from patchloom.image_stacks.fingerprint import fingerprint
from patchloom.prediction.models.identity.code_references import package_version
from patchloom.prediction.models.identity.code_walk import CodeWalk, module_of
from patchloom.prediction.models.identity.foreign_weights import foreign_weights
from patchloom.prediction.models.identity.part_digests import DEEPEST_PART, Part
from patchloom.prediction.models.model import attributes_of, declared_identity

_MOST_OBJECTS = 100_000
_LARGEST_MAP = 1 << 30
"""Bytes of a memory map that are read; a larger map counts by the fingerprint of its file."""

_WEIGHT_SUFFIXES = frozenset(
    [
        "bin",
        "ckpt",
        "data",
        "engine",
        "h5",
        "hdf5",
        "joblib",
        "keras",
        "msgpack",
        "npy",
        "npz",
        "onnx",
        "pb",
        "pickle",
        "pkl",
        "pt",
        "pt2",
        "pth",
        "safetensors",
        "tflite",
        "weights",
        "xml",
    ]  # one line instead of twenty
)
_CONSTANTS = (type(None), bool, int, float, complex, type(Ellipsis), type(NotImplemented))
_EXACTLY_PLAIN = frozenset({str, bytes, range, slice, *_CONSTANTS})
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_PICKLING = ("__getstate__", "__reduce__", "__reduce_ex__")
_LAZY_LIBRARIES = frozenset({"zarr", "h5py", "dask", "xarray"})


class TooManyObjectsError(Exception):
    """The model has more objects than are walked."""


class ObjectWalk(CodeWalk):
    """A walk through all objects that a model refers to."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[int, tuple[Any, str]] = {}  # keeps the objects alive, so that no address is reused
        self._of_part: Counter[str] = Counter()
        self._n_seen = 0

    def visit(self, value: Any, part: Part) -> None:
        """Add an object and all that it refers to, to a part and its inner parts."""
        self._n_seen += 1
        if self._n_seen > _MOST_OBJECTS:
            raise TooManyObjectsError
        if _is_plain(value):
            self._visit_plain(value, part)
        elif id(value) in self._seen:
            self.feed(part, "again", self._seen[id(value)][1])
        else:
            if not isinstance(value, (tuple, frozenset)):  # equal tuples may be one object or several
                self._of_part[part.name] += 1
                self._seen[id(value)] = value, f"{part.name} {self._of_part[part.name]}"
            self._visit_inside(value, part)

    def _visit_plain(self, value: Any, part: Part) -> None:
        kind = type(value)
        if isinstance(value, (str, Path)):
            self.visit_text(str(value), part)
        elif isinstance(value, np.generic):
            self.feed(part, kind.__name__, value.tobytes() if value.dtype.kind != "O" else repr(value))
        else:
            self.feed(part, kind.__name__, hex(value) if kind is int else value if kind is bytes else repr(value))

    def visit_text(self, text: str, part: Part, *folders: Path) -> None:
        """Add a text; if it names a file of weights, its content too. A relative name is searched in the folders."""
        self.feed(part, "text", text)
        if len(text) > 4096 or "\0" in text or Path(text).suffix.lower().removeprefix(".") not in _WEIGHT_SUFFIXES:
            return
        for path in (folder / text for folder in (Path(), *folders)):
            try:
                if path.is_file():
                    self.feed(self.inside(part, f"file {text!r}"), file_digest(path))
                    return
            except OSError as error:
                self.add_unknown(part, f"names {path}, which cannot be read ({error})")

    def _visit_inside(self, value: Any, part: Part) -> None:
        if type(value) in _CONTAINERS:
            _CONTAINERS[type(value)](self, value, part)
            return
        declared = "" if isinstance(value, (type, types.ModuleType)) else declared_identity(value)
        if declared:
            self.feed(part, "declared", declared)
            return
        if hasattr(type(value), "identified_parts"):
            with value.identified_parts() as parts:
                self.feed(part, type(value).__qualname__)
                self.visit_items({f"{name} of": item for name, item in parts.items()}, part)
            return
        for kind, visit in _VISITS:
            if isinstance(value, kind):
                visit(self, value, part)
                return
        if type(value).__module__.partition(".")[0] in _LAZY_LIBRARIES and hasattr(value, "dtype"):
            self.visit_stored(value, part)
        elif not self._visit_foreign(value, part):
            self.visit_object(value, part)

    def _visit_foreign(self, value: Any, part: Part) -> bool:
        """Add an object of another library, whose weights are not attributes in Python; return False if it is not one."""
        foreign = foreign_weights(value)
        if foreign is None:
            return False
        self.visit(type(value), part)
        self.feed(part, foreign.digest)
        if foreign.unknown:
            self.add_unknown(part, foreign.unknown)
        self.visit_items(foreign.attributes, part)
        return True

    def visit_sequence(self, value: Iterable[Any], part: Part) -> None:
        """Add items in order."""
        items = list(value)
        self.feed(part, type(value).__name__, len(items))
        for item in items:
            self.visit(item, part)

    def visit_set(self, value: Iterable[Any], part: Part) -> None:
        """Add items sorted by their digests, as their order differs between processes."""
        self.feed(part, type(value).__name__, *sorted(map(self.alone, value)))

    def alone(self, value: Any) -> str:
        """Return the digest of an object by itself, which does not depend on objects visited before."""
        walk = ObjectWalk()
        walk._n_seen = self._n_seen
        if not _is_plain(value):
            walk._seen = dict(self._seen)
        walk.visit(value, Part("", DEEPEST_PART))
        self._n_seen = walk._n_seen
        self.unknown += walk.unknown
        return str(walk.digests[""].hexdigest())

    def visit_mapping(self, value: Mapping[Any, Any], part: Part) -> None:
        """Add keys and values in order, as a model may iterate over them."""
        if all(type(key) is str for key in value):
            self.feed(part, type(value).__name__, *value)
            self.visit_items({f"[{key!r}]": item for key, item in value.items()}, part)
            return
        self.feed(part, type(value).__name__, *map(self.alone, value))
        for item in value.values():
            self.visit(item, part)

    def visit_array(self, value: np.ndarray[Any, Any], part: Part) -> None:
        """Add the elements of an array; of a large memory map, the fingerprint of its file."""
        if value.dtype.hasobject:
            self.feed(part, value.dtype.str, value.shape)
            self.visit_sequence(value.ravel().tolist(), part)
            return
        storage = array_storage(value)
        if storage.files and value.nbytes > _LARGEST_MAP:
            self.feed(part, fingerprint(storage).digest)
        else:
            self.feed(part, array_digest(value))
        if type(value) not in {np.ndarray, np.memmap}:  # such as a masked array
            self.visit(type(value), part)
            self.visit_state(attributes_of(value), part)

    def visit_stored(self, value: Any, part: Part) -> None:
        """Add the fingerprint of an array-like that is read lazily."""
        found = fingerprint(array_storage(value))
        self.feed(part, found.digest)
        if found.unknown:
            self.add_unknown(part, found.unknown)
        coordinates = getattr(value, "coords", {})  # of xarray
        self.visit_items({f"coordinate {str(name)!r} of": np.asarray(item) for name, item in coordinates.items()}, part)

    def visit_ufunc(self, value: np.ufunc, part: Part) -> None:
        """Add the name of a universal function of NumPy."""
        self.feed(part, "ufunc", value.__name__)
        if getattr(np, value.__name__, None) is not value:
            self.add_unknown(part, "is a ufunc that does not come with NumPy")

    def visit_weakref(self, value: weakref.ref[Any], part: Part) -> None:
        """Add the object of a weak reference."""
        self.visit(value(), part)

    def visit_name(self, value: Any, part: Part) -> None:
        """Add only the type of an object that does not change what is computed, such as a lock."""
        self.feed(part, type(value).__qualname__)

    def visit_object(self, value: Any, part: Part) -> None:
        """Add the class of an object and all that it would be pickled as."""
        self.visit(type(value), part)
        try:
            rebuilt = _rebuilt_from(value)
        except Exception:  # noqa: BLE001  # objects that cannot be pickled raise any error
            rebuilt = (None, (), attributes_of(value))
            self.add_unknown(
                part, f"is a {type(value).__module__}.{type(value).__qualname__}, which cannot be inspected"
            )
        if isinstance(rebuilt, str):
            self.feed(part, rebuilt)
            return
        build, arguments, state, listed, mapped = (*rebuilt, None, None, None)[:5]
        self.visit(build, part)
        self.visit(arguments, part)
        self.visit_state(state, part)
        self.visit_sequence(listed or (), part)
        self.visit_mapping(dict(mapped or ()), part)

    def visit_state(self, state: Any, part: Part) -> None:
        """Add the attributes of an object."""
        halves = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if not all(half is None or type(half) is dict for half in halves):
            self.visit(state, part)
            return
        attributes = {name: value for half in halves for name, value in (half or {}).items()}
        self.visit_items({f"attribute {name!r}": attributes[name] for name in sorted(attributes, key=str)}, part)


def _is_plain(value: Any) -> bool:
    return type(value) in _EXACTLY_PLAIN or isinstance(value, (Path, np.dtype, np.generic))


def _rebuilt_from(value: Any) -> Any:
    """Return all that an object would be pickled as, in the form of `__reduce_ex__`.

    If a class of the user defines how it is pickled, this may omit weights, so its attributes are taken instead.
    """
    own = (vars(kind) for kind in type(value).__mro__ if not package_version(module_of(kind)))
    if not any(isinstance(methods.get(name), types.FunctionType) for methods in own for name in _PICKLING):
        reduce = copyreg.dispatch_table.get(type(value))
        return value.__reduce_ex__(4) if reduce is None else reduce(value)
    listed = list(value) if isinstance(value, (list, tuple, set, frozenset)) else None
    return type(value), (), attributes_of(value), listed, dict.items(value) if isinstance(value, dict) else None


_CONTAINERS: dict[type, Callable[[ObjectWalk, Any, Part], None]] = {
    tuple: ObjectWalk.visit_sequence,
    list: ObjectWalk.visit_sequence,
    set: ObjectWalk.visit_set,
    frozenset: ObjectWalk.visit_set,
    dict: ObjectWalk.visit_mapping,
    OrderedDict: ObjectWalk.visit_mapping,
    types.MappingProxyType: ObjectWalk.visit_mapping,
}
_VISITS: tuple[tuple[Any, Callable[[ObjectWalk, Any, Part], None]], ...] = (
    (type, ObjectWalk.visit_class),
    (np.ndarray, ObjectWalk.visit_array),
    (types.FunctionType, ObjectWalk.visit_function),
    (types.MethodType, ObjectWalk.visit_bound),
    ((types.BuiltinFunctionType, types.MethodWrapperType, types.WrapperDescriptorType), ObjectWalk.visit_builtin),
    (functools.partial, ObjectWalk.visit_partial),
    (types.ModuleType, ObjectWalk.visit_module),
    (types.CodeType, ObjectWalk.visit_code),
    (
        (staticmethod, classmethod, property, functools.cached_property, type(functools.cache(abs))),
        ObjectWalk.visit_wrapper,
    ),
    (np.ufunc, ObjectWalk.visit_ufunc),
    (weakref.ref, ObjectWalk.visit_weakref),
    (_LOCKS, ObjectWalk.visit_name),
)
