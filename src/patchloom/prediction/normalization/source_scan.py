"""The pixels of a box of an image, a bounded amount at a time and each stored chunk as seldom as can be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.filters.scan_blocks import ScanBlock, scan_batches
from patchloom.image_stacks import HasStorageGrid, ImageStack, Region, read_regions

MAX_BYTES = 32 << 20
"""Pixels held at once."""


def scan_source(
    stack: ImageStack,
    *,
    samples: range | None = None,
    channels: range | None = None,
    window: Sequence[slice] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Iterator[tuple[int, NDArray[Any]]]:
    """Read a box of an image piece by piece; every voxel of it comes once.

    Pieces begin and end where stored chunks do as far as `max_bytes` allows, and as many as fit are read together. While
    they are read, a stack may hold as much again, and so may the caller of the pieces before.

    Parameters
    ----------
    stack : ImageStack
        The image.
    samples, channels : range, optional
        Which of them, in steps of 1; all by default.
    window : sequence of slice, optional
        Which part of each sample, `(z,) y, x`, inside the image; start and stop given. The whole by default.
    max_bytes : int
        How many bytes of pixels are held at once.

    Yields
    ------
    sample_idx : int
        Which sample.
    pixels : array
        `C(Z)YX`, a contiguous box of it in the stack's dtype, the caller's to change.

    Raises
    ------
    SourceError
        If pixels cannot be read.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> stack = ArrayStack(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), axes="SYX")
    >>> [(sample, pixels.tolist()) for sample, pixels in scan_source(stack, window=(slice(0, 2), slice(1, 2)))]
    [(0, [[[1], [5]]]), (1, [[[13], [17]]])]
    """
    n_samples, n_channels, *spatial_shape = stack.data_shape
    samples = range(n_samples) if samples is None else samples
    channels = range(n_channels) if channels is None else channels
    window = [slice(0, size) for size in spatial_shape] if window is None else window
    chunk_shape = stack.chunk_shape if isinstance(stack, HasStorageGrid) else (1,) * len(stack.data_shape)
    # From the chunk on in which the box begins, so that its pieces lie on the grid of chunks; then cut to the box.
    first = samples.start - samples.start % chunk_shape[0]
    origin = [part.start - part.start % side for part, side in zip(window, chunk_shape[2:], strict=True)]
    extents = [part.stop - start for part, start in zip(window, origin, strict=True)]
    max_voxels = max_bytes // (len(channels) * np.dtype(stack.data_dtype).itemsize)
    shape = (samples.stop - first, len(channels), *extents)
    for batch in scan_batches(shape, (1,) * len(extents), chunk_shape, max_voxels):
        regions = [
            Region(first + block.sample_idx, slice(channels.start, channels.stop), _cut(block, origin, window))
            for block in batch
            if first + block.sample_idx in samples
        ]
        regions = [region for region in regions if all(part.start < part.stop for part in region.window)]
        yield from zip((region.sample_idx for region in regions), _read(stack, regions), strict=True)


def _cut(block: ScanBlock, origin: Sequence[int], window: Sequence[slice]) -> tuple[slice, ...]:
    """Part of the box that a block counted from some origin has."""
    return tuple(
        slice(max(start + piece.start, part.start), min(start + piece.stop, part.stop))
        for piece, start, part in zip(block.window, origin, window, strict=True)
    )


def _read(stack: ImageStack, regions: Sequence[Region]) -> list[NDArray[Any]]:
    pixels = [
        np.empty(
            (region.channels.stop - region.channels.start, *(part.stop - part.start for part in region.window)),
            stack.data_dtype,
        )
        for region in regions
    ]
    read_regions(stack, regions, pixels)
    return pixels
