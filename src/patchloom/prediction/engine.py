"""The run of a plan: read ahead → model → stitch → write behind.

Three threads share the work. One reads batches ahead (TensorStore decodes on more of its own), the main thread runs the
model and stitches, one writes finished blocks. What waits between them is bounded, so memory is. Whatever goes wrong in a
thread is raised in the main one, and all threads have ended when a run returns or raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PatchloomError
from patchloom.extraction import ChunkPool, PatchExtractor
from patchloom.patch_specs import TileSpecs
from patchloom.prediction.batch_prediction import check_forms, predict_batch, read_forms, refuse_nan, to_dtype
from patchloom.prediction.memory import WRITE_BEHIND
from patchloom.prediction.models.model import Model
from patchloom.prediction.open_blocks import OpenBlocks
from patchloom.prediction.output_form import OutputForm, keep_core
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.progress import Advance
from patchloom.prediction.shared_work import RunTogether, one_by_one, side_by_side
from patchloom.prediction.stage_times import StageTimes
from patchloom.prediction.tile_reading import batch_dtype, data_idx_of, empty_batch, read_tiles
from patchloom.prediction.work import Batch, batches
from patchloom.spec_table import SpecTable


class BlockWriter(Protocol):
    """Where finished blocks of all images go."""

    def is_done(self, data_idx: int, block: int) -> bool:
        """Whether a block was written, now or by an earlier run."""

    def lend(self, data_idx: int, block: int) -> Sequence[NDArray[Any] | None]:
        """Give the memory in which a block will be, `C(Z)YX` for each output that has any."""

    def write(self, data_idx: int, block: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block, `C(Z)YX` for each output; called from one thread, in the order of the blocks."""


class _BatchRead(NamedTuple):
    """A batch, its tiles, and what gives their pixels when they are there; a batch may consist of finished blocks only."""

    batch: Batch
    tiles: SpecTable | None = None
    pixels: Callable[[], NDArray[Any]] | None = None


def learn_forms(plan: PredictionPlan, model: Model) -> tuple[tuple[OutputForm, ...], ...]:
    """Run a model on the first tile of an image of each dtype, to see what it makes of tiles.

    Parameters
    ----------
    plan : PredictionPlan
        A plan that does not know the forms of the outputs.
    model : callable
        The model.

    Returns
    -------
    tuple of tuple of OutputForm
        The outputs for each image.

    Raises
    ------
    ModelError
        If the model fails, or returns what fits no scale and margin.
    """
    extractor = PatchExtractor(plan.stacks, padding=plan.padding)
    by_dtype: dict[np.dtype[Any], tuple[OutputForm, ...]] = {}
    for data_idx, stack in enumerate(plan.stacks):
        dtype = np.dtype(stack.data_dtype)
        if dtype not in by_dtype:
            first = plan.tiling.specs([plan.tiling.get_patch_indices(data_idx)[0]])
            specs = first.to_specs()
            predictions = predict_batch(model, read_tiles(plan, extractor, first), specs)
            by_dtype[dtype] = read_forms(predictions, plan.patch_size, plan.model.scale, specs)
    return tuple(by_dtype[np.dtype(stack.data_dtype)] for stack in plan.stacks)


