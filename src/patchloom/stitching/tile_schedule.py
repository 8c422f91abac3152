"""The order in which tiles go through the model, and the blocks that each tile contributes to.

Blocks are completed one after the other in raster order. A tile that several blocks share is computed for the first of them and
added to all. Each tile is then computed once, but the later blocks stay open until they are complete. The number of
open blocks depends on the number of axes along which tiles are shared, counted from the innermost::

    0 axes   every block computes all its tiles     1 open block
    1 axis   tiles are shared along X               2 blocks, as a rule
    2 axes   along Y and X                          a row of blocks and one more
    3 axes   along all                              a plane, a row and one more

Along an axis that is not shared, each block computes its own tiles, some of them again. The order in which a block gets its
tiles depends on the schedule only, so a resumed run adds up the same numbers in the same order.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray

from patchloom.patching import TiledPatching
from patchloom.stitching.block_grid import BlockGrid


@dataclass(frozen=True)
class TileSchedule:
    """The order of work on one image.

    Parameters
    ----------
    tiling : TiledPatching
        The tiles of the series.
    data_idx : int
        Index of the image stack.
    blocks : BlockGrid
        Its blocks, in voxels of the input.
    n_shared_axes : int
        Number of axes, from the innermost, along which blocks share tiles.
    whole_tiles : bool
        Whether a tile contributes to every block that it overlaps (to blend), or only to blocks that its kept part overlaps (to
        crop).
    """

    tiling: TiledPatching
    data_idx: int
    blocks: BlockGrid
    n_shared_axes: int
    whole_tiles: bool
    _served: tuple[NDArray[np.int64], ...] = field(init=False, repr=False)
    """For each axis, the first and last block that each tile contributes to: `(2, tiles)`."""

    _shares: tuple[NDArray[np.int64], ...] = field(init=False, repr=False)
    """For each axis, the number of blocks to which each tile is added whenever it is computed."""

    _grid: tuple[int, ...] = field(init=False, repr=False)
    """Number of tiles along each axis of a sample."""
    _first_tile: int = field(init=False, repr=False)
    """Flat index of the image's first tile."""

    def __post_init__(self) -> None:
        served = tuple(self._served_along(axis) for axis in range(len(self.blocks.spatial_shape)))
        object.__setattr__(self, "_served", served)
        object.__setattr__(self, "_shares", tuple(map(self._shares_along, range(len(served)))))
        object.__setattr__(self, "_grid", self.tiling.grid_shape(self.data_idx))
        object.__setattr__(self, "_first_tile", self.tiling.get_patch_indices(self.data_idx)[0])

    def _served_along(self, axis: int) -> NDArray[np.int64]:
        windows = self.tiling.windows_along(self.data_idx, axis)
        first, size = self.blocks.origin[axis], self.blocks.spatial_shape[axis]
        start, stop = np.asarray(windows.keep_start), np.asarray(windows.keep_stop)
        if self.whole_tiles:
            image_size = np.full_like(start, self.tiling.data_shapes[self.data_idx][2 + axis])
            start, stop = self.tiling.rules[axis].blended_part(np.asarray(windows.start), image_size)
        inside = np.stack([np.maximum(start, first), np.minimum(stop, first + size) - 1])
        return (inside - first) // self.blocks.block_shape[axis]

    def _shares_along(self, axis: int) -> NDArray[np.int64]:
        first, last = self._served[axis]
        return last - first + 1 if self._is_shared(axis) else np.ones_like(first)

    def _is_shared(self, axis: int) -> bool:
        return axis >= len(self._served) - self.n_shared_axes

    def _tiles_along(self, axis: int, block: int) -> NDArray[np.int64]:
        """Return the tiles along one axis that are computed for a block."""
        first, last = self._served[axis]
        mine = first == block if self._is_shared(axis) else (first <= block) & (block <= last)
        return np.flatnonzero(mine)

    def windows_along(self, axis: int) -> list[tuple[int, int]]:
        """Return, for each block along one axis, the window of the tiles that are computed for it.

        Parameters
        ----------
        axis : int
            Index of the spatial axis, counted from the outermost.
        """
        starts = np.asarray(self.tiling.windows_along(self.data_idx, axis).start)
        windows = []
        for block in range(self.blocks.grid_shape[axis]):
            of_block = starts[self._tiles_along(axis, block)].tolist()
            windows.append((of_block[0], of_block[-1] + self.tiling.rules[axis].patch_size) if of_block else (0, 0))
        return windows

    def tiles_of(self, block_idx: int) -> NDArray[np.int64]:
        """Return the flat indices of the tiles that are computed for a block, in order.

        Parameters
        ----------
        block_idx : int
            Index of the block.
        """
        sample_idx, position = self.blocks.position(block_idx)
        along = [self._tiles_along(axis, block) for axis, block in enumerate(position)]
        first = self._first_tile + sample_idx * prod(self._grid)
        return np.asarray(first + np.ravel_multi_index(np.ix_(*along), self._grid), dtype=np.int64).ravel()

    def blocks_of(self, tile: int) -> list[int]:
        """List the `block_idx` of every block that a tile contributes to, in order.

        Parameters
        ----------
        tile : int
            Flat index of the tile.
        """
        rest, along = tile - self._first_tile, []
        for n_tiles, (first, last) in zip(reversed(self._grid), reversed(self._served), strict=True):
            rest, place = divmod(rest, n_tiles)
            along.append(range(int(first[place]), int(last[place]) + 1))
        return [self.blocks.block_idx(rest, position) for position in itertools.product(*reversed(along))]

    def n_serving(self, block_idx: int) -> int:
        """Count the tiles that contribute to a block, including tiles that are computed for another one.

        Parameters
        ----------
        block_idx : int
            Index of the block.
        """
        _, position = self.blocks.position(block_idx)
        return prod(
            int(((first <= block) & (block <= last)).sum())
            for block, (first, last) in zip(position, self._served, strict=True)
        )

    def is_first_for(self, tile: int, block_idx: int) -> bool:
        """Return whether the block is the first for which a tile is computed.

        Parameters
        ----------
        tile : int
            Flat index of the tile.
        block_idx : int
            Index of the block.
        """
        _, position = self.blocks.position(block_idx)
        rest = tile - self._first_tile
        for axis in range(len(self._grid) - 1, -1, -1):
            rest, place = divmod(rest, self._grid[axis])
            if self._served[axis][0, place] != position[axis]:
                return False
        return True

    def blocks_served(self, block_idx: int) -> list[list[int]]:
        """List, for each tile that is computed for a block, the `block_idx` of every block to which it is added then.

        Parameters
        ----------
        block_idx : int
            Index of the block.

        Returns
        -------
        list of list of int
            One list for each tile, in the order of `tiles_of`.
        """
        _, position = self.blocks.position(block_idx)
        served = [[block_idx]]  # a tile is computed for the first block that shares it
        for axis, block in enumerate(position):
            stride = prod(self.blocks.grid_shape[axis + 1 :])
            shares = self._shares[axis][self._tiles_along(axis, block)].tolist()
            steps = [range(0, n_blocks * stride, stride) for n_blocks in shares]
            served = [[first + step for first in firsts for step in of_tile] for firsts in served for of_tile in steps]
        return served

    @property
    def n_computed(self) -> int:
        """Number of tiles that go through the model, each counted as often as it is computed."""
        along = 1
        for axis, (first, last) in enumerate(self._served):
            along *= len(first) if self._is_shared(axis) else int((last - first + 1).sum())
        return along * self.blocks.n_samples

    @property
    def n_open(self) -> int:
        """Largest number of blocks that are open at the same time."""
        grid = self.blocks.grid_shape
        ahead = [int((last - first).max()) for first, last in self._served]
        # The last block, in raster order, that may share a tile of the current one.
        strides = [prod(grid[axis + 1 :]) for axis in range(len(grid))]
        reach = sum(
            steps * stride
            for axis, (steps, stride) in enumerate(zip(ahead, strides, strict=True))
            if self._is_shared(axis)
        )
        return min(1 + reach, prod(grid))
