"""A cache of decoded chunks: each is decoded once for all patches that need it."""

from __future__ import annotations

import itertools
import os
import threading
import weakref
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance
from patchloom.errors import GeometryError, SourceError
from patchloom.extraction.box_reads import BoxReads, ReadBoxes, read_boxes
from patchloom.extraction.chunk_grid import ChunkGrid, ChunkPieces, cut_by_chunks
from patchloom.extraction.gather import Boxes, gather_boxes
from patchloom.geometry.checks import whole_number
from patchloom.image_stacks import HoldsPixels, ImageStack

_ALIGNMENT = 64
READ_TOGETHER = 64 << 20
"""Bytes of chunks that are requested together: a stack may hold them a second time until they are copied."""


class ChunkCache:
    """Keeps decoded chunks of image stacks, up to a number of bytes.

    Chunks are read whole, all chunks of a batch together, and patches are cut from them. When memory is short, the least
    recently used chunk is evicted first.

    Many stacks can share one cache, and so can threads, of which one reads at a time. A pickled cache is empty, and so is the
    copy in a forked process.

    Parameters
    ----------
    max_bytes : int
        Memory for the decoded chunks of all stacks, in bytes; it is allocated when it is needed. A stack with larger chunks is
        read without the cache.

    Raises
    ------
    GeometryError
        If `max_bytes` is less than 1.

    Examples
    --------
    >>> import patchloom as pl
    >>> stacks = pl.open_stacks("cells.ome.zarr")                                                     # doctest: +SKIP
    >>> with ChunkCache(max_bytes=2**30) as cache:                                                      # doctest: +SKIP
    ...     extractor = pl.PatchExtractor(stacks, cache=cache)
    ...     for batch in batches:
    ...         train(extractor.extract_batch(batch))
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = whole_number("max_bytes", max_bytes)
        if self.max_bytes < 1:
            raise GeometryError(f"max_bytes is {self.max_bytes}: it must be at least 1")
        self._grids: dict[int, ChunkGrid] = {}
        self._next_number = 0
        self._is_closed = False
        self._n_decodes = 0
        self._lock = threading.Lock()
        self._empty()
        _CACHES.add(self)

    @property
    def n_decodes(self) -> int:
        """Number of chunks that were read from their stacks."""
        return self._n_decodes

    @property
    def n_bytes(self) -> int:
        """Memory of the cached chunks, in bytes."""
        return len(self._slots) * self._slot_bytes

    def reader(self, stack: ImageStack) -> ReadBoxes:
        """Return the function that reads boxes of a stack: through the cache if the stack is stored in chunks.

        Parameters
        ----------
        stack : ImageStack
            The image.

        Returns
        -------
        callable
            Takes a sequence of `BoxReads`.
        """
        instance("stack", stack, ImageStack, "open_stacks makes them")
        grid = self._grid(stack)
        return partial(read_boxes, stack) if grid is None else partial(self._read, grid)

    def close(self) -> None:
        """Release the memory. A read in progress ends first; any later one raises `SourceError`."""
        with self._lock:
            self._is_closed = True
            self._grids.clear()
            self._empty()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self.max_bytes,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.n_bytes} of {self.max_bytes} bytes, {self._n_decodes} chunks decoded)"

    def _begin_anew(self) -> None:
        """Start empty in a forked process, where the thread that may hold the lock does not exist."""
        self._lock = threading.Lock()
        self._empty()

    def _empty(self) -> None:
        """Drop all chunks and their memory."""
        self._slots: dict[int, int] = {}
        """The slot of each chunk; the least recently used chunk comes first."""
        self._slot_bytes = 0
        self._free: list[int] = []
        self._memory = np.empty((0, 0), np.uint8)

    def _grid(self, stack: ImageStack) -> ChunkGrid | None:
        """Return the chunks of a stack. None if it is not chunked, its pixels are in memory, or its chunks do not fit."""
        if isinstance(stack, HoldsPixels) and stack.pixels is not None:
            return None
        with self._lock:
            grid = self._grids.get(id(stack)) or ChunkGrid.of(stack, self._next_number)
            if grid is None or _slot_bytes(grid) > self.max_bytes:
                return None
            self._grids[id(stack)] = grid  # keeps the stack alive, so that its id stays unique
            self._next_number = max(self._next_number, grid.next_number)
        return grid

    def _read(self, grid: ChunkGrid, reads: Sequence[BoxReads]) -> None:
        cuts = [cut_by_chunks(read.boxes, grid.chunk_shape) for read in reads]
        numbers = [grid.numbers(cut.chunks) for cut in cuts]
        needed = np.unique(np.concatenate(numbers))
        needed_numbers = needed.tolist()
        with self._lock:
            if self._is_closed:
                raise SourceError(f"{grid.stack.source} cannot be read: its ChunkCache is closed")
            if _slot_bytes(grid) > self._slot_bytes:
                self._cut_slots(_slot_bytes(grid))
            for portion in self._portions(needed_numbers):
                self._load(grid, portion)
                slots = np.array([self._slots[number] if number in portion else -1 for number in needed_numbers])
                for read, cut, of_pieces in zip(reads, cuts, numbers, strict=True):
                    self._copy(grid, read, cut, slots[np.searchsorted(needed, of_pieces)])
                for number in portion:
                    self._slots[number] = self._slots.pop(number)  # the latest used is the last

    def _cut_slots(self, n_bytes: int) -> None:
        """Divide the memory into slots of one chunk each, which empties the cache."""
        n_slots, self._slot_bytes = self.max_bytes // n_bytes, n_bytes
        self._memory = np.empty((n_slots, n_bytes), np.uint8)  # the system allocates a page when it is written to
        self._slots.clear()
        self._free = list(reversed(range(n_slots)))

    def _portions(self, needed: Collection[int]) -> Iterator[set[int]]:
        """Divide chunks into portions that fit into the slots; chunks that are cached come first."""
        present = {number for number in needed if number in self._slots}
        absent = (number for number in needed if number not in present)
        portion = present | set(itertools.islice(absent, len(self._memory) - len(present)))
        while portion:
            yield portion
            portion = set(itertools.islice(absent, len(self._memory)))

    def _load(self, grid: ChunkGrid, wanted: Collection[int]) -> None:
        absent = [number for number in wanted if number not in self._slots]
        self._drop(len(absent) - len(self._free), keep=wanted)
        at_once = max(1, READ_TOGETHER // grid.chunk_bytes)
        chunks = self._as_chunks(grid)
        for start in range(0, len(absent), at_once):
            numbers = absent[start : start + at_once]
            slots = self._free[-len(numbers) :]
            grid.read(numbers, [chunks[slot] for slot in slots])
            del self._free[-len(numbers) :]
            self._slots.update(zip(numbers, slots, strict=True))
            self._n_decodes += len(numbers)

    def _drop(self, count: int, keep: Collection[int]) -> None:
        """Evict chunks, the longest unused first."""
        if count > 0:
            others = (number for number in self._slots if number not in keep)
            self._free += [self._slots.pop(number) for number in list(itertools.islice(others, count))]

    def _copy(self, grid: ChunkGrid, read: BoxReads, cut: ChunkPieces, slots: NDArray[np.int64]) -> None:
        there = slots >= 0
        corners, places, extents = cut.boxes if there.all() else (column[there] for column in cut.boxes)
        boxes = Boxes(np.column_stack((slots[there], corners)), places, extents)
        gather_boxes(self._as_chunks(grid), read.target, boxes, read.rescaling)

    def _as_chunks(self, grid: ChunkGrid) -> NDArray[Any]:
        """Return a view of the memory as chunks of one stack: `(slots, S, C, (Z), Y, X)`."""
        return self._memory[:, : grid.chunk_bytes].view(grid.dtype).reshape(-1, *grid.chunk_shape)


def _slot_bytes(grid: ChunkGrid) -> int:
    return -(-grid.chunk_bytes // _ALIGNMENT) * _ALIGNMENT


_CACHES: weakref.WeakSet[ChunkCache] = weakref.WeakSet()


def _begin_all_anew() -> None:
    for cache in _CACHES:
        cache._begin_anew()  # noqa: SLF001  # of the class above


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_all_anew)
