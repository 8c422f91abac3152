"""Visibility of seams, in one number."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, shown
from patchloom.errors import StitchError
from patchloom.patching import TiledPatching


def seam_jump_ratio(image: NDArray[Any], tiling: TiledPatching, data_idx: int = 0) -> float:
    """Compare the jumps of an image across seams with its jumps elsewhere.

    A jump is the absolute difference of two neighboring voxels. The ratio of the mean jump across seams to the mean
    jump elsewhere along the same axis is about 1 where seams cannot be seen, and larger where they can.

    Parameters
    ----------
    image : array
        The stitched image, `SC(Z)YX`.
    tiling : TiledPatching
        The tiles that it was stitched from.
    data_idx : int
        Index of the image stack in the tiling.

    Returns
    -------
    float
        Mean jump across seams ÷ mean jump elsewhere; NaN if there is no seam, or no jump.

    Raises
    ------
    StitchError
        If the image has another size than that of the tiling.

    Examples
    --------
    >>> tiling = TiledPatching([(1, 1, 8, 8)], patch_size=(8, 4), overlaps=(0, 0))
    >>> ramp = np.arange(8.0)[np.newaxis].repeat(8, axis=0)
    >>> seam_jump_ratio(ramp[np.newaxis, np.newaxis], tiling)
    1.0
    >>> seam_jump_ratio((ramp + 3 * (ramp >= 4))[np.newaxis, np.newaxis], tiling)
    4.0
    """
    instance("tiling", tiling, TiledPatching)
    tiling.get_patch_indices(data_idx)  # refuses an index that does not exist
    spatial = tiling.data_shapes[data_idx][2:]
    _check_image(image)
    if image.shape[2:] != spatial:
        raise StitchError(
            f"image has spatial shape {image.shape[2:]}, but the tiling is for {spatial}: give the stitched image"
        )
    seen = expected = 0.0
    for axis, (rule, size, tiles) in enumerate(zip(tiling.rules, spatial, tiling.grid_shape(data_idx), strict=True)):
        numbers = np.arange(tiles - 1)
        seams = rule.window(numbers, np.full_like(numbers, size), np.full_like(numbers, tiles)).keep_stop
        across = np.zeros(size - 1, dtype=bool)
        across[seams - 1] = True
        if across.all() or not across.any():
            continue
        for sample in image:
            jumps = np.abs(np.diff(sample.astype(np.float64), axis=axis + 1))
            along = jumps.sum(axis=tuple(other for other in range(jumps.ndim) if other != axis + 1))
            seen += float(along[across].sum())
            expected += float(along[~across].mean() * across.sum())
    return seen / expected if expected else float("nan")


def _check_image(image: Any) -> None:
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        raise StitchError(f"image is {shown(image)}: it must be an array SC(Z)YX of real numbers")
