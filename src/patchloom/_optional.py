"""Optional dependencies, imported at first use.

All imports of optional packages go through `require`, so a missing one is always reported in the same way.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from patchloom.errors import MissingExtraError


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or raise an error with the command that installs it.

    Parameters
    ----------
    module : str
        The module to import, which may be dotted.
    extra : str
        The extra of Patchloom that installs it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    MissingExtraError
        If the module, or a module that it imports, is not installed.

    Examples
    --------
    >>> require("json", extra="none").loads("[1]")
    [1]
    >>> require("no_such_module", extra="onnx")
    Traceback (most recent call last):
        ...
    patchloom.errors.MissingExtraError: 'no_such_module' is not installed: pip install "patchloom[onnx]"
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or module
        raise MissingExtraError(
            f'{missing!r} is not installed: pip install "patchloom[{extra}]"', name=missing
        ) from error
