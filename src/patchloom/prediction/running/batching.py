"""The work of a run, in order: batches of tiles for the model, and the blocks that are complete between and after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain, groupby
from typing import Any, NamedTuple, TypeGuard

from patchloom.prediction.planning.plan import Plan

IsDone = Callable[[int, int], bool]
"""Takes `data_idx` and `block_idx`; returns whether the block is done already."""

Skips = Callable[[int, int, Sequence[int]], Sequence[bool]]
"""Takes `data_idx`, `block_idx` and tiles that are computed for the block, at most a batch; returns for each whether it is skipped."""


class TileItem(NamedTuple):
    """One tile to run or to skip."""

    data_idx: int
    tile_idx: int
    """Flat index of the tile."""
    open_blocks: Sequence[int]
    """The `block_idx` of each block that the tile contributes to and that is not done."""
    is_skipped: bool = False
    """Whether the tile is filled instead of run."""


class BlockEnd(NamedTuple):
    """One block that is complete once all work before it is done."""

    data_idx: int
    block_idx: int


WorkItem = TileItem | BlockEnd


@dataclass(frozen=True, slots=True)
class TileBatch:
    """Tiles that go through the model together, and the blocks that are complete between and after them."""

    items: tuple[WorkItem, ...]

    @property
    def tiles(self) -> list[int]:
        """Flat indices of the tiles that are run, in order."""
        return [item.tile_idx for item in self.items if _is_run(item)]

    @property
    def skipped(self) -> list[int]:
        """Flat indices of the tiles that are skipped, in order."""
        return [item.tile_idx for item in self.items if isinstance(item, TileItem) and item.is_skipped]

    @property
    def images(self) -> set[int]:
        """The `data_idx` of each image that the work belongs to."""
        return {item.data_idx for item in self.items}

    @property
    def n_needed(self) -> int:
        """Number of tiles, run or skipped, that a block needs."""
        return sum(isinstance(item, TileItem) and bool(item.open_blocks) for item in self.items)


def batches(
    plan: Plan, *, is_done: IsDone, skips: Skips | None = None, share_images: bool = True
) -> Iterator[TileBatch]:
    """Yield the work of a run, batch by batch.

    The tiles of a batch may belong to several blocks. Which tiles form a batch does not depend on what is done already, so a
    resumed run gives the model the same batches and gets the same bits. A batch is left out if no block needs a tile of it.

    Parameters
    ----------
    plan : Plan
        The plan.
    is_done : callable
        Takes `data_idx` and `block_idx`; returns whether the block is done already.
    skips : callable, optional
        Takes `data_idx`, `block_idx` and tiles that are computed for the block, at most `plan.layout.batch_size`; returns for each
        tile whether it is skipped. If None, no tile is.
    share_images : bool
        Whether a batch may hold tiles of several images; they must be of one dtype then, and fail together.
    """
    for items in _separate_items(plan, is_done, skips, share_images=share_images):
        for of_batch in _cut(items, plan.layout.batch_size):
            needed = _needed(of_batch)
            if needed:
                yield TileBatch(tuple(needed))


def _separate_items(
    plan: Plan, is_done: IsDone, skips: Skips | None, *, share_images: bool
) -> Iterator[Iterator[WorkItem]]:
    """Yield the items of a run, divided where a batch has to end.

    A batch holds images of one kind. If tiles may be skipped, it also ends with a block: a resumed run then asks the skip rule only
    about tiles of blocks that are still needed, and forms the same batches again.
    """

    def kind(data_idx: int) -> Any:
        return (plan.survey.stacks[data_idx].data_dtype, plan.layout.outputs(data_idx)) if share_images else data_idx

    for _, images in groupby(range(len(plan.survey.stacks)), kind):
        blocks = (
            _items_of_block(plan, data_idx, block_idx, is_done, skips)
            for data_idx in images
            for block_idx in range(len(plan.blocks[data_idx]))
        )
        if skips is None:
            yield chain.from_iterable(blocks)
        else:
            yield from blocks


def _items_of_block(
    plan: Plan, data_idx: int, block_idx: int, is_done: IsDone, skips: Skips | None
) -> Iterator[WorkItem]:
    """Yield the tiles that are computed for a block, then the block's end if the block is not done."""
    is_open = not is_done(data_idx, block_idx)
    tiles = tiles_with_open_blocks(plan, data_idx, block_idx, is_done)
    if skips is None:
        yield from (TileItem(data_idx, tile, open_blocks) for tile, open_blocks in tiles)
    elif any(open_blocks for _, open_blocks in tiles):
        for start in range(0, len(tiles), plan.layout.batch_size):
            group = tiles[start : start + plan.layout.batch_size]
            skipped = skips(data_idx, block_idx, [tile for tile, _ in group])
            for (tile, open_blocks), is_skipped in zip(group, skipped, strict=True):
                yield TileItem(data_idx, tile, open_blocks, bool(is_skipped))
    if is_open:
        yield BlockEnd(data_idx, block_idx)


def _cut(items: Iterable[WorkItem], batch_size: int) -> Iterator[list[WorkItem]]:
    """Cut items before each tile for which the batch has no room."""
    batch: list[WorkItem] = []
    n_run = 0
    for item in items:
        is_run = _is_run(item)
        if is_run and n_run == batch_size:
            yield batch
            batch, n_run = [], 0
        batch.append(item)
        n_run += is_run
    yield batch


def _needed(items: list[WorkItem]) -> list[WorkItem]:
    """Return all items if the model has to run on them, else those without the tiles that no block needs."""
    if any(item.open_blocks for item in items if _is_run(item)):
        return items
    return [item for item in items if isinstance(item, BlockEnd) or (item.is_skipped and item.open_blocks)]


def _is_run(item: WorkItem) -> TypeGuard[TileItem]:
    """Return whether a tile goes through the model."""
    return isinstance(item, TileItem) and not item.is_skipped


def tiles_with_open_blocks(plan: Plan, data_idx: int, block_idx: int, is_done: IsDone) -> list[tuple[int, list[int]]]:
    """List the tiles that are computed for a block, each with the `block_idx` of the unfinished blocks that it is added to.

    Parameters
    ----------
    plan : Plan
        The plan.
    data_idx, block_idx : int
        The image and the block.
    is_done : callable
        As in `batches`.
    """
    schedule, is_done_here = plan.schedules[data_idx], cache(partial(is_done, data_idx))
    tiles = zip(schedule.tiles_of(block_idx).tolist(), schedule.blocks_served(block_idx), strict=True)
    return [(tile, [served for served in blocks if not is_done_here(served)]) for tile, blocks in tiles]
