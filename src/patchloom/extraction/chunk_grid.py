"""The stored chunks of an image stack, each with a number of its own, and boxes cut where chunks end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.gather import Boxes
from patchloom.image_stacks import HasStorageGrid, ImageStack, Region, read_regions


@dataclass(frozen=True, slots=True)
class ChunkGrid:
    """The grid of stored chunks of one image stack.

    Parameters
    ----------
    stack : ImageStack
        The image.
    chunk_shape, data_shape : tuple of int
        Shapes of a chunk and of the image, `SC(Z)YX`, in voxels.
    dtype : numpy dtype
        Of the image.
    first_number : int
        Number of its first chunk; the others are numbered in raster order.
    """

    stack: ImageStack
    chunk_shape: tuple[int, ...]
    data_shape: tuple[int, ...]
    dtype: np.dtype[Any]
    first_number: int

    @classmethod
    def of(cls, stack: ImageStack, first_number: int) -> ChunkGrid | None:
        """Return the grid of a stack, or None if it is not stored in chunks."""
        if not isinstance(stack, HasStorageGrid):
            return None
        return cls(stack, tuple(stack.chunk_shape), tuple(stack.data_shape), np.dtype(stack.data_dtype), first_number)

    @property
    def n_chunks(self) -> tuple[int, ...]:
        """Number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.data_shape, self.chunk_shape, strict=True))

    @property
    def next_number(self) -> int:
        """One past the number of the last chunk."""
        return self.first_number + prod(self.n_chunks)

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk, in bytes."""
        return prod(self.chunk_shape) * self.dtype.itemsize

    def numbers(self, chunks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of chunks, given their positions in the grid, `(n, axes)`."""
        strides = [prod(self.n_chunks[axis + 1 :]) for axis in range(len(self.n_chunks))]
        return chunks @ np.array(strides, np.int64) + self.first_number

    def read(self, numbers: Sequence[int], targets: Sequence[NDArray[Any]]) -> None:
        """Read chunks, all requested together.

        Parameters
        ----------
        numbers : sequence of int
            Numbers of the chunks.
        targets : sequence of array
            One `SC(Z)YX` array of `chunk_shape` for each. Voxels past the end of the image keep their values.

        Raises
        ------
        SourceError
            If pixels cannot be read.
        """
        regions, out = [], []
        for number, target in zip(numbers, targets, strict=True):
            places = np.unravel_index(number - self.first_number, self.n_chunks)
            starts = [int(place) * chunk for place, chunk in zip(places, self.chunk_shape, strict=True)]
            stops = map(min, map(sum, zip(starts, self.chunk_shape, strict=True)), self.data_shape)
            samples, channels, *window = map(slice, starts, stops)
            inside = [slice(part.stop - part.start) for part in (channels, *window)]
            for place, sample_idx in enumerate(range(samples.start, samples.stop)):
                regions.append(Region(sample_idx, channels, tuple(window)))
                out.append(target[place][tuple(inside)])
        read_regions(self.stack, regions, out)


class ChunkPieces(NamedTuple):
    """Pieces of boxes; each piece lies in a single chunk."""

    box: NDArray[np.int64]
    """`(n,)`: index of the box that a piece is cut from."""

    chunks: NDArray[np.int64]
    """`(n, axes)`: position of its chunk in the grid."""

    boxes: Boxes
    """From the chunks to the target."""


def cut_by_chunks(boxes: Boxes, chunk_shape: Sequence[int]) -> ChunkPieces:
    """Cut boxes where chunks end, all at once.

    Parameters
    ----------
    boxes : Boxes
        From the image, `SC(Z)YX`, to a target of as many axes.
    chunk_shape : sequence of int
        `SC(Z)YX`, in voxels.

    Returns
    -------
    ChunkPieces
        The pieces of all boxes; pieces of one box follow each other.

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
    # The number of a piece within its box gives its position in the box's own small grid of chunks.
    number = np.arange(len(box)) - np.repeat(per_box.cumsum() - per_box, per_box)
    chunks, counts = first[box], counts[box]
    for axis in reversed(range(len(chunk))):
        number, place = np.divmod(number, counts[:, axis])
        chunks[:, axis] += place
    begin = np.maximum(starts[box], chunks * chunk)
    end = np.minimum(stops[box], (chunks + 1) * chunk)
    places = boxes.places[box] + begin - starts[box]
    return ChunkPieces(box, chunks, Boxes(begin - chunks * chunk, places, (end - begin)[:, 1:]))