@dataclass(frozen=True)
class Engine:
    """One run of a plan whose forms are known.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    model : callable
        The model.
    writer : BlockWriter
        Where blocks go.
    keep_going : bool
        Whether an image that fails is left behind and the others finish.
    """

    plan: PredictionPlan
    model: Model
    writer: BlockWriter
    keep_going: bool = False
    times: StageTimes = field(default_factory=StageTimes)
    failures: dict[int, PatchloomError] = field(default_factory=dict)
    """What went wrong with each image that was left behind."""
    _skips: dict[tuple[int, int], bool] = field(default_factory=dict)
    """What was decided of blocks that may need no model, by image and number: once for each."""

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
            ChunkPool(max(1, self.plan.cache_bytes)) as pool,
            side_by_side() as run_together,
            _background("read", drop=True) as read,
            _background("write", drop=False) as write,  # a block that is complete is kept, whatever fails after it
        ):
            extractor = PatchExtractor(self.plan.stacks, padding=self.plan.padding, pool=pool)
            stitcher = _Stitcher(self, write, run_together)
            for of_batch in self._read_ahead(extractor, read, run_together):
                self._run_batch(of_batch, stitcher)
                advance(len(of_batch.batch.tiles))
            stitcher.finish_writes(leave=0)

    def count_tiles(self) -> int:
        """Count the tiles that are still to be run."""
        return sum(len(batch.tiles) for batch in self._work())

    def is_done(self, data_idx: int, block: int) -> bool:
        """Whether nothing is left to do for a block."""
        return data_idx in self.failures or self.writer.is_done(data_idx, block)

    def needs_no_model(self, data_idx: int, block: int) -> bool:
        """Whether a block is filled instead of computed."""
        if self.plan.skip is None:
            return False
        if (data_idx, block) not in self._skips:
            place = self.plan.blocks[data_idx][block]
            with self.leaving_behind(data_idx):
                skips = self.plan.skip.skips(self.plan.stacks, data_idx, place, self.plan.patch_size)
                self._skips[data_idx, block] = skips
        return self._skips.get((data_idx, block), True)  # there is no decision where the image failed

    @property
    def n_skipped(self) -> int:
        """How many blocks were filled instead of computed."""
        return sum(self._skips.values())

    @contextmanager
    def leaving_behind(self, data_idx: int) -> Iterator[None]:
        """Leave an image behind if it fails and the others are to finish."""
        try:
            yield
        except PatchloomError as error:
            if not self.keep_going:
                raise
            self.failures.setdefault(data_idx, error)

    def _work(self) -> Iterator[Batch]:
        return batches(
            self.plan, is_done=self.is_done, needs_no_model=self.needs_no_model, share_images=not self.keep_going
        )

    def _run_batch(self, read: _BatchRead, stitcher: _Stitcher) -> None:
        data_idx = read.batch.steps[0].data_idx
        with self.leaving_behind(data_idx):
            if data_idx not in self.failures:
                specs, predictions = self._predict(data_idx, read)
                with self.times.spent("stitching"):
                    stitcher.stitch(read.batch, specs, predictions)

    def _read_ahead(
        self, extractor: PatchExtractor, read: Callable[..., Future[Any]], run_together: RunTogether
    ) -> Iterator[_BatchRead]:
        """Yield batches while the next ones are being read into arrays that are used again."""
        ahead = self.plan.read_ahead
        arrays: list[NDArray[Any] | None] = [None] * (ahead + 1)
        pending: deque[_BatchRead] = deque()
        for number, batch in enumerate(self._work()):
            if batch.tiles:
                tiles = self.plan.tiling.specs(batch.tiles)
                room = self._room(arrays, number % len(arrays), tiles)
                # What is in memory is copied when the model is free, by all cores: there is nothing to wait for.
                reading = partial(read_tiles, self.plan, extractor, tiles, room, one_by_one if ahead else run_together)
                pending.append(_BatchRead(batch, tiles, read(reading).result if ahead else reading))
            else:
                pending.append(_BatchRead(batch))
            if len(pending) > ahead:
                yield pending.popleft()
        yield from pending

    def _room(self, arrays: list[NDArray[Any] | None], place: int, tiles: SpecTable) -> NDArray[Any]:
        """Give room for a batch: the array that was used longest ago, if it fits."""
        known, data_idx = arrays[place], data_idx_of(tiles)
        if known is None or known.dtype != batch_dtype(self.plan, data_idx):
            known = arrays[place] = empty_batch(self.plan, data_idx, self.plan.batch_size)
        return known[: len(tiles)]

    def _predict(self, data_idx: int, read: _BatchRead) -> tuple[list[TileSpecs], list[NDArray[Any]]]:
        """Run the model on a batch: for each output `(B, C, (Z), Y, X)` without margin, ready to be stitched."""
        if read.tiles is None or read.pixels is None:
            return [], []
        with self.times.spent("waiting for reads"):
            pixels = read.pixels()
        specs = cast("list[TileSpecs]", read.tiles.to_specs())
        with self.times.spent("model"):
            predictions = predict_batch(self.model, pixels, specs)
        forms = self.plan.forms[data_idx]
        check_forms(predictions, forms, self.plan.patch_size, specs)
        with self.times.spent("stitching"):
            return specs, [self._ready(predictions[form.name], form, specs) for form in forms]

    def _ready(self, prediction: NDArray[Any], form: OutputForm, specs: list[TileSpecs]) -> NDArray[Any]:
        core = keep_core(prediction, form, self.plan.margin)
        if self.plan.reduction is not None:
            return core
        _, dtype = self.plan.stored(form)
        if self.plan.blend is None:
            return to_dtype(core, dtype, specs)
        refuse_nan(core, dtype, specs)
        return core


class _Stitcher:
    """Adds tiles to open blocks, and sends off those that are complete."""

    def __init__(self, engine: Engine, write: Callable[..., Future[Any]], run_together: RunTogether) -> None:
        plan = engine.plan
        self._engine = engine
        self._write = write
        self._blocks = [
            OpenBlocks(plan, data_idx, forms, partial(engine.writer.lend, data_idx), run_together)
            for data_idx, forms in enumerate(plan.forms)
        ]
        self._schedules = [plan.schedule(data_idx) for data_idx in range(len(plan.stacks))]
        self._pending: deque[tuple[int, Future[None]]] = deque()

    def stitch(self, batch: Batch, specs: Sequence[TileSpecs], predictions: Sequence[NDArray[Any]]) -> None:
        """Go through the steps of a batch."""
        position = 0
        for data_idx, turn, tile in batch.steps:
            blocks = self._blocks[data_idx]
            if tile is None:
                empty = self._engine.needs_no_model(data_idx, turn)
                self._send_off(data_idx, turn, partial(blocks.filled, turn) if empty else blocks.close(turn))
                continue
            parts = [prediction[position] for prediction in predictions]
            for number in self._schedules[data_idx].blocks_served(tile, turn):
                if not (self._engine.is_done(data_idx, number) or self._engine.needs_no_model(data_idx, number)):
                    blocks.add(number, specs[position], parts)
            position += 1
        for data_idx in {step.data_idx for step in batch.steps}:
            self._blocks[data_idx].finish()

    def finish_writes(self, *, leave: int) -> None:
        """Wait until at most so many blocks are being written."""
        with self._engine.times.spent("waiting for writes"):
            while len(self._pending) > leave:
                data_idx, written = self._pending.popleft()
                with self._engine.leaving_behind(data_idx):
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
