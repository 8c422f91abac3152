"""What of the sources the blocks of a plan need: whole chunks, since those are what is decoded."""

from __future__ import annotations

from math import prod

import numpy as np

from patchloom.image_stacks import HasStorageGrid
from patchloom.prediction.planning.plan import PredictionPlan


def block_source_bytes(plan: PredictionPlan, data_idx: int, number: int) -> int:
    """Count the bytes of the chunks, decoded, from which the tiles are cut that are computed in the turn of a block.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    data_idx : int
        Which image.
    number : int
        Number of the block.

    Raises
    ------
    IndexError
        If there is no block of that number.

    Examples
    --------
    >>> import patchloom as pl
    >>> prepared = pl.plan(np.zeros((100, 80), np.uint16), axes="YX", patch_size=(64, 64), overlaps=(16, 16))
    >>> block_source_bytes(prepared, 0, 0)
    16000
    """
    _, position = plan.blocks[data_idx].position(number)
    sides = [_sides(plan, data_idx, axis)[place] for axis, place in enumerate(position)]
    return prod(sides) * _bytes_of_a_voxel(plan, data_idx)


def source_bytes_by_block(plan: PredictionPlan) -> int:
    """Count what all blocks need together: what is decoded if no chunk is kept from one block to the next."""
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
