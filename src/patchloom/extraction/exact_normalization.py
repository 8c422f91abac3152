"""Normalization of gray values that are large beside their differences: subtracted first, and narrowed last.

`pixel * scale + offset` in float32 loses the differences of pixels around 1e6 that differ by 1, and float32 itself has no
other numbers around 2**31. Here a *center*, a pixel value near the one that becomes 0, is subtracted without error, so that
what is rounded is as small as the result::

    (pixel - center) * scale + (center * scale + offset)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

_LARGEST_PLAIN_OFFSET = 256.0
"""Up to this offset, plain float32 is within 3e-5 of the result."""

_PIECE = 2**16
"""Voxels worked on at once: they stay in the processor's cache."""


def cancels(offset: ArrayLike) -> bool:
    """Return whether an offset is so large that differences are lost in float32."""
    return any(abs(number) > _LARGEST_PLAIN_OFFSET for number in np.ravel(offset).tolist())


def is_exact_in_float32(dtype: np.dtype[Any]) -> bool:
    """Return whether float32 holds every value of a dtype."""
    return np.can_cast(dtype, np.float32, "safe")


def normalize_exactly(
    pixels: NDArray[Any],
    out: NDArray[Any],
    scale: Sequence[float],
    offset: Sequence[float],
    offset_rest: Sequence[float] | None = None,
) -> None:
    """Write `pixel * scale + offset`, rounded once or twice in float64, whatever the size of pixels and offset.

    Parameters
    ----------
    pixels : array
        `C...YX` real numbers of up to 64 bits, with any axes between the channels and YX.
    out : array of float
        Of the same shape; it may be `pixels`.
    scale, offset : sequence of float
        One number for each channel.
    offset_rest : sequence of float, optional
        What is added to the offsets, where float64 does not hold them exactly.

    Examples
    --------
    >>> pixels, out = np.array([[[2**63, 2**63 + 1]]], np.uint64), np.empty((1, 1, 2), np.float32)
    >>> normalize_exactly(pixels, out, scale=[2.0], offset=[-(2.0**64)], offset_rest=[1.0])
    >>> out.tolist()
    [[[1.0, 3.0]]]
    """
    rests = [0.0] * len(scale) if offset_rest is None else offset_rest
    for channel, target, numbers in zip(pixels, out, zip(scale, offset, rests, strict=True), strict=True):
        center, factor, at_center = _centered(pixels.dtype, *numbers)
        for rows in _pieces(channel.shape):
            values = difference(channel[rows], center)
            values *= factor
            values += at_center
            target[rows] = values


def difference(values: NDArray[Any], center: float) -> NDArray[np.float64]:
    """Subtract a number without error beyond the rounding of the difference to float64.

    Parameters
    ----------
    values : array
        Real numbers of up to 64 bits.
    center : int or float
        A value of their dtype.

    Examples
    --------
    >>> difference(np.array([2**63 - 1, -(2**63)]), 2**63 - 3).tolist()
    [2.0, -1.8446744073709552e+19]
    """
    wide = values.astype(np.float64)
    wide -= float(center)
    if values.dtype.kind not in "iu" or values.dtype.itemsize < 8:
        return wide
    # Integers are subtracted as such, which is right where the difference has 63 bits.
    steps = (values.view(np.uint64) - np.uint64(int(center) % 2**64)).view(np.int64)
    return np.where(np.abs(wide) < 2.0**62, steps, wide)


def _centered(dtype: np.dtype[Any], scale: float, offset: float, rest: float) -> tuple[float, float, float]:
    """Choose a value of a dtype near the one that becomes 0; return it, the scale, and what it becomes."""
    exact = Fraction(offset) + Fraction(rest)
    zero = -exact / Fraction(scale)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        center: float = min(max(round(zero), limits.min), limits.max)
    else:
        limit = Fraction(float(np.finfo(dtype).max)) if dtype.kind == "f" else Fraction(1)
        center = float(min(max(zero, -limit), limit))
    return center, scale, float(Fraction(center) * Fraction(scale) + exact)


def _pieces(shape: Sequence[int]) -> Iterator[tuple[int | slice, ...]]:
    """Divide an array into groups of rows of its last two axes."""
    step = max(1, _PIECE // max(1, shape[-1]))
    for plane in np.ndindex(*shape[:-2]):
        for start in range(0, shape[-2], step):
            yield (*plane, slice(start, start + step))
