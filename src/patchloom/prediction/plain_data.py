"""Dataclasses from the plain values that JSON stores; each value is checked against the type of its field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from fractions import Fraction
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np


def parse_fields(kind: type[Any], values: Any) -> dict[str, Any]:
    """Parse the fields of a dataclass.

    Fields are numbers, texts, dtypes, fractions, dataclasses, tuples and literals of these, and unions of one of these with None.

    Parameters
    ----------
    kind : type
        The dataclass.
    values : mapping of str to object
        A plain value for each field.

    Raises
    ------
    TypeError, ValueError, ArithmeticError
        If a field is missing, unknown or of another type.

    Examples
    --------
    >>> from patchloom.prediction.models.model import ModelDescription
    >>> from dataclasses import asdict
    >>> parse_fields(ModelDescription, asdict(ModelDescription()) | {"patch_size": [64, 64]})["patch_size"]
    (64, 64)
    """
    names = {entry.name for entry in fields(kind)}
    if not isinstance(values, Mapping) or set(values) != names:
        raise ValueError(f"{kind.__name__} must be a mapping with {sorted(names)}")
    hints = get_type_hints(kind)
    return {name: _parse(hints[name], value, f"{kind.__name__}.{name}") for name, value in values.items()}


def _parse(hint: Any, value: Any, name: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        inner = next(argument for argument in arguments if argument is not NoneType)
        return None if value is None else _parse(inner, value, name)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{name} is of type {type(value).__name__}: it must be a list")
        return tuple(_parse(arguments[0], item, name) for item in value)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name} is {value!r}: it must be one of {arguments}")
        return value
    if hasattr(hint, "from_dict"):
        return hint.from_dict(value)
    if isinstance(hint, type) and is_dataclass(hint):
        kind: type[Any] = hint
        return kind(**parse_fields(kind, value))
    wanted = str if origin is np.dtype or hint is Fraction else hint
    if type(value) is not wanted:
        raise TypeError(f"{name} is of type {type(value).__name__}: it must be {wanted.__name__}")
    return _numeric_dtype(value) if origin is np.dtype else hint(value)


def _numeric_dtype(name: str) -> np.dtype[Any]:
    dtype = np.dtype(name)
    if dtype.kind not in "biufc":
        raise ValueError(f"{name} is not a dtype of numbers")
    return dtype
