"""Blocks: the parts of an output that are each computed, written and recorded as a whole.

A block is a set of whole stored objects (shards) of the output, so exactly one worker writes each of them, once. Memory holds
the blocks that are open and one being written, however large the image is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log, prod
from typing import NamedTuple

from patchloom.errors import GeometryError
from patchloom.geometry.checks import one_per_axis
from patchloom.geometry.tile_rule import Seams

MAX_BLOCK_VOXELS = 2**25
"""Most voxels of a block, in one channel: 128 MiB of float32."""

CHUNK_SIZE = {2: 256, 3: 64}
"""Size along each axis that a chunk of the output comes close to: what viewers fetch at once."""


class Block(NamedTuple):
    """One block of one image."""

    sample_idx: int
    window: tuple[slice, ...]
    """Where it lies, `(z,) y, x`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each spatial axis."""
        return tuple(part.stop - part.start for part in self.window)


@dataclass(frozen=True)
class BlockGrid:
    """All blocks of one image: boxes of one size on a grid, cut off at the image's end.

    Parameters
    ----------
    n_samples : int
        Number of samples of the image.
    spatial_shape : tuple of int
        Size of a sample, or of the part of it that has blocks, `(z,) y, x`.
    block_shape : tuple of int
        Size of a block, `(z,) y, x`.
    origin : tuple of int, optional
        First voxel of the part of the image that has blocks, `(z,) y, x`. If empty, that of the image.

    Examples
    --------
    >>> grid = BlockGrid(n_samples=2, spatial_shape=(100, 80), block_shape=(64, 64))
    >>> len(grid), grid[5]
    (8, Block(sample_idx=1, window=(slice(0, 64, None), slice(64, 80, None))))
    """

    n_samples: int
    spatial_shape: tuple[int, ...]
    block_shape: tuple[int, ...]
    origin: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "origin", self.origin or (0,) * len(self.spatial_shape))

    @cached_property
    def grid_shape(self) -> tuple[int, ...]:
        """Number of blocks along each spatial axis."""
        return tuple(-(-size // block) for size, block in zip(self.spatial_shape, self.block_shape, strict=True))

    def __len__(self) -> int:
        return self.n_samples * prod(self.grid_shape)

    def __getitem__(self, block_idx: int) -> Block:
        sample_idx, position = self.position(block_idx)
        axes = zip(position, self.block_shape, self.spatial_shape, self.origin, strict=True)
        return Block(
            sample_idx,
            tuple(
                slice(first + place * block, first + min((place + 1) * block, size))
                for place, block, size, first in axes
            ),
        )

    def position(self, block_idx: int) -> tuple[int, tuple[int, ...]]:
        """Return the sample and the position on the grid, `(z,) y, x`, of a block.

        Raises
        ------
        IndexError
            If there is no such block.
        """
        if not 0 <= block_idx < len(self):
            raise IndexError(f"block_idx is {block_idx}, but the image has {len(self)} blocks")
        position: list[int] = []
        rest = block_idx
        for count in reversed(self.grid_shape):
            rest, place = divmod(rest, count)
            position.append(place)
        return rest, tuple(reversed(position))

    def block_idx(self, sample_idx: int, position: Sequence[int]) -> int:
        """Return the index of the block of a sample at a position on the grid: raster order, X fastest."""
        block_idx = sample_idx
        for place, count in zip(position, self.grid_shape, strict=True):
            block_idx = block_idx * count + place
        return block_idx


def choose_blocks(
    data_shape: Sequence[int],
    steps: Sequence[int],
    seams: Seams,
    max_voxels: int = MAX_BLOCK_VOXELS,
    *,
    multiples: Sequence[int] | None = None,
) -> BlockGrid:
    """Choose the blocks of one image.

    Parameters
    ----------
    data_shape : sequence of int
        `SC(Z)YX`.
    steps : sequence of int
        Distance between tile starts, `(z,) y, x`.
    seams : {"centered", "grid"}
        Seams of the tiling. On a grid, blocks consist of whole tiles.
    max_voxels : int
        Most voxels of a block, in one channel, unless one step of the tiles has more.
    multiples : sequence of int, optional
        Blocks begin at multiples of this, `(z,) y, x`; divisors of the steps. If None, at any voxel.

    Returns
    -------
    BlockGrid
        Blocks as cubic as the grid allows.

    Examples
    --------
    >>> choose_blocks((1, 1, 2755, 3675), steps=(896, 896), seams="centered").block_shape
    (2816, 3840)
    >>> choose_blocks((1, 1, 65536, 65536), steps=(384, 384), seams="grid").block_shape
    (5760, 5760)
    """
    spatial = tuple(data_shape[2:])
    units, limits = _units_and_limits(spatial, steps, seams, multiples)
    repeats = _grow([1] * len(units), units, limits, max_voxels)
    return BlockGrid(
        int(data_shape[0]), spatial, tuple(repeat * unit for repeat, unit in zip(repeats, units, strict=True))
    )


def chosen_blocks(
    data_shape: Sequence[int],
    steps: Sequence[int],
    seams: Seams,
    block_shape: Sequence[int],
    *,
    multiples: Sequence[int] | None = None,
) -> BlockGrid:
    """Return the blocks of one image by the shape that `choose_blocks` chose before.

    Parameters
    ----------
    data_shape, steps, seams, multiples
        As in `choose_blocks`.
    block_shape : sequence of int
        Size of a block, `(z,) y, x`.

    Raises
    ------
    GeometryError
        If `choose_blocks` does not choose such blocks.

    Examples
    --------
    >>> chosen_blocks((1, 1, 2755, 3675), (896, 896), "centered", [2816, 3840]).grid_shape
    (1, 1)
    """
    spatial = tuple(data_shape[2:])
    shape = one_per_axis("block_shape", block_shape, len(spatial), least=1)
    units, limits = _units_and_limits(spatial, steps, seams, multiples)
    if any(size % unit or size > unit * limit for size, unit, limit in zip(shape, units, limits, strict=True)):
        raise GeometryError(
            f"block_shape is {shape}: it must be a multiple of {units} that the image of {spatial} fills"
        )
    return BlockGrid(int(data_shape[0]), spatial, shape)


def _units_and_limits(
    spatial: tuple[int, ...], steps: Sequence[int], seams: Seams, multiples: Sequence[int] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what blocks are multiples of, along each axis, and the largest multiple."""
    target = CHUNK_SIZE[len(spatial)]
    # Chunks are not larger than the image, or thin stacks would be stored as padding.
    centered = tuple(
        size if size <= target else max(multiple, target - target % multiple)
        for size, multiple in zip(spatial, multiples or (1,) * len(spatial), strict=True)
    )
    units = tuple(steps) if seams == "grid" else centered
    return units, tuple(-(-size // unit) for size, unit in zip(spatial, units, strict=True))


def choose_chunk(block_shape: Sequence[int], wanted: int | Sequence[int] | None = None) -> tuple[int, ...]:
    """Choose how a block is stored: in chunks that divide it and are about as large as wanted.

    Parameters
    ----------
    block_shape : sequence of int
        Size of the block in voxels of the output, `(z,) y, x`.
    wanted : int or sequence of int, optional
        Size of a chunk, one number for all axes or `(z,) y, x`. If None, as large as viewers fetch at once.

    Examples
    --------
    >>> choose_chunk((5760, 5760)), choose_chunk((96, 251, 4036)), choose_chunk((5760, 5760), 100)
    ((240, 240), (48, 251, 1009), (96, 96))
    """
    n_dims = len(block_shape)
    sizes = one_per_axis("chunks", CHUNK_SIZE[n_dims] if wanted is None else wanted, n_dims, least=1)
    return tuple(map(_nearest_divisor, block_shape, sizes))


def _grow(repeats: list[int], units: Sequence[int], limits: Sequence[int], max_voxels: int) -> list[int]:
    """Lengthen the shortest side that may grow, unit by unit, while the block stays small enough."""
    while True:
        open_axes = [axis for axis, (repeat, limit) in enumerate(zip(repeats, limits, strict=True)) if repeat < limit]
        for axis in sorted(open_axes, key=lambda axis: repeats[axis] * units[axis]):
            grown = [repeat + (position == axis) for position, repeat in enumerate(repeats)]
            if prod(repeat * unit for repeat, unit in zip(grown, units, strict=True)) <= max_voxels:
                repeats = grown
                break
        else:
            return repeats


def _nearest_divisor(size: int, target: int) -> int:
    """Return the divisor of `size` whose ratio to `target` is nearest to 1.

    Examples
    --------
    >>> _nearest_divisor(3584, 256), _nearest_divisor(251, 256), _nearest_divisor(4036, 256)
    (256, 251, 1009)
    """
    divisors = (divisor for divisor in range(1, size + 1) if size % divisor == 0)
    return min(divisors, key=lambda divisor: abs(log(divisor / target)))
