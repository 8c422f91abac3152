"""How large blocks are: bounded by what goes through the model for one, so that a kill loses little."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from patchloom.geometry.tile_rule import Seams
from patchloom.stitching.block_grid import MAX_BLOCK_VOXELS

MODEL_VOXELS = {2: 2**25, 3: 2**24}
"""Voxels of tiles that go through the model for one block, in 2D and 3D: a minute for a network of half a second a tile of 512²
or 1 s a tile of 64³."""

MODEL_TILES = 512
"""Tiles of one block: small ones may take a network long for their size."""

LEAST_BLOCK_VOXELS = {2: 2**20, 3: 2**22}
"""Voxels of a block, in one channel, below which no block is made smaller to be finished sooner: files would get too small,
and too many tiles would reach over several blocks."""


def choose_seams(data_shapes: Sequence[Sequence[int]]) -> Seams:
    """Choose where seams lie: in the middle of overlaps while an image is one block, else on the blocks' own grid.

    Centered seams take the fewest tiles. Once an image has several blocks they would cut through tiles, which would have
    to be computed twice; on a grid no tile belongs to two blocks.

    Examples
    --------
    >>> choose_seams([(1, 1, 2755, 3675)]), choose_seams([(1, 1, 65536, 65536)])
    ('centered', 'grid')
    """
    return "centered" if all(prod(shape[2:]) <= MAX_BLOCK_VOXELS for shape in data_shapes) else "grid"


def largest_block(data_shapes: Sequence[Sequence[int]], patch_size: Sequence[int], steps: Sequence[int]) -> int:
    """Choose the most voxels that a block may have, in one channel.

    What is not yet part of a finished block is lost when a run is killed. So a block is bounded by what goes through the
    model for it, in voxels (`MODEL_VOXELS`) and in tiles (`MODEL_TILES`). It is never bounded by measured time: a resumed
    run must come to the same blocks. An image of several blocks has no fewer than four, so that writing overlaps.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        `SC(Z)YX` of each image.
    patch_size : sequence of int
        Size of the tiles that the model gets, `(z,) y, x`.
    steps : sequence of int
        Distance between tile starts, `(z,) y, x`.

    Examples
    --------
    >>> largest_block([(1, 1, 8192, 8192)], patch_size=(256, 256), steps=(192, 192))  # a quarter of the image
    16777216
    >>> largest_block([(1, 1, 512, 512, 512)], patch_size=(64, 64, 64), steps=(48, 48, 48))  # 64 tiles
    7077888
    """
    n_tiles = max(1, min(MODEL_TILES, MODEL_VOXELS[len(patch_size)] // prod(patch_size)))
    voxels = max(shape[0] * prod(shape[2:]) for shape in data_shapes)
    overlapping = MAX_BLOCK_VOXELS if voxels <= MAX_BLOCK_VOXELS else max(voxels // 4, MAX_BLOCK_VOXELS // 8)
    return min(overlapping, max(n_tiles * prod(steps), LEAST_BLOCK_VOXELS[len(patch_size)]))
