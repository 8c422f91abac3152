"""Predicted tiles → complete blocks: what each output of a model becomes on its way to the writer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import chain
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.blend_weights import tile_weights
from patchloom.parallel import Runner
from patchloom.prediction.models.monte_carlo_model import STD
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.postprocessing.casting import to_dtype
from patchloom.prediction.postprocessing.denormalization import Denormalize, for_sample, for_spread
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.running.batching import BlockEnd, TileBatch
from patchloom.prediction.running.device_blocks import DeviceBlocks
from patchloom.prediction.running.model_on_device import PredictedBatch
from patchloom.specs.patch_specs import TileSpecs
from patchloom.stitching.assembler import AssembledBlock, BlockAssembler
from patchloom.tensors.deferred_checks import Check
from patchloom.tensors.device_stream import DeviceEvent
from patchloom.tensors.tensor_pixels import Pixels, is_tensor

BlockBuffers = Callable[[int, int], Sequence[NDArray[Any] | None]]
"""Takes `data_idx` and `block_idx`; returns the memory of the output at the block, `C(Z)YX`, or None, for each output."""


class CompleteBlock(NamedTuple):
    """A block that all its tiles were added to."""

    data_idx: int
    block_idx: int
    finish: Callable[[], list[NDArray[Any]]]
    """Returns what is written, `C(Z)YX` for each output; may be called from any thread."""


class _Finishing(NamedTuple):
    """What is left to do for a block after all its tiles have been added."""

    postprocess: Postprocessing | None
    checks: Sequence[Check]
    given: Sequence[DeviceEvent]
    """When the tiles have been added on their device."""


class Stitcher:
    """Adds the tiles of a run to its open blocks, and yields complete blocks.

    Parameters
    ----------
    plan : Plan
        The plan.
    block_buffers : callable
        See `BlockBuffers`.
    runner : callable
        Runs calls, on several cores if it does.
    """

    def __init__(self, plan: Plan, block_buffers: BlockBuffers, runner: Runner) -> None:
        self._plan = plan
        self._device_blocks = DeviceBlocks(plan)
        self._images = [
            _ImageStitcher(plan, data_idx, partial(block_buffers, data_idx), self._device_blocks, runner)
            for data_idx in range(len(plan.survey.stacks))
        ]

    def stitch(self, batch: TileBatch, predicted: PredictedBatch) -> Iterator[CompleteBlock]:
        """Stitch a batch, and yield the blocks that it completes.

        Parameters
        ----------
        batch : TileBatch
            The batch.
        predicted : PredictedBatch
            Its predictions.
        """
        outputs = self._device_blocks.placed(predicted.outputs)
        tiles = zip(*(chain.from_iterable(parts) for parts in outputs), strict=True)
        images = [self._images[data_idx] for data_idx in batch.images]
        for image in images if predicted.checks else ():
            image.checks.extend(predicted.checks)
        run, skipped = zip(predicted.specs, tiles, strict=False), iter(self._skipped_specs(batch))
        for item in batch.items:
            image = self._images[item.data_idx]
            if isinstance(item, BlockEnd):
                yield CompleteBlock(item.data_idx, item.block_idx, image.take(item.block_idx))
            elif item.is_skipped:
                image.skip(item.open_blocks, next(skipped))
            else:
                image.add(item.open_blocks, *next(run))
        for image in images:
            image.flush()

    def _skipped_specs(self, batch: TileBatch) -> list[TileSpecs]:
        tiles = batch.skipped
        return cast("list[TileSpecs]", self._plan.tiling.specs(tiles).to_specs()) if tiles else []


class _ImageStitcher:
    """The open blocks of one image, for each output of the model."""

    def __init__(
        self,
        plan: Plan,
        data_idx: int,
        block_buffers: Callable[[int], Sequence[NDArray[Any] | None]],
        device_blocks: DeviceBlocks,
        runner: Runner,
    ) -> None:
        self._plan, self._request = plan, plan.request
        self._device_blocks = device_blocks
        self.checks: list[Check] = []
        """Checks of tiles that no complete block has been taken out after."""
        self._data_idx, self._grid = data_idx, plan.blocks[data_idx]
        self._image_size = plan.tiling.data_shapes[data_idx][2:]
        self._block_buffers = block_buffers
        self._output_specs = plan.survey.outputs[data_idx]
        n_tiles = plan.schedules[data_idx].n_serving if plan.request.blend is not None else None
        self._assemblers = [
            BlockAssembler(
                partial(self._window, output_spec),
                output_spec.n_channels,
                plan.layout.accumulator(output_spec),
                n_blended_tiles=n_tiles,
                initial=self._initial,
                marks_predicted=plan.request.skip is not None and plan.request.block_postprocess is not None,
                runner=runner,
            )
            for output_spec in self._output_specs
        ]

    @property
    def _initial(self) -> float | None:
        """Value of voxels of which all tiles are skipped, before any postprocessing."""
        if self._request.skip is None:
            return None
        return (
            0 if self._request.blend is not None or self._request.block_postprocess is not None else self._request.fill
        )

    def _window(self, output_spec: OutputSpec, block_idx: int) -> tuple[slice, ...]:
        return output_spec.scale_window(self._grid[block_idx].window)

    def add(self, blocks: Sequence[int], spec: TileSpecs, tiles: Sequence[Pixels]) -> None:
        """Add a tile, `C(Z)YX` for each output, to blocks."""
        for block_idx in blocks:
            if not self._assemblers[0].has_memory(block_idx):  # then none has any
                self._allocate(block_idx, tiles)
        for output_spec, assembler, tile in zip(self._output_specs, self._assemblers, tiles, strict=True):
            weights = None
            if self._request.blend is not None:
                scale = output_spec.scale if output_spec.is_scaled else ()
                rules, shape = self._plan.tiling.rules, self._image_size
                weights = tile_weights(self._request.blend, rules, shape, spec["coords"], scale)
            in_output = _in_output(spec, output_spec) if output_spec.is_scaled else spec
            for block_idx in blocks:
                assembler.add(block_idx, tile, in_output, weights)

    def skip(self, blocks: Sequence[int], spec: TileSpecs) -> None:
        """Add a tile that is skipped to blocks, as if the model had returned `fill` everywhere.

        With a postprocessing, which `fill` does not go through, the tile counts as 0 in a blend.
        """
        if self._request.blend is not None and self._request.block_postprocess is None and self._request.fill != 0:
            self.add(blocks, spec, self._filled_tiles)
            return
        for output_spec, assembler in zip(self._output_specs, self._assemblers, strict=True):
            in_output = _in_output(spec, output_spec)
            for block_idx in blocks:
                assembler.skip(block_idx, in_output)

    def flush(self) -> None:
        """Blend all tiles that were added."""
        for assembler in self._assemblers:
            assembler.flush()

    def take(self, block_idx: int) -> Callable[[], list[NDArray[Any]]]:
        """Take a complete block out; return what finishes it."""
        blocks = [assembler.take(block_idx) for assembler in self._assemblers]
        checks, self.checks = self.checks, []
        given = [self._device_blocks.given(block.values) for block in blocks if is_tensor(block.values)]
        return partial(self._finish, block_idx, blocks, _Finishing(self._postprocessing(block_idx), checks, given))

    def _allocate(self, block_idx: int, tiles: Sequence[Pixels]) -> None:
        """Allocate a block: on a device if its tiles are there, else in the memory of the output if nothing is done to it before."""
        buffers: Sequence[NDArray[Any] | None] = [None] * len(tiles)
        if not all(map(is_tensor, tiles)) and self._request.block_postprocess is None:
            buffers = self._block_buffers(block_idx)
        for assembler, buffer, tile in zip(self._assemblers, buffers, tiles, strict=True):
            if is_tensor(tile):
                self._device_blocks.allocate(assembler, block_idx, tile)
            else:
                assembler.allocate(block_idx, buffer)

    def _postprocessing(self, block_idx: int) -> Postprocessing | None:
        """Return what is done to a block; to undo a normalization, it needs the numbers of its sample."""
        in_stack = self._plan.layout.sample_in_stack(self._data_idx, self._grid[block_idx].sample_idx)
        return step_of_sample(self._plan.layout, self._data_idx, in_stack)

    def _finish(self, block_idx: int, blocks: Sequence[AssembledBlock], finishing: _Finishing) -> list[NDArray[Any]]:
        """Turn a block into what is written, for each output: in the thread that writes."""
        for check in finishing.checks:
            check()
        buffers: Sequence[NDArray[Any] | None] = [None] * len(blocks)
        if finishing.given and finishing.postprocess is None:
            buffers = self._block_buffers(block_idx)
        of_outputs = zip(self._output_specs, blocks, buffers, strict=True)
        return [self._finished(*of_output, finishing) for of_output in of_outputs]

    def _finished(
        self, output_spec: OutputSpec, block: AssembledBlock, buffer: NDArray[Any] | None, finishing: _Finishing
    ) -> NDArray[Any]:
        """Turn a block of one output into what is written."""
        n_channels, dtype = self._plan.layout.output_channels_and_dtype(output_spec)
        if block.values is None:  # every tile was skipped
            return np.full((n_channels, *block.shape), self._request.fill, dtype)
        postprocess = step_of_output(self._plan.layout, output_spec, finishing.postprocess)
        given = finishing.given
        if is_tensor(block.values):
            processed = self._device_blocks.finished(block.values, postprocess, dtype, given=given, buffer=buffer)
        elif postprocess is None:
            return to_dtype(block.values, dtype, [])
        else:
            processed = postprocess(block.values)
        if block.is_predicted is not None and not block.is_predicted.all():
            processed = np.where(block.is_predicted, processed, np.array(self._request.fill, dtype))
        return processed

    @cached_property
    def _filled_tiles(self) -> list[NDArray[Any]]:
        """A prediction of `fill` for each output, `C(Z)YX`; in a blend, integers may be floats."""
        return [
            np.full(
                (output_spec.n_channels, *output_spec.scale_size(self._plan.tiling.patch_size)),
                self._request.fill,
                output_spec.dtype if output_spec.dtype.kind in "fc" else self._plan.layout.accumulator(output_spec),
            )
            for output_spec in self._output_specs
        ]


def step_of_sample(layout: TileLayout, data_idx: int, sample_idx: int) -> Postprocessing | None:
    """Return what is done to the blocks of a sample; to undo a normalization, it contains the numbers of the sample.

    Parameters
    ----------
    layout : TileLayout
        The tiles, with the request.
    data_idx, sample_idx : int
        The image stack, and the sample in it.
    """
    step, survey = layout.request.block_postprocess, layout.survey
    if step is None or not layout.request.denormalize:
        return step
    in_image = survey.stacks[data_idx].position(sample_idx).sample_idx
    measured = survey.normalizations[data_idx]
    return for_sample(step, measured.scale[in_image], measured.offset[in_image])


def step_of_output(layout: TileLayout, spec: OutputSpec, step: Postprocessing | None) -> Postprocessing | None:
    """Return what is done to the blocks of an output; a standard deviation of draws has no offset.

    Parameters
    ----------
    layout : TileLayout
        The tiles, with the request.
    spec : OutputSpec
        The output.
    step : Postprocessing, optional
        What is done to the blocks of its sample.
    """
    is_spread = layout.request.n_draws is not None and spec.name.rpartition("-")[2] == STD
    return for_spread(step) if is_spread and isinstance(step, Denormalize) else step


def _in_output(spec: TileSpecs, output_spec: OutputSpec) -> TileSpecs:
    """Turn a tile in voxels of the input into one in voxels of an output."""
    if not output_spec.is_scaled:
        return spec
    coords, landing = output_spec.scale_coords(spec["coords"]), output_spec.scale_coords(spec["stitch_coords"])
    ends = output_spec.scale_size(
        [start + size for start, size in zip(spec["stitch_coords"], spec["crop_size"], strict=True)]
    )
    return {
        **spec,
        "coords": coords,
        "patch_size": output_spec.scale_size(spec["patch_size"]),
        "crop_coords": tuple(place - start for place, start in zip(landing, coords, strict=True)),
        "crop_size": tuple(end - place for end, place in zip(ends, landing, strict=True)),
        "stitch_coords": landing,
    }
