"""The run of a plan: read ahead → model → stitch → write behind.

Three threads share the work. One reads batches ahead (TensorStore decodes in threads of its own), the main thread runs the
model and stitches, one writes complete blocks. The queues between them are bounded, and so is memory. An error in any thread
is raised in the main thread, and all threads have ended when a run returns or raises.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from numpy.typing import NDArray

from patchloom.errors import GeometryError, PatchloomError, StoppedError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import ImageStack
from patchloom.parallel import Runner, run_serially, thread_runner
from patchloom.prediction.models.batch_prediction import check_predictions, predict_batch
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import OutputSpec, crop_to_margin
from patchloom.prediction.planning.memory import WRITE_BEHIND, read_ahead
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.postprocessing.casting import refuse_nan, to_dtype
from patchloom.prediction.running.batching import TileBatch, batches, tiles_with_open_blocks
from patchloom.prediction.running.monitor import Advance
from patchloom.prediction.running.progress import StageTimes
from patchloom.prediction.running.stitcher import CompleteBlock, Stitcher
from patchloom.prediction.running.tile_reading import (
    candidate_tiles,
    data_idx_of,
    empty_batch,
    read_tiles,
    specs_in_images,
)
from patchloom.prediction.skip_rules import SkipRule
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable


class BlockWriter(Protocol):
    """Where complete blocks of all images go."""

    def is_done(self, data_idx: int, block_idx: int) -> bool:
        """Return whether a block was written, now or by an earlier run."""

    def block_buffers(self, data_idx: int, block_idx: int) -> Sequence[NDArray[Any] | None]:
        """Return the memory of the output at a block, `C(Z)YX`, or None, for each output."""

    def write(self, data_idx: int, block_idx: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block, `C(Z)YX` for each output; called from one thread, in the order of the blocks."""


class _BatchRead(NamedTuple):
    """A batch that was read; it may consist of skipped tiles and complete blocks only."""

    batch: TileBatch
    tiles: SpecTable | None = None
    pixels: NDArray[Any] | None = None
    failure: PatchloomError | None = None
    """Why the pixels could not be read."""


