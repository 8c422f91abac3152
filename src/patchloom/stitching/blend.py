"""Tiles → image by blending: every voxel is the weighted mean of all tiles that cover it, in one pass.

Weights are normalized beforehand, axis by axis (see `patchloom.geometry.blend_weights`). Tiles are multiplied by them and
added up, and nothing is divided afterwards. This needs every tile of the plan.

If numba is installed (the extra `speed`), one compiled loop multiplies and adds. Otherwise NumPy does, plane by plane, to the
same bits. So does PyTorch with tiles on a device: it multiplies, rounds, and then adds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom._compiled_loop import as_rows, compiled_loop, has_rows
from patchloom.errors import StitchError
from patchloom.geometry.blend_weights import TileWeights, most_tiles_at_a_voxel
from patchloom.geometry.tile_rule import TileRule
from patchloom.tensors.tensor_pixels import Pixels, Tensor, load_torch

MIN_COMPILED_VOXELS = 2**18
"""Number of voxels of a tile below which NumPy adds it: its planes fit into the processor's cache anyway."""

_UNSIGNED = np.uint64

_TILES_IN_FLOAT32 = 9


def blend_dtype(
    rules: Sequence[TileRule], spatial_shapes: Iterable[Sequence[int]], dtype: np.dtype[Any] | None = None
) -> np.dtype[Any]:
    """Return the dtype in which tiles are added up.

    Each tile that is added brings a rounding. With up to nine tiles at a voxel, float32 stays within four units in the last
    place; with more, float64 does.

    Parameters
    ----------
    rules : sequence of TileRule
        How tiles cover each axis, `(z,) y, x`.
    spatial_shapes : iterable of sequence of int
        Size of each image, `(z,) y, x`.
    dtype : numpy dtype, optional
        Dtype of the tiles, which may need more. If None, that of truth values, which needs least.

    Examples
    --------
    >>> rules = (TileRule(patch_size=64, overlap=16), TileRule(patch_size=64, overlap=16))
    >>> blend_dtype(rules, [(100, 80)]), blend_dtype(rules, [(100, 80)], np.dtype("int32"))
    (dtype('float32'), dtype('float64'))
    """
    most = max(
        prod(most_tiles_at_a_voxel(rule, size) for rule, size in zip(rules, shape, strict=True))
        for shape in spatial_shapes
    )
    least = np.dtype(np.float32 if most <= _TILES_IN_FLOAT32 else np.float64)
    return least if dtype is None or dtype.kind == "b" else np.result_type(dtype, least)


