"""Which voxels of the image each element of a tensor depends on, along one axis of the image: an interval for each element.

An element depends on the voxels `lo` to `hi`. Most operators take the elements of their input at some indices, *taps*, and the
interval of the result is the smallest one that contains those of all taps::

    convolution, kernel 3, stride 2        out 1  ←  in 1, 2, 3
    the same, transposed                   out 3  ←  in 1, 2
    padding by the mirror image            out 0  ←  in 1

Intervals of tensors whose elements differ along one axis only have size 1 along all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]

_NOTHING = 2**30
"""`lo` of an element that does not depend on the image; its `hi` is -1."""

LARGEST = 2**24
"""Largest number of intervals of a tensor."""


class UndecidedError(Exception):
    """The intervals are not known; the text is a reason, as in `Undecided`."""


class UnknownOperatorError(UndecidedError):
    """An operator is not known, whatever the size of the image."""


class TooLargeError(UndecidedError):
    """A tensor has more intervals than `LARGEST`."""


@dataclass(frozen=True, slots=True)
class Spans:
    """The first and the last voxel on which each element of a tensor depends.

    Parameters
    ----------
    lo, hi : array of int32
        One for each element; of size 1 along axes along which they do not differ.
    """

    lo: NDArray[np.int32]
    hi: NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the arrays."""
        return self.lo.shape

    def varies(self, axis: int) -> bool:
        """Return whether elements differ along an axis."""
        return bool(self.lo.shape[axis] > 1)

    @property
    def is_empty(self) -> bool:
        """Whether no element depends on the image."""
        return bool((self.hi < 0).all())

    @property
    def narrowest(self) -> int:
        """Number of voxels between the first and the last one, in the smallest interval that is not empty; 0 if all are."""
        filled = self.hi >= 0
        return int((self.hi - self.lo)[filled].min()) + 1 if filled.any() else 0


def independent(n_axes: int) -> Spans:
    """Return the intervals of a tensor that does not depend on the image."""
    return Spans(np.full((1,) * n_axes, _NOTHING, np.int32), np.full((1,) * n_axes, -1, np.int32))


def image_spans(n_axes: int, axis: int, size: int) -> Spans:
    """Return the intervals of the image itself: each voxel depends on itself."""
    place = np.arange(size, dtype=np.int32).reshape([size if other == axis else 1 for other in range(n_axes)])
    return Spans(place, place)


def joined(several: Iterable[Spans]) -> Spans:
    """Return the union of intervals, whose axes are broadcast as those of NumPy."""
    lo, hi = zip(*((spans.lo, spans.hi) for spans in several), strict=True)
    _check_size(np.broadcast_shapes(*(part.shape for part in lo)))
    smallest, largest = lo[0], hi[0]
    for low, high in zip(lo[1:], hi[1:], strict=True):
        smallest, largest = np.minimum(smallest, low), np.maximum(largest, high)
    return Spans(smallest, largest)


def taken(spans: Spans, axis: int, taps: Indices) -> Spans:
    """Return the intervals of elements that are computed from others along an axis.

    Parameters
    ----------
    spans : Spans
        The intervals.
    axis : int
        The axis.
    taps : array of int64
        `(n_taps, n)`: indices along the axis on which each of `n` elements depends; indices outside the tensor are padding.

    Examples
    --------
    >>> taken(image_spans(1, 0, size=4), 0, np.array([[-1, 0], [0, 1], [1, 2]])).hi.tolist()
    [1, 2]
    """
    if not spans.varies(axis):
        return spans
    size = spans.shape[axis]
    padded = [(0, 1) if other == axis else (0, 0) for other in range(spans.lo.ndim)]
    lo = np.pad(spans.lo, padded, constant_values=_NOTHING)
    hi = np.pad(spans.hi, padded, constant_values=-1)
    rows = np.where((taps < 0) | (taps >= size), size, taps)
    found = [Spans(lo.take(row, axis), hi.take(row, axis)) for row in rows]
    return joined(found) if found else spans


def reduced(spans: Spans, axes: Iterable[int]) -> Spans:
    """Return the union of all intervals along some axes, which keep size 1."""
    along = tuple(axes)
    return Spans(spans.lo.min(axis=along, keepdims=True), spans.hi.max(axis=along, keepdims=True))


