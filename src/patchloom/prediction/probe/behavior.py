"""How the predictions of a model differ where they should not: again, in a batch, in larger tiles, and at the borders of a tile.

A difference is the largest of all voxels, as a share of the range of the output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError
from patchloom.prediction.probe.size_search import SizeRule

Run = Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]]

_COMPARED = 8
"""Voxels of the input in the middle of a tile that are compared, along each axis."""

_SHIFTS = (1, 2, 4, 8, 16, 32, 64, 3, 6, 12, 24, 48, 5, 10, 20, 7, 14)
"""Strides that are tried."""

MOST_SHIFT = max(_SHIFTS)

_SHIFTED = 32
"""Voxels of the input in the middle of a tile that are compared with those of a shifted tile."""

_SAME = 1e-5
"""Differences up to this share of the range are those of rounding."""

_MOST_VOXELS = {2: 1024**2, 3: 160**3}
"""Voxels of the largest tile that is tried."""


@dataclass(frozen=True, slots=True)
class SizeDifference:
    """How far the middle of a tile differs from that of the largest tile.

    Parameters
    ----------
    size : tuple of int
        Size of the tile, `(z,) y, x` in voxels.
    difference : float
        The difference.
    """

    size: tuple[int, ...]
    difference: float


def difference(found: Mapping[str, NDArray[Any]], wanted: Mapping[str, NDArray[Any]]) -> float:
    """Return the largest difference of all outputs, as a share of the range of each.

    Parameters
    ----------
    found, wanted : mapping of str to array
        Outputs of the same shapes, by name.

    Examples
    --------
    >>> difference({"": np.array([0.0, 3.0])}, {"": np.array([0.0, 4.0])})
    0.25
    """
    largest = 0.0
    for name, reference in wanted.items():
        if name not in found or found[name].shape != reference.shape:
            return float("inf")
        one, other = _wide(found[name]), _wide(reference)
        finite = other[np.isfinite(other)]
        span = float(abs(finite.max() - finite.min()) or abs(finite).max()) if finite.size else 0.0
        off = np.nan_to_num(np.abs(one - other), nan=0.0)
        largest = max(largest, float(off.max()) / (span or 1.0))
    return largest


def _wide(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.abs(values) if values.dtype.kind == "c" else values, np.float64)


def batch_difference(
    run: Run, tile: NDArray[Any], other: NDArray[Any], alone: Mapping[str, NDArray[Any]]
) -> float | None:
    """Return how far the prediction of a tile differs if another tile is in its batch; None if the model refuses two tiles.

    Parameters
    ----------
    run : callable
        The model.
    tile, other : array
        `(1, C, (Z), Y, X)` each.
    alone : mapping of str to array
        The outputs for `tile` alone.
    """
    try:
        together = run(np.concatenate([tile, other]))
    except ModelError:
        return None
    return difference({name: output[:1] for name, output in together.items()}, alone)


def border_width(run: Run, tile: NDArray[Any], scales: Sequence[Fraction]) -> tuple[int, ...]:
    """Return the number of voxels at the borders of a tile of one gray value that differ from its middle, by padding inside the network.

    Parameters
    ----------
    run : callable
        The model.
    tile : array
        `(1, C, (Z), Y, X)`.
    scales : sequence of Fraction
        Voxels of the output for one voxel of the input, along each axis.

    Returns
    -------
    tuple of int
        Voxels of the input, `(z,) y, x`: the larger number of both ends.
    """
    (output, *_) = run(np.full_like(tile, tile.max())).values()
    values = np.nan_to_num(_wide(output[0]))
    n_dims = len(scales)
    middle = [side // 2 for side in values.shape[1:]]
    widths = []
    for axis in range(n_dims):
        line = values[(slice(None), *(slice(None) if other == axis else middle[other] for other in range(n_dims)))]
        center, span = line[:, middle[axis]], float(values.max() - values.min())
        # A network of stride s repeats every s voxels; what repeats in the middle does not belong to the border.
        period = min(32, max(1, middle[axis] // 2))
        inner = line[:, middle[axis] - period : middle[axis] + period + 1]
        low, high = inner.min(axis=1), inner.max(axis=1)
        slack = 1e-5 * span + 1e-12 * np.abs(center)
        off = ((line < (low - slack)[:, None]) | (line > (high + slack)[:, None])).any(axis=0)
        places = np.flatnonzero(off)
        before = max((int(at) + 1 for at in places if at < middle[axis]), default=0)
        after = max((line.shape[1] - int(at) for at in places if at >= middle[axis]), default=0)
        widths.append(int(-(-max(before, after) // scales[axis])))
    return tuple(widths)


def tile_sizes(rules: Sequence[SizeRule], start: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield sizes of tiles from a size on, each about twice as large as the one before.

    Parameters
    ----------
    rules : sequence of SizeRule
        The sizes that the model accepts, along each axis.
    start : sequence of int
        The first size.

    Examples
    --------
    >>> list(tile_sizes([SizeRule(16, 16)] * 2, (128, 128)))
    [(128, 128), (256, 256), (512, 512), (1024, 1024)]
    """
    size = tuple(start)
    while np.prod(size) <= _MOST_VOXELS[len(size)]:
        yield size
        larger = tuple(rule.at_least(2 * side) for rule, side in zip(rules, size, strict=True))
        if larger == size:
            return
        size = larger


