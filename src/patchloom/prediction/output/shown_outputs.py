"""What an earlier run left of an output, or completed of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from patchloom.errors import SinkError
from patchloom.sinks import OutputLock
from patchloom.sinks.publishing.destination import (
    lock_path,
    names_beside,
    partial_path,
    remove,
    undo_interrupted_replacement,
)

RecordedBlocks = dict[int, list[Any]]
"""For each recorded block of an image, the record of each of its outputs."""


def by_image(blocks: Mapping[tuple[int, int], list[Any]]) -> dict[int, RecordedBlocks]:
    """Sort the records of a ledger by image."""
    images: dict[int, RecordedBlocks] = {}
    for (data_idx, block), records in blocks.items():
        images.setdefault(data_idx, {})[block] = records
    return images


def settle(path: Path, *, keep_unfinished: bool, lock: OutputLock | None) -> None:
    """Bring the names beside an output in order that a run was killed at.

    A replacement that was interrupted is undone or completed, a lock that is not held is removed, and so is an unfinished
    output that is not resumed.

    Parameters
    ----------
    path : Path
        Where the output is to be.
    keep_unfinished : bool
        Whether an unfinished output is resumed: blocks of it are recorded.
    lock : OutputLock, optional
        A lock that the caller holds, perhaps on this output.

    Raises
    ------
    SinkError
        If another run writes there, or something cannot be removed.
    """
    if not any(os.path.lexists(place) for place in names_beside(path)):
        return
    is_held = lock is not None and lock.path == lock_path(path)
    with nullcontext() if is_held else OutputLock(path):
        undo_interrupted_replacement(path)
        if not keep_unfinished:
            remove(partial_path(path))


class ShownOutput:
    """Stands for one of several outputs that was complete and shown when a run was killed."""

    data_shape: tuple[int, ...] = ()
    data_dtype: Any = None

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Refuse: all blocks are recorded, so none is written."""
        raise SinkError(
            f"{self._path} is complete, and {block.shape} for {region} comes late: start afresh with overwrite"
        )

    def finalize(self) -> Path:
        """Return its path."""
        return self._path

    def abort(self) -> None:
        """Leave it: it is complete."""
