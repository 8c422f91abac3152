"""The configuration of a MONAI bundle, resolved without running code.

A bundle's configuration is a tree in JSON or YAML. Its texts may be instructions:

========================  =============================================================================
`"@network_def::norm"`    the value at another place of the tree; `#` is an older spelling of `::`
`"@::channels"`           the same, relative to the parent; each further `::` goes one level up
`"%other.json::net"`      a copy of what is at a place of this or of another file
`"$expression"`           an expression in Python
`{"_target_": "UNet"}`    an object to be made
========================  =============================================================================

References, copies and expressions that only contain literals and references are resolved here. Every other expression is code: it
becomes `Unevaluated`, so that only a bundle whose code is needed is refused, unless the bundle is trusted. Objects are not made here.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchloom._optional import require
from patchloom.argument_checks import shown
from patchloom.errors import ModelError

LARGEST_CONFIG = 2**24
"""Largest size of a configuration file, in bytes."""

_REFERENCE = re.compile(r"@\w*(?:::\w*)*")
_FILE = re.compile(r"(.*\.(?:json|ya?ml))(?:::(.*))?", re.IGNORECASE)
_MOST_NESTED = 64
_MOST_VALUES = 200_000
"""Values that are resolved: references, and aliases of YAML, can turn a few bytes into billions."""


@dataclass(frozen=True, slots=True)
class Unevaluated:
    """An expression that only Python could evaluate."""

    text: str
    """The expression, as it is in the file."""


def read_tree(path: Path) -> dict[str, Any]:
    """Read a configuration file.

    Parameters
    ----------
    path : Path
        A `.json`, `.yaml` or `.yml`.

    Raises
    ------
    ModelError
        If it cannot be read, is too large, or is not a mapping.
    MissingExtraError
        If it is YAML, and PyYAML is not installed.
    """
    parse: Callable[[str], Any] = json.loads if path.suffix.lower() == ".json" else _parse_yaml
    try:
        size = path.stat().st_size
        if size > LARGEST_CONFIG:
            raise ModelError(
                f"{path} has {size} bytes, and at most {LARGEST_CONFIG} are read: it is not a configuration"
            )
        tree = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error
    if not isinstance(tree, dict):
        raise ModelError(f"{path} contains {shown(tree)}: it must be a mapping, as in a MONAI bundle")
    return tree


def _parse_yaml(text: str) -> Any:
    yaml = require("yaml", extra="monai")
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


class BundleConfig:
    """A configuration, whose values are resolved when they are asked for.

    Parameters
    ----------
    tree : mapping
        The content of the file.
    root : Path
        The bundle's folder, in which other files are searched.
    evaluate : callable, optional
        Evaluates the expression at a place. If None, expressions that are code are not evaluated.

    Examples
    --------
    >>> config = BundleConfig({"n": 2, "net": {"_target_": "UNet", "out": "@n", "device": "$torch.device('cpu')"}}, Path())
    >>> config.get("net::out"), config.get("net::device")
    (2, Unevaluated(text="$torch.device('cpu')"))
    """

    def __init__(self, tree: Mapping[str, Any], root: Path, *, evaluate: Callable[[str], Any] | None = None) -> None:
        self._tree = tree
        self._root = root
        self._run = evaluate
        self._values_left = _MOST_VALUES

    def get(self, place: str, default: Any = None) -> Any:
        """Return the resolved value at a place.

        Parameters
        ----------
        place : str
            Keys and indices from the root on, with `::` between them.
        default : object
            What is returned if there is no such place.

        Raises
        ------
        ModelError
            If a reference leads nowhere or back to itself, a path leaves the bundle, or the value is nested too deep or too large.
        """
        self._values_left = _MOST_VALUES
        try:
            return self._at(place, default, ())
        except RecursionError as error:
            raise ModelError(
                f"{place or 'the configuration'} is nested too deep: fix the bundle's configuration"
            ) from error

    def _at(self, place: str, default: Any, visited: tuple[str, ...]) -> Any:
        """Return the resolved value at a place; `visited` are the places that are being resolved."""
        if place in visited or len(visited) > _MOST_NESTED:
            raise ModelError(
                f"the reference @{place} leads back to itself, by @{', @'.join(visited[-3:])}: fix the bundle's configuration"
            )
        found = _find(self._tree, place)
        return default if found is _MISSING else self._resolve(found, place, (*visited, place))

    def _resolve(self, value: Any, place: str, visited: tuple[str, ...]) -> Any:
        self._values_left -= 1
        if self._values_left < 0:
            raise ModelError(f"{place} has more than {_MOST_VALUES} values: fix the bundle's configuration")
        if isinstance(value, Mapping):
            return {key: self._resolve(inner, f"{place}::{key}", visited) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._resolve(inner, f"{place}::{index}", visited) for index, inner in enumerate(value)]
        return self._resolve_text(value, place, visited) if isinstance(value, str) else value

    def _resolve_text(self, text: str, place: str, visited: tuple[str, ...]) -> Any:
        if text[:1] not in ("@", "%", "$"):
            return text
        absolute = _absolute(text.replace("#", "::"), place)
        if absolute.startswith("%"):
            return self._copied(absolute[1:], visited)
        if absolute.startswith("$"):
            value = self._evaluate(absolute[1:].strip(), text, visited)
            return self._run(place) if isinstance(value, Unevaluated) and self._run is not None else value
        return self._referred(absolute[1:], visited) if _REFERENCE.fullmatch(absolute) else text

    def _referred(self, place: str, visited: tuple[str, ...]) -> Any:
        value = self._at(place, _MISSING, visited)
        if value is _MISSING:
            raise ModelError(f"the reference @{place} leads nowhere: fix the bundle's configuration")
        return value

    def _copied(self, text: str, visited: tuple[str, ...]) -> Any:
        other = _FILE.fullmatch(text)
        if other is None:
            return self._referred(text, visited)
        path = (self._root / other[1]).resolve()
        if not path.is_relative_to(self._root.resolve()):
            raise ModelError(f"%{text} leaves the folder of the bundle: keep its files inside")
        return BundleConfig(read_tree(path), self._root)._at(other[2] or "", _MISSING, (*visited, f"%{path}"))  # noqa: SLF001

    def _evaluate(self, expression: str, text: str, visited: tuple[str, ...]) -> Any:
        """Evaluate an expression of literals and references; any other is code, which is not run."""
        places: list[str] = []

        def as_name(match: re.Match[str]) -> str:
            places.append(match[0][1:])
            return f"_{len(places) - 1}_"

        try:
            parsed = ast.parse(_REFERENCE.sub(as_name, expression), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return Unevaluated(text)
        known = {f"_{index}_": place for index, place in enumerate(places)}
        if not _is_literal(parsed, known):
            return Unevaluated(text)
        return _literal(parsed, {name: self._referred(place, visited) for name, place in known.items()})


_MISSING = object()


def _find(tree: Any, place: str) -> Any:
    for key in place.split("::") if place else ():
        try:
            tree = tree[int(key)] if isinstance(tree, list) else tree[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return _MISSING
    return tree


def _absolute(text: str, place: str) -> str:
    """Return an instruction with relative places, such as `@::channels`, written from the root on."""

    def from_root(match: re.Match[str]) -> str:
        n_up = len(match[2]) // 2
        parents = place.split("::")[:-n_up]
        return match[1] + "".join(f"{parent}::" for parent in parents)

    return re.sub(r"([@%])((?:::)+)", from_root, text)


def _is_literal(node: ast.AST, names: Mapping[str, str]) -> bool:
    if isinstance(node, ast.Constant):
        return True
    if isinstance(node, ast.Name):
        return node.id in names
    if isinstance(node, (ast.List, ast.Tuple)):
        return all(_is_literal(item, names) for item in node.elts)
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant)
    return False


def _literal(node: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        return values[node.id]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item, values) for item in node.elts]
    return ast.literal_eval(node)
