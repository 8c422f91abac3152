"""Gray values rescaled, `pixel * scale + offset`, without losing the differences of pixels that are large beside them.

In float32 that product loses the differences of pixels around 1e6 that differ by 1, and float32 itself has no other numbers
around 2**31. So where an offset is large, a *center*, a pixel value near the one that becomes 0, is subtracted without error
first. What is rounded is then as small as the result::

    (pixel - center) * scale + (center * scale + offset)
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from patchloom._compiled_loop import compiled_loop

_LARGEST_PLAIN_OFFSET = 256.0
"""Up to this offset, plain float32 is within 3e-5 of the result."""

_FEW = 16
"""Up to this number, Python compares numbers faster than NumPy does."""

_PIECE = 2**16
"""Voxels worked on at once: they stay in the processor's cache."""

_BUFFER = 2048
"""Voxels worked on at once by the compiled loop."""


class Rescaling(NamedTuple):
    """Scale and offset for each patch and channel of a batch, or for each channel of all its patches.

    Examples
    --------
    >>> rescaling = Rescaling.of(scale=[[2.0], [1.0]], offset=[[0.5], [0.0]])
    >>> batch = np.array([[[3]], [[4]]], np.uint8)
    >>> out = np.empty(batch.shape, np.float32)
    >>> rescale(batch, out, rescaling)
    >>> out.ravel().tolist()
    [6.5, 4.0]
    """

    scale: NDArray[Any]
    """`(B, C)`, or `(1, C)` where all patches have the same."""

    offset: NDArray[Any]
    """Of the shape of `scale`."""

    offset_rest: NDArray[Any] | None = None
    """What is added to the offset, where float64 does not hold it exactly."""

    @classmethod
    def of(cls, scale: ArrayLike, offset: ArrayLike, offset_rest: ArrayLike | None = None) -> Self:
        """Create it from numbers for each channel, `(C,)`, or for each patch and channel, `(B, C)`."""
        given = (scale, offset) if offset_rest is None else (scale, offset, offset_rest)
        tables = [np.atleast_2d(np.asarray(numbers)) for numbers in given]
        if all((table == table[:1]).all() for table in tables):
            tables = [table[:1] for table in tables]
        return cls(*tables)

    def of_rows(self, rows: slice) -> Self:
        """Return the numbers of some patches."""
        if len(self.scale) == 1:
            return self
        rest = None if self.offset_rest is None else self.offset_rest[rows]
        return type(self)(self.scale[rows], self.offset[rows], rest)

    def astype(self, dtype: DTypeLike) -> Self:
        """Return the numbers in the dtype of a batch, without the rest, for `gather_boxes`."""
        return type(self)(self.scale.astype(dtype), self.offset.astype(dtype))

    def loses_differences(self, dtype: np.dtype[Any]) -> bool:
        """Return whether `pixel * scale + offset` is too coarse, for some patch, if it is computed in a dtype of floats.

        Float16 always is: it does not even hold the pixels.
        """
        return dtype.kind == "f" and (dtype.itemsize < 4 or (dtype.itemsize == 4 and cancels(self.offset)))


def cancels(offset: ArrayLike) -> bool:
    """Return whether an offset is so large that differences are lost in float32."""
    numbers = np.asarray(offset)
    if numbers.size > _FEW:
        return bool(np.abs(numbers).max() > _LARGEST_PLAIN_OFFSET)
    return any(abs(number) > _LARGEST_PLAIN_OFFSET for number in numbers.ravel().tolist())


def is_exact_in_float32(dtype: np.dtype[Any]) -> bool:
    """Return whether float32 holds every value of a dtype."""
    return np.can_cast(dtype, np.float32, "safe")


