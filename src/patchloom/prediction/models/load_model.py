"""A model by its file, or by the name of a function."""

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
from patchloom.prediction.models.czann_model import CzannModel
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.onnx_model import OnnxModel

MODEL_FILES: dict[str, Callable[..., Model]] = {
    ".onnx": OnnxModel,
    ".czann": CzannModel,
    ".czseg": CzannModel,
    ".czmodel": CzannModel,
}
"""How a model file is opened, by its suffix."""


def load_model(reference: str | Path, *, layout: str | None = None, bgr: bool | None = None) -> Model:
    """Load a model.

    Parameters
    ----------
    reference : str or Path
        A model file (`.onnx`, `.czann`, `.czseg`, `.czmodel`); or a callable as `module:name` or `path/to/file.py:name`,
        where the name may be dotted. Modules are looked for in the current directory first, as by `python -m`, and a
        file's own directory is where it imports its neighbors from: both are put on `sys.path` and stay there.
    layout : str, optional
        Axes of the network's input where a file does not say, such as `"NCHW"`; see `TensorLayout`.
    bgr : bool, optional
        Whether a ZEISS model takes the first three channels of an image blue first, where its file does not say; see
        `CzannModel`.

    Returns
    -------
    callable
        The model, `(B, C, (Z), Y, X) -> (B, C', (Z), Y, X)`.

    Raises
    ------
    ModelNotFoundError
        If there is no such file.
    ModelError
        If the file is of no known kind or cannot be loaded, the module cannot be imported, it has no such attribute, or
        that is not callable; or an option is given that is not for such a model.

    Examples
    --------
    >>> load_model("numpy:negative")
    <ufunc 'negative'>
    >>> load_model("network.pt")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelError: 'network.pt' is no model: give a file (.onnx, .czann, .czseg, .czmodel) or a function
    (module:name or path/to/file.py:name)
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
            f"bgr is {bgr}, which is for ZEISS models (.czann, .czseg, .czmodel): {text} takes channels as they come"
        )
    if open_file is not None:
        return open_file(text, layout=layout)
    place, _, name = text.rpartition(":")
    if not place or not all(part.isidentifier() for part in name.split(".")):
        raise ModelError(
            f"{text!r} is no model: give a file ({', '.join(MODEL_FILES)}) or a function (module:name or "
            "path/to/file.py:name)"
        )
    if layout is not None:
        raise ModelError(f"layout={layout!r} is for model files: {text} is called with (B, C, (Z), Y, X)")
    module = _import_file(Path(place)) if place.endswith(".py") else _import(place, Path.cwd())
    return _find_callable(module, name, text)


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ModelNotFoundError(f"there is no Python file {path}")
    module = _import(path.stem, path.resolve().parent)
    found = Path(module.__file__ or "").resolve()
    if found != path.resolve():
        raise ModelError(f"{path} cannot be imported: the name {path.stem!r} is taken by {found}; rename the file")
    return module


def _import(name: str, directory: Path) -> ModuleType:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except Exception as error:  # whatever code of somebody else's may raise
        raise ModelError(f"cannot import {name!r}: {type(error).__name__}: {error}") from error


def _find_callable(module: ModuleType, name: str, reference: str) -> Model:
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            raise ModelError(f"there is no {reference}: {error}") from error
    if isinstance(found, type):
        raise ModelError(f"{reference} is a class: name an instance of it, or a function")
    if not callable(found):
        raise ModelError(f"{reference} is not callable, but of type {type(found).__name__}")
    return cast("Model", found)
