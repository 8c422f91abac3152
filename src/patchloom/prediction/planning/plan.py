"""What a prediction will do, worked out before any of it is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from patchloom.argument_checks import instance
from patchloom.extraction.chunk_cache import READ_TOGETHER
from patchloom.extraction.rescaling import is_exact_in_float32
from patchloom.geometry.blend_weights import BlendWindow, most_tiles_at_a_voxel
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import HasStorageGrid, HoldsPixels, ImageStack, whole_stack
from patchloom.patching import TiledPatching
from patchloom.patching.flat_index import check_data_idx
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.planning.memory import (
    CACHE_BYTES,
    READ_AHEAD,
    SINK_BYTES,
    MemoryUse,
    cache_bytes,
    least_limit,
)
from patchloom.prediction.postprocessing import Postprocessing
from patchloom.prediction.skip_rules import SkipRule
from patchloom.stitching.block_grid import BlockGrid
from patchloom.stitching.tile_schedule import TileSchedule

_TILES_IN_FLOAT32 = 9


@dataclass(frozen=True)
class PredictionPlan:
    """Everything a run is: which tiles of which images go through the model, and which blocks come out.

    Made by `plan`. The same arguments give the same plan, and a plan says all that it will do without doing it.

    Examples
    --------
    >>> import numpy as np
    >>> import patchloom as pl
    >>> prepared = pl.plan(np.zeros((100, 80), np.uint8), axes="YX", patch_size=(64, 64), overlaps=(16, 16))
    >>> prepared.n_tiles, prepared.n_blocks, prepared.seams
    (4, 1, 'centered')
    """

    stacks: tuple[ImageStack, ...]
    """The series as the model is run on it: for a 2D model, the Z slices of 3D images are samples."""

    tiling: TiledPatching
    """The tiles of the whole series, without the margin that the model's output does not cover."""

    margin: tuple[int, ...]
    """Voxels that are read around each tile, because the model's output lacks them."""

    blocks: tuple[BlockGrid, ...]
    """The blocks of each image, in voxels of the input."""

    n_shared_axes: int
    """Along how many axes, from the innermost, tiles that two blocks share are handed over; see `TileSchedule`."""

    blend: BlendWindow | None
    """How overlapping tiles share a voxel; `None` where each voxel is cropped from one tile."""

    batch_size: int
    """Tiles that go through the model together."""

    padding: Padding
    """What stands outside an image."""

    model: ModelDescription
    """What the model says of itself."""

    dtype: np.dtype[Any] | None
    """Dtype asked for; `None` for the model's own."""

    forms: tuple[tuple[OutputSpec, ...], ...]
    """For each image, what the model makes of a tile, output by output; empty where that is not known yet."""

    postprocessing: Postprocessing | None
    """What finished blocks are reduced to before they are written."""

    normalizations: tuple[Normalization, ...]
    """For each image, how its gray values are brought to the model's range; empty where they go in as they are."""

    skip: SkipRule | None
    """Which tiles are skipped."""

    fill: float
    """Value of the output where tiles are skipped."""

    memory_limit: int
    """Bytes that the run may take."""

    source_identities: tuple[tuple[Any, ...], ...]
    """What each source was when the plan was made: name, axes, shape, dtype."""

    source_states: tuple[str, ...]
    """The `"quick"` fingerprint of each source when the plan was made."""

    @cached_property
    def images(self) -> tuple[ImageStack, ...]:
        """The series as it was given."""
        return tuple(map(whole_stack, self.stacks))

    @cached_property
    def has_planes(self) -> bool:
        """Whether the model is run on slices of any image."""
        return any(map(self.is_by_plane, range(len(self.stacks))))

    def is_by_plane(self, data_idx: int) -> bool:
        """Whether an image has a Z axis and the model is run on its slices."""
        return self.stacks[data_idx] is not self.images[data_idx]

    @property
    def n_tiles(self) -> int:
        """Tiles of the series."""
        return len(self.tiling)

    @property
    def n_blocks(self) -> int:
        """Blocks of the series."""
        return sum(len(grid) for grid in self.blocks)

    @property
    def seams(self) -> Seams:
        """Where kept windows meet."""
        return self.tiling.seams

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Size of the tiles that the model gets, margin included."""
        return tuple(size + 2 * margin for size, margin in zip(self.tiling.patch_size, self.margin, strict=True))

    def schedule(self, data_idx: int) -> TileSchedule:
        """Give the order of work on one image.

        Raises
        ------
        PatchIndexError
            If there is no such image.
        """
        data_idx = check_data_idx(data_idx, len(self.stacks))
        if data_idx not in self._schedules:
            self._schedules[data_idx] = TileSchedule(
                self.tiling, data_idx, self.blocks[data_idx], self.n_shared_axes, whole_tiles=self.blend is not None
            )
        return self._schedules[data_idx]

    @cached_property
    def _schedules(self) -> dict[int, TileSchedule]:
        """Those that were asked for: one is worked out once, not for every block."""
        return {}

    @property
    def n_tiles_computed(self) -> int:
        """Tiles that go through the model: one that two blocks share may be computed for each."""
        return sum(self.schedule(data_idx).n_computed for data_idx in range(len(self.stacks)))

    @property
    def source_bytes(self) -> int:
        """Size of the images, decoded."""
        return sum(prod(stack.data_shape) * np.dtype(stack.data_dtype).itemsize for stack in self.stacks)

    @property
    def tile_bytes(self) -> int:
        """Size of all tiles that are read, overlaps and padding included."""
        return self.n_tiles_computed * self._bytes_of_one_tile

    @property
    def _bytes_of_one_tile(self) -> int:
        itemsize = 4 if self.normalizations else self._source_itemsize
        return prod(self.patch_size) * int(self.stacks[0].data_shape[1]) * itemsize

    @property
    def _bytes_of_source_tile(self) -> int:
        return prod(self.patch_size) * int(self.stacks[0].data_shape[1]) * self._source_itemsize

    @property
    def _source_itemsize(self) -> int:
        return max(np.dtype(stack.data_dtype).itemsize for stack in self.stacks)

    @property
    def output_known(self) -> bool:
        """Whether channels and dtype of the output are known, or one channel of float32 is assumed."""
        return bool(self.forms) or (self.model.out_channels is not None and self.model.out_dtype is not None)

    def output_forms(self, data_idx: int) -> tuple[OutputSpec, ...]:
        """Give the outputs of one image; where they are not known, one channel of float32 is assumed."""
        data_idx = check_data_idx(data_idx, len(self.stacks))
        if self.forms:
            return self.forms[data_idx]
        grid = self.blocks[data_idx]
        return (assumed_output(len(grid.spatial_shape), self.model, self.dtype),)

    def stored(self, form: OutputSpec) -> tuple[int, np.dtype[Any]]:
        """Give channels and dtype in which an output is written; an output that is only assumed is not reduced."""
        instance("form", form, OutputSpec, "output_forms gives them")
        if self.postprocessing is not None and self.output_known:
            return self.postprocessing.output(form.n_channels, self.accumulator(form))
        return form.n_channels, form.dtype if self.dtype is None else self.dtype

    @property
    def output_shapes(self) -> list[list[tuple[int | None, ...]]]:
        """For each image and output, the shape as `SC(Z)YX`; `C` is `None` where it is not known yet."""
        return [
            [
                (
                    int(image.data_shape[0]),
                    self.stored(form)[0] if self.forms or self.model.out_channels else None,
                    *image.data_shape[2 : -len(grid.spatial_shape)],  # Z, where the model is run slice by slice
                    *form.size(grid.spatial_shape),
                )
                for form in self.output_forms(data_idx)
            ]
            for data_idx, (image, grid) in enumerate(zip(self.images, self.blocks, strict=True))
        ]

    @property
    def output_bytes(self) -> int:
        """Size of the outputs before compression."""
        return sum(
            grid.n_samples * prod(form.size(grid.spatial_shape)) * channels * dtype.itemsize
            for data_idx, grid in enumerate(self.blocks)
            for form in self.output_forms(data_idx)
            for channels, dtype in [self.stored(form)]
        )

    def accumulator(self, form: OutputSpec) -> np.dtype[Any]:
        """Dtype in which a block is put together: for blending a float that holds the model's own exactly enough."""
        instance("form", form, OutputSpec, "output_forms gives them")
        if self.blend is not None:
            # Each tile that is added brings a rounding: up to nine keep float32 within four units in the last place.
            least = np.float32 if self._most_tiles_at_a_voxel <= _TILES_IN_FLOAT32 else np.float64
            return np.dtype(least) if form.dtype == bool else np.result_type(form.dtype, least)
        return form.dtype if self.postprocessing is not None or self.dtype is None else self.dtype

    @cached_property
    def _most_tiles_at_a_voxel(self) -> int:
        return max(
            prod(
                most_tiles_at_a_voxel(rule, size)
                for rule, size in zip(self.tiling.rules, grid.spatial_shape, strict=True)
            )
            for grid in self.blocks
        )

    @property
    def read_ahead(self) -> int:
        """How many batches are read while the model is busy with another; none where there is nothing to wait for."""
        return 0 if all(map(_in_memory, self.stacks)) else READ_AHEAD

    @property
    def cache_bytes(self) -> int:
        """Decoded chunks of the sources that are kept, so that a chunk is not decoded for each tile that needs it."""
        return cache_bytes(self._wanted_cache, self.memory_limit)

    @property
    def least_memory_limit(self) -> int:
        """The smallest `memory_limit` in which a run with these blocks fits."""
        return least_limit(self.memory.total - self.cache_bytes, self._wanted_cache)

    @cached_property
    def _wanted_cache(self) -> int:
        """Bytes of the largest image that is stored in chunks, with the parts of its chunks that lie outside."""
        stacks = (*self.stacks, *(() if self.skip is None else self.skip.images))
        images = [
            prod(-(-size // chunk) * chunk for size, chunk in zip(stack.data_shape, stack.chunk_shape, strict=True))
            * np.dtype(stack.data_dtype).itemsize
            for stack in stacks
            if isinstance(stack, HasStorageGrid) and not _in_memory(stack)
        ]
        return min(max(images, default=0), CACHE_BYTES)

    @property
    def memory(self) -> MemoryUse:
        """What the run takes at its peak, the model's own needs not counted."""
        prediction = open_blocks = writing = 0
        for data_idx, grid in enumerate(self.blocks):
            block_shape = tuple(map(min, grid.block_shape, grid.spatial_shape))
            of_tile = of_block = of_write = 0
            for form in self.output_forms(data_idx):
                voxels, (channels, dtype) = prod(form.size(block_shape)), self.stored(form)
                put_together = form.n_channels * voxels * self.accumulator(form).itemsize
                shard, stored = voxels * dtype.itemsize, channels * voxels * dtype.itemsize
                converted = self.postprocessing is not None or self.accumulator(form) != dtype
                if self.skip is not None and self.postprocessing is not None:
                    put_together += voxels  # where tiles were added
                of_block += put_together
                of_write += put_together + converted * stored + min(stored, max(shard, SINK_BYTES))
                of_tile += form.n_channels * prod(form.size(self.patch_size)) * form.dtype.itemsize
            prediction = max(prediction, 2 * self.batch_size * of_tile)
            open_blocks = max(open_blocks, self.schedule(data_idx).n_open * of_block)
            writing = max(writing, of_write)
        return MemoryUse(self._batches_bytes, prediction, open_blocks, writing, self.cache_bytes)

    @property
    def _batches_bytes(self) -> int:
        batch = self.batch_size * self._bytes_of_one_tile
        # A skip rule looks at a batch of tiles before the next one is read.
        looked_at = 0 if self.skip is None else self.batch_size * self._bytes_of_source_tile
        if self.normalizations and not all(is_exact_in_float32(np.dtype(stack.data_dtype)) for stack in self.stacks):
            batch += self.batch_size * self._bytes_of_source_tile  # as it is read, before it is normalized
        if not self.read_ahead:
            return batch + looked_at
        return looked_at + (self.read_ahead + 1) * batch + max([batch, *map(self._decoded_bytes, self.stacks)])

    def _decoded_bytes(self, stack: ImageStack) -> int:
        """Count what a stack decodes at once for a batch, before it is kept: chunks, which are read whole."""
        if not isinstance(stack, HasStorageGrid) or _in_memory(stack):
            return 0
        chunk = stack.chunk_shape
        touched = [-(-size // side) + 1 for size, side in zip(self.patch_size, chunk[2:], strict=True)]
        n_chunks = min(
            self.batch_size * prod(touched) * -(-stack.data_shape[1] // chunk[1]),
            prod(-(-size // side) for size, side in zip(stack.data_shape, chunk, strict=True)),
        )
        of_chunk = prod(chunk) * np.dtype(stack.data_dtype).itemsize
        return min(n_chunks * of_chunk, max(of_chunk, READ_TOGETHER))

    @property
    def settings(self) -> dict[str, Any]:
        """All that the bytes of the result depend on, by name, as plain values that go to JSON."""
        settings = {
            "sources": self.source_identities,
            "files": self.source_states,
            "patch size": self.patch_size,
            "overlaps": self.tiling.overlaps,
            "margin": self.margin,
            "seams": self.seams,
            "origin multiple": self.tiling.origin_multiple,
            "padding": self.padding,
            "blend": self.blend,
            "batch size": self.batch_size,
            "blocks": [grid.block_shape for grid in self.blocks],
            "handed over": self.n_shared_axes,
            "dtype": None if self.dtype is None else str(self.dtype),
            "postprocessing": None if self.postprocessing is None else self.postprocessing.identity,
            "normalization": [normalization.to_dict() for normalization in self.normalizations],
            "skip": None if self.skip is None else [self.skip.identity, self.fill],
            "outputs": [
                [(form.name, form.n_channels, str(form.dtype), list(map(str, form.scale))) for form in forms]
                for forms in self.forms
            ],
            "model": self.model.identity,
        }
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    @property
    def fingerprint(self) -> str:
        """Short digest of `settings`: the same for the same sources, geometry and model."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:16]


def _in_memory(stack: ImageStack) -> bool:
    return isinstance(stack, HoldsPixels) and stack.pixels is not None


def assumed_output(n_dims: int, model: ModelDescription, dtype: np.dtype[Any] | None) -> OutputSpec:
    """Assume the form of an output by what the model says of it: one channel of float32 where it says nothing."""
    declared = np.dtype(model.out_dtype) if model.out_dtype else dtype or np.dtype(np.float32)
    return OutputSpec(model.out_channels or 1, declared, (Fraction(1),) * n_dims, (0,) * n_dims)