def moved(spans: Spans, shape: Sequence[int]) -> Spans:
    """Return the intervals as arrays of another shape, with the same number of elements."""
    return Spans(spans.lo.reshape(shape), spans.hi.reshape(shape))


def expanded(spans: Spans, shape: Sequence[int]) -> Spans:
    """Return the intervals as arrays of a larger shape.

    Raises
    ------
    TooLargeError
        If it is too large.
    """
    _check_size(shape)
    return Spans(np.broadcast_to(spans.lo, shape), np.broadcast_to(spans.hi, shape))


def compact(spans: Spans) -> Spans:
    """Return the intervals with size 1 along axes along which they do not differ."""
    for axis, size in enumerate(spans.shape):
        if size > 1:
            first = Spans(spans.lo.take([0], axis), spans.hi.take([0], axis))
            if (spans.lo == first.lo).all() and (spans.hi == first.hi).all():
                spans = first
    return spans


def reshaped(spans: Spans, before: Sequence[int], after: Sequence[int]) -> Spans:
    """Return the intervals of a tensor that gets another shape.

    Both shapes are divided into the same finer axes where that is possible, so that intervals are repeated along as few as
    possible::

        (8, 6, 10)  →  (8, 60)  →  (2, 4, 6, 10)        finer: 2 × 4, 6, 10

    Parameters
    ----------
    spans : Spans
        The intervals.
    before, after : sequence of int
        Shape of the tensor before and after.

    Examples
    --------
    >>> spans = image_spans(2, 0, size=3)
    >>> reshaped(spans, (3, 2), (6,)).lo.tolist(), reshaped(spans, (3, 2), (3, 1, 2)).shape
    ([0, 0, 1, 1, 2, 2], (3, 1, 1))
    """
    groups = [
        (before[start:stop], after[first:last], any(spans.varies(axis) for axis in range(start, stop)))
        for (start, stop), (first, last) in _common_groups(before, after)
    ]
    wide = expanded(spans, [size for old, _, varies in groups for size in (old if varies else (1,) * len(old))])
    parts = [_finer(old, new) if varies else (1,) * len(new) for old, new, varies in groups]
    finer = compact(moved(wide, [size for part in parts for size in part]))
    shape_now: list[int] = []
    shape_after: list[int] = []
    for part, (_, new, varies) in zip(parts, groups, strict=True):
        for axes in _assigned(part, new) if varies else [(1,)] * len(new):
            place = range(len(shape_now), len(shape_now) + len(axes))
            kept = axes if any(finer.varies(axis) for axis in place) else (1,) * len(axes)
            shape_now.extend(kept)
            shape_after.append(prod(kept))
    return compact(moved(expanded(finer, shape_now), shape_after))


def _finer(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    """Return axes into which both shapes can be divided, without those of size 1; those of the new shape if there are none."""
    bounds = sorted({prod(shape[:stop]) for shape in (old, new) for stop in range(1, len(shape) + 1)} - {1})
    steps = list(zip([1, *bounds], bounds, strict=False))
    if any(larger % smaller for smaller, larger in steps):
        return tuple(size for size in new if size > 1)
    return tuple(larger // smaller for smaller, larger in steps)


def _assigned(finer: Sequence[int], new: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the finer axes that make each new one."""
    left = list(finer)
    runs = []
    for size in new:
        run: list[int] = []
        while prod(run) < size:
            run.append(left.pop(0))
        runs.append(tuple(run))
    return runs


def _common_groups(before: Sequence[int], after: Sequence[int]) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Divide both shapes into runs of axes with the same number of elements: (start, stop) of each, as short as possible."""
    groups = []
    start, first = 0, 0
    while start < len(before) or first < len(after):
        stop, last = min(start + 1, len(before)), min(first + 1, len(after))
        while (one := prod(before[start:stop])) != (other := prod(after[first:last])):
            if one < other:
                stop += 1
            else:
                last += 1
            if stop > len(before) or last > len(after):
                raise UndecidedError("a shape does not fit")
        groups.append(((start, stop), (first, last)))
        start, first = stop, last
    return groups


def _check_size(shape: Sequence[int]) -> None:
    if prod(shape) > LARGEST:
        raise TooLargeError("its tensors mix the axes of the image in too many ways")
