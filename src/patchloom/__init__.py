"""Take image stacks apart into patches and put predictions back together, exactly.

The public names are listed once, in `__init__.pyi`, where type checkers and editors look for them. A name is imported
when it is first used (PEP 562, in the way of SPEC 1), so that `import patchloom` alone costs nothing.
"""

from __future__ import annotations

import ast
import pkgutil
from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_STUB = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")
_HOMES = {
    name.name: node.module or "" for node in _STUB.body if isinstance(node, ast.ImportFrom) for name in node.names
}

__all__ = sorted(_HOMES)  # noqa: PLE0605  # type checkers read the stub


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    value = globals()[name] = (
        import_module(f"{home}.{name}") if home == __name__ else getattr(import_module(home), name)
    )
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
