"""How overlapping tiles share a voxel: weights along one axis that sum to one everywhere.

A blending window is separable and a tiling is a product of axes, so the weight of a tile at a voxel is the product of one
number an axis. Dividing, on each axis, a tile's window by the sum of the windows that lie over it therefore normalises the
whole: the products sum to one at every voxel. Nobody needs an image of weights, or a division by one::

    Σ_tiles Π_axes w(x - s) / Σ_s' w(x - s')  =  Π_axes ( Σ_s w(x - s) / Σ_s' w(x - s') )  =  1

This holds while every tile of the plan is there; where tiles are skipped, weights have to be summed up instead.
"""

from __future__ import annotations

from functools import lru_cache, reduce
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import GeometryError
from patchloom.geometry.tile_rule import TileRule

BlendWindow = Literal["hann", "gaussian", "linear", "mean"]

_GAUSSIAN_SIGMA = 1 / 8
"""Standard deviation of the Gaussian, as a part of the tile."""


def check_blend(window: str) -> BlendWindow:
    """Return a legal blending window.

    Raises
    ------
    GeometryError
        If it is none of `"hann"`, `"gaussian"`, `"linear"`, `"mean"`.
    """
    for known in get_args(BlendWindow):
        if window == known:
            return known  # type: ignore[no-any-return]  # get_args is untyped
    raise GeometryError(f"blend is {window!r}: it must be one of {', '.join(map(repr, get_args(BlendWindow)))}")


def window_profile(window: BlendWindow, size: int) -> NDArray[np.float64]:
    """Weigh the voxels of a tile along one axis, before they are normalised; symmetric, and positive everywhere.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        A raised cosine, a Gaussian with a standard deviation of an eighth of the tile, a triangle, or all alike.
    size : int
        Size of the tile.

    Examples
    --------
    >>> window_profile("linear", 4).tolist(), window_profile("mean", 3).tolist()
    ([0.25, 0.75, 0.75, 0.25], [1.0, 1.0, 1.0])
    """
    # Voxel centres lie at halves, so that no weight is zero and a voxel with one tile keeps that tile's value.
    place = (np.arange(size) + 0.5) / size
    if window == "hann":
        return np.sin(np.pi * place) ** 2
    if window == "gaussian":
        return np.exp(-0.5 * ((place - 0.5) / _GAUSSIAN_SIGMA) ** 2)
    if window == "linear":
        return 1 - np.abs(2 * place - 1)
    return np.ones(size)


@lru_cache(maxsize=4096)
def neighbour_shifts(rule: TileRule, size: int, start: int) -> tuple[int, ...]:
    """Find where the tiles that overlap a tile along one axis start, relative to it; it is among them itself, as 0.

    Parameters
    ----------
    rule : TileRule
        How tiles cover the axis.
    size : int
        Size of the axis.
    start : int
        Where the tile starts.

    Examples
    --------
    >>> neighbour_shifts(TileRule(patch_size=8, overlap=3), size=20, start=10)
    (-5, 0, 2)
    """
    count = rule.count(size)
    # Tiles that were moved inside the image crowd at its end; anywhere else starts are a core apart.
    last_start = rule.window(count - 1, size, count).start
    stop = count if start + rule.patch_size > last_start else (start + rule.patch_size + rule.margin) // rule.core + 1
    first = max(0, (start - rule.patch_size) // rule.core)
    starts = (rule.window(other, size, count).start for other in range(first, min(stop, count)))
    return tuple(other - start for other in starts if abs(other - start) < rule.patch_size)


def most_tiles_at_a_voxel(rule: TileRule, size: int) -> int:
    """Count the tiles that lie over one voxel along an axis, where they are most.

    Examples
    --------
    >>> most_tiles_at_a_voxel(TileRule(patch_size=8, overlap=4), size=16)
    2
    >>> most_tiles_at_a_voxel(TileRule(patch_size=8, overlap=4), size=17)  # the last tile was moved inside
    3
    """
    count = rule.count(size)
    last = rule.window(count - 1, size, count).start
    at_the_end = neighbour_shifts(rule, size, last)
    crowd = max(sum(here - rule.patch_size < other <= here for other in at_the_end) for here in at_the_end)
    return max(crowd, min(count, -(-rule.patch_size // rule.core)))


@lru_cache(maxsize=1024)
def shared_weights(window: BlendWindow, size: int, shifts: tuple[int, ...]) -> NDArray[np.float64]:
    """Weigh the voxels of a tile along one axis so that the weights of all tiles over a voxel of the image sum to one.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    size : int
        Size of the tile.
    shifts : tuple of int
        What `neighbour_shifts` found. It is the same for nearly all tiles of a plan, and so is the array returned.

    Returns
    -------
    array of float64
        One weight for each voxel of the tile; read-only. What a weight past the image's end says means nothing.

    Examples
    --------
    >>> shared_weights("linear", 4, (0, 2)).tolist()
    [1.0, 1.0, 0.75, 0.25]
    """
    profile = window_profile(window, size)
    total = np.zeros(size)
    for shift in shifts:
        overlap = slice(max(shift, 0), size + min(shift, 0))
        total[overlap] += profile[max(-shift, 0) : size - max(shift, 0)]
    weights: NDArray[np.float64] = profile / total
    weights.flags.writeable = False
    return weights


class TileWeights(NamedTuple):
    """How much the voxels of a tile weigh: the product of one number an axis, so that all tiles over a voxel sum to one.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    sizes : tuple of int
        Size of the tile, `(z,) y, x`.
    shifts : tuple of tuple of int
        What `neighbour_shifts` found along each axis.

    Examples
    --------
    >>> weights = TileWeights("linear", (1, 4), ((0,), (0, 2)))
    >>> [axis.tolist() for axis in weights.along_axes()]
    [[1.0], [1.0, 1.0, 0.75, 0.25]]
    >>> weights.of_voxels(np.dtype("float32")).tolist()
    [[1.0, 1.0, 0.75, 0.25]]
    """

    window: BlendWindow
    sizes: tuple[int, ...]
    shifts: tuple[tuple[int, ...], ...]

    def along_axes(self) -> list[NDArray[np.float64]]:
        """Give the numbers of each axis, `(z,) y, x`; read-only."""
        axes = zip(self.sizes, self.shifts, strict=True)
        return [shared_weights(self.window, size, of_axis) for size, of_axis in axes]

    def of_voxels(self, dtype: np.dtype[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Give an array of the tile's size and this dtype, multiplied out and rounded once; read-only."""
        return _multiplied_out(self, dtype)


@lru_cache(maxsize=4)  # a run meets few kinds of tiles at a time
def _multiplied_out(weights: TileWeights, dtype: np.dtype[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    *outer, last = weights.along_axes()
    product = np.empty(weights.sizes, dtype)
    # Multiplied in float64 and rounded once, without a second array of the tile's size.
    np.multiply(reduce(np.multiply.outer, outer)[..., None], last, out=product, casting="same_kind")
    product.flags.writeable = False
    return product
