"""How overlapping tiles share a voxel: weights along one axis that sum to one everywhere.

A blending window is separable and a tiling is a product of axes, so the weight of a tile at a voxel is the product of one
number an axis. Dividing, on each axis, a tile's window by the sum of the windows that lie over it therefore normalizes the
whole: the products sum to one at every voxel. Neither an image of weights nor a division by it is needed::

    Σ_tiles Π_axes w(x - s) / Σ_s' w(x - s')  =  Π_axes ( Σ_s w(x - s) / Σ_s' w(x - s') )  =  1

This holds while every tile of the plan is there; a tile that is skipped counts as one of a single value.

A window weighs a voxel by its *context*: its distance to the nearer end of the tile. Two rules make this true at every
image size, not only where tiles lie a step apart::

    tile 0   [-----------------]                      the context at the ends of a tile is 0, 1, 2, …
    tile 1              [-----------------]
    tile 2                  ······[---------------]   moved inside the image: its weight is 0 where it is dotted
    image    |                                    |

- The end of a tile at the border of the image is ignored: no tile has more context there.
- If tiles have a halo (`TileRule.halo`), weights begin and end that far inside the tile, and the window is that of the smaller tile.
  The halo is used at the border of the image only, as nothing else is there.
- The last tile is moved inside the image, and may nearly coincide with the tile before it. Its weights start where the tile
  before that one ends, or where it would start if it were not moved, whichever comes first. So no more tiles meet at a voxel
  than elsewhere. With `seams="grid"` the first tile is moved as well, and its weights end in the same way.

Claim: the weight W(½) / Σ W of a tile's outermost voxel inside the image is, at every image size, at most that in an endless
row of tiles or, where fewer tiles meet, of two tiles a step apart: W(½) / (W(½) + W(min(O - ½, P / 2))), with W(c) the window
at context c, P the patch size and O the overlap. It is met exactly by `"hann"` and `"linear"`, and within 0.2 % by
`"gaussian"`, where more than half of a tile is overlap. `"mean"` weighs all tiles over a voxel alike by definition, their
outermost voxels too: it is for models without border effects.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache, reduce
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of
from patchloom.geometry.tile_rule import TileRule

BlendWindow = Literal["hann", "gaussian", "linear", "mean"]

_GAUSSIAN_SIGMA = 1 / 8
"""Standard deviation of the Gaussian, as a part of the tile."""


def check_blend(window: str) -> BlendWindow:
    """Return a legal blending window.

    Raises
    ------
    GeometryError
        If the window is not one of `"hann"`, `"gaussian"`, `"linear"`, `"mean"`.
    """
    known: BlendWindow = one_of("blend", window, get_args(BlendWindow))
    return known


Extent = tuple[int, int]
"""Voxels of an axis where a tile has weight: the first, and one past the last. An end at the image's border lies a tile beyond."""


def window_profile(window: BlendWindow, size: int, extent: Extent | None = None, halo: int = 0) -> NDArray[np.float64]:
    """Compute the weights of a tile's voxels along one axis, before they are normalized.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        A raised cosine, a Gaussian with a standard deviation of an eighth of the tile, a triangle, or all alike.
    size : int
        Size of the tile.
    extent : (int, int), optional
        Where a tile of this size has weight, in voxels from the start of the tile; if None, the whole tile. The profile is
        0 outside the extent and positive inside.
    halo : int
        Voxels at both ends of the tile that are not used; the window is as wide as the rest.

    Examples
    --------
    >>> window_profile("linear", 4).tolist(), window_profile("mean", 3).tolist()
    ([0.25, 0.75, 0.75, 0.25], [1.0, 1.0, 1.0])
    >>> window_profile("linear", 4, extent=(-4, 4)).tolist()  # a tile at the start of the image
    [1.0, 1.0, 0.75, 0.25]
    """
    begin, end = (0, size) if extent is None else extent
    voxel = np.arange(size)
    # Voxel centers lie at halves, so that no weight is zero and a voxel with one tile keeps that tile's value.
    context = np.minimum(voxel - begin, end - 1 - voxel) + 0.5
    width = size - 2 * halo
    place = np.minimum(context, width / 2) / width
    if window == "hann":
        profile = np.sin(np.pi * place) ** 2
    elif window == "gaussian":
        profile = np.exp(-0.5 * ((place - 0.5) / _GAUSSIAN_SIGMA) ** 2)
    elif window == "linear":
        profile = 2 * place
    else:
        profile = np.ones(size)
    return np.where(context > 0, profile, 0)


