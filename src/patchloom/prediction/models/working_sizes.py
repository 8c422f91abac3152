"""Tile sizes that a model accepts, found by running it, for the error of one that it does not accept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError

_MULTIPLES = (32, 16, 8)
"""Most networks accept multiples of one of these."""

_MOST_TRIED = 10


def find_working_sizes(
    run: Callable[[NDArray[Any]], Any], tile: NDArray[Any], *, most: int = 2
) -> list[tuple[int, ...]]:
    """Return sizes near that of a tile that a model fails on, and which it accepts.

    Parameters
    ----------
    run : callable
        Runs the model on a batch.
    tile : array
        `(1, C, (Z), Y, X)`.
    most : int
        Largest number of sizes to find.

    Returns
    -------
    list of tuple of int
        Sizes `(z,) y, x` in voxels; empty if none is found, or the model does not fail on this tile again.

    Examples
    --------
    >>> def halved(batch):
    ...     if batch.shape[-1] % 16:
    ...         raise ModelError("odd size")
    ...     return batch
    >>> find_working_sizes(halved, np.zeros((1, 1, 100, 100)))
    [(96, 96), (64, 64)]
    """
    if _is_accepted(run, tile, tile.shape[2:]):
        return []
    found: list[tuple[int, ...]] = []
    for size in list(_smaller_sizes(tile.shape[2:]))[:_MOST_TRIED]:
        if len(found) < most and _is_accepted(run, tile, size):
            found.append(size)
    return found


def resize_tile(tile: NDArray[Any], size: Sequence[int]) -> NDArray[Any]:
    """Crop a tile to another size, or extend it by its mirror image.

    Parameters
    ----------
    tile : array
        `(B, C, (Z), Y, X)`.
    size : sequence of int
        The other size, `(z,) y, x` in voxels.
    """
    cut = tile[(slice(None), slice(None), *map(slice, size))]
    missing = [(0, side - cropped) for side, cropped in zip(size, cut.shape[2:], strict=True)]
    return np.pad(cut, [(0, 0), (0, 0), *missing], mode="symmetric")


def _is_accepted(run: Callable[[NDArray[Any]], Any], tile: NDArray[Any], size: Sequence[int]) -> bool:
    try:
        run(resize_tile(tile, size))
    except ModelError:
        return False
    return True


def _smaller_sizes(size: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield sizes of multiples along each axis: the next smaller ones, down to a quarter, and equal ones on all axes."""
    seen = {tuple(size)}
    for multiple in _MULTIPLES:
        least = [max(multiple, side // multiple * multiple) for side in size]
        for steps in range(4):
            smaller = tuple(max(multiple, side - steps * multiple) for side in least)
            for candidate in (smaller, (min(smaller),) * len(size)):
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate
