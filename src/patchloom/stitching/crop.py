"""Tile → block by cropping: the part of a tile that is kept is copied to where it lands."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from patchloom.errors import StitchError
from patchloom.specs.patch_specs import TileSpecs
from patchloom.tensors.tensor_pixels import Pixels


def paste_tile(tile: Pixels, spec: TileSpecs, block: Pixels, window: Sequence[slice]) -> int:
    """Copy the kept part of a tile into a block that holds a window of the image.

    Parameters
    ----------
    tile : array or tensor
        `C(Z)YX`, the whole tile.
    spec : TileSpecs
        Where the tile lies and what is kept of it.
    block : array or tensor
        `C(Z)YX` of the window's size; changed in place. A tensor if the tile is one, on its device.
    window : sequence of slice
        Where the block lies in the image, `(z,) y, x`; start and stop given.

    Returns
    -------
    int
        Number of voxels copied, in one channel; 0 if the kept part lies outside the window.

    Raises
    ------
    StitchError
        If the block is read-only.

    Examples
    --------
    >>> spec: TileSpecs = {
    ...     "data_idx": 0, "sample_idx": 0, "coords": (0, 2), "patch_size": (1, 4),
    ...     "crop_coords": (0, 1), "crop_size": (1, 3), "stitch_coords": (0, 3), "total_tiles": 2,
    ... }
    >>> block = np.zeros((1, 1, 4), dtype=int)
    >>> paste_tile(np.array([[[7, 8, 9, 10]]]), spec, block, (slice(0, 1), slice(2, 6)))
    3
    >>> block.tolist()
    [[[0, 8, 9, 10]]]
    """
    into, out_of = [slice(None)], [slice(None)]
    copied = 1
    for coord, keep, size, part in zip(spec["coords"], spec["stitch_coords"], spec["crop_size"], window, strict=True):
        start, stop = max(keep, part.start), min(keep + size, part.stop)
        if start >= stop:
            return 0
        into.append(slice(start - part.start, stop - part.start))
        out_of.append(slice(start - coord, stop - coord))
        copied *= stop - start
    if isinstance(block, np.ndarray) and not block.flags.writeable:
        raise StitchError("the block is read-only: give an array that can be written to")
    block[tuple(into)] = tile[tuple(out_of)]
    return copied


def n_kept(spec: TileSpecs, window: Sequence[slice]) -> int:
    """Count the voxels that a tile keeps in a window of the image, in one channel.

    Parameters
    ----------
    spec : TileSpecs
        The tile.
    window : sequence of slice
        A part of the image, `(z,) y, x`; start and stop given.
    """
    axes = zip(spec["stitch_coords"], spec["crop_size"], window, strict=True)
    return prod(max(0, min(start + size, part.stop) - max(start, part.start)) for start, size, part in axes)
