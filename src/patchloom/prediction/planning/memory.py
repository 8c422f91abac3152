"""What a run takes in memory, estimated part by part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, prod

from patchloom.extraction.chunk_cache import READ_TOGETHER
from patchloom.extraction.rescaling import is_exact_in_float32
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.stack_facts import StackFacts
from patchloom.prediction.survey import Survey
from patchloom.stitching.block_grid import BlockGrid
from patchloom.stitching.tile_schedule import TileSchedule

READ_AHEAD = 2
"""Batches that are read while the model is busy with another."""

WRITE_BEHIND = 1
"""Finished blocks that are being written, or wait for it, while the next one is computed."""

CACHE_BYTES = 2**30
"""Decoded chunks of the sources that are kept: at most this, and a quarter of what the run may take."""

_SHARE_OF_CACHE = 4
"""The cache takes at most one in so many bytes of the limit."""

SINK_BYTES = 16 * 2**20
"""What a sink compresses at once, but always a shard at least; what it has compressed may be as large."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory of the parts of a run, in bytes; the memory of the model is not known.

    Parameters
    ----------
    batches : int
        Batches of tiles that are read, waiting, or in the model, and what the storage decodes for one of them.
    predictions : int
        What the model makes of a batch.
    open_blocks : int
        Blocks that tiles are still added to.
    writing : int
        Finished blocks on their way to the output.
    cache : int
        Chunks of the sources, decoded, that are kept for the tiles to come.
    wanted_cache : int
        Size of the cache if there is no limit.

    Examples
    --------
    >>> use = MemoryUse(10_001, 0, 0, 0, cache=0, wanted_cache=5_000)
    >>> least = use.least_limit
    >>> least, [10_001 + min(5_000, limit // _SHARE_OF_CACHE) <= limit for limit in (least - 1, least)]
    (13334, [False, True])
    """

    batches: int
    predictions: int
    open_blocks: int
    writing: int
    cache: int
    wanted_cache: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.batches + self.predictions + self.open_blocks + self.writing + self.cache

    @property
    def least_limit(self) -> int:
        """The smallest memory limit for a run with these parts: the cache takes a share of the limit at most."""
        others = self.total - self.cache
        # If the cache takes a quarter of the limit, three quarters are left: the least L with L - L // 4 >= others.
        quarter = _SHARE_OF_CACHE * (others - 1) // (_SHARE_OF_CACHE - 1) + 1 - others
        return others + min(self.wanted_cache, quarter)


def estimate_memory(layout: TileLayout, blocks: Sequence[BlockGrid], schedules: Sequence[TileSchedule]) -> MemoryUse:
    """Estimate what a run takes at its peak, the model's own needs not included.

    Parameters
    ----------
    layout : TileLayout
        The tiles.
    blocks : sequence of BlockGrid
        The blocks of each image.
    schedules : sequence of TileSchedule
        The order of work on each image.
    """
    prediction = open_blocks = writing = 0
    for data_idx, (grid, schedule) in enumerate(zip(blocks, schedules, strict=True)):
        of_tile, of_block, of_write = _bytes_of_one(layout, data_idx, grid)
        prediction = max(prediction, 2 * layout.batch_size * of_tile + _bytes_of_rescaling(layout, data_idx))
        open_blocks = max(open_blocks, schedule.n_open * of_block)
        writing = max(writing, of_write)
    wanted_cache = _wanted_cache(layout.survey)
    cache = min(wanted_cache, layout.survey.memory_limit // _SHARE_OF_CACHE)
    return MemoryUse(_bytes_of_batches(layout), prediction, open_blocks, writing, cache, wanted_cache)


def _bytes_of_one(layout: TileLayout, data_idx: int, grid: BlockGrid) -> tuple[int, int, int]:
    """Return the bytes of the predictions of a tile, of an open block, and of a block that is being written."""
    postprocess, is_skipping = layout.request.block_postprocess, layout.request.skip is not None
    block_shape = tuple(map(min, grid.block_shape, grid.spatial_shape))
    of_tile = of_block = of_write = 0
    for spec in layout.outputs(data_idx):
        voxels, (channels, dtype) = prod(spec.scale_size(block_shape)), layout.output_channels_and_dtype(spec)
        put_together = spec.n_channels * voxels * layout.accumulator(spec).itemsize
        shard, stored = voxels * dtype.itemsize, channels * voxels * dtype.itemsize
        converted = postprocess is not None or layout.accumulator(spec) != dtype
        if is_skipping and postprocess is not None:
            put_together += voxels  # where tiles were added
        of_block += put_together
        of_write += put_together + converted * stored + min(stored, max(shard, SINK_BYTES))
        of_tile += spec.n_channels * prod(spec.scale_size(layout.patch_size)) * spec.dtype.itemsize
    return of_tile, of_block, of_write


def _bytes_of_batches(layout: TileLayout) -> int:
    """Return the bytes of batches that are read, and of what is decoded for one of them."""
    n_values = layout.batch_size * prod(layout.patch_size) * layout.stacks[0].data_shape[1]
    of_source = n_values * max(facts.data_dtype.itemsize for facts in layout.stacks)
    batch = n_values * 4 if layout.is_normalized else of_source
    # A skip rule looks at a batch of tiles before the next one is read.
    looked_at = 0 if layout.request.skip is None else of_source
    if layout.is_normalized and not all(is_exact_in_float32(facts.data_dtype) for facts in layout.stacks):
        batch += of_source  # as it is read, before it is normalized
    ahead = read_ahead(layout.survey)
    if not ahead:
        return batch + looked_at
    return looked_at + (ahead + 1) * batch + max([batch, *(_decoded_bytes(layout, facts) for facts in layout.stacks)])


def _bytes_of_rescaling(layout: TileLayout, data_idx: int) -> int:
    """Return the bytes of a batch in pixels of the network, of its predictions, and of one channel that is resampled; 0 if none is."""
    if layout.survey.pixel_steps is None:
        return 0
    pixels, channels = prod(layout.network_size), layout.stacks[data_idx].data_shape[1]
    of_tile = channels * pixels * layout.batch_dtype(data_idx).itemsize
    for spec in layout.outputs(data_idx):
        of_tile += spec.n_channels * prod(spec.scale_size(layout.network_size)) * spec.dtype.itemsize
    # One axis after the other: before, after and a product, of real or complex numbers.
    scale = max(prod(spec.scale) for spec in layout.outputs(data_idx))
    of_channel = prod(map(max, layout.network_size, layout.patch_size)) * max(1, ceil(scale)) * 8
    return layout.batch_size * of_tile + 4 * of_channel


def _decoded_bytes(layout: TileLayout, facts: StackFacts) -> int:
    """Return the bytes of what a stack decodes at once for a batch, before it is kept: chunks, which are read whole."""
    chunk = facts.chunk_shape
    if chunk is None:
        return 0
    touched = [-(-size // side) + 1 for size, side in zip(layout.patch_size, chunk[2:], strict=True)]
    n_chunks = min(
        layout.batch_size * prod(touched) * -(-facts.data_shape[1] // chunk[1]),
        prod(-(-size // side) for size, side in zip(facts.data_shape, chunk, strict=True)),
    )
    of_chunk = prod(chunk) * facts.data_dtype.itemsize
    return min(n_chunks * of_chunk, max(of_chunk, READ_TOGETHER))


def _wanted_cache(survey: Survey) -> int:
    """Return the bytes of the largest image that is stored in chunks, with the parts of its chunks that lie outside."""
    images = [
        prod(-(-size // chunk) * chunk for size, chunk in zip(facts.data_shape, facts.chunk_shape, strict=True))
        * facts.data_dtype.itemsize
        for facts in (*survey.stacks, *survey.masks)
        if facts.chunk_shape is not None
    ]
    return min(max(images, default=0), CACHE_BYTES)


def read_ahead(survey: Survey) -> int:
    """Return the number of batches that are read while the model is busy with another; 0 if there is nothing to wait for.

    Parameters
    ----------
    survey : Survey
        What was found out about the images.
    """
    return 0 if all(facts.in_memory for facts in survey.stacks) else READ_AHEAD
