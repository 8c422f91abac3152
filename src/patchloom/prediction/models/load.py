"""Loading of models: from a file, or by the name of a function."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import cast

from patchloom.argument_checks import file_path, flag, instance
from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.local_paths import normalize_path
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.onnx.onnx_model import OnnxModel
from patchloom.prediction.models.zeiss.czann_model import CzannModel

MODEL_FILES: dict[str, Callable[..., Model]] = {
    ".onnx": OnnxModel,
    ".czann": CzannModel,
    ".czseg": CzannModel,
    ".czmodel": CzannModel,
}
"""Classes of models, by the suffix of their file."""


def load_model(reference: str | Path, *, layout: str | None = None, bgr: bool | None = None) -> Model:
    """Load a model.

    Parameters
    ----------
    reference : str or Path
        A model file (`.onnx`, `.czann`, `.czseg`, `.czmodel`), or a callable as `module:name` or `path/to/file.py:name`. The
        name may be dotted. Modules are searched in the current directory first, as by `python -m`, and a file can import its
        neighbors: both directories are added to `sys.path`.
    layout : str, optional
        Axes of the network's input, outermost first, such as `"NCHW"`; see `TensorLayout`. For model files only. If None, the
        layout is inferred from the file.
    bgr : bool, optional
        Whether a ZEISS model takes the first three channels of an image in the order blue, green, red; see `CzannModel`. If
        None, the order that its file declares.

    Returns
    -------
    Model
        A callable from a batch `(B, C, (Z), Y, X)` to `(B, C', (Z), Y, X)`.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is of an unknown kind or cannot be loaded; if the module cannot be imported, it has no such attribute, or the
        attribute is not callable; or if an option is given that is not for this kind of model.
    MissingExtraError
        If the file is a network, and onnxruntime is not installed.

    Examples
    --------
    >>> load_model("numpy:negative")
    <ufunc 'negative'>
    >>> load_model("network.pt")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelError: 'network.pt' is not a model that can be loaded: give a file (.onnx, .czann, .czseg, .czmodel), or
    a function that calls the network (module:name or path/to/file.py:name)
    """
    if not isinstance(reference, str) or reference:  # an empty text is refused below
        file_path("reference", reference)
    text = str(normalize_path(reference))
    if layout is not None:
        instance("layout", layout, str)
    if bgr is not None:
        flag("bgr", bgr)
    open_file = MODEL_FILES.get(Path(text).suffix.lower())
    if open_file is CzannModel:
        return CzannModel(text, layout=layout, bgr=bgr)
    if bgr is not None:
        raise ModelError(
            f"bgr is {bgr}, which is for ZEISS models (.czann, .czseg, .czmodel): leave it out, {text} gets channels in the order of "
            "the image"
        )
    if open_file is not None:
        return open_file(text, layout=layout)
    module_name, _, name = text.rpartition(":")
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        raise ModelError(
            f"{text!r} is not a model that can be loaded: give a file ({', '.join(MODEL_FILES)}), or a function that calls the "
            "network (module:name or path/to/file.py:name)"
        )
    if layout is not None:
        raise ModelError(f"layout is {layout!r}, which is for model files: leave it out, {text} gets (B, C, (Z), Y, X)")
    is_file = module_name.endswith(".py")
    module = _import_file(Path(module_name)) if is_file else _import(module_name, Path.cwd())
    return _find_callable(module, name, text)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no Python file {path}")
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


def _find_callable(module: ModuleType, name: str, reference: str) -> Model:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ModelError(f"there is no {reference} ({error}): check the name of the function") from error
    if isinstance(found, type):
        raise ModelError(f"{reference} is a class: name a function, or an instance of the class")
    if not callable(found):
        raise ModelError(f"{reference} is of type {type(found).__name__}, which is not callable: name a function")
    return cast("Model", found)
