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
    weights: NDArray[np.floating[Any]],
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
    weights : array
        `(Z)YX` of the tile's size, in the block's dtype; see `patchloom.geometry.blend_weights`.
    block : array of float
        `C(Z)YX` of the window's size, 0 before the first tile; changed in place.
    window : sequence of slice
        Where the block lies in the image; start and stop given.

    Examples
    --------
    >>> block = np.zeros((1, 1, 6))
    >>> for x, weights in ((0, [1, 1, 0.75, 0.25]), (2, [0.25, 0.75, 1, 1])):
    ...     tile = np.full((1, 1, 4), x + 1.0)
    ...     add_blended_tile(tile, (0, x), np.array([weights]), block, (slice(0, 1), slice(0, 6)))
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
    factors = weights[tuple(out_of)]
    # Plane by plane: what is multiplied is still in the processor's cache when it is added.
    scratch = np.empty(target.shape[-2:], block.dtype)
    for plane in np.ndindex(target.shape[:-2]):
        np.multiply(values[plane], factors[plane[1:]], out=scratch)
        np.add(target[plane], scratch, out=target[plane])
