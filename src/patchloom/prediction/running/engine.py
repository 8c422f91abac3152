"""The run of a plan: read ahead → model → stitch → write behind.

Three threads share the work. One reads batches ahead (TensorStore decodes in threads of its own), the main thread runs the
model and stitches, one writes complete blocks. If the model runs on several devices, each has a thread of its own. The queues between them are bounded, and so is memory. An error in any thread
is raised in the main thread, and all threads have ended when a run returns or raises.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

from numpy.typing import NDArray

from patchloom.errors import GeometryError, PatchloomError, StoppedError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.image_stacks import ImageStack
from patchloom.parallel import thread_runner
from patchloom.prediction.models.model import Model, tensor_device
from patchloom.prediction.models.replicas import replicas_of
from patchloom.prediction.planning.memory import WRITE_BEHIND
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.running.batch_reads import BatchRead, BatchReader
from patchloom.prediction.running.batching import TileBatch, batches, tiles_with_open_blocks
from patchloom.prediction.running.dealing import ModelTeam, Predicting, background
from patchloom.prediction.running.monitor import Advance
from patchloom.prediction.running.progress import StageTimes
from patchloom.prediction.running.stitcher import CompleteBlock, Stitcher
from patchloom.prediction.running.tile_reading import candidate_tiles
from patchloom.prediction.skip_rules import SkipRule


class BlockWriter(Protocol):
    """Where complete blocks of all images go."""

    def is_done(self, data_idx: int, block_idx: int) -> bool:
        """Return whether a block was written, now or by an earlier run."""

    def block_buffers(self, data_idx: int, block_idx: int) -> Sequence[NDArray[Any] | None]:
        """Return the memory of the output at a block, `C(Z)YX`, or None, for each output."""

    def write(self, data_idx: int, block_idx: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block, `C(Z)YX` for each output; called from one thread, in the order of the blocks."""


class Engine:
    """One run of a plan whose outputs are known.

    Parameters
    ----------
    plan : Plan
        The plan.
    stacks : sequence of ImageStack
        Its series.
    model : callable
        The model, or a `ReplicatedModel`.
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
        team = ModelTeam(self._plan, replicas_of(self._model))
        with (
            ChunkCache(max(1, self._plan.memory.cache)) as cache,
            thread_runner() as runner,
            team.working() as predicted,
            background("read", drop=True) as read,
            background("write", drop=False) as write,  # a block that is complete is kept, whatever fails after it
        ):
            extractor = PatchExtractor(self._stacks, padding=self._plan.request.padding, cache=cache)
            reader = BatchReader(
                self._plan,
                extractor,
                self._work(extractor),
                n_slots=team.n_slots,
                memory=team.memory,
                times=self.times,
                began_at=self.began_at,
            )
            stitcher = Stitcher(self._plan, self._writer.block_buffers, runner)
            writes: deque[tuple[int, Future[None]]] = deque()
            for of_batch, predicting in predicted(reader.read(read, runner)):
                for block in self._complete_blocks(of_batch, predicting, stitcher):
                    self._finish_writes(writes, leave=WRITE_BEHIND - 1)
                    writes.append((block.data_idx, write(self._write, block)))
                team.release(of_batch)
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

    def model_seconds(self) -> Callable[[], float] | None:
        """Return a function for the seconds that the model was computing; None if it computes while this process does other things."""
        replicas = replicas_of(self._model)
        return self.times.of_model if len(replicas) == 1 and tensor_device(replicas[0]) is None else None

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

    def _complete_blocks(self, read: BatchRead, predicting: Predicting, stitcher: Stitcher) -> Iterator[CompleteBlock]:
        """Predict and stitch a batch; yield the blocks that it completes."""
        data_idx = read.batch.items[0].data_idx
        with self._isolate_failure(data_idx):
            if data_idx not in self.failures:
                with self.times.spent("model"):
                    predicted = predicting()
                with self.times.spent("stitching"):
                    yield from stitcher.stitch(read.batch, predicted)

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