def add_blended_tile(
    tile: Pixels,
    coords: Sequence[int],
    weights: TileWeights,
    block: Pixels,
    window: Sequence[slice],
    *,
    min_compiled_voxels: int = MIN_COMPILED_VOXELS,
) -> None:
    """Add a tile, weighted, to a block that holds a window of the image.

    Parameters
    ----------
    tile : array or tensor
        `C(Z)YX`, the whole tile.
    coords : sequence of int
        Where the tile starts in the image, `(z,) y, x`.
    weights : TileWeights
        Its weights, of the tile's size.
    block : array or tensor of float
        `C(Z)YX` of the window's size, 0 before the first tile; changed in place. A tensor if the tile is one, on its device.
    window : sequence of slice
        Where the block lies in the image; start and stop given.
    min_compiled_voxels : int
        Number of voxels of a tile from which on the compiled loop adds it, if numba is installed.

    Raises
    ------
    StitchError
        If the block is read-only.

    Examples
    --------
    >>> block = np.zeros((1, 1, 6))
    >>> for x, own, other in ((0, (-4, 4), (2, 10)), (2, (0, 8), (-6, 2))):
    ...     tile = np.full((1, 1, 4), x + 1.0)
    ...     weights = TileWeights("linear", (1, 4), (((-1, 2),), (own, other)))
    ...     add_blended_tile(tile, (0, x), weights, block, (slice(0, 1), slice(0, 6)))
    >>> block.tolist()
    [[[1.0, 1.0, 1.5, 2.5, 3.0, 3.0]]]
    """
    into, out_of = [], []
    for coord, (first, end), part in zip(coords, weights.weighed, window, strict=True):
        start, stop = max(coord + first, part.start), min(coord + end, part.stop)
        if start >= stop:
            return
        into.append(slice(start - part.start, stop - part.start))
        out_of.append(slice(start - coord, stop - coord))
    target, values = block[(slice(None), *into)], tile[(slice(None), *out_of)]
    if not isinstance(target, np.ndarray):
        _add_on_device(values, weights, tuple(out_of), target)
        return
    if not target.flags.writeable:
        raise StitchError("the block is read-only: give an array that can be written to")
    loop = compiled_loop(add_weighted_rows) if tile.size >= min_compiled_voxels else None
    if loop is not None and _is_known(values.dtype, target.dtype) and has_rows(target) and has_rows(values):
        axes = [of_axis[part] for of_axis, part in zip(weights.along_axes(), out_of, strict=True)]
        if target.ndim == 3:
            target, values, axes = target[:, np.newaxis], values[:, np.newaxis], [np.ones(1), *axes]
        loop(as_rows(target), as_rows(values), tuple(axes), target.shape)
    else:
        _add_by_plane(values, weights.of_voxels(target.dtype)[tuple(out_of)], target)


def _add_on_device(values: Tensor, weights: TileWeights, part: tuple[slice, ...], target: Tensor) -> None:
    factors = _weights_on_device(weights, target.dtype, target.device)[part]
    target += values.to(target.dtype) * factors  # two steps: in one, the product would not be rounded


@lru_cache(maxsize=8)
def _weights_on_device(weights: TileWeights, dtype: Any, device: Any) -> Tensor:
    """Return the weight of every voxel as a tensor: multiplied in float64 and rounded once, in the order of `of_voxels`."""
    torch = load_torch()
    product = torch.ones((), dtype=torch.float64, device=device)
    for of_axis in weights.along_axes():
        product = product[..., None] * torch.from_numpy(of_axis.copy()).to(device, non_blocking=True)
    return product.to(dtype)


def _add_by_plane(values: NDArray[Any], factors: NDArray[Any], target: NDArray[Any]) -> None:
    """Multiply and add plane by plane, so that products are still in the processor's cache when they are added."""
    scratch = np.empty(target.shape[-2:], target.dtype)
    for plane in np.ndindex(target.shape[:-2]):
        np.multiply(values[plane], factors[plane[1:]], out=scratch)
        np.add(target[plane], scratch, out=target[plane])


def _is_known(values: np.dtype[Any], target: np.dtype[Any]) -> bool:
    """Return whether the loop is compiled for these dtypes, and NumPy would multiply in the target's dtype too."""
    known = values.kind in "buif" and values != np.float16 and target in (np.float32, np.float64)
    return known and target == np.result_type(values, target)


def add_weighted_rows(target: Any, values: Any, axes: Any, shape: Any) -> None:
    """Add weighted rows to others: the loop that is compiled."""
    # Unsigned positions save a test at every voxel, for a negative one.
    into, out_of, (along_z, along_y, along_x) = target.memory, values.memory, axes
    width = _UNSIGNED(shape[3])
    for channel in range(shape[0]):
        for z in range(shape[1]):
            place = _UNSIGNED(channel * target.steps[0] + z * target.steps[1])
            voxel = _UNSIGNED(channel * values.steps[0] + z * values.steps[1])
            for y in range(shape[2]):
                of_row = along_z[z] * along_y[y]
                for x in range(width):
                    weight = into.dtype.type(of_row * along_x[x])
                    into[place + x] += into.dtype.type(out_of[voxel + x]) * weight
                place += _UNSIGNED(target.steps[2])
                voxel += _UNSIGNED(values.steps[2])
