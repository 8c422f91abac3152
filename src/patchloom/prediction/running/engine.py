"""The run of a plan: read ahead → model → stitch → write behind.

Three threads share the work. One reads batches ahead (TensorStore decodes on more of its own), the main thread runs the
model and stitches, one writes finished blocks. What waits between them is bounded, so memory is. Whatever goes wrong in a
thread is raised in the main one, and all threads have ended when a run returns or raises.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

from numpy.typing import NDArray

from patchloom.errors import GeometryError, PatchloomError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import ImageStack
from patchloom.parallel import Runner, run_serially, thread_runner
from patchloom.prediction.models.batch_prediction import check_forms, predict_batch, refuse_nan, to_dtype
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.output_spec import OutputSpec, keep_core
from patchloom.prediction.planning.memory import WRITE_BEHIND
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.running.batching import TileBatch, batches, tiles_with_open_blocks
from patchloom.prediction.running.open_blocks import OpenBlocks
from patchloom.prediction.running.progress import Advance
from patchloom.prediction.running.stage_times import StageTimes
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
    """Where finished blocks of all images go."""

    def is_done(self, data_idx: int, block: int) -> bool:
        """Whether a block was written, now or by an earlier run."""

    def block_buffers(self, data_idx: int, block: int) -> Sequence[NDArray[Any] | None]:
        """Give the memory in which a block will be, `C(Z)YX` for each output that has any."""

    def write(self, data_idx: int, block: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block, `C(Z)YX` for each output; called from one thread, in the order of the blocks."""


class _BatchRead(NamedTuple):
    """A batch that was read; it may consist of skipped tiles and finished blocks only."""

    batch: TileBatch
    tiles: SpecTable | None = None
    pixels: NDArray[Any] | None = None
    failure: PatchloomError | None = None
    """Why the pixels could not be read."""


