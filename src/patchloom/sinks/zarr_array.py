"""One Zarr v3 array, written in whole shards by TensorStore.

The array is handled as `SC(Z)YX`, whichever of its first two axes are stored. TensorStore writes a shard to a file of
another name, syncs it and renames it; so each shard is there whole or not at all.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchloom.errors import SinkError
from patchloom.sinks.region import show
from patchloom.sinks.shard_grid import Region, ShardGrid

STORABLE = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()  # noqa: SIM905  # reads well
)
"""Names of the dtypes that an OME-Zarr image may have."""

ZSTD_LEVEL = 3
"""Where a higher level costs much more time and saves next to nothing on microscope images and predictions."""

BYTES_IN_FLIGHT = 16 << 20
"""How much is read or written at once, but always at least one shard or chunk: enough to keep threads and disk busy."""


class ZarrArray:
    """A new Zarr v3 array.

    Parameters
    ----------
    folder : Path
        Where it goes; made here.
    grid : ShardGrid
        Shape, chunks and shards, as `SC(Z)YX`.
    dtype : numpy dtype
        One of `STORABLE`.
    axes : str
        The axes stored, a part of `tczyx` in this order; `t` stands for samples.

    Raises
    ------
    SinkError
        If it cannot be made.
    """

    def __init__(self, folder: Path, grid: ShardGrid, dtype: np.dtype[Any], axes: str) -> None:
        self.folder = folder
        self.grid = grid
        self.dtype = dtype
        stored = [axis in axes for axis in "tczyx" if axis != "z" or len(grid.data_shape) == 5]
        spec = {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "metadata": _metadata(grid, stored, dtype, axes),
            # Each chunk is written once and read once: nothing to keep.
            "context": {"cache_pool": {"total_bytes_limit": 0}},
        }
        with self._failing("be made"):
            array = ts.open(spec, create=True).result()
        self._store = array[tuple(slice(None) if kept else ts.newaxis for kept in stored)]

    def write(self, region: Region, block: NDArray[Any]) -> None:
        """Write whole shards; their bytes are durable when this returns.

        Parameters
        ----------
        region : tuple of slice
            Whole shards.
        block : array
            `SC(Z)YX` of the region's shape and the array's dtype, in any byte order.

        Raises
        ------
        SinkError
            If a shard cannot be written.
        """

        def start(shard: Region) -> Any:
            inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(shard, region, strict=True))
            # The block is not copied, which is safe as nothing returns before all is written.
            return self._store[shard].write(block[inside], can_reference_source_data_indefinitely=True)

        with self._failing(f"be written at {show(region)}"):
            for _ in in_flight(start, self.grid.shards(region), self._n_in_flight(self.grid.shard_shape)):
                pass

    def read(self, regions: Iterable[Region]) -> Iterator[NDArray[Any]]:
        """Read regions one after the other, some ahead of the one handed out.

        Raises
        ------
        SinkError
            If a region cannot be read back.
        """
        regions = list(regions)
        if not regions:
            return
        largest = tuple(part.stop - part.start for part in regions[0])
        with self._failing("be read back"):
            yield from in_flight(lambda region: self._store[region].read(), regions, self._n_in_flight(largest))

    def _n_in_flight(self, shape: tuple[int, ...]) -> int:
        return max(1, BYTES_IN_FLIGHT // (int(np.prod(shape)) * self.dtype.itemsize))

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError, RuntimeError) as error:
            raise SinkError(f"{self.folder} cannot {what}: {_reason(error)}") from error


def in_flight(start: Callable[[Region], Any], regions: Iterable[Region], n: int) -> Iterator[Any]:
    """Start an operation on each region, `n` of them at once, and give the results in order.

    No operation is left running, however this ends.
    """
    running: deque[Any] = deque()
    try:
        for region in regions:
            if len(running) == n:
                yield _first_result(running)
            running.append(start(region))
        while running:
            yield _first_result(running)
    finally:
        for future in running:
            future.exception()


def _first_result(running: deque[Any]) -> Any:
    result = running[0].result()
    running.popleft()
    return result


def _metadata(grid: ShardGrid, stored: list[bool], dtype: np.dtype[Any], axes: str) -> dict[str, Any]:
    def kept(shape: tuple[int, ...]) -> list[int]:
        return [size for size, keep in zip(shape, stored, strict=True) if keep]

    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs: list[dict[str, Any]] = [little, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}}]
    if grid.shard_shape != grid.chunk_shape:
        inner = {
            "chunk_shape": kept(grid.chunk_shape),
            "codecs": codecs,
            "index_codecs": [little, {"name": "crc32c"}],
        }
        codecs = [{"name": "sharding_indexed", "configuration": inner}]
    return {
        "shape": kept(grid.data_shape),
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": kept(grid.shard_shape)}},
        "chunk_key_encoding": {"name": "default"},
        "dimension_names": list(axes),
        "fill_value": False if dtype.kind == "b" else 0,
        "codecs": codecs,
    }


def _reason(error: Exception) -> str:
    """Return the system's own words where there are some, or the first words of TensorStore's."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return os.strerror(int(code[1])) if code else str(error).split(" [", 1)[0]
