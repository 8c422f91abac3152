"""Linear interpolation along the axes of a tile, whose weights depend on the place in the image only, not on the tile.

Samples lie in the middle of their cells: the center of sample `i` of a grid of step `p / q` is at `(i + 1/2) p / q`. Its weights are
those of a triangle of half-width 1, which interpolates between the two nearest samples. If the step is larger than 1, so that there
are fewer samples than before, the triangle has the step as half-width, which averages all that lies between (anti-aliasing)::

    step 1/2   samples before   |   o   |   o   |   o   |       step 2   |   o   |   o   |   o   |   o   |
               samples after    | x | x | x | x | x | x |                |       x       |       x       |

The weights repeat after `q` samples, that is after `p` samples of the grid before. Tiles that start on multiples of `p` therefore get
the same weights, in the same order of additions, so that their samples are equal to the bit. At the ends of a tile the weights that
lie outside are left out, and the others are divided by their sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from math import ceil, floor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Grid(NamedTuple):
    """Samples along one axis, by their positions among the samples before."""

    start: int
    stop: int
    """The samples from `start` to `stop`."""

    step: Fraction
    """Distance of two samples, in samples before."""

    offset: Fraction = Fraction(0)
    """Where the array before starts, in samples before."""


def half_width(step: Fraction) -> Fraction:
    """Return the half-width of the triangle for a step, in samples before: no sample farther away has a weight."""
    return max(Fraction(1), step)


def resample(pixels: NDArray[Any], grids: Sequence[Grid]) -> NDArray[Any]:
    """Interpolate along the last axes.

    Parameters
    ----------
    pixels : array
        `(..., (Z), Y, X)` of any numbers.
    grids : sequence of Grid
        The samples along each of the last axes.

    Returns
    -------
    array
        Of the same dtype. Integers are rounded, halves to even; of truth values, the nearest sample is taken.

    Examples
    --------
    >>> halves, doubled = Grid(0, 2, Fraction(2)), Grid(0, 4, Fraction(1, 2))
    >>> resample(np.array([[0.0, 8, 16, 24]]), [halves]).tolist(), resample(np.array([[0, 8]]), [doubled]).tolist()
    ([[5.714285714285714, 18.285714285714285]], [[0, 2, 6, 8]])
    """
    if pixels.dtype.kind == "b":
        return nearest(pixels, grids)
    values = pixels.astype(_working_dtype(pixels.dtype), copy=False)
    for axis, grid in zip(range(pixels.ndim - len(grids), pixels.ndim), grids, strict=True):
        values = _resample_axis(values, axis, grid)
    if pixels.dtype.kind in "iu":
        np.rint(values, out=values)
    return values.astype(pixels.dtype, copy=False)


def nearest(pixels: NDArray[Any], grids: Sequence[Grid]) -> NDArray[Any]:
    """Take the nearest sample along the last axes, of two that are equally near the later one.

    Parameters
    ----------
    pixels, grids
        As for `resample`.

    Examples
    --------
    >>> nearest(np.array([5, 3, 9]), [Grid(0, 6, Fraction(1, 2))]).tolist()
    [5, 5, 3, 3, 9, 9]
    """
    for axis, (start, stop, step, offset) in zip(range(pixels.ndim - len(grids), pixels.ndim), grids, strict=True):
        indices = np.array([floor((2 * number + 1) * step / 2 - offset) for number in range(start, stop)], np.intp)
        pixels = pixels.take(np.clip(indices, 0, pixels.shape[axis] - 1), axis)
    return pixels


def _working_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which weighted pixels are added: float32 holds integers of 16 bits exactly."""
    return np.result_type(dtype, np.float32)


def _resample_axis(values: NDArray[Any], axis: int, grid: Grid) -> NDArray[Any]:
    n_before, n_after = values.shape[axis], grid.stop - grid.start
    if grid.step == 1 and not grid.offset and (grid.start, grid.stop) == (0, n_before):
        return values
    first, weights = _weights(grid.step, (grid.start * grid.step - grid.offset) % 1)
    period, skipped = grid.step.denominator, grid.step.numerator
    base = floor(grid.start * grid.step - grid.offset)
    lead = max(0, -(base + min(first)))
    n_periods = -(-n_after // period)
    reach = base + max(first) + weights.shape[1] + (n_periods - 1) * skipped + 1
    shape = list(values.shape)
    shape[axis] = lead + max(reach, n_before)
    padded = np.zeros(shape, values.dtype)
    padded[_along(axis, slice(lead, lead + n_before))] = values
    shape[axis] = n_periods * period
    after = np.empty(shape, values.dtype)
    shape[axis] = n_periods
    product = np.empty(shape, values.dtype)
    for phase, (start, of_phase) in enumerate(zip(first, weights, strict=True)):
        total = after[_along(axis, slice(phase, None, period))]
        taps = [(tap, values.dtype.type(weight)) for tap, weight in enumerate(of_phase.tolist()) if weight]
        for number, (tap, weight) in enumerate(taps):
            place = lead + base + start + tap
            pixels = padded[_along(axis, slice(place, place + (n_periods - 1) * skipped + 1, skipped))]
            if number:
                total += np.multiply(pixels, weight, out=product)
            else:
                np.multiply(pixels, weight, out=total)
    after = after[_along(axis, slice(0, n_after))]
    inside = _inside(first, weights, base, (skipped, n_after, n_before))
    for sample in np.flatnonzero(inside < 1).tolist():
        after[_along(axis, slice(sample, sample + 1))] /= after.dtype.type(inside[sample])
    return after


def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


@lru_cache(maxsize=256)
def _weights(step: Fraction, shift: Fraction) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return for each sample of a period the first sample before that it depends on, and the weights of this one and the next ones.

    Parameters
    ----------
    step : Fraction
        Distance of two samples, in samples before.
    shift : Fraction
        Start of the first cell, in samples before.
    """
    width = half_width(step)
    centers = [shift + (phase + Fraction(1, 2)) * step - Fraction(1, 2) for phase in range(step.denominator)]
    first = tuple(floor(center - width) + 1 for center in centers)
    n_taps = max(ceil(center + width) - start for center, start in zip(centers, first, strict=True))
    rows = []
    for center, start in zip(centers, first, strict=True):
        exact = [max(Fraction(0), 1 - abs(start + tap - center) / width) for tap in range(n_taps)]
        rows.append([float(weight / sum(exact)) for weight in exact])
    weights = np.array(rows)
    weights.flags.writeable = False
    return first, weights


def _inside(
    first: Sequence[int], weights: NDArray[np.float64], base: int, sizes: tuple[int, int, int]
) -> NDArray[np.float64]:
    """Return the sum of the weights that lie inside the array, for each sample; 1 if all do."""
    skipped, n_after, n_before = sizes
    period, n_taps = weights.shape
    numbers = np.arange(n_after)
    starts = base + np.array(first)[numbers % period] + numbers // period * skipped
    taps = starts[:, np.newaxis] + np.arange(n_taps)
    of_samples = weights[numbers % period]
    outside = (of_samples > 0) & ((taps < 0) | (taps >= n_before))
    return np.where(outside.any(axis=1), np.where(outside, 0, of_samples).sum(axis=1), 1.0)
