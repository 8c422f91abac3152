"""Names that code refers to, and the installed packages that code comes from."""

from __future__ import annotations

import dis
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import CodeType
from typing import NamedTuple

from patchloom.digests import file_digest


class Reference(NamedTuple):
    """A global name in code, and the attributes that follow it: `("net", ("weights",))` for `net.weights`."""

    name: str
    attributes: tuple[str, ...] = ()


def global_references(code: CodeType) -> list[Reference]:
    """List the global names that code refers to, including the code of inner functions.

    Examples
    --------
    >>> global_references(compile("net.weights[0] + scale", "", "eval"))
    [Reference(name='net', attributes=('weights',)), Reference(name='scale', attributes=())]
    """
    return sorted(set(_references(code)))


def imported_names(code: CodeType) -> list[str]:
    """List the modules that code imports when it runs, including the code of inner functions.

    Examples
    --------
    >>> imported_names(compile("import net.layers", "", "exec"))
    ['net.layers']
    """
    found = {str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME"}
    return sorted(found.union(*(imported_names(inner) for inner in _inner(code))))


def _references(code: CodeType) -> Iterator[Reference]:
    found: Reference | None = None
    for step in dis.get_instructions(code):
        if found is not None and step.opname in {"LOAD_ATTR", "LOAD_METHOD"}:
            found = Reference(found.name, (*found.attributes, str(step.argval)))
            continue
        if found is not None:
            yield found
        found = Reference(str(step.argval)) if step.opname in {"LOAD_GLOBAL", "LOAD_NAME"} else None
    for inner in _inner(code):
        yield from _references(inner)


def _inner(code: CodeType) -> Iterator[CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, CodeType))


def package_version(module: str | None) -> str:
    """Return name and version of the installed package of a module; an empty text for a module of the user.

    Parameters
    ----------
    module : str or None
        Name of an imported module.

    Examples
    --------
    >>> package_version("numpy.linalg").split()[0], package_version("my_network")
    ('numpy', '')
    """
    name = module or "builtins"
    if name == "__main__":
        return ""
    top = name.partition(".")[0]
    file = getattr(sys.modules.get(name), "__file__", None) or getattr(sys.modules.get(top), "__file__", None)
    if file is None:
        known = top in sys.stdlib_module_names or top in sys.builtin_module_names
        return f"Python {sys.version_info.major}.{sys.version_info.minor}" if known else ""
    if top == __name__.partition(".")[0] or {"site-packages", "dist-packages"} & set(Path(file).parts):
        return f"{top} {getattr(sys.modules.get(top), '__version__', '')}".strip()
    if Path(file).is_relative_to(_standard_library()):
        return f"Python {sys.version_info.major}.{sys.version_info.minor}"
    return ""


def package_source(module: str | None) -> str:
    """Return the digest of the source file of a module in an installed package; an empty text for other modules.

    The version alone is not enough: authors of a package install it again after a change without a new version.
    """
    file = getattr(sys.modules.get(module or ""), "__file__", None) or ""
    if not file.endswith(".py") or not {"site-packages", "dist-packages"} & set(Path(file).parts):
        return ""
    try:
        return _digest_of(Path(file), Path(file).stat().st_mtime_ns)
    except OSError:
        return ""


@cache
def _digest_of(file: Path, _changed: int) -> str:
    return file_digest(file)


@cache
def _standard_library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
