"""The boxes that an image is stored in: chunks, each decoded as a whole, and shards, which are files of whole chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from patchloom.errors import GeometryError, SinkError
from patchloom.geometry.checks import whole_number
from patchloom.sinks.regions import Slices, boxes, data_axes, shown_region


@dataclass(frozen=True, slots=True)
class ShardGrid:
    """The division of an image into shards, and of a shard into chunks.

    Parameters
    ----------
    data_shape : sequence of int
        Shape of the image in voxels, `SC(Z)YX`.
    chunk_shape : sequence of int
        Shape of a chunk in voxels, `SC(Z)YX`. Clipped to the image.
    shard_shape : sequence of int
        Shape of a shard in voxels, `SC(Z)YX`: a multiple of the chunk along every axis. Clipped to the chunks that cover the
        image.

    Raises
    ------
    GeometryError
        If there is not one positive number for each axis, or a shard is not a whole number of chunks.

    Examples
    --------
    >>> grid = ShardGrid((1, 2, 600, 100), (1, 1, 256, 256), (1, 1, 1024, 1024))
    >>> grid.chunk_shape, grid.shard_shape, grid.counts
    ((1, 1, 256, 100), (1, 1, 768, 100), (1, 2, 1, 1))
    """

    data_shape: tuple[int, ...]
    chunk_shape: tuple[int, ...]
    shard_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        shape = _positive("data_shape", self.data_shape, len(self.data_shape))
        chunk = _positive("chunk_shape", self.chunk_shape, len(shape))
        shard = _positive("shard_shape", self.shard_shape, len(shape))
        for axis, inner, outer in zip(data_axes(len(shape)), chunk, shard, strict=True):
            if outer % inner:
                raise GeometryError(
                    f"shard_shape is {outer} along {axis} and chunk_shape is {inner}: a shard must be a whole number of "
                    f"chunks; take {inner * math.ceil(outer / inner)}"
                )
        chunk = tuple(map(min, chunk, shape))
        covering = (inner * math.ceil(size / inner) for inner, size in zip(chunk, shape, strict=True))
        object.__setattr__(self, "data_shape", shape)
        object.__setattr__(self, "chunk_shape", chunk)
        object.__setattr__(self, "shard_shape", tuple(map(min, shard, covering)))

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of shards along each axis."""
        return tuple(map(_ceil_div, self.data_shape, self.shard_shape))

    @property
    def whole(self) -> Slices:
        """The region of the whole image."""
        return tuple(slice(0, size) for size in self.data_shape)

    def shards(self, region: Slices) -> Iterator[Slices]:
        """Return the shards of a region that starts with a shard, clipped to the region, in raster order."""
        return boxes(region, self.shard_shape)

    def chunks(self, region: Slices) -> Iterator[Slices]:
        """Return the chunks of a region that starts with a chunk, clipped to the region, in raster order."""
        return boxes(region, self.chunk_shape)

    def shard_indices(self, region: Slices) -> Slices:
        """Return the indices of the shards of a region, along each axis of `counts`.

        Raises
        ------
        SinkError
            If the region contains a part of a shard.

        Examples
        --------
        >>> grid = ShardGrid((1, 1, 600, 100), (1, 1, 128, 128), (1, 1, 256, 128))
        >>> grid.shard_indices((slice(0, 1), slice(0, 1), slice(256, 600), slice(0, 100)))[2]
        slice(1, 3, None)
        """
        for axis, part, size, shard in zip(
            data_axes(len(region)), region, self.data_shape, self.shard_shape, strict=True
        ):
            if part.start % shard or (part.stop % shard and part.stop != size):
                raise SinkError(
                    f"region {part.start}:{part.stop} along {axis} contains a part of a shard: it must start at a multiple "
                    f"of {shard} and stop at one or at the image's end, {size}; region is {shown_region(region)}"
                )
        return tuple(
            slice(part.start // shard, _ceil_div(part.stop, shard))
            for part, shard in zip(region, self.shard_shape, strict=True)
        )


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _positive(name: str, values: Sequence[int], n_axes: int) -> tuple[int, ...]:
    numbers = tuple(whole_number(name, value) for value in values)
    if len(numbers) != n_axes or n_axes not in (4, 5) or min(numbers) < 1:
        wanted = data_axes(n_axes) if n_axes in (4, 5) else "SCYX or SCZYX"
        raise GeometryError(f"{name} is {numbers}: it must be one positive number for each axis of {wanted}")
    return numbers
