"""A Zarr array that TensorStore writes in whole shards.

Its regions are `SC(Z)YX`, whether or not its first two axes are stored. TensorStore writes a shard to a file with another name,
syncs it and renames it, so that a shard exists as a whole or not at all. See docs/durability.md.
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
from patchloom.sinks.regions import Slices, shown_region
from patchloom.sinks.write_errors import explain

BYTES_IN_FLIGHT = 16 << 20
"""Bytes that are read or written at once, enough to keep threads and disk busy; at least one shard or chunk."""

_MOST_REFERENCED_DIMENSIONS = 3


class ZarrArray:
    """A Zarr array that is new, or that a killed process left unfinished.

    Parameters
    ----------
    folder : Path
        The folder of the array, made if it does not exist. If it contains an array, that must be the same one.
    grid : ShardGrid
        Shape, chunks and shards, as `SC(Z)YX`.
    dtype : numpy dtype
        One of `STORABLE`.
    axes : str
        The axes that are stored: a part of `tczyx` in this order, where `t` is the axis of samples.
    zarr_format : {2, 3}
        Version of Zarr. In Zarr v2, shards are chunks.
    bytes_in_flight : int
        Bytes that are read or written at once; at least one shard or chunk is.

    Raises
    ------
    SinkError
        If it cannot be made, or another array is there. The message lists the differences.
    """

    def __init__(
        self,
        folder: Path,
        grid: ShardGrid,
        dtype: np.dtype[Any],
        axes: str,
        zarr_format: ZarrFormat = 3,
        *,
        bytes_in_flight: int = BYTES_IN_FLIGHT,
    ) -> None:
        check_not_forked()
        self.folder = folder
        self.grid = grid
        self.dtype = dtype
        self.zarr_format = zarr_format
        self._bytes_in_flight = bytes_in_flight
        self._stored = [axis in axes for axis in "tczyx" if axis != "z" or len(grid.data_shape) == 5]
        self._durable_folders = {folder.parent}
        metadata = array_metadata(zarr_format, grid, self._stored, dtype, axes)
        spec = {
            "driver": DRIVERS[zarr_format],
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "metadata": metadata,
            # Each chunk is written once and read once, so a cache has no use.
            "context": {"cache_pool": {"total_bytes_limit": 0}},
        }
        _remove_leftovers(folder)
        with self._failing("be made"):
            self._check_same(spec)
            array = ts.open(spec, open=True, create=True).result()
            self._sync_folders(folder)
        self._sizes = np.full(grid.counts, -1, np.int64)  # of written files; -1 for others
        self._document = self._array_document()
        self._store = array[tuple(slice(None) if kept else ts.newaxis for kept in self._stored)]
        # `write` returns when all is written, so blocks need not be copied. But TensorStore 0.1.86 stores zeros for a chunk
        # that it references and that is strided in four dimensions or more.
        self._may_reference_blocks = sum(size > 1 for size in grid.chunk_shape) <= _MOST_REFERENCED_DIMENSIONS

    def write(self, region: Slices, block: NDArray[Any]) -> None:
        """Write whole shards. They are durable when this returns.

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

        with self._failing(f"be written at {shown_region(region)}"):
            for file in self._files(region):
                # TensorStore would read and complete what a killed process left of a shard at the end of the image.
                file.unlink(missing_ok=True)
            for _ in in_flight(start, self.grid.shards(region), self._n_in_flight(self.grid.shard_shape)):
                pass
            for file in self._files(region):
                self._sync_folders(file.parent)
        self.expect(region, self.stored_bytes(region))

    def expect(self, region: Slices, stored_bytes: Sequence[int]) -> None:
        """Store the sizes of the files of a region for `check_whole`, in raster order, as from `stored_bytes`."""
        sizes = self._sizes[self.grid.shard_indices(region)]
        sizes[...] = np.reshape(stored_bytes, sizes.shape)

    def check_whole(self) -> None:
        """Check that no file was removed or changed since it was written.

        Raises
        ------
        SinkError
            If a written file is missing or has another length, or the description of the array was changed.
        """
        if self._array_document() != self._document:
            raise SinkError(
                f"{self.folder} was changed while it was written: its description is missing or another: start afresh with overwrite=True "
                "(--overwrite)"
            )
        expected = self._sizes.ravel()
        for shard, file, size in zip(
            self.grid.shards(self.grid.whole), self._files(self.grid.whole), expected, strict=True
        ):
            if size >= 0 and (found := _size(file)) != size:
                raise SinkError(
                    f"{file} was changed after it was written: it has {found} bytes, but {size} were written at "
                    f"{shown_region(shard)}: run again to write it again"
                )

    def _array_document(self) -> bytes:
        try:
            return (self.folder / array_document(self.zarr_format)).read_bytes()
        except OSError:
            return b""

    def stored_bytes(self, region: Slices) -> list[int]:
        """Return the sizes of the files of a region of whole shards, in raster order; 0 for a missing file.

        A shard that contains only 0 is not stored.
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
        """Make the names of a folder and of those around it durable: TensorStore syncs only the folder of a file."""
        while folder not in self._durable_folders and folder.is_dir():
            sync_folder(folder.parent)
            self._durable_folders.add(folder)
            folder = folder.parent

    def _check_same(self, spec: dict[str, Any]) -> None:
        """Check that an existing array is this one."""
        try:
            existing = ts.open({key: value for key, value in spec.items() if key != "metadata"}).result()
        except ValueError as error:
            if "NOT_FOUND" in str(error):
                return
            raise
        metadata = spec["metadata"]
        wanted = ts.Spec(spec)
        described = {
            "shape": (existing.shape, tuple(metadata["shape"])),
            "dtype": (existing.dtype.name, self.dtype.name),
            "chunk shape": (existing.chunk_layout.read_chunk.shape, wanted.chunk_layout.read_chunk.shape),
            "shard shape": (existing.chunk_layout.write_chunk.shape, wanted.chunk_layout.write_chunk.shape),
        }
        differing = [f"{what} is {old}, not {new}" for what, (old, new) in described.items() if old != new]
        if differing:
            raise SinkError(
                f"{self.folder} belongs to another image: its {', its '.join(differing)}: "
                "start afresh with overwrite=True (--overwrite)"
            )

    def _n_in_flight(self, shape: tuple[int, ...]) -> int:
        return max(1, self._bytes_in_flight // (int(np.prod(shape)) * self.dtype.itemsize))

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except SinkError:
            raise
        except (ValueError, OSError, RuntimeError) as error:
            raise SinkError(f"{self.folder} cannot {what}: {explain(error)}") from error


def in_flight(start: Callable[[Slices], Any], regions: Iterable[Slices], n: int) -> Iterator[Any]:
    """Start an operation on each region, `n` of them at once, and return the results in order.

    No operation is running when this ends, also after an error.
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
    """Remove the files that TensorStore was writing when it was killed.

    TensorStore writes into such a file again without truncating it, so that old bytes at its end would become a part of the
    new shard.
    """
    for leftover in folder.rglob("*.__lock"):
        remove(leftover)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0
