"""Tiles → image by blending: every voxel is the weighted mean of all tiles that cover it, in one pass.

Weights are normalised beforehand, axis by axis (see `patchloom.geometry.blend_weights`), so tiles are multiplied and added
up and nothing is divided afterwards. That is right only where every tile of the plan is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def add_blended_tile(
    tile: NDArray[Any],
    coords: Sequence[int],
    weights: Sequence[NDArray[np.float64]],
    block: NDArray[Any],
    window: Sequence[slice],
) -> None:
    """Add what a tile contributes to a window of the image to a block that holds this window.

    Parameters
    ----------
    tile : array
        `C(Z)YX`, the whole tile.
    coords : sequence of int
        Where the tile starts in the image, `(z,) y, x`.
    weights : sequence of array
        For each spatial axis, the weight of each voxel of the tile; see `patchloom.geometry.blend_weights`.
    block : array of float
        `C(Z)YX` of the window's size, 0 before the first tile; changed in place.
    window : sequence of slice
        Where the block lies in the image; start and stop given.

    Examples
    --------
    >>> block = np.zeros((1, 1, 6))
    >>> for x, weights in ((0, [1, 1, 0.75, 0.25]), (2, [0.25, 0.75, 1, 1])):
    ...     tile = np.full((1, 1, 4), x + 1.0)
    ...     add_blended_tile(tile, (0, x), (np.ones(1), np.array(weights)), block, (slice(0, 1), slice(0, 6)))
    >>> block.tolist()
    [[[1.0, 1.0, 1.5, 2.5, 3.0, 3.0]]]
    """
    into, out_of = [], []
    for coord, size, part in zip(coords, tile.shape[1:], window, strict=True):
        start, stop = max(coord, part.start), min(coord + size, part.stop)
        if start >= stop:
            return
        into.append(slice(start - part.start, stop - part.start))
        out_of.append(slice(start - coord, stop - coord))
    target, values = block[(slice(None), *into)], tile[(slice(None), *out_of)]
    factors = [axis[part].astype(block.dtype) for axis, part in zip(weights, out_of, strict=True)]
    # Plane by plane: what is multiplied is still in the processor's cache when it is added.
    plane = factors[-2][:, np.newaxis] * factors[-1]
    scratch = np.empty(plane.shape, block.dtype)
    slabs = [(target, values, plane)]
    if len(factors) == 3:
        slabs = [(target[:, z], values[:, z], plane * factor) for z, factor in enumerate(factors[0])]
    for target_slab, value_slab, slab_weights in slabs:
        for target_plane, value_plane in zip(target_slab, value_slab, strict=True):
            np.multiply(value_plane, slab_weights, out=scratch)
            np.add(target_plane, scratch, out=target_plane)
