"""The work of a run as a stream: batches of tiles, and after which tile which block is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import NamedTuple

from patchloom.prediction.planning.plan import PredictionPlan


class WorkItem(NamedTuple):
    """One tile to run or to skip, or (if `tile` is None) one block to close."""

    data_idx: int
    block: int
    """Number of the block in whose turn this is."""
    tile: int | None
    """Flat index of the tile."""
    is_skipped: bool = False
    """Whether the tile is filled instead of run."""
    open_blocks: Sequence[int] = ()
    """Numbers of the blocks that get a part of the tile and are not done."""

    @property
    def runs(self) -> bool:
        """Whether a tile goes through the model."""
        return self.tile is not None and not self.is_skipped


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Tiles that go through the model together, and the blocks that are complete between and after them."""

    steps: tuple[WorkItem, ...]

    @property
    def tiles(self) -> list[int]:
        """Flat indices of the tiles that are run, in order."""
        return [step.tile for step in self.steps if step.tile is not None and not step.is_skipped]

    @property
    def skipped(self) -> list[int]:
        """Flat indices of the tiles that are skipped, in order."""
        return [step.tile for step in self.steps if step.tile is not None and step.is_skipped]

    @property
    def n_needed(self) -> int:
        """Number of tiles, run or skipped, that a block needs."""
        return sum(bool(step.open_blocks) for step in self.steps)


def batches(
    plan: PredictionPlan,
    *,
    is_done: Callable[[int, int], bool],
    skips: Callable[[int, int, Sequence[int]], Sequence[bool]] | None = None,
    share_images: bool = True,
) -> Iterator[TileBatch]:
    """Yield the work of a run, batch by batch.

    The tiles of a batch may belong to several blocks. Which tiles form a batch does not depend on what is done already:
    a resumed run gives the model the same batches, and so gets the same bits. Batches of which no tile is needed any more
    are left out.

    If tiles may be skipped, a batch ends with the turn of a block: only the tiles of turns that are still needed have to be
    looked at to form the same batches again.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    is_done : callable
        Takes an image and the number of a block; returns whether the block is done already.
    skips : callable, optional
        Takes an image, the number of a block and some tiles of its turn, at most `plan.batch_size`; returns for each tile
        whether it is skipped. If None, no tile is.
    share_images : bool
        Whether a batch may hold tiles of several images; they must be of one dtype then, and fail together.
    """
    forming = _FormingBatch(plan.batch_size)
    for data_idx in range(len(plan.stacks)):
        if not (share_images and data_idx and _alike(plan, data_idx - 1, data_idx)):
            yield from forming.end()
        for block in range(len(plan.blocks[data_idx])):
            is_open = not is_done(data_idx, block)
            for step in _steps_of_turn(plan, data_idx, block, is_done, skips):
                if step.runs and forming.is_full:
                    yield from forming.end()
                forming.add(step)
            if is_open:
                forming.add(WorkItem(data_idx, block, None))
            if skips is not None:
                yield from forming.end()
    yield from forming.end()


def tiles_with_open_blocks(
    plan: PredictionPlan, data_idx: int, block: int, is_done: Callable[[int, int], bool]
) -> list[tuple[int, list[int]]]:
    """List the tiles of a block's turn, each with the numbers of the blocks that get a part of it and are not done.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    data_idx, block : int
        The image, and the number of the block.
    is_done : callable
        As in `batches`.
    """
    schedule, is_done_here = plan.schedule(data_idx), cache(partial(is_done, data_idx))
    tiles = zip(schedule.tiles_of(block).tolist(), schedule.blocks_served(block), strict=True)
    return [(tile, [number for number in served if not is_done_here(number)]) for tile, served in tiles]


def _steps_of_turn(
    plan: PredictionPlan,
    data_idx: int,
    block: int,
    is_done: Callable[[int, int], bool],
    skips: Callable[[int, int, Sequence[int]], Sequence[bool]] | None,
) -> Iterator[WorkItem]:
    tiles = tiles_with_open_blocks(plan, data_idx, block, is_done)
    if skips is None:
        yield from (WorkItem(data_idx, block, tile, open_blocks=open_blocks) for tile, open_blocks in tiles)
    elif any(open_blocks for _, open_blocks in tiles):
        for start in range(0, len(tiles), plan.batch_size):
            group = tiles[start : start + plan.batch_size]
            skipped = skips(data_idx, block, [tile for tile, _ in group])
            for (tile, open_blocks), is_skipped in zip(group, skipped, strict=True):
                yield WorkItem(data_idx, block, tile, bool(is_skipped), open_blocks)


@dataclass
class _FormingBatch:
    """Steps that will become a batch."""

    size: int
    steps: list[WorkItem] = field(default_factory=list)
    n_tiles: int = 0
    """Number of steps that run a tile."""

    @property
    def is_full(self) -> bool:
        """Whether no other tile can be run in this batch."""
        return self.n_tiles == self.size

    def add(self, step: WorkItem) -> None:
        """Add a step."""
        self.steps.append(step)
        self.n_tiles += step.runs

    def end(self) -> Iterator[TileBatch]:
        """Yield what is needed of the steps so far, and begin with none."""
        steps, self.steps, self.n_tiles = self.steps, [], 0
        if not any(step.open_blocks for step in steps if step.runs):
            steps = [step for step in steps if step.tile is None or (step.is_skipped and step.open_blocks)]
        if steps:
            yield TileBatch(tuple(steps))


def _alike(plan: PredictionPlan, first: int, second: int) -> bool:
    """Whether tiles of two images may share a batch."""
    same_input = plan.stacks[first].data_dtype == plan.stacks[second].data_dtype
    return same_input and plan.output_forms(first) == plan.output_forms(second)
