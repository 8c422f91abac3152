"""What of the sources the blocks of a plan need: whole chunks, since those are what is decoded."""

from __future__ import annotations

from math import prod

import numpy as np

from patchloom.image_stacks import HasStorageGrid
from patchloom.prediction.planning.plan import PredictionPlan


def source_bytes_by_block(plan: PredictionPlan) -> int:
    """Count the bytes, decoded, of the chunks that each block of a plan needs, over all blocks.

    This is what is decoded if no chunk is kept from one block to the next.

    Examples
    --------
    >>> import patchloom as pl
    >>> prepared = pl.plan(np.zeros((100, 80), np.uint16), axes="YX", patch_size=(64, 64), overlaps=(16, 16))
    >>> source_bytes_by_block(prepared)
    16000
    """
    return sum(
        prod(sum(_sides(plan, data_idx, axis)) for axis in range(len(grid.spatial_shape)))
        * grid.n_samples
        * _bytes_of_a_voxel(plan, data_idx)
        for data_idx, grid in enumerate(plan.blocks)
    )


def _sides(plan: PredictionPlan, data_idx: int, axis: int) -> list[int]:
    """For each block along one axis, how many voxels lie in the chunks that its tiles touch."""
    stack, grid, margin = plan.stacks[data_idx], plan.blocks[data_idx], plan.margin[axis]
    chunk = stack.chunk_shape[2 + axis] if isinstance(stack, HasStorageGrid) else 1
    size = grid.spatial_shape[axis]
    sides = []
    for start, stop in plan.schedule(data_idx).windows_along(axis):
        first = max(start - margin, 0) // chunk * chunk
        last = min(-(-min(stop + margin, size) // chunk) * chunk, size)
        sides.append(max(last - first, 0))
    return sides


def _bytes_of_a_voxel(plan: PredictionPlan, data_idx: int) -> int:
    stack = plan.stacks[data_idx]
    return int(stack.data_shape[1]) * np.dtype(stack.data_dtype).itemsize
