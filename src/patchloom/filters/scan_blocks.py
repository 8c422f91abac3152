"""How a scan goes through an image: in blocks of whole cells that fit into memory and respect how pixels are stored.

A stored chunk is decoded whole, so a block whose border cuts a chunk costs decoding it again for the next block. Blocks are
therefore chosen, among all that fit, so that the fewest chunks are decoded: once each where a block can begin and end on
both a cell and a chunk.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import gcd, lcm, prod
from typing import Any, NamedTuple

from numpy.typing import NDArray


class ScanBlock(NamedTuple):
    """A box of whole cells of one sample; cells that the image's end cuts are whole as well."""

    sample_idx: int
    window: tuple[slice, ...]
    """Voxels, one slice for each spatial axis, inside the image."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Extent along each spatial axis."""
        return tuple(part.stop - part.start for part in self.window)

    def cells(self, cell_size: Sequence[int]) -> tuple[slice, ...]:
        """Say which cells of the sample these are."""
        return tuple(
            slice(part.start // size, -(-part.stop // size)) for part, size in zip(self.window, cell_size, strict=True)
        )


def scan_batches(
    data_shape: Sequence[int], cell_size: Sequence[int], chunk_shape: Sequence[int], max_voxels: int
) -> Iterator[list[ScanBlock]]:
    """Cut an image stack into blocks, as many together as may be held at once.

    Parameters
    ----------
    data_shape : sequence of int
        `SC(Z)YX`.
    cell_size : sequence of int
        `(z,) y, x`.
    chunk_shape : sequence of int
        The box that is decoded whole, `SC(Z)YX`; all 1 where there is none.
    max_voxels : int
        How many voxels a batch may have; a block of a single cell may have more.

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
    """All blocks; those of so many samples that share their chunks are together, and all that do follow each other."""
    for first in range(0, n_samples, chunk_samples):
        samples = range(first, min(first + chunk_samples, n_samples))
        for window in itertools.product(*windows):
            for at in range(0, len(samples), together):
                yield [ScanBlock(sample_idx, window) for sample_idx in samples[at : at + together]]


@lru_cache(maxsize=256)
def block_extent(
    spatial_shape: tuple[int, ...], cell_size: tuple[int, ...], chunk_size: tuple[int, ...], max_voxels: int
) -> tuple[int, ...]:
    """Choose how large a block is: a number of cells along each axis, for which the fewest chunks are decoded.

    Among equals the largest, that is the fewest blocks.

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
    """Sizes of a block along one axis that are worth a look: a cell doubled again and again, common multiples with the chunk."""
    common = lcm(cell, chunk)
    extents = {start << doubling for start in (cell, common) for doubling in range(size.bit_length())}
    return sorted({size} | {extent for extent in extents if extent < size})


def _decodes(extent: int, chunk: int, size: int) -> float:
    """How often a chunk is decoded along one axis, on average, by blocks of some extent that lie side by side."""
    return 1.0 if extent >= size else (extent + chunk - gcd(extent, chunk)) / extent


def cell_rows(pixels: NDArray[Any], cell_size: Sequence[int]) -> Iterator[tuple[tuple[int | slice, ...], NDArray[Any]]]:
    """Cut a block into cells, a row of cells of one shape at a time; nothing is copied.

    Parameters
    ----------
    pixels : array
        `C(Z)YX`.
    cell_size : sequence of int
        `(z,) y, x`.

    Yields
    ------
    cells : tuple of int and slice
        Which cells of the block, the last axis as a slice.
    row : array
        `(N, C, (Z), Y, X)`, their pixels. Where the block ends within a cell, this has the voxels that exist.

    Examples
    --------
    >>> import numpy as np
    >>> [(cells, row.shape) for cells, row in cell_rows(np.zeros((1, 4, 10)), (4, 4))]
    [((0, slice(0, 2, None)), (2, 1, 4, 4)), ((0, slice(2, 3, None)), (1, 1, 4, 2))]
    """
    *leading, width = pixels.shape[1:]
    counts = [-(-extent // cell) for extent, cell in zip(leading, cell_size, strict=False)]
    cell_width = cell_size[-1]
    n_whole = width // cell_width
    for cell in itertools.product(*map(range, counts)):
        lines = pixels[
            (slice(None), *(slice(at * size, (at + 1) * size) for at, size in zip(cell, cell_size, strict=False)))
        ]
        if n_whole:
            whole = lines[..., : n_whole * cell_width]
            split = whole.reshape(*whole.shape[:-1], n_whole, cell_width)
            yield (*cell, slice(0, n_whole)), split.transpose(split.ndim - 2, *range(split.ndim - 2), split.ndim - 1)
        if n_whole * cell_width < width:
            yield (*cell, slice(n_whole, n_whole + 1)), lines[None, ..., n_whole * cell_width :]
