"""The walk through the code of a model: functions, classes and modules."""

from __future__ import annotations

import builtins
import functools
import importlib.util
import sys
import types
from abc import abstractmethod
from pathlib import Path
from typing import Any

from patchloom.digests import file_digest
from patchloom.prediction.models.identity.code_references import (
    global_references,
    imported_names,
    package_source,
    package_version,
)
from patchloom.prediction.models.identity.part_digests import Part, PartDigests

_NOT_STATE = frozenset(
    {
        *("__abstractmethods__", "__annotations__", "__dict__", "__doc__", "__module__", "__slots__", "__weakref__"),
        *("__firstlineno__", "__static_attributes__", "__match_args__", "__dataclass_fields__", "__dataclass_params__"),
        *("__parameters__", "__orig_bases__", "__slotnames__", "_abc_impl"),
    }
)
_MADE_BY_CODE = 1 << 9
"""The flag of classes that are made by Python code (`Py_TPFLAGS_HEAPTYPE`)."""
_DESCRIPTORS = (types.MemberDescriptorType, types.GetSetDescriptorType)


class CodeWalk(PartDigests):
    """Adds code and all that it refers to; the code of installed packages counts by their version."""

    def __init__(self) -> None:
        super().__init__()
        self._classes: set[type] = set()

    @abstractmethod
    def visit_text(self, text: str, part: Part, *folders: Path) -> None:
        """Add a text, and the file of weights that it names, if any."""

    def visit_function(self, function: types.FunctionType, part: Part) -> None:
        """Add code, globals, default values, closure variables and attributes; for an installed package, the version and no code."""
        original = vars(function).get("_torchdynamo_orig_callable")
        if original is not None:  # torch.compile wraps the function with a cache
            self.visit(original, part)
            return
        module = module_of(function)
        package = package_version(module)
        self.feed(part, "function", function.__qualname__, package, package_source(module))
        if not package:
            self.visit_code(function.__code__, self.inside(part, "code"))
            self.visit_globals(function, part)
        self.visit_items(
            {f"default value {number} of": item for number, item in enumerate(function.__defaults__ or ())}, part
        )
        defaults = function.__kwdefaults__ or {}
        self.visit_items({f"default value of {name!r} of": defaults[name] for name in sorted(defaults)}, part)
        self.visit_closure(function, package, part)
        self.visit_items({f"attribute {name!r}": value for name, value in sorted(vars(function).items())}, part)

    def visit_closure(self, function: types.FunctionType, package: str, part: Part) -> None:
        """Add closure variables, except for the private state of a decorator of a package."""
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                value = cell.cell_contents
            except ValueError:  # not assigned yet
                self.feed(part, "empty", name)
                continue
            if package and package_version(type(value).__module__) == package:
                self.feed(part, type(value).__qualname__)
            else:
                self.visit(value, self.inside(part, f"closure variable {name!r}"))

    def visit_code(self, code: types.CodeType, part: Part) -> None:
        """Add the instructions and constants of code, without file names and line numbers."""
        self.feed(
            part, code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars, code.co_flags
        )
        self.feed(part, code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_exceptiontable)
        for constant in code.co_consts:
            if isinstance(constant, str):
                self.visit_text(constant, part, Path(code.co_filename).parent)
            elif isinstance(constant, types.CodeType):
                self.visit_code(constant, part)
            elif isinstance(constant, (tuple, frozenset)):
                self.feed(part, self.alone(constant))
            else:
                self.visit(constant, part)

    def visit_globals(self, function: types.FunctionType, part: Part) -> None:
        """Add the globals that a function refers to, and the modules that it imports."""
        names = function.__globals__
        for name, attributes in global_references(function.__code__):
            if name in names:
                self.visit_global(
                    f"global {name!r} of {names.get('__name__', '')}", names[name], attributes, part.depth
                )
            elif not hasattr(builtins, name):
                self.feed(part, "missing", name)
        for name in imported_names(function.__code__):
            self.visit_imported(name, part)

    def visit_global(self, label: str, value: Any, attributes: tuple[str, ...], depth: int) -> None:
        """Add a global; if it is a module of the user, only the attribute that the code takes from it."""
        module = value
        for number, attribute in enumerate(attributes):
            if (
                not isinstance(value, types.ModuleType)
                or package_version(value.__name__)
                or not hasattr(value, attribute)
            ):
                break
            module, value = value, getattr(value, attribute)
            label = f"global {'.'.join(attributes[: number + 1])!r} of {module.__name__}"
        self.visit(value, self.kept(Part(label, depth + 1)))

    def visit_imported(self, name: str, part: Part) -> None:
        """Add the file of a module that a function imports when it is called, as it may not be imported yet."""
        top = name.partition(".")[0]
        if top in sys.stdlib_module_names:
            return
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            spec = None
        origin = Path(spec.origin) if spec is not None and spec.origin else None
        if origin is None or not origin.is_file() or {"site-packages", "dist-packages"} & set(origin.parts):
            self.feed(part, "imports", name)
            return
        files = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
        self.feed(self.inside(part, f"imported module {top!r}"), *map(file_digest, files))

    def visit_module(self, module: types.ModuleType, part: Part) -> None:
        """Add the file of a module of the user, or the version of an installed package."""
        package = package_version(module.__name__)
        self.feed(part, "module", module.__name__, package, package_source(module.__name__))
        file = getattr(module, "__file__", None)
        if not package and file and Path(file).is_file():
            self.feed(part, file_digest(Path(file)))
        elif not package and not hasattr(module, "__path__"):
            self.add_unknown(part, f"refers to the whole module {module.__name__}, which has no file")

    def visit_builtin(self, function: Any, part: Part) -> None:
        """Add a compiled function."""
        module = getattr(function, "__module__", None)
        package = package_version(module)
        self.feed(part, "builtin", function.__qualname__, package)
        file = getattr(sys.modules.get(module or ""), "__file__", None)
        if file and not package:  # an extension module of the user
            self.feed(part, file_digest(Path(file)))
        owner = getattr(function, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            self.visit(owner, part)

    def visit_class(self, kind: type, part: Part) -> None:
        """Add the methods and attributes of a class and of its bases."""
        self.feed(part, "class", kind.__qualname__)
        if not package_version(module_of(type(kind))):
            self.visit(type(kind), part)
        for base in kind.__mro__:
            module = module_of(base)
            package = package_version(module)
            self.feed(part, base.__qualname__, package, package_source(module))
            if package or base in self._classes:
                continue
            self._classes.add(base)
            for name, value in sorted(vars(base).items()):
                if not _is_derived(name) and not isinstance(value, _DESCRIPTORS):
                    self.visit(value, self.kept(Part(f"{name!r} of class {base.__qualname__!r}", part.depth + 1)))

    def visit_bound(self, value: types.MethodType, part: Part) -> None:
        """Add a bound method and its object."""
        self.visit(value.__func__, part)
        self.visit(value.__self__, self.inside(part, "object of"))

    def visit_partial(self, value: functools.partial[Any], part: Part) -> None:
        """Add a partial function and its arguments."""
        self.visit(value.func, self.inside(part, "function of"))
        self.visit_items({f"argument {number} of": item for number, item in enumerate(value.args)}, part)
        self.feed(part, *value.keywords)
        self.visit_items({f"argument {name!r} of": item for name, item in value.keywords.items()}, part)

    def visit_wrapper(self, value: Any, part: Part) -> None:
        """Add the functions inside a property, a cache or a similar wrapper."""
        self.feed(part, type(value).__qualname__)
        for name in ("__func__", "__wrapped__", "func", "fget", "fset"):
            self.visit(getattr(value, name, None), part)


def module_of(code: types.FunctionType | type) -> str:
    """Return the name of the module of a function or class; `__main__` if `exec` made it without a module."""
    is_made_by_code = isinstance(code, types.FunctionType) or bool(code.__flags__ & _MADE_BY_CODE)
    module: Any = code.__module__  # of some compiled classes a descriptor
    if is_made_by_code and module in {"builtins", None}:
        return "__main__"
    return module if isinstance(module, str) else "builtins"


def _is_derived(name: str) -> bool:
    """Return whether Python or pydantic computes an attribute of a class from others."""
    return name in _NOT_STATE or name.startswith("__pydantic_")
