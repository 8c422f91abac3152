"""Functions and classes of the user, imported by their names."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from patchloom.argument_checks import shown
from patchloom.errors import ArgumentTypeError, ModelError, ModelNotFoundError


def check_callable(name: str, model: Any) -> Any:
    """Return what a user gives as a model, if it can be called.

    Raises
    ------
    ArgumentTypeError
        If it cannot be called; the message contains how a path or weights are used.

    Examples
    --------
    >>> check_callable("model", "net.onnx")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: model is 'net.onnx' of type str: it must be a function, a torch.nn.Module or a list of these;
    load a file with load_model('net.onnx')
    """
    if callable(model):
        return model
    remedy = "load_model makes one from a file"
    if isinstance(model, (str, Path)):
        remedy = f"load a file with load_model({shown(str(model))})"
    elif isinstance(model, Mapping):
        remedy = "load weights into their network (network.load_state_dict) and give the network"
    raise ArgumentTypeError(
        f"{name} is {shown(model)} of type {type(model).__name__}: it must be a function, a torch.nn.Module or a list of these; {remedy}"
    )


def names_callable(reference: str) -> bool:
    """Return whether a text is of the form `module:name` or `path/to/file.py:name`.

    Examples
    --------
    >>> names_callable("numpy:linalg.norm"), names_callable("network.pt")
    (True, False)
    """
    module_name, _, name = reference.rpartition(":")
    return bool(module_name) and all(part.isidentifier() for part in name.split("."))


def load_callable(reference: str, *, allow_class: bool = False) -> Callable[..., Any]:
    """Import a function by its name.

    Parameters
    ----------
    reference : str
        `module:name` or `path/to/file.py:name`; the name may be dotted. Modules are searched in the current directory first, as
        by `python -m`, and a file can import its neighbors: both directories are added to `sys.path`.
    allow_class : bool
        Whether it may be a class, which makes something when it is called.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the text has another form, the module cannot be imported, or it has no such function.

    Examples
    --------
    >>> load_callable("numpy:negative")
    <ufunc 'negative'>
    """
    if not names_callable(reference):
        raise ModelError(f"{reference!r} does not name a function: write module:name or path/to/file.py:name")
    module_name, _, name = reference.rpartition(":")
    is_file = module_name.endswith(".py")
    module = _import_file(Path(module_name)) if is_file else _import(module_name, Path.cwd())
    return _find_callable(module, name, reference, allow_class=allow_class)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no Python file {path}: check the path")
    module = _import(path.stem, path.resolve().parent)
    found = Path(module.__file__ or "").resolve()
    if found != path.resolve():
        raise ModelError(
            f"{path} cannot be imported, because {path.stem!r} is the name of {found} too: rename the file"
        )
    return module


def _import(name: str, directory: Path) -> ModuleType:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # code of the user may raise any error
        raise ModelError(
            f"cannot import {name!r} ({type(error).__name__}: {error}): fix the module, or name another one"
        ) from error


def _find_callable(module: ModuleType, name: str, reference: str, *, allow_class: bool) -> Callable[..., Any]:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ModelError(f"there is no {reference} ({error}): check the name of the function") from error
    if isinstance(found, type) and not allow_class:
        raise ModelError(f"{reference} is a class: name a function, or an instance of the class")
    if not callable(found):
        raise ModelError(f"{reference} is of type {type(found).__name__}, which is not callable: name a function")
    return found
