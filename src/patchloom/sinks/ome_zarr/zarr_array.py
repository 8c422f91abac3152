"""One Zarr array, written in whole shards by TensorStore.

The array is handled as `SC(Z)YX`, whichever of its first two axes are stored. TensorStore writes a shard to a file of
another name, syncs it and renames it; so each shard is there whole or not at all. See docs/durability.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchloom.errors import SinkError
from patchloom.forked_process import check_not_forked
from patchloom.sinks.ome_zarr.pyramid import PyramidMethod, downsample, downsampled, takes_mode_of_bits
from patchloom.sinks.ome_zarr.shard_grid import ShardGrid
from patchloom.sinks.ome_zarr.zarr_format import DRIVERS, ZarrFormat, array_document, array_metadata, chunk_file
from patchloom.sinks.publishing.destination import remove, sync_folder
from patchloom.sinks.regions import Slices, show
from patchloom.sinks.write_errors import explain

BYTES_IN_FLIGHT = 16 << 20
"""How much is read or written at once, but always at least one shard or chunk: enough to keep threads and disk busy."""

_MOST_REFERENCED_DIMENSIONS = 3


class ZarrArray:
    """A Zarr array that is new, or that a killed process began.

    Parameters
    ----------
    folder : Path
        Where it is; made here if need be. What is there already must be the same array, unfinished or not.
    grid : ShardGrid
        Shape, chunks and shards, as `SC(Z)YX`.
    dtype : numpy dtype
        One of `STORABLE`.
    axes : str
        The axes stored, a part of `tczyx` in this order; `t` stands for samples.
    zarr_format : {2, 3}
        In 2, shards are chunks.

    Raises
    ------
    SinkError
        If it cannot be made, or another array is there; the message lists in what they differ.
    """

    def __init__(
        self, folder: Path, grid: ShardGrid, dtype: np.dtype[Any], axes: str, zarr_format: ZarrFormat = 3
    ) -> None:
        check_not_forked()
        self.folder = folder
        self.grid = grid
        self.dtype = dtype
        self.zarr_format = zarr_format
        self._stored = [axis in axes for axis in "tczyx" if axis != "z" or len(grid.data_shape) == 5]
        self._durable_folders = {folder.parent}
        metadata = array_metadata(zarr_format, grid, self._stored, dtype, axes)
        spec = {
            "driver": DRIVERS[zarr_format],
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "metadata": metadata,
            # Each chunk is written once and read once: nothing to keep.
            "context": {"cache_pool": {"total_bytes_limit": 0}},
        }
        _remove_leftovers(folder)
        with self._failing("be made"):
            self._check_same(spec)
            array = ts.open(spec, open=True, create=True).result()
            self._sync_folders(folder)
        self._sizes = np.full(grid.counts, -1, np.int64)  # of files that were written; -1 where none was
        self._document = self._array_document()
        self._store = array[tuple(slice(None) if kept else ts.newaxis for kept in self._stored)]
        # Nothing returns before all is written, so blocks need not be copied. TensorStore 0.1.86 stores zeros, though, for
        # a chunk that it references and that is strided in four dimensions or more.
        self._may_reference_blocks = sum(size > 1 for size in grid.chunk_shape) <= _MOST_REFERENCED_DIMENSIONS

    def write(self, region: Slices, block: NDArray[Any]) -> None:
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

        def start(shard: Slices) -> Any:
            inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(shard, region, strict=True))
            return self._store[shard].write(
                block[inside], can_reference_source_data_indefinitely=self._may_reference_blocks
            )

        with self._failing(f"be written at {show(region)}"):
            for file in self._files(region):
                # TensorStore would read what a killed process left of a shard at the image's end, to write the rest of it.
                file.unlink(missing_ok=True)
            for _ in in_flight(start, self.grid.shards(region), self._n_in_flight(self.grid.shard_shape)):
                pass
            for file in self._files(region):
                self._sync_folders(file.parent)
        self.expect(region, self.stored_bytes(region))

    def expect(self, region: Slices, stored_bytes: Sequence[int]) -> None:
        """Note the sizes of the files of a region, for `check_whole`; in raster order, as of `stored_bytes`."""
        sizes = self._sizes[self.grid.shard_indices(region)]
        sizes[...] = np.reshape(stored_bytes, sizes.shape)

    def check_whole(self) -> None:
        """Check that all files are as they were written.

        Raises
        ------
        SinkError
            If a file that was written is gone or has another length, or the description of the array has changed.
        """
        if self._array_document() != self._document:
            raise SinkError(f"{self.folder} was changed while it was written: its description is gone or another")
        expected = self._sizes.ravel()
        for shard, file, size in zip(
            self.grid.shards(self.grid.whole), self._files(self.grid.whole), expected, strict=True
        ):
            if size >= 0 and (found := _size(file)) != size:
                raise SinkError(
                    f"{file} was changed after it was written: it has {found} bytes, and {size} were written at "
                    f"{show(shard)}: run again to write it anew"
                )

    def _array_document(self) -> bytes:
        try:
            return (self.folder / array_document(self.zarr_format)).read_bytes()
        except OSError:
            return b""

    def stored_bytes(self, region: Slices) -> list[int]:
        """Sizes of the files that a region of whole shards is stored in, in raster order; 0 for one that is not there.

        A shard without any value but 0 is not stored.
        """
        return [_size(file) for file in self._files(region)]

    def read_halved(
        self, regions: Iterable[Slices], factors: Sequence[int], method: PyramidMethod
    ) -> Iterator[NDArray[Any]]:
        """Compute regions of the next level of a pyramid, some of them ahead of the one that is returned.

        Parameters
        ----------
        regions : iterable of tuple of slice
            Regions of the next level; the first is the largest.
        factors : sequence of int
            1 or 2 for each axis.
        method : {"mean", "mode", "nearest"}
            Mean of neighbors, their mode, or the first of them.

        Raises
        ------
        SinkError
            If a region cannot be read back.
        """
        regions = list(regions)
        sources = [self._source_of(region, factors) for region in regions]
        n_at_once = self._n_in_flight(tuple(part.stop - part.start for part in sources[0]))
        with self._failing("be read back"):
            if takes_mode_of_bits(method, self.dtype):
                for pixels in in_flight(lambda source: self._store[source].read(), sources, n_at_once):
                    yield downsample(pixels, factors, method)
            else:
                halves = downsampled(self._store, factors, method)
                yield from in_flight(lambda region: halves[region].read(), regions, n_at_once)

    def _source_of(self, region: Slices, factors: Sequence[int]) -> Slices:
        """Return the region of this array that a region of the next level is computed from."""
        return tuple(
            slice(part.start * factor, min(part.stop * factor, size))
            for part, factor, size in zip(region, factors, self.grid.data_shape, strict=True)
        )

    def _files(self, region: Slices) -> Iterator[Path]:
        for shard in self.grid.shards(region):
            positions = zip(shard, self.grid.shard_shape, self._stored, strict=True)
            position = [part.start // size for part, size, kept in positions if kept]
            yield self.folder / chunk_file(self.zarr_format, position)

    def _sync_folders(self, folder: Path) -> None:
        """Make the names of a folder and of those around it durable: TensorStore syncs only the one a file is in."""
        while folder not in self._durable_folders and folder.is_dir():
            sync_folder(folder.parent)
            self._durable_folders.add(folder)
            folder = folder.parent

    def _check_same(self, spec: dict[str, Any]) -> None:
        """Check that what is there, if anything, is this array."""
        try:
            there = ts.open({key: value for key, value in spec.items() if key != "metadata"}).result()
        except ValueError as error:
            if "NOT_FOUND" in str(error):
                return
            raise
        metadata = spec["metadata"]
        wanted = ts.Spec(spec)
        described = {
            "shape": (there.shape, tuple(metadata["shape"])),
            "dtype": (there.dtype.name, self.dtype.name),
            "chunk shape": (there.chunk_layout.read_chunk.shape, wanted.chunk_layout.read_chunk.shape),
            "shard shape": (there.chunk_layout.write_chunk.shape, wanted.chunk_layout.write_chunk.shape),
        }
        differing = [f"{what} is {old}, not {new}" for what, (old, new) in described.items() if old != new]
        if differing:
            raise SinkError(
                f"{self.folder} was begun for another image: its {', its '.join(differing)}: "
                "start afresh with overwrite=True (--overwrite)"
            )

    def _n_in_flight(self, shape: tuple[int, ...]) -> int:
        return max(1, BYTES_IN_FLIGHT // (int(np.prod(shape)) * self.dtype.itemsize))

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except SinkError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            raise SinkError(f"{self.folder} cannot {what}: {explain(error)}") from error


def in_flight(start: Callable[[Slices], Any], regions: Iterable[Slices], n: int) -> Iterator[Any]:
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


def _remove_leftovers(folder: Path) -> None:
    """Remove the files that a killed TensorStore was writing.

    It writes into such a file again without emptying it first, and what was longer would end up in the new shard.
    """
    for leftover in folder.rglob("*.__lock"):
        remove(leftover)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
