"""Batches of a run, read ahead of the model into arrays that are reused."""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import PatchloomError
from patchloom.extraction import PatchExtractor
from patchloom.parallel import Runner, run_serially
from patchloom.prediction.planning.memory import read_ahead
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.running.batching import TileBatch
from patchloom.prediction.running.progress import StageTimes
from patchloom.prediction.running.tile_reading import batch_shape, data_idx_of, read_tiles
from patchloom.specs.spec_table import SpecTable

BatchMemory = Callable[[int, tuple[int, ...], Any], NDArray[Any] | None]
"""Takes a slot, the shape of a whole batch and its dtype; returns an array to read it into, or None if any array will do."""


class BatchRead(NamedTuple):
    """A batch that was read; it may consist of skipped tiles and complete blocks only."""

    batch: TileBatch
    slot: int
    """The slot whose array `pixels` is a part of."""
    tiles: SpecTable | None = None
    pixels: NDArray[Any] | None = None
    read_again: Callable[[], NDArray[Any]] | None = None
    """Returns the pixels in new memory: a model that failed may have changed those above."""
    failure: PatchloomError | None = None
    """Why the pixels could not be read."""


class BatchReader:
    """Reads the batches of a run ahead of the model.

    Parameters
    ----------
    plan : Plan
        The plan.
    extractor : PatchExtractor
        Reads its series.
    work : iterator of TileBatch
        The batches. If batches are read ahead, it is advanced by the thread that reads.
    n_slots : int
        Number of batches in memory at the same time.
    memory : callable, optional
        The memory of the slots. If None, it is allocated here.
    times : StageTimes
        Counts the time that the main thread waits.
    began_at : dict of int to float
        Filled with when the work on each image began, in seconds of `time.monotonic`.
    """

    def __init__(
        self,
        plan: Plan,
        extractor: PatchExtractor,
        work: Iterator[TileBatch],
        *,
        n_slots: int,
        memory: BatchMemory | None,
        times: StageTimes,
        began_at: dict[int, float],
    ) -> None:
        self._plan = plan
        self._extractor = extractor
        self._work = work
        self._memory = memory
        self._batch_shape = batch_shape(plan.layout, plan.layout.batch_size)
        self._arrays: list[NDArray[Any] | None] = [None] * n_slots
        self._times = times
        self._began_at = began_at

    def read(self, background: Callable[..., Future[Any]], runner: Runner) -> Iterator[BatchRead]:
        """Yield batches while the next ones are read.

        Parameters
        ----------
        background : callable
            Runs a call in the thread that reads.
        runner : callable
            Runs parts of a call, on several cores.
        """
        ahead = read_ahead(self._plan.survey)
        pending: deque[Callable[[], BatchRead | None]] = deque()
        for slot in itertools.cycle(range(len(self._arrays))):
            # Images in memory are copied by all cores while the model is idle: there is no storage to wait for.
            reading = partial(self._read_next, slot, run_serially if ahead else runner)
            pending.append(background(reading).result if ahead else reading)
            if len(pending) > ahead:
                with self._times.spent("waiting for reads"):
                    batch = pending.popleft()()
                if batch is None:
                    return
                yield batch

    def _read_next(self, slot: int, runner: Runner) -> BatchRead | None:
        """Read the next batch into the array of a slot; return None after the last batch."""
        began = time.monotonic()
        batch = next(self._work, None)
        if batch is None:
            return None
        for data_idx in batch.images:
            self._began_at.setdefault(data_idx, began)
        if not batch.tiles:
            return BatchRead(batch, slot)
        layout = self._plan.layout
        tiles = self._plan.tiling.specs(batch.tiles)
        array = self._array(slot, layout.batch_dtype(data_idx_of(tiles)))
        try:
            pixels = read_tiles(layout, self._extractor, tiles, array[: len(tiles)], runner)
        except PatchloomError as error:
            return BatchRead(batch, slot, tiles, failure=error)
        return BatchRead(batch, slot, tiles, pixels, partial(read_tiles, layout, self._extractor, tiles))

    def _array(self, slot: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the array of a slot; allocate it first if it is missing or has another dtype."""
        array = None if self._memory is None else self._memory(slot, self._batch_shape, dtype)
        if array is None:
            array = self._arrays[slot]
            if array is None or array.dtype != dtype:
                array = self._arrays[slot] = np.empty(self._batch_shape, dtype)
        return array
