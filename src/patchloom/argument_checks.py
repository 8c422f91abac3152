"""Check an argument where it enters; the error states what is wrong, what is allowed, and what to do.

The functions here check a single value: a number, a flag, a word, an object of a class. Checks that depend on the dimensions of
an image are in `geometry.checks`.
"""

from __future__ import annotations

import errno
import operator
import os
import reprlib
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np

from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError, NotIntegerError, PatchloomError

MAX_SIZE = 2**62
"""Largest size and coordinate along one axis, so that the sum of two fits into 64 bits."""

_NUMBER_TYPES = (int, float, np.integer, np.floating)

_LONGEST = 200
_TEXT = reprlib.Repr()
_TEXT.maxstring = _TEXT.maxother = 80
_TEXT.maxlong = 60


def shown(value: object) -> str:
    """Format a value for a message, in one line of bounded length.

    Examples
    --------
    >>> shown("a" * 1000)[-9:], shown([1, 2])
    ("aaaaaaaa'", '[1, 2]')
    """
    try:
        text = " ".join(_TEXT.repr(value).split())
    except ValueError:  # an integer of too many digits
        return (
            f"<{type(value).__name__} of {value.bit_length()} bits>"
            if isinstance(value, int)
            else f"<{type(value).__name__}>"
        )
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 4]} ..."


def whole_number(name: str, value: object, *, least: int | None = None, most: int | None = None) -> int:
    """Return an integer of any type as a plain `int`; a `bool` or a `float` is refused.

    Raises
    ------
    NotIntegerError
        If `value` is not an integer.
    GeometryError
        If it is less than `least` or more than `most`.

    Examples
    --------
    >>> whole_number("index", 3.0)
    Traceback (most recent call last):
        ...
    patchloom.errors.NotIntegerError: index is 3.0: it must be a whole number
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # raises TypeError for anything but an integer
    except TypeError:
        number = None
    if number is None or isinstance(value, (bool, np.bool_)):
        raise NotIntegerError(f"{name} is {shown(value)}: it must be a whole number")
    if least is not None and number < least:
        raise GeometryError(f"{name} is {shown(number)}: it must be at least {least}")
    if most is not None and number > most:
        raise GeometryError(f"{name} is {shown(number)}: it must be at most {most}")
    return number


def real_number(
    name: str,
    value: Any,
    *,
    least: float = -np.inf,
    most: float = np.inf,
    finite: bool = True,
    nan: bool = False,
) -> float:
    """Return a number of any type as a plain `float`; a `bool` or a text is refused.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : number
        The argument.
    least, most : float
        Smallest and largest value that is allowed.
    finite : bool
        Whether infinity is refused.
    nan : bool
        Whether NaN is allowed.

    Raises
    ------
    ArgumentTypeError
        If `value` is not a number.
    GeometryError
        If it is NaN, infinite or out of bounds.

    Examples
    --------
    >>> real_number("threshold", "0.5")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: threshold is '0.5' of type str: it must be a number
    """
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, _NUMBER_TYPES):
        raise ArgumentTypeError(f"{name} is {shown(value)} of type {type(value).__name__}: it must be a number")
    number = _as_float(value)
    if np.isnan(number):
        if nan:
            return number
        raise GeometryError(f"{name} is NaN: it must be a number")
    if finite and np.isinf(number):
        raise GeometryError(f"{name} is {shown(value)}: it must be a finite number")
    if not least <= number <= most:
        raise GeometryError(f"{name} is {shown(value)}: it must be {_bounds(least, most)}")
    return number


def _as_float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return np.inf if value > 0 else -np.inf


def _bounds(least: float, most: float) -> str:
    if np.isinf(most):
        return f"at least {least:g}"
    return f"at most {most:g}" if np.isinf(least) else f"from {least:g} to {most:g}"


def flag(name: str, value: object) -> bool:
    """Return a plain `bool`; anything else is refused, because a text such as `"no"` would count as true.

    Raises
    ------
    ArgumentTypeError
        If `value` is not a `bool`.

    Examples
    --------
    >>> flag("overwrite", "no")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: overwrite is 'no' of type str: it must be True or False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ArgumentTypeError(f"{name} is {shown(value)} of type {type(value).__name__}: it must be True or False")
    return bool(value)


