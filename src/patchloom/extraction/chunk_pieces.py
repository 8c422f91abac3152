"""Boxes of an image cut where its stored chunks end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.gather import Boxes


class ChunkPieces(NamedTuple):
    """Parts of boxes, each of which lies in a single chunk."""

    box: NDArray[np.int64]
    """`(n,)`: which box each is a part of."""

    chunks: NDArray[np.int64]
    """`(n, axes)`: which chunk it lies in, counted along each axis."""

    boxes: Boxes
    """From the chunk to the target."""


def cut_by_chunks(boxes: Boxes, chunk_shape: Sequence[int]) -> ChunkPieces:
    """Cut boxes, all at once.

    Parameters
    ----------
    boxes : Boxes
        From the image, `SC(Z)YX`, to a target of as many axes.
    chunk_shape : sequence of int
        `SC(Z)YX`.

    Returns
    -------
    ChunkPieces
        Together the boxes; those of one box follow each other.

    Examples
    --------
    >>> boxes = Boxes(np.array([[0, 0, 6, 3]]), np.array([[5, 0, 0, 0]]), np.array([[1, 4, 4]]))
    >>> pieces = cut_by_chunks(boxes, (1, 1, 8, 8))
    >>> pieces.chunks.tolist(), pieces.boxes.places.tolist(), pieces.boxes.extents.tolist()
    ([[0, 0, 0, 0], [0, 0, 1, 0]], [[5, 0, 0, 0], [5, 0, 2, 0]], [[1, 2, 4], [1, 2, 4]])
    """
    chunk = np.asarray(chunk_shape)
    starts, stops = boxes.corners, boxes.corners.copy()
    stops[:, 0] += 1
    stops[:, 1:] += boxes.extents
    first = starts // chunk
    counts = (stops - 1) // chunk - first + 1
    per_box = counts.prod(axis=1)
    box = np.repeat(np.arange(len(per_box)), per_box)
    # Pieces of a box are numbered through, and the number is taken apart into a place on its small grid of chunks.
    number = np.arange(len(box)) - np.repeat(per_box.cumsum() - per_box, per_box)
    chunks, counts = first[box], counts[box]
    for axis in reversed(range(len(chunk))):
        number, place = np.divmod(number, counts[:, axis])
        chunks[:, axis] += place
    begin = np.maximum(starts[box], chunks * chunk)
    end = np.minimum(stops[box], (chunks + 1) * chunk)
    places = boxes.places[box] + begin - starts[box]
    return ChunkPieces(box, chunks, Boxes(begin - chunks * chunk, places, (end - begin)[:, 1:]))