class Engine:
    """One run of a plan whose outputs are known.

    Parameters
    ----------
    plan : Plan
        The plan.
    stacks : sequence of ImageStack
        Its series.
    model : callable
        The model.
    writer : BlockWriter
        Where blocks go.
    keep_going : bool
        Whether the other images are finished if one fails.
    wait_for : callable, optional
        Waits in the main thread until a block is written. If None, nothing else is done meanwhile.
    """

    def __init__(
        self,
        plan: Plan,
        stacks: Sequence[ImageStack],
        model: Model,
        writer: BlockWriter,
        *,
        keep_going: bool = False,
        wait_for: Callable[[Future[None]], None] | None = None,
    ) -> None:
        self._plan = plan
        self._stacks = stacks
        self._model = model
        self._writer = writer
        self._keep_going = keep_going
        self._wait_for = wait_for
        self.times = StageTimes()
        self.failures: dict[int, PatchloomError] = {}
        """The error of each failed image, if the others are to finish."""
        self.skipped: Counter[int] = Counter()
        """Number of tiles of each image that this run skipped."""
        self.began_at: dict[int, float] = {}
        """When the work on each image began, in seconds of `time.monotonic`."""

    def run(self, advance: Advance) -> None:
        """Compute and write all blocks that are not done.

        Parameters
        ----------
        advance : callable
            Called after each batch with the number of tiles that are done; what it raises ends the run.

        Raises
        ------
        ModelError, SourceError, SinkError
            If a stage fails. What was written stays written.
        """
        with (
            ChunkCache(max(1, self._plan.memory.cache)) as cache,
            thread_runner() as runner,
            _background("read", drop=True) as read,
            _background("write", drop=False) as write,  # a block that is complete is kept, whatever fails after it
        ):
            extractor = PatchExtractor(self._stacks, padding=self._plan.request.padding, cache=cache)
            stitcher = Stitcher(self._plan, self._writer.block_buffers, runner)
            writes: deque[tuple[int, Future[None]]] = deque()
            for of_batch in self._read_ahead(extractor, read, runner):
                for block in self._complete_blocks(of_batch, stitcher):
                    self._finish_writes(writes, leave=WRITE_BEHIND - 1)
                    writes.append((block.data_idx, write(self._write, block)))
                advance(of_batch.batch.n_needed)
            self._finish_writes(writes, leave=0)

    def count_tiles(self) -> int:
        """Count the tiles that are still to be run or skipped."""
        return sum(
            bool(open_blocks)
            for data_idx, grid in enumerate(self._plan.blocks)
            for block_idx in range(len(grid))
            for _, open_blocks in tiles_with_open_blocks(self._plan, data_idx, block_idx, self._is_done)
        )

    @property
    def n_skipped(self) -> int:
        """Number of tiles that this run skipped."""
        return self.skipped.total()

    def _is_done(self, data_idx: int, block_idx: int) -> bool:
        """Return whether nothing is left to do for a block."""
        return data_idx in self.failures or self._writer.is_done(data_idx, block_idx)

    @contextmanager
    def _isolate_failure(self, data_idx: int) -> Iterator[None]:
        """Note the failure of an image instead of raising it, if the others are to finish."""
        try:
            yield
        except StoppedError:
            raise
        except PatchloomError as error:
            if not self._keep_going:
                raise
            self.failures.setdefault(data_idx, error)

    def _complete_blocks(self, read: _BatchRead, stitcher: Stitcher) -> Iterator[CompleteBlock]:
        """Predict and stitch a batch; yield the blocks that it completes."""
        data_idx = read.batch.items[0].data_idx
        with self._isolate_failure(data_idx):
            if data_idx not in self.failures:
                specs, predictions = self._predict(data_idx, read)
                with self.times.spent("stitching"):
                    yield from stitcher.stitch(read.batch, specs, predictions)

    def _write(self, block: CompleteBlock) -> None:
        """Turn a block into what is written, and write it: in the thread that writes."""
        self._writer.write(block.data_idx, block.block_idx, block.finish())

    def _finish_writes(self, writes: deque[tuple[int, Future[None]]], *, leave: int) -> None:
        """Wait until at most `leave` blocks are being written."""
        with self.times.spent("waiting for writes"):
            while len(writes) > leave:
                data_idx, written = writes.popleft()
                if self._wait_for is not None:
                    self._wait_for(written)
                with self._isolate_failure(data_idx):
                    written.result()

    def _work(self, extractor: PatchExtractor) -> Iterator[TileBatch]:
        skips = None if self._plan.request.skip is None else partial(self._skips, self._plan.request.skip, extractor)
        return batches(self._plan, is_done=self._is_done, skips=skips, share_images=not self._keep_going)

    def _skips(
        self, rule: SkipRule, extractor: PatchExtractor, data_idx: int, block_idx: int, tiles: Sequence[int]
    ) -> Sequence[bool]:
        """Decide which tiles that are computed for a block are skipped: all of them if the image fails meanwhile."""
        with self._isolate_failure(data_idx):
            skipped = list(rule.skips(candidate_tiles(self._plan.layout, extractor, self._plan.tiling.specs(tiles))))
            if len(skipped) != len(tiles):
                raise GeometryError(
                    f"skip returned {len(skipped)} decisions for {len(tiles)} tiles: return one for each tile"
                )
            schedule = self._plan.schedules[data_idx]
            self.skipped[data_idx] += sum(
                bool(is_skipped) and schedule.is_first_for(tile, block_idx)
                for tile, is_skipped in zip(tiles, skipped, strict=True)
            )
            return skipped
        return [True] * len(tiles)

    def _read_ahead(
        self, extractor: PatchExtractor, read: Callable[..., Future[Any]], runner: Runner
    ) -> Iterator[_BatchRead]:
        """Yield batches while the next ones are read into arrays that are reused."""
        ahead = read_ahead(self._plan.survey)
        arrays: list[NDArray[Any] | None] = [None] * (ahead + 1)
        pending: deque[Callable[[], _BatchRead | None]] = deque()
        work = self._work(extractor)  # advanced by the thread that reads, since a skip rule reads pixels too
        for slot in itertools.cycle(range(len(arrays))):
            # Images in memory are copied by all cores while the model is idle: there is no storage to wait for.
            reading = partial(self._read_next, work, extractor, arrays, slot, run_serially if ahead else runner)
            pending.append(read(reading).result if ahead else reading)
            if len(pending) > ahead:
                with self.times.spent("waiting for reads"):
                    batch = pending.popleft()()
                if batch is None:
                    return
                yield batch

    def _read_next(
        self,
        work: Iterator[TileBatch],
        extractor: PatchExtractor,
        arrays: list[NDArray[Any] | None],
        slot: int,
        runner: Runner,
    ) -> _BatchRead | None:
        """Read the next batch into the array of a slot; return None after the last batch."""
        began = time.monotonic()
        batch = next(work, None)
        if batch is None:
            return None
        for data_idx in batch.images:
            self.began_at.setdefault(data_idx, began)
        if not batch.tiles:
            return _BatchRead(batch)
        tiles = self._plan.tiling.specs(batch.tiles)
        try:
            pixels = read_tiles(self._plan.layout, extractor, tiles, self._array(arrays, slot, tiles), runner)
        except PatchloomError as error:
            return _BatchRead(batch, tiles, failure=error)
        return _BatchRead(batch, tiles, pixels)

    def _array(self, arrays: list[NDArray[Any] | None], slot: int, tiles: SpecTable) -> NDArray[Any]:
        """Return the array of a slot for a batch; allocate it first if it is missing or has another dtype."""
        known, data_idx = arrays[slot], data_idx_of(tiles)
        if known is None or known.dtype != self._plan.layout.batch_dtype(data_idx):
            known = arrays[slot] = empty_batch(self._plan.layout, data_idx, self._plan.layout.batch_size)
        return known[: len(tiles)]

    def _predict(self, data_idx: int, read: _BatchRead) -> tuple[list[TileSpecs], list[NDArray[Any]]]:
        """Run the model on a batch; return its tiles and, for each output, `(B, C, (Z), Y, X)` without margin."""
        if read.failure is not None:
            raise read.failure
        if read.tiles is None or read.pixels is None:
            return [], []
        specs = cast("list[TileSpecs]", read.tiles.to_specs())
        named = specs_in_images(self._plan.layout, specs)
        with self.times.spent("model"):
            predictions = predict_batch(self._model, read.pixels, named, self._plan.survey.model.batch_size)
        output_specs = self._plan.survey.outputs[data_idx]
        check_predictions(predictions, output_specs, self._plan.layout.patch_size, named)
        with self.times.spent("stitching"):
            return specs, [
                self._without_margin(predictions[output_spec.name], output_spec, named) for output_spec in output_specs
            ]

    def _without_margin(
        self, prediction: NDArray[Any], output_spec: OutputSpec, specs: Sequence[TileSpecs]
    ) -> NDArray[Any]:
        """Cut off the margin of a prediction, and convert or check what has to name its tiles if it fails."""
        core = crop_to_margin(prediction, output_spec, self._plan.layout.margin)
        if self._plan.request.block_postprocess is not None:
            return core
        _, dtype = self._plan.layout.output_channels_and_dtype(output_spec)
        if self._plan.request.blend is None:
            return to_dtype(core, dtype, specs)
        refuse_nan(core, dtype, specs)
        return core


@contextmanager
def _background(name: str, *, drop: bool) -> Iterator[Callable[..., Future[Any]]]:
    """Run calls one after the other in a thread, which ends with the context; `drop` cancels calls that have not begun."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=f"patchloom-{name}")
    try:
        yield executor.submit
    finally:
        executor.shutdown(wait=True, cancel_futures=drop)
