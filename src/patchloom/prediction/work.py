"""The work of a run as a stream: batches of tiles, and after which tile which block is complete."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from patchloom.prediction.plan import PredictionPlan


class Step(NamedTuple):
    """One tile to run, or (where `tile` is `None`) one block to close."""

    data_idx: int
    block: int
    """Number of the block in whose turn this is."""
    tile: int | None
    """Flat index of the tile."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tiles that go through the model together, and the blocks that are complete between and after them."""

    steps: tuple[Step, ...]

    @property
    def tiles(self) -> list[int]:
        """Flat indices of the tiles, in order."""
        return [step.tile for step in self.steps if step.tile is not None]


def batches(
    plan: PredictionPlan,
    *,
    is_done: Callable[[int, int], bool],
    needs_no_model: Callable[[int, int], bool],
    share_images: bool = True,
) -> Iterator[Batch]:
    """Yield the work of a run, batch by batch.

    The tiles of a batch may belong to several blocks. Which tiles form a batch does not depend on what is done already:
    a resumed run gives the model the same batches, and so gets the same bits. Batches of which no tile is needed any more
    are left out.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    is_done : callable
        Says of an image and the number of a block whether the block is done already.
    needs_no_model : callable
        Says of a block that is not done whether the model need not run for it.
    share_images : bool
        Whether a batch may hold tiles of several images; they must be of one dtype then, and fail together.
    """
    steps: list[Step] = []
    n_tiles, needed = 0, False
    for data_idx in range(len(plan.stacks)):
        schedule = plan.schedule(data_idx)
        if steps and not (share_images and _alike(plan, data_idx - 1, data_idx)):
            if needed:
                yield Batch(tuple(steps))
            steps, n_tiles, needed = [], 0, False
        for block in range(len(plan.blocks[data_idx])):
            open_block = not is_done(data_idx, block)
            for tile in schedule.tiles_of(block).tolist():
                if n_tiles == plan.batch_size:
                    if needed:
                        yield Batch(tuple(steps))
                    steps, n_tiles, needed = [], 0, False
                steps.append(Step(data_idx, block, tile))
                n_tiles += 1
                needed = needed or any(
                    not is_done(data_idx, served) and not needs_no_model(data_idx, served)
                    for served in schedule.blocks_served(tile, block)
                )
            if open_block:
                steps.append(Step(data_idx, block, None))
                needed = True
    if needed:
        yield Batch(tuple(steps))


def _alike(plan: PredictionPlan, first: int, second: int) -> bool:
    """Whether tiles of two images may share a batch."""
    same_input = plan.stacks[first].data_dtype == plan.stacks[second].data_dtype
    return same_input and plan.output_forms(first) == plan.output_forms(second)
