"""The value that fills what needs no model: whether an output can hold it."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError


def check_fill(fill: Any) -> float:
    """Check that a fill value is a number, NaN and infinities included.

    Raises
    ------
    ArgumentTypeError
        If it is not one.

    Examples
    --------
    >>> check_fill(np.uint8(3)), check_fill(0.5)
    (3, 0.5)
    """
    if isinstance(fill, (np.generic, np.ndarray)) and fill.ndim == 0:
        fill = fill.item()
    if not isinstance(fill, Real):
        raise GeometryError(f"fill is {shown(fill)}: it must be a real number")
    return fill  # type: ignore[return-value]  # an int stays one, as a float may not hold it


def check_fill_fits(fill: float, dtype: np.dtype[Any]) -> None:
    """Check that a dtype can hold a fill value.

    Raises
    ------
    GeometryError
        If it cannot: of integers the value must be whole and in their range, of truth values 0 or 1, and of floats it must
        not overflow.

    Examples
    --------
    >>> check_fill_fits(255, np.dtype("uint8"))
    >>> check_fill_fits(0.7, np.dtype("uint8"))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: fill is 0.7, and the output has dtype uint8: it must be a whole number from 0 to 255
    """
    finite = isinstance(fill, int) or math.isfinite(fill)
    if dtype.kind == "b":
        fits, allowed = fill in (0, 1), "it must be 0 or 1"
    elif dtype.kind in "iu":
        info = np.iinfo(dtype)
        fits = finite and fill == int(fill) and info.min <= fill <= info.max
        allowed = f"it must be a whole number from {info.min} to {info.max}"
    else:
        largest = float(np.finfo(dtype).max)
        fits = not finite or abs(fill) <= largest
        allowed = f"it must not be beyond {largest}"
    if not fits:
        raise GeometryError(f"fill is {shown(fill)}, and the output has dtype {dtype}: {allowed}")
