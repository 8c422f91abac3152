"""The order of patches in which each stored chunk is decoded once, with the fewest chunks in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import MAX_SIZE, listed, shown, whole_number
from patchloom.errors import GeometryError
from patchloom.specs.spec_table import SpecTable


def storage_order(specs: SpecTable, chunk_shape: Sequence[int] | Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """Sort patches by the stored chunk that they start in.

    Chunks are visited in raster order, with the axis of most chunks outermost. The chunks that neighboring patches still need
    are then those of the smallest cross-section of the image. Patches that start in one chunk follow each other, in raster
    order too.

    Parameters
    ----------
    specs : SpecTable
        The patches.
    chunk_shape : sequence of int, or sequence of sequence of int
        Shape of a stored chunk, `SC(Z)YX`: one for all image stacks, or one for each.

    Returns
    -------
    array of int64
        The index of every row of the table once.

    Raises
    ------
    GeometryError
        If a chunk shape is not valid, or there are fewer of them than image stacks.

    Examples
    --------
    >>> from patchloom import TiledPatching
    >>> tiling = TiledPatching([(1, 1, 16, 32)], patch_size=(8, 8), overlaps=(0, 0))
    >>> tiling.storage_order((1, 1, 16, 8)).tolist()
    [0, 4, 1, 5, 2, 6, 3, 7]

    Notes
    -----
    The time is `O(n log n)`. A pass in this order decodes each chunk once with a cache of about one cross-section and one
    row of chunks; an LRU cache needs two cross-sections.
    """
    if not len(specs):
        return np.empty(0, dtype=np.int64)
    data_idx, sample_idx, coords = (specs.columns[name] for name in ("data_idx", "sample_idx", "coords"))
    chunks = _chunk_shapes(chunk_shape, int(data_idx.max()) + 1, coords.shape[1])
    chunk = coords // chunks[data_idx, 2:]
    most = np.zeros((len(chunks), coords.shape[1]), dtype=np.int64)
    np.maximum.at(most, data_idx, chunk)
    axes = np.argsort(-most, axis=1, kind="stable")[data_idx]
    chunk, coords = np.take_along_axis(chunk, axes, axis=1), np.take_along_axis(coords, axes, axis=1)
    keys = [data_idx, sample_idx // chunks[data_idx, 0], *chunk.T, sample_idx, *coords.T]
    return np.lexsort(keys[::-1]).astype(np.int64, copy=False)


def _chunk_shapes(chunk_shape: Sequence[Any], n_stacks: int, n_dims: int) -> NDArray[np.int64]:
    """Check chunk shapes, and return one row per image stack."""
    what = "a chunk shape SCYX or SCZYX, such as (1, 1, 64, 64), or one for each image stack"
    given = listed("chunk_shape", chunk_shape, what)
    shapes = given if len(given) and hasattr(given[0], "__len__") else [given] * n_stacks
    if len(shapes) < n_stacks:
        raise GeometryError(
            f"chunk_shape has {len(shapes)} chunk shapes, but the patches lie in {n_stacks} image stacks: give one for each"
        )
    for data_idx, shape in enumerate(shapes):
        sizes = [
            whole_number("chunk_shape", size) for size in listed(f"chunk_shape[{data_idx}]", shape, "a chunk shape")
        ]
        if len(sizes) != 2 + n_dims or not 0 < min(sizes) <= max(sizes) <= MAX_SIZE:
            raise GeometryError(
                f"the chunk shape of image stack {data_idx} is {shown(tuple(shape))}: it must be {2 + n_dims} sizes of at least 1, "
                f"one for each of SC{'ZYX'[-n_dims:]}"
            )
    return np.array(shapes, dtype=np.int64)
