"""Whole images read block by block: within memory, and each stored chunk as seldom as possible.

A stored chunk is decoded whole, so a block whose border cuts a chunk costs decoding it again for the next block. Among all
blocks that fit into memory, those are chosen for which the fewest chunks are decoded: once each, if a block can begin and end
on both a cell and a chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd, lcm, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks.protocols import HasStorageGrid, ImageStack, Region, read_regions

MAX_BYTES = 32 << 20
"""Bytes of pixels that are held at once."""


class ScanBlock(NamedTuple):
    """A box of whole cells of one sample; cells that are cut by the image's end are whole as well."""

    sample_idx: int
    window: tuple[slice, ...]
    """Voxels, one slice for each spatial axis, inside the image."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each spatial axis."""
        return tuple(part.stop - part.start for part in self.window)

    def cells(self, cell_size: Sequence[int]) -> tuple[slice, ...]:
        """Return which cells of the sample these are."""
        return tuple(
            slice(part.start // size, -(-part.stop // size)) for part, size in zip(self.window, cell_size, strict=True)
        )


def scan_stack(
    stack: ImageStack,
    *,
    cell_size: Sequence[int] | None = None,
    samples: range | None = None,
    channels: range | None = None,
    window: Sequence[slice] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[ScanBlock, NDArray[Any]]]:
    """Read an image, or a box of it, block by block; every voxel comes once.

    Blocks begin and end where stored chunks do as far as `max_bytes` allows, and as many as fit are read together. While
    they are read, a stack may hold as much again, and so may the caller of the blocks before.

    Parameters
    ----------
    stack : ImageStack
        The image.
    cell_size : sequence of int, optional
        Voxels of a cell, `(z,) y, x`. Cells are counted from the first voxel of the image, and no block cuts one. If None,
        a cell is a voxel.
    samples, channels : range, optional
        Which of them, in steps of 1. If None, all.
    window : sequence of slice, optional
        Which part of each sample, `(z,) y, x`, inside the image; start and stop given. If None, the whole.
    max_bytes : int
        Bytes of pixels that are held at once; a single cell may have more.

    Yields
    ------
    block : ScanBlock
        Which part of the image.
    pixels : array
        `C(Z)YX`, contiguous and in the stack's dtype, the caller's to change.

    Raises
    ------
    SourceError
        If pixels cannot be read.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> stack = ArrayStack(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), axes="SYX")
    >>> for block, pixels in scan_stack(stack, window=(slice(0, 2), slice(1, 2))):
    ...     print(block.sample_idx, pixels.tolist())
    0 [[[1], [5]]]
    1 [[[13], [17]]]
    """
    n_samples, n_channels, *spatial_shape = stack.data_shape
    cells = (1,) * len(spatial_shape) if cell_size is None else tuple(cell_size)
    samples = range(n_samples) if samples is None else samples
    channels = range(n_channels) if channels is None else channels
    window = [slice(0, size) for size in spatial_shape] if window is None else window
    chunk_shape = stack.chunk_shape if isinstance(stack, HasStorageGrid) else (1,) * len(stack.data_shape)
    # From the chunk on in which the box begins, so that its blocks lie on the grid of chunks; then cut to the box.
    first = samples.start - samples.start % chunk_shape[0]
    steps = map(lcm, chunk_shape[2:], cells)
    origin = [part.start - part.start % step for part, step in zip(window, steps, strict=True)]
    extents = [part.stop - start for part, start in zip(window, origin, strict=True)]
    max_voxels = max_bytes // (len(channels) * np.dtype(stack.data_dtype).itemsize)
    for batch in scan_batches((samples.stop - first, len(channels), *extents), cells, chunk_shape, max_voxels):
        moved = (ScanBlock(first + block.sample_idx, _cut(block, origin, window)) for block in batch)
        blocks = [block for block in moved if block.sample_idx in samples and min(block.shape) > 0]
        regions = [Region(block.sample_idx, slice(channels.start, channels.stop), block.window) for block in blocks]
        pixels = [np.empty((len(channels), *block.shape), stack.data_dtype) for block in blocks]
        read_regions(stack, regions, pixels)
        yield from zip(blocks, pixels, strict=True)


def _cut(block: ScanBlock, origin: Sequence[int], window: Sequence[slice]) -> tuple[slice, ...]:
    """Return the part of the box that lies in a block counted from some origin."""
    return tuple(
        slice(max(start + piece.start, part.start), min(start + piece.stop, part.stop))
        for piece, start, part in zip(block.window, origin, window, strict=True)
    )


def scan_batches(
    data_shape: Sequence[int], cell_size: Sequence[int], chunk_shape: Sequence[int], max_voxels: int
) -> Iterator[list[ScanBlock]]:
    """Divide an image stack into blocks, as many together as may be held at once.

    Parameters
    ----------
    data_shape : sequence of int
        `SC(Z)YX`.
    cell_size : sequence of int
        Voxels of a cell, `(z,) y, x`.
    chunk_shape : sequence of int
        The box that is decoded whole, `SC(Z)YX`; all 1 if the image is not stored in chunks.
    max_voxels : int
        Number of voxels that a batch may have; a block of a single cell may have more.

    Yields
    ------
    list of ScanBlock
        To be read together. Over all batches every voxel occurs once.

    Examples
    --------
    >>> batches = list(scan_batches((3, 1, 64, 96), (32, 32), (1, 1, 64, 64), max_voxels=12_288))
    >>> [len(batch) for batch in batches], batches[1][0]
    ([2, 1], ScanBlock(sample_idx=2, window=(slice(0, 64, None), slice(0, 96, None))))
    """
    spatial_shape = tuple(data_shape[2:])
    together = min(chunk_shape[0], data_shape[0])
    if together * prod(map(min, cell_size, spatial_shape)) > max_voxels:
        together = 1  # then a chunk is decoded for each of its samples
    extent = block_extent(spatial_shape, tuple(cell_size), tuple(chunk_shape[2:]), max_voxels // together)
    windows = [
        [slice(start, min(start + step, size)) for start in range(0, size, step)]
        for size, step in zip(spatial_shape, extent, strict=True)
    ]
    batch: list[ScanBlock] = []
    voxels = 0
    for blocks in _blocks(windows, data_shape[0], chunk_shape[0], together):
        added = sum(prod(block.shape) for block in blocks)
        if batch and voxels + added > max_voxels:
            yield batch
            batch, voxels = [], 0
        batch += blocks
        voxels += added
    yield batch


def _blocks(
    windows: Sequence[Sequence[slice]], n_samples: int, chunk_samples: int, together: int
) -> Iterator[list[ScanBlock]]:
    """Yield all blocks: lists of samples that share their chunks, and such lists after each other."""
    for first in range(0, n_samples, chunk_samples):
        samples = range(first, min(first + chunk_samples, n_samples))
        for window in itertools.product(*windows):
            for at in range(0, len(samples), together):
                yield [ScanBlock(sample_idx, window) for sample_idx in samples[at : at + together]]


@lru_cache(maxsize=256)
def block_extent(
    spatial_shape: tuple[int, ...], cell_size: tuple[int, ...], chunk_size: tuple[int, ...], max_voxels: int
) -> tuple[int, ...]:
    """Choose the size of a block, a number of cells along each axis, for which the fewest chunks are decoded.

    Among equals the largest is chosen, which gives the fewest blocks.

    Examples
    --------
    >>> block_extent((1000, 1000), (48, 48), (64, 64), max_voxels=50_000)
    (192, 192)
    """
    candidates = [
        _candidate_extents(size, cell, chunk)
        for size, cell, chunk in zip(spatial_shape, cell_size, chunk_size, strict=True)
    ]
    fitting = [extent for extent in itertools.product(*candidates) if prod(extent) <= max_voxels]

    def cost(extent: tuple[int, ...]) -> tuple[float, int]:
        sides = zip(extent, chunk_size, spatial_shape, strict=True)
        return prod(_decodes(side, chunk, size) for side, chunk, size in sides), -prod(extent)

    return min(fitting, key=cost, default=tuple(map(min, cell_size, spatial_shape)))


def _candidate_extents(size: int, cell: int, chunk: int) -> list[int]:
    """List sizes of a block along one axis to choose from: a cell doubled again and again, common multiples with the chunk."""
    common = lcm(cell, chunk)
    extents = {start << doubling for start in (cell, common) for doubling in range(size.bit_length())}
    return sorted({size} | {extent for extent in extents if extent < size})


def _decodes(extent: int, chunk: int, size: int) -> float:
    """Return how often a chunk is decoded along one axis, on average, by blocks of some extent that lie side by side."""
    return 1.0 if extent >= size else (extent + chunk - gcd(extent, chunk)) / extent