def size_differences(
    predictions: Mapping[tuple[int, ...], Mapping[str, NDArray[Any]]],
    run: Run,
    image: NDArray[Any],
    rules: Sequence[SizeRule],
    scales: Sequence[Fraction],
    *,
    stride: Sequence[int],
) -> tuple[SizeDifference, ...]:
    """Return how far the middle of smaller tiles differs from that of the largest one.

    Parameters
    ----------
    predictions : mapping of tuple of int to outputs
        Outputs for the first voxels of `image`, by the size of the tile.
    run : callable
        The model.
    image : array
        `(1, C, (Z), Y, X)`, as large as the largest tile.
    rules : sequence of SizeRule
        The sizes that the model accepts, along each axis.
    scales : sequence of Fraction
        Voxels of the output for one voxel of the input.
    stride : sequence of int
        Tiles start on multiples of this.
    """
    largest = max(predictions, key=np.prod)
    (name, whole), *_ = predictions[largest].items()
    steps = [
        lcm(rule.modulus, step, scale.denominator) for rule, step, scale in zip(rules, stride, scales, strict=True)
    ]
    found = []
    for size in sorted(predictions, key=np.prod):
        if size == largest:
            break
        starts = [(full - side) // 2 // step * step for full, side, step in zip(largest, size, steps, strict=True)]
        window = tuple(slice(first, first + side) for first, side in zip(starts, size, strict=True))
        try:
            tile = run(image[(slice(None), slice(None), *window)])[name]
        except ModelError:
            break
        middle, of_whole = [], []
        for axis, (first, scale) in enumerate(zip(starts, scales, strict=True)):
            half = max(1, int(_COMPARED * scale) // 2)
            center, shift = tile.shape[2 + axis] // 2, int(first * scale)
            middle.append(slice(max(0, center - half), center + half))
            of_whole.append(slice(max(0, center - half) + shift, center + half + shift))
        inner = (slice(None), slice(None))
        off = np.abs(_wide(tile[(*inner, *middle)]) - _wide(whole[(*inner, *of_whole)]))
        span = float(np.ptp(_wide(whole))) or 1.0
        found.append(SizeDifference(size, float(np.nan_to_num(off).max()) / span))
    return tuple(found)


def find_stride(
    run: Run, image: NDArray[Any], alone: Mapping[str, NDArray[Any]], axis: int, scales: Sequence[Fraction]
) -> int | None:
    """Return the smallest shift of a tile along an axis by which its prediction is only shifted, too; None if no shift does that.

    Parameters
    ----------
    run : callable
        The model.
    image : array
        `(1, C, (Z), Y, X)`, a tile and `MOST_SHIFT` more voxels along the axis.
    alone : mapping of str to array
        The outputs for the tile without these voxels.
    axis : int
        The axis, from 0.
    scales : sequence of Fraction
        Voxels of the first output for one voxel of the input, along each axis.
    """
    size = image.shape[2 + axis] - MOST_SHIFT
    (name, output), *_ = alone.items()
    scale, span = scales[axis], float(np.ptp(_wide(output))) or 1.0
    middle = output.shape[2 + axis] // 2
    for shift in _SHIFTS:
        if (shift * scale).denominator != 1:
            continue
        window = tuple(slice(shift, shift + size) if other == axis else slice(None) for other in range(image.ndim - 2))
        shifted = run(image[(slice(None), slice(None), *window)])[name]
        half, moved = max(1, min(int(_SHIFTED * scale) // 2, output.shape[2 + axis] // 4)), int(shift * scale)
        cut = [_central(shifted, other, half, 0) for other in range(image.ndim - 2)]
        of_tile = [_central(output, other, half, moved if other == axis else 0) for other in range(image.ndim - 2)]
        if of_tile[axis].stop > output.shape[2 + axis] or middle + moved >= output.shape[2 + axis]:
            continue
        inner = (slice(None), slice(None))
        off = np.abs(_wide(shifted[(*inner, *cut)]) - _wide(output[(*inner, *of_tile)]))
        if float(np.nan_to_num(off).max()) <= _SAME * span:
            return shift
    return None


def _central(output: NDArray[Any], axis: int, half: int, moved: int) -> slice:
    """Return the middle of an output along an axis, moved by a number of voxels."""
    middle = output.shape[2 + axis] // 2
    return slice(max(0, middle - half) + moved, middle + half + moved)