def one_of(name: str, value: object, choices: Iterable[str]) -> Any:
    """Return a text that is one of several choices.

    Raises
    ------
    GeometryError
        If `value` is not one of them.

    Examples
    --------
    >>> one_of("seams", "center", ("centered", "grid"))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: seams is 'center': it must be one of 'centered', 'grid'
    """
    words = tuple(choices)
    if not isinstance(value, str) or value not in words:
        raise GeometryError(f"{name} is {shown(value)}: it must be one of {', '.join(map(repr, words))}")
    return words[words.index(value)]


def function(name: str, value: Any, remedy: str = "") -> Any:
    """Return a callable; the message ends with `remedy`, which describes where to get one.

    Raises
    ------
    ArgumentTypeError
        If `value` cannot be called.
    """
    if not callable(value):
        raise ArgumentTypeError(
            f"{name} is {shown(value)} of type {type(value).__name__}: it must be a function"
            + (f"; {remedy}" if remedy else "")
        )
    return value


def instance(name: str, value: object, kind: type[Any], remedy: str = "") -> Any:
    """Return an instance of a class, or of a protocol.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : object
        The argument.
    kind : type
        A class, or a protocol that can be checked at run time.
    remedy : str
        Where to get one, for the end of the message.

    Raises
    ------
    ArgumentTypeError
        If `value` is not an instance, or is a class itself.

    Examples
    --------
    >>> instance("chunk", 3, slice, "use slice(0, 8)")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: chunk is 3 of type int: it must be a slice; use slice(0, 8)
    """
    if isinstance(value, type) or not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIOU" else "a"
        raise ArgumentTypeError(
            f"{name} is {shown(value)} of type {type(value).__name__}: it must be {article} {kind.__name__}"
            + (f"; {remedy}" if remedy else "")
        )
    return value


def listed(name: str, values: Any, what: str) -> list[Any]:
    """Return the items of an iterable as a list; texts, mappings, sets and single objects are refused.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    values : iterable
        The argument.
    what : str
        Description of the allowed values, for the message, such as `"a sequence of image stacks"`.

    Raises
    ------
    ArgumentTypeError
        If `values` is refused.

    Examples
    --------
    >>> listed("channels", "012", "a sequence of whole numbers, such as [0, 2]")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: channels is '012' of type str: it must be a sequence of whole numbers, such as [0, 2]
    """
    if type(values) is list:
        return values.copy()
    several = isinstance(values, Iterable) and getattr(values, "ndim", 1) > 0
    if not several or isinstance(values, (str, bytes, Mapping, AbstractSet, type)):
        raise ArgumentTypeError(f"{name} is {shown(values)} of type {type(values).__name__}: it must be {what}")
    return list(values)


def instances(name: str, values: Any, kind: type[Any], what: str) -> list[Any]:
    """Return a list of instances of a class; see `listed` and `instance`.

    Raises
    ------
    ArgumentTypeError
        If `values` is not iterable, or an item has another type.
    """
    return [instance(f"{name}[{place}]", value, kind) for place, value in enumerate(listed(name, values, what))]


def file_path(name: str, value: Any, *, error: type[PatchloomError] = ArgumentError) -> Any:
    """Return the path of a file or folder unchanged; it need not exist.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : str or path-like
        The argument.
    error : type
        Class of the error for a text that is not a path.

    Raises
    ------
    ArgumentTypeError
        If `value` is not a text or path.
    ArgumentError
        Or `error`, if the file system does not accept it: it is empty, too long or contains a NUL.

    Examples
    --------
    >>> file_path("output", "")
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentError: output is '': it must be the name of a file or folder
    """
    if not isinstance(value, (str, os.PathLike)) or isinstance(os.fspath(value), bytes):
        raise ArgumentTypeError(
            f"{name} is {shown(value)} of type {type(value).__name__}: it must be the name of a file or folder"
        )
    if not os.fspath(value):
        raise error(f"{name} is {shown(value)}: it must be the name of a file or folder")
    try:
        os.lstat(value)
    except ValueError as fault:
        raise error(f"{name} is {shown(value)}, which is not a path: {fault}; use another name") from fault
    except OSError as fault:
        if fault.errno == errno.ENAMETOOLONG:
            raise error(f"{name} is {shown(value)}, which is too long a path: use a shorter one") from fault
    return value