@dataclass(frozen=True)
class Engine:
    """One run of a plan whose forms are known.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    stacks : sequence of ImageStack
        Its series.
    model : callable
        The model.
    writer : BlockWriter
        Where blocks go.
    keep_going : bool
        Whether an image that fails is left behind and the others finish.
    """

    plan: PredictionPlan
    stacks: Sequence[ImageStack]
    model: Model
    writer: BlockWriter
    keep_going: bool = False
    times: StageTimes = field(default_factory=StageTimes)
    failures: dict[int, PatchloomError] = field(default_factory=dict)
    """What went wrong with each image that was left behind."""
    skipped: Counter[int] = field(default_factory=Counter)
    """Number of tiles of each image that this run skipped."""

    def run(self, advance: Advance) -> None:
        """Compute and write all blocks that are not done.

        Parameters
        ----------
        advance : callable
            Told how many tiles more are done.

        Raises
        ------
        ModelError, SourceError, SinkError
            If a stage fails. What was written stays written.
        """
        with (
            ChunkCache(max(1, self.plan.cache_bytes)) as cache,
            thread_runner() as runner,
            _background("read", drop=True) as read,
            _background("write", drop=False) as write,  # a block that is complete is kept, whatever fails after it
        ):
            extractor = PatchExtractor(self.stacks, padding=self.plan.padding, cache=cache)
            stitcher = _Stitcher(self, write, runner)
            for of_batch in self._read_ahead(extractor, read, runner):
                self._run_batch(of_batch, stitcher)
                advance(of_batch.batch.n_needed)
            stitcher.finish_writes(leave=0)

    def count_tiles(self) -> int:
        """Count the tiles that are still to be run or skipped."""
        return sum(
            bool(open_blocks)
            for data_idx, grid in enumerate(self.plan.blocks)
            for block in range(len(grid))
            for _, open_blocks in tiles_with_open_blocks(self.plan, data_idx, block, self.is_done)
        )

    def is_done(self, data_idx: int, block: int) -> bool:
        """Whether nothing is left to do for a block."""
        return data_idx in self.failures or self.writer.is_done(data_idx, block)

    @property
    def n_skipped(self) -> int:
        """Number of tiles that this run skipped."""
        return self.skipped.total()

    @contextmanager
    def isolate_failure(self, data_idx: int) -> Iterator[None]:
        """Leave an image behind if it fails and the others are to finish."""
        try:
            yield
        except PatchloomError as error:
            if not self.keep_going:
                raise
            self.failures.setdefault(data_idx, error)

    def _work(self, extractor: PatchExtractor) -> Iterator[TileBatch]:
        skips = None if self.plan.skip is None else partial(self._skips, self.plan.skip, extractor)
        return batches(self.plan, is_done=self.is_done, skips=skips, share_images=not self.keep_going)

    def _skips(
        self, rule: SkipRule, extractor: PatchExtractor, data_idx: int, block: int, tiles: Sequence[int]
    ) -> Sequence[bool]:
        """Decide on tiles of a block's turn; if the image fails meanwhile, nothing of it is run any more."""
        with self.isolate_failure(data_idx):
            skipped = list(rule.skips(candidate_tiles(self.plan.layout, extractor, self.plan.tiling.specs(tiles))))
            if len(skipped) != len(tiles):
                raise GeometryError(f"the skip rule decided on {len(skipped)} of {len(tiles)} tiles: it must on all")
            schedule = self.plan.schedule(data_idx)
            self.skipped[data_idx] += sum(
                bool(is_skipped) and schedule.is_first_turn(tile, block)
                for tile, is_skipped in zip(tiles, skipped, strict=True)
            )
            return skipped
        return [True] * len(tiles)

    def _run_batch(self, read: _BatchRead, stitcher: _Stitcher) -> None:
        data_idx = read.batch.steps[0].data_idx
        with self.isolate_failure(data_idx):
            if data_idx not in self.failures:
                specs, predictions = self._predict(data_idx, read)
                with self.times.spent("stitching"):
                    stitcher.stitch(read.batch, specs, predictions)

    def _read_ahead(
        self, extractor: PatchExtractor, read: Callable[..., Future[Any]], runner: Runner
    ) -> Iterator[_BatchRead]:
        """Yield batches while the next ones are being read into arrays that are used again."""
        ahead = self.plan.read_ahead
        arrays: list[NDArray[Any] | None] = [None] * (ahead + 1)
        pending: deque[Callable[[], _BatchRead | None]] = deque()
        work = self._work(extractor)  # a skip rule looks at pixels too, so the thread that reads goes on with it
        for number in itertools.count():
            # What is in memory is copied when the model is free, by all cores: there is nothing to wait for.
            reading = partial(
                self._read_next, work, extractor, arrays, number % len(arrays), run_serially if ahead else runner
            )
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
        place: int,
        runner: Runner,
    ) -> _BatchRead | None:
        """Read the next batch into one of the arrays; None if there is none."""
        batch = next(work, None)
        if batch is None or not batch.tiles:
            return None if batch is None else _BatchRead(batch)
        tiles = self.plan.tiling.specs(batch.tiles)
        try:
            pixels = read_tiles(self.plan.layout, extractor, tiles, self._room(arrays, place, tiles), runner)
        except PatchloomError as error:
            return _BatchRead(batch, tiles, failure=error)
        return _BatchRead(batch, tiles, pixels)

    def _room(self, arrays: list[NDArray[Any] | None], place: int, tiles: SpecTable) -> NDArray[Any]:
        """Give room for a batch: the array that was used longest ago, if it fits."""
        known, data_idx = arrays[place], data_idx_of(tiles)
        if known is None or known.dtype != self.plan.layout.batch_dtype(data_idx):
            known = arrays[place] = empty_batch(self.plan.layout, data_idx, self.plan.batch_size)
        return known[: len(tiles)]

    def _predict(self, data_idx: int, read: _BatchRead) -> tuple[list[TileSpecs], list[NDArray[Any]]]:
        """Run the model on a batch: for each output `(B, C, (Z), Y, X)` without margin, ready to be stitched."""
        if read.failure is not None:
            raise read.failure
        if read.tiles is None or read.pixels is None:
            return [], []
        specs = cast("list[TileSpecs]", read.tiles.to_specs())
        named = specs_in_images(self.plan.layout, specs)
        with self.times.spent("model"):
            predictions = predict_batch(self.model, read.pixels, named, self.plan.model.batch_size)
        forms = self.plan.forms[data_idx]
        check_forms(predictions, forms, self.plan.patch_size, named)
        with self.times.spent("stitching"):
            return specs, [self._ready(predictions[form.name], form, named) for form in forms]

    def _ready(self, prediction: NDArray[Any], form: OutputSpec, specs: Sequence[TileSpecs]) -> NDArray[Any]:
        core = keep_core(prediction, form, self.plan.margin)
        if self.plan.postprocessing is not None:
            return core
        _, dtype = self.plan.stored(form)
        if self.plan.blend is None:
            return to_dtype(core, dtype, specs)
        refuse_nan(core, dtype, specs)
        return core