@lru_cache(maxsize=4096)
def tile_extents(window: BlendWindow, rule: TileRule, size: int, start: int) -> tuple[Extent, ...]:
    """Find where a tile, and each tile that overlaps it, has weight along one axis; see the docstring of the module.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window. With `"mean"` a tile that was moved has weight from its start on.
    rule : TileRule
        How tiles cover the axis.
    size : int
        Size of the axis.
    start : int
        Where the tile starts.

    Returns
    -------
    tuple of (int, int)
        The tile's own extent first, then the others in the order of their starts; in voxels from `start`.

    Examples
    --------
    >>> tile_extents("hann", TileRule(patch_size=8, overlap=3), size=20, start=10)
    ((0, 8), (-5, 3), (3, 18))
    """
    extents = (_extent(window, rule, size, other) for other in _overlapping_starts(rule, size, start))
    return tuple((begin - start, end - start) for begin, end in extents)


def _overlapping_starts(rule: TileRule, size: int, start: int) -> list[int]:
    """Find where the tiles start that overlap a tile, its own start first."""
    count = rule.count(size)
    # Tiles that were moved inside the image crowd at its end; anywhere else starts are a step apart.
    last_start = rule.window(count - 1, size, count).start
    stop = count if start + rule.patch_size > last_start else (start + rule.patch_size + rule.margin) // rule.step + 1
    first = max(0, (start - rule.patch_size) // rule.step)
    starts = [int(rule.window(other, size, count).start) for other in range(first, min(stop, count))]
    starts.remove(start)
    return [start, *(other for other in starts if abs(other - start) < rule.patch_size)]


def _extent(window: BlendWindow, rule: TileRule, size: int, start: int) -> Extent:
    """Find where the tile that starts at a voxel has weight, in voxels from the image's start."""
    begin, end = rule.blended_part(start, size)
    if not start:
        begin = -rule.patch_size
        end = end if window == "mean" else _end_of_first(rule, size)
    elif window != "mean":
        begin = _begin_of_later(rule, start)
    return begin, end if start + rule.patch_size < size else start + 2 * rule.patch_size


def _begin_of_later(rule: TileRule, start: int) -> int:
    """Find the first voxel where a tile has weight: its start, unless it was moved inside the image at the far end."""
    tile = -(-(start - rule.unmoved_start(0)) // rule.step)
    before, one_more_before = (max(0, rule.unmoved_start(tile - steps)) for steps in (1, 2))
    if tile < 2 or before == one_more_before:
        return start + rule.halo
    end_before = one_more_before + rule.patch_size - rule.halo
    return min(rule.unmoved_start(tile) + rule.halo, max(start + rule.halo, end_before))


def _end_of_first(rule: TileRule, size: int) -> int:
    """Find one past the last voxel where the first tile has weight. With seams on the grid this tile is moved inside."""
    tile = -rule.unmoved_start(0) // rule.step
    end = rule.patch_size - rule.halo
    if tile + 2 >= rule.count(size):
        return end
    return max(rule.unmoved_start(tile) + end, min(end, rule.unmoved_start(tile + 2) + rule.halo))


def most_tiles_at_a_voxel(rule: TileRule, size: int) -> int:
    """Return the largest number of tiles that overlap at one voxel of an axis.

    Examples
    --------
    >>> most_tiles_at_a_voxel(TileRule(patch_size=8, overlap=4), size=16)
    2
    >>> most_tiles_at_a_voxel(TileRule(patch_size=8, overlap=4), size=17)  # the last tile was moved inside
    3
    """
    count = rule.count(size)
    last = rule.window(count - 1, size, count).start
    starts, width = _overlapping_starts(rule, size, last), rule.patch_size - 2 * rule.halo
    crowd = max(sum(here - width < other <= here for other in starts) for here in starts)
    return max(crowd, min(count, -(-width // rule.step)))


@lru_cache(maxsize=1024)
def shared_weights(window: BlendWindow, size: int, extents: tuple[Extent, ...], halo: int = 0) -> NDArray[np.float64]:
    """Compute the weights of a tile's voxels along one axis, normalized: those of all tiles over a voxel sum to one.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    size : int
        Size of the tile.
    extents : tuple of (int, int)
        The result of `tile_extents`. It is the same for nearly all tiles of a plan, and so is the returned array.
    halo : int
        Voxels at both ends of the tile that are not used.

    Returns
    -------
    array of float64
        One weight for each voxel of the tile, 0 outside its extent; read-only. Weights past the end of the image are
        arbitrary.

    Examples
    --------
    >>> shared_weights("linear", 4, ((-4, 4), (2, 10))).tolist()
    [1.0, 1.0, 0.75, 0.25]
    """
    # Every tile over a voxel adds up the same profiles in the same order, so that all divide by the same sum.
    total = sum((window_profile(window, size, extent, halo) for extent in sorted(extents)), np.zeros(size))
    weights: NDArray[np.float64] = window_profile(window, size, extents[0], halo) / total
    weights.flags.writeable = False
    return weights


class TileWeights(NamedTuple):
    """The weights of a tile's voxels: products of one number per axis. The weights of all tiles over a voxel sum to one.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    sizes : tuple of int
        Size of the tile, `(z,) y, x`.
    extents : tuple of tuple of (int, int)
        The result of `tile_extents` along each axis.
    halos : tuple of int
        Voxels at both ends of the tile that are not used, along each axis; none if it is empty.

    Examples
    --------
    >>> weights = TileWeights("linear", (1, 4), (((-1, 2),), ((-4, 4), (2, 10))))
    >>> [axis.tolist() for axis in weights.along_axes()]
    [[1.0], [1.0, 1.0, 0.75, 0.25]]
    >>> weights.of_voxels(np.dtype("float32")).tolist()
    [[1.0, 1.0, 0.75, 0.25]]
    """

    window: BlendWindow
    sizes: tuple[int, ...]
    extents: tuple[tuple[Extent, ...], ...]
    halos: tuple[int, ...] = ()

    @property
    def weighed(self) -> tuple[Extent, ...]:
        """Voxels of the tile along each axis whose weight is not 0: the first, and one past the last."""
        return tuple(
            (max(0, of_axis[0][0]), min(size, of_axis[0][1]))
            for size, of_axis in zip(self.sizes, self.extents, strict=True)
        )

    def along_axes(self) -> list[NDArray[np.float64]]:
        """Return the weights along each axis, `(z,) y, x`; read-only."""
        axes = zip(self.sizes, self.extents, self.halos or (0,) * len(self.sizes), strict=True)
        return [shared_weights(self.window, size, of_axis, halo) for size, of_axis, halo in axes]

    def of_voxels(self, dtype: np.dtype[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return the weight of every voxel, `(Z)YX`, as an array of this dtype; multiplied in float64, rounded once; read-only."""
        return _multiplied_out(self, dtype)


def tile_weights(
    window: BlendWindow,
    rules: Sequence[TileRule],
    spatial_shape: Sequence[int],
    coords: Sequence[int],
    scale: Sequence[Fraction] = (),
) -> TileWeights:
    """Weigh the voxels of one tile of an image.

    Parameters
    ----------
    window : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    rules : sequence of TileRule
        How tiles cover each axis, `(z,) y, x`.
    spatial_shape : sequence of int
        Size of the image, `(z,) y, x`.
    coords : sequence of int
        Where the tile starts, `(z,) y, x`.
    scale : sequence of Fraction
        Voxels of the output for one voxel of the input, along each axis; 1 if it is empty. The arguments before are in voxels
        of the input, the weights in voxels of the output.

    Examples
    --------
    >>> rules = (TileRule(patch_size=1, overlap=0), TileRule(patch_size=4, overlap=2))
    >>> tile_weights("linear", rules, (1, 6), coords=(0, 2)).along_axes()[1].tolist()
    [0.25, 0.75, 1.0, 1.0]
    """
    sizes, halos = tuple(rule.patch_size for rule in rules), tuple(rule.halo for rule in rules)
    extents = tuple(tile_extents(window, *axis) for axis in zip(rules, spatial_shape, coords, strict=True))
    if scale:
        sizes = tuple(-int(-size * factor // 1) for size, factor in zip(sizes, scale, strict=True))
        halos = tuple(int(halo * factor) for halo, factor in zip(halos, scale, strict=True))
        extents = tuple(
            tuple((int(begin * factor), int(end * factor)) for begin, end in of_axis)
            for of_axis, factor in zip(extents, scale, strict=True)
        )
    return TileWeights(window, sizes, extents, halos)


@lru_cache(maxsize=6)  # a row has up to five kinds of tiles: two at each end and those between
def _multiplied_out(weights: TileWeights, dtype: np.dtype[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    *outer, last = weights.along_axes()
    product = np.empty(weights.sizes, dtype)
    # Multiplied in float64 and rounded once, without a second array of the tile's size.
    np.multiply(reduce(np.multiply.outer, outer)[..., None], last, out=product, casting="same_kind")
    product.flags.writeable = False
    return product