def rescale(pixels: NDArray[Any], out: NDArray[Any], rescaling: Rescaling) -> None:
    """Write `pixel * scale + offset`; where that would lose differences, as exactly as float64 gives it.

    Parameters
    ----------
    pixels : array
        `(B, C, ...)` of numbers.
    out : array of float or complex
        Of the same shape; it may be `pixels`, or in the same memory.
    rescaling : Rescaling
        Scale and offset.
    """
    if not rescaling.loses_differences(out.dtype):
        if out is not pixels:
            out[...] = pixels
        rescale_plainly(out, rescaling)
    elif len(rescaling.scale) == 1 and (compiled := _compiled_loop(pixels, out, rescaling)) is not None:
        pairs = zip(rescaling.scale[0].tolist(), rescaling.offset[0].tolist(), strict=True)
        table = np.array([_centered(pixels.dtype, *pair, 0.0) for pair in pairs], np.float64)
        compiled(pixels.reshape(*out.shape[:2], -1), out.reshape(*out.shape[:2], -1), table)
    elif len(rescaling.scale) == 1:
        rests = np.zeros_like(rescaling.offset) if rescaling.offset_rest is None else rescaling.offset_rest
        numbers = (each[0].tolist() for each in (rescaling.scale, rescaling.offset, rests))
        rescale_exactly(pixels.swapaxes(0, 1), out.swapaxes(0, 1), *numbers)
    else:
        # A patch must not depend on the others of its batch: each is rescaled plainly or exactly by its own numbers.
        for rows, own in _alike_rows(rescaling, max(1, _PIECE // max(1, out[0].size))):
            some = pixels[rows]
            rescaled = some if out is pixels else np.empty(some.shape, out.dtype)
            rescale(some, rescaled, own)
            out[rows] = rescaled


def _alike_rows(rescaling: Rescaling, most: int) -> Iterator[tuple[list[int], Rescaling]]:
    """Yield rows of equal numbers, at most so many at a time, and these numbers."""
    tables = [numbers for numbers in rescaling if numbers is not None]
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for row in range(len(rescaling.scale)):
        groups[b"".join(numbers[row].tobytes() for numbers in tables)].append(row)
    for rows in groups.values():
        own = rescaling.of_rows(slice(rows[0], rows[0] + 1))
        for start in range(0, len(rows), most):
            yield rows[start : start + most], own


def _compiled_loop(pixels: NDArray[Any], out: NDArray[Any], rescaling: Rescaling) -> Callable[..., None] | None:
    """Return the compiled loop for pixels whose difference to another pixel float64 holds, if there are many of them."""
    is_known = (
        pixels.dtype.kind in "buif"
        and pixels.dtype.itemsize <= 4
        and {pixels.dtype, out.dtype}.isdisjoint({np.float16})
    )
    is_plain = all(array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative for array in (pixels, out))
    if not is_known or not is_plain or rescaling.offset_rest is not None or out.size < _PIECE:
        return None
    return compiled_loop(rescale_voxels)


def rescale_voxels(pixels: Any, out: Any, table: Any) -> None:
    """Write `(pixel - center) * scale + offset` for these three numbers of each channel: the loop to be compiled.

    Results are in a buffer before they are written, as `out` may have the memory of `pixels`.
    """
    n_patches, n_channels, n_voxels = pixels.shape
    buffer = np.empty(_BUFFER, np.float64)
    for patch in range(n_patches):
        for channel in range(n_channels):
            center, scale, offset = table[channel, 0], table[channel, 1], table[channel, 2]
            for start in range(0, n_voxels, _BUFFER):
                read = pixels[patch, channel, start : start + _BUFFER]
                written = out[patch, channel, start : start + _BUFFER]
                for voxel in range(len(read)):
                    buffer[voxel] = (np.float64(read[voxel]) - center) * scale + offset
                for voxel in range(len(read)):
                    written[voxel] = buffer[voxel]


def rescale_plainly(batch: NDArray[Any], rescaling: Rescaling) -> None:
    """Multiply a batch `(B, C, ...)` and add to it, in place and in its own dtype."""
    column = (..., *(np.newaxis,) * (batch.ndim - 2))
    batch *= rescaling.scale.astype(batch.dtype, copy=False)[column]
    batch += rescaling.offset.astype(batch.dtype, copy=False)[column]


def rescale_exactly(
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
        Of the same shape; it may be `pixels`, or in the same memory.
    scale, offset : sequence of float
        One number for each channel.
    offset_rest : sequence of float, optional
        What is added to the offsets, where float64 does not hold them exactly.

    Examples
    --------
    >>> pixels, out = np.array([[[2**63, 2**63 + 1]]], np.uint64), np.empty((1, 1, 2), np.float32)
    >>> rescale_exactly(pixels, out, scale=[2.0], offset=[-(2.0**64)], offset_rest=[1.0])
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


@lru_cache(maxsize=256)
def _centered(dtype: np.dtype[Any], scale: float, offset: float, rest: float) -> tuple[float, float, float]:
    """Return a value of a dtype near the one that becomes 0, the scale, and the result for that value."""
    exact = Fraction(offset) + Fraction(rest)
    if not scale:
        return 0.0, scale, offset
    zero = -exact / Fraction(scale)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        center: float = min(max(round(zero), limits.min), limits.max)
    else:
        limit = Fraction(float(np.finfo(dtype).max)) if dtype.kind == "f" else Fraction(1)
        center = float(min(max(zero, -limit), limit))
    return center, scale, float(Fraction(center) * Fraction(scale) + exact)


def _pieces(shape: Sequence[int]) -> Iterator[tuple[int | slice, ...]]:
    """Yield the indices of groups of rows along the last two axes."""
    step = max(1, _PIECE // max(1, shape[-1]))
    for plane in np.ndindex(*shape[:-2]):
        for start in range(0, shape[-2], step):
            yield (*plane, slice(start, start + step))