class _Stitcher:
    """Adds tiles to open blocks, and sends off those that are complete."""

    def __init__(self, engine: Engine, write: Callable[..., Future[Any]], runner: Runner) -> None:
        plan = engine.plan
        self._engine = engine
        self._write = write
        self._blocks = [
            OpenBlocks(plan, data_idx, forms, partial(engine.writer.block_buffers, data_idx), runner)
            for data_idx, forms in enumerate(plan.forms)
        ]
        self._pending: deque[tuple[int, Future[None]]] = deque()

    def stitch(self, batch: TileBatch, specs: Sequence[TileSpecs], predictions: Sequence[NDArray[Any]]) -> None:
        """Go through the steps of a batch."""
        ran = zip(specs, range(len(specs)), strict=True)
        skipped = iter(self._skipped_specs(batch))
        for step in batch.steps:
            blocks = self._blocks[step.data_idx]
            if step.tile is None:
                self._send_off(step.data_idx, step.block, blocks.close(step.block))
            elif step.is_skipped:
                spec = next(skipped)
                for number in step.open_blocks:
                    blocks.skip(number, spec)
            else:
                spec, position = next(ran)
                parts = [prediction[position] for prediction in predictions]
                for number in step.open_blocks:
                    blocks.add(number, spec, parts)
        for data_idx in {step.data_idx for step in batch.steps}:
            self._blocks[data_idx].finish()

    def _skipped_specs(self, batch: TileBatch) -> list[TileSpecs]:
        tiles = batch.skipped
        return cast("list[TileSpecs]", self._engine.plan.tiling.specs(tiles).to_specs()) if tiles else []

    def finish_writes(self, *, leave: int) -> None:
        """Wait until at most so many blocks are being written."""
        with self._engine.times.spent("waiting for writes"):
            while len(self._pending) > leave:
                data_idx, written = self._pending.popleft()
                with self._engine.isolate_failure(data_idx):
                    written.result()

    def _send_off(self, data_idx: int, block: int, complete: Callable[[], list[NDArray[Any]]]) -> None:
        self.finish_writes(leave=WRITE_BEHIND - 1)
        self._pending.append((data_idx, self._write(self._finish, data_idx, block, complete)))

    def _finish(self, data_idx: int, block: int, complete: Callable[[], list[NDArray[Any]]]) -> None:
        """Turn a block into what is written, and write it: in the thread that writes."""
        self._engine.writer.write(data_idx, block, complete())


@contextmanager
def _background(name: str, *, drop: bool) -> Iterator[Callable[..., Future[Any]]]:
    """Run calls one after the other in a thread, which has ended afterwards; calls not begun by then may be dropped."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=f"patchloom-{name}")
    try:
        yield executor.submit
    finally:
        executor.shutdown(wait=True, cancel_futures=drop)
