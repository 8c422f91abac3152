"""The run of a plan: read ahead → model → stitch → write behind.

Three threads share the work. One reads batches ahead (TensorStore decodes on more of its own), the main thread runs the
model and stitches, one writes finished blocks. What waits between them is bounded, so memory is. Whatever goes wrong in a
thread is raised in the main one, and all threads have ended when `run_plan` returns or raises.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction import PatchExtractor
from patchloom.patch_specs import TileSpecs
from patchloom.prediction.batch_prediction import check_forms, predict_batch, read_forms, refuse_nan, to_dtype
from patchloom.prediction.memory import READ_AHEAD, WRITE_BEHIND
from patchloom.prediction.models.model import Model
from patchloom.prediction.open_blocks import OpenBlocks
from patchloom.prediction.output_form import OutputForm, keep_core
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.progress import Advance
from patchloom.prediction.stage_times import StageTimes
from patchloom.prediction.work import Batch, batches
from patchloom.spec_table import SpecTable


class BlockWriter(Protocol):
    """Where finished blocks of all images go."""

    def is_done(self, data_idx: int, block: int) -> bool:
        """Whether a block was written by an earlier run."""

    def write(self, data_idx: int, block: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block, `C(Z)YX` for each output; called from one thread, in the order of the blocks."""


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
            table = plan.tiling.specs([plan.tiling.get_patch_indices(data_idx).start])
            batch = extractor.extract_batch(table, dtype=dtype)
            predictions = predict_batch(model, batch, list(table))
            by_dtype[dtype] = read_forms(predictions, plan.patch_size, plan.model.scale, list(table))
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
    advance : callable
        Told how many tiles are done.
    """

    plan: PredictionPlan
    model: Model
    writer: BlockWriter
    advance: Advance
    times: StageTimes = field(default_factory=StageTimes)

    def run(self) -> StageTimes:
        """Compute and write all blocks that are not done.

        Raises
        ------
        ModelError, SourceError, SinkError
            If a stage fails. What was written stays written.
        """
        extractor = PatchExtractor(self.plan.stacks, padding=self.plan.padding)
        open_blocks = {
            data_idx: OpenBlocks(self.plan, data_idx, forms) for data_idx, forms in enumerate(self.plan.forms)
        }
        schedules = [self.plan.schedule(data_idx) for data_idx in range(len(self.plan.stacks))]
        work = batches(self.plan, is_done=self.writer.is_done)
        with _background("read") as read, _background("write") as write:
            pending_writes: deque[Future[None]] = deque()
            for batch, pixels in self._read_ahead(work, extractor, read):
                specs, predictions = self._predict(batch, pixels)
                with self.times.spent("stitching"):
                    position = 0
                    for data_idx, turn, tile in batch.steps:
                        blocks = open_blocks[data_idx]
                        if tile is not None:
                            parts = [prediction[position] for prediction in predictions]
                            for number in schedules[data_idx].blocks_served(tile, turn):
                                if not self.writer.is_done(data_idx, number):
                                    blocks.add(number, specs[position], parts)
                            position += 1
                        else:
                            outputs = blocks.close(turn)
                            self._write_behind(pending_writes, write, data_idx, turn, outputs)
                self.advance(len(specs))
            self._finish_writes(pending_writes, leave=0)
        return self.times

    def _read_ahead(
        self, work: Iterator[Batch], extractor: PatchExtractor, read: Callable[..., Future[Any]]
    ) -> Iterator[tuple[Batch, NDArray[Any] | None]]:
        """Yield batches with their pixels, while the next ones are being read."""
        pending: deque[tuple[Batch, Future[Any]]] = deque()
        for batch in work:
            pending.append((batch, read(self._read, extractor, batch)))
            if len(pending) > READ_AHEAD:
                yield self._take(pending)
        while pending:
            yield self._take(pending)

    def _take(self, pending: deque[tuple[Batch, Future[Any]]]) -> tuple[Batch, NDArray[Any] | None]:
        batch, future = pending.popleft()
        with self.times.spent("waiting for reads"):
            return batch, future.result()

    def _read(self, extractor: PatchExtractor, batch: Batch) -> NDArray[Any] | None:
        tiles = batch.tiles
        if not tiles:
            return None
        table = with_margin(self.plan.tiling.specs(tiles), self.plan.margin)
        return extractor.extract_batch(table, dtype=self.plan.stacks[batch.steps[0].data_idx].data_dtype)

    def _predict(self, batch: Batch, pixels: NDArray[Any] | None) -> tuple[list[TileSpecs], list[NDArray[Any]]]:
        """Run the model on a batch: for each output `(B, C, (Z), Y, X)` without margin, ready to be stitched."""
        if pixels is None:
            return [], []
        specs = cast("list[TileSpecs]", self.plan.tiling.specs(batch.tiles).to_specs())
        with self.times.spent("model"):
            predictions = predict_batch(self.model, pixels, specs)
        forms = self.plan.forms[batch.steps[0].data_idx]
        check_forms(predictions, forms, self.plan.patch_size, specs)
        ready = []
        with self.times.spent("stitching"):
            for form in forms:
                core = keep_core(predictions[form.name], form, self.plan.margin)
                dtype = self.plan.output_dtype(form)
                refuse_nan(core, dtype, specs)
                ready.append(to_dtype(core, dtype, specs) if self.plan.blend is None else core)
        return specs, ready

    def _write_behind(
        self,
        pending: deque[Future[None]],
        write: Callable[..., Future[Any]],
        data_idx: int,
        block: int,
        outputs: list[NDArray[Any]],
    ) -> None:
        self._finish_writes(pending, leave=WRITE_BEHIND - 1)
        pending.append(write(self.writer.write, data_idx, block, outputs))

    def _finish_writes(self, pending: deque[Future[None]], *, leave: int) -> None:
        with self.times.spent("waiting for writes"):
            while len(pending) > leave:
                pending.popleft().result()


def with_margin(table: SpecTable, margin: Sequence[int]) -> SpecTable:
    """Grow the tiles of a table by what the model's output will lack of them."""
    if not any(margin):
        return table
    columns = dict(table.columns)
    around = np.asarray(margin, dtype=np.int64)
    columns["coords"] = columns["coords"] - around
    columns["patch_size"] = columns["patch_size"] + 2 * around
    columns["crop_coords"] = columns["crop_coords"] + around
    return SpecTable(columns)


@contextmanager
def _background(name: str) -> Iterator[Callable[..., Future[Any]]]:
    """Run calls one after the other in a thread, which has ended afterwards; calls not begun by then are dropped."""
    executor = ThreadPoolExecutor(1, thread_name_prefix=f"patchloom-{name}")
    try:
        yield executor.submit
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
