"""Tiles → image by blending: every voxel is the weighted mean of all tiles that cover it, in one pass.

Weights are normalised beforehand, axis by axis (see `patchloom.geometry.blend_weights`), so tiles are multiplied and added
up and nothing is divided afterwards. That is right only where every tile of the plan is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.blend_weights import BlendWindow, axis_weights
from patchloom.geometry.tile_rule import TileRule


def add_blended_tile(
    tile: NDArray[Any],
    coords: Sequence[int],
    block: NDArray[Any],
    window: Sequence[slice],
    *,
    blend: BlendWindow,
    rules: Sequence[TileRule],
    spatial_shape: Sequence[int],
) -> None:
    """Add what a tile contributes to a window of the image to a block that holds this window.

    Parameters
    ----------
    tile : array
        `C(Z)YX`, the whole tile.
    coords : sequence of int
        Where the tile starts in the image, `(z,) y, x`.
    block : array of float
        `C(Z)YX` of the window's size, 0 before the first tile; changed in place.
    window : sequence of slice
        Where the block lies in the image; start and stop given.
    blend : {"hann", "gaussian", "linear", "mean"}
        The blending window.
    rules : sequence of TileRule
        How tiles cover each axis.
    spatial_shape : sequence of int
        Size of the image, `(z,) y, x`.

    Examples
    --------
    >>> rules = (TileRule(1, 0, axis="Y"), TileRule(4, 2))
    >>> block = np.zeros((1, 1, 6))
    >>> for x in (0, 2):
    ...     add_blended_tile(
    ...         np.full((1, 1, 4), x + 1.0), (0, x), block, (slice(0, 1), slice(0, 6)),
    ...         blend="linear", rules=rules, spatial_shape=(1, 6),
    ...     )
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
    weights = [
        axis_weights(blend, rule, size, coord)[part].astype(block.dtype)
        for rule, size, coord, part in zip(rules, spatial_shape, coords, out_of, strict=True)
    ]
    # Plane by plane: what is multiplied is still in the processor's cache when it is added.
    plane = weights[-2][:, np.newaxis] * weights[-1]
    scratch = np.empty(plane.shape, block.dtype)
    slabs = [(target, values, plane)]
    if len(weights) == 3:
        slabs = [(target[:, z], values[:, z], plane * factor) for z, factor in enumerate(weights[0])]
    for target_slab, value_slab, slab_weights in slabs:
        for target_plane, value_plane in zip(target_slab, value_slab, strict=True):
            np.multiply(value_plane, slab_weights, out=scratch)
            np.add(target_plane, scratch, out=target_plane)
