"""A sink that writes an OME-Zarr."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import function, listed, whole_number
from patchloom.axes import AxesMap
from patchloom.errors import ArgumentError, SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.local_paths import normalize_path
from patchloom.sinks.ome_zarr.block_records import (
    ChannelRanges,
    ValueRange,
    block_ranges,
    block_record,
    output_mark,
    read_record,
)
from patchloom.sinks.ome_zarr.pyramid import Pyramid, halving, level_shapes, pyramid_method
from patchloom.sinks.ome_zarr.shard_grid import ShardGrid
from patchloom.sinks.ome_zarr.zarr_array import ZarrArray
from patchloom.sinks.ome_zarr.zarr_format import OmeZarrVersion, check_zarr_dtype, zarr_format_of
from patchloom.sinks.output_kinds import ZARR, image_name
from patchloom.sinks.publishing.destination import remove, sync_folder
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.publishing.pending_output import PendingOutput
from patchloom.sinks.regions import Slices, check_block, check_region, shown_region
from patchloom.sinks.sink_arguments import check_sink_arguments, sink_dtype
from patchloom.sinks.write_errors import explain


class OmeZarrSink:
    """An `ImageSink` that writes an OME-Zarr with a pyramid: sharded Zarr v3, or Zarr v2 for viewers that need it.

    Every shard is written once, as a whole, and is durable when `write` returns. The image is written to `<path>.partial`.
    `finalize` adds the lower levels and the metadata and then renames the folder, so that an image at `path` is always complete.
    An image that a killed process left unfinished can be resumed: see `ResumableSink`.

    Parameters
    ----------
    path : str or Path
        The image: a local path that by convention ends in `.ome.zarr`.
    axes_map : AxesMap
        The axes and shape of the image, as its user sees it. OME-Zarr stores a part of `tczyx`, in this order: `c` if there is a
        `C`, and `t` if there is a `T` or an `S`. OME-Zarr has no samples: `S` and `T` together fold into `t`. The attributes
        contain the user's axes and shape under `"patchloom"`.
    dtype : dtype-like
        Boolean, integer or floating-point.
    chunk_shape, shard_shape : sequence of int
        Voxels, `SC(Z)YX`: the box that is decoded at once, and the box of a file, which is a whole number of chunks. Both are
        clipped to the image. If they are equal, chunks are stored without the sharding codec. OME-Zarr 0.4 has no shards: each
        chunk is a file.
    metadata : ImageMetadata, optional
        Voxel sizes, units, and names and colors of the channels to store.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        How each lower level is computed, which has half the size along each spatial axis: the mean of neighbors, their mode
        (for labels), or every second voxel. `"auto"` takes the mode of booleans and of integers of 32 and 64 bits, and the mean
        of all other dtypes. If None, there are no lower levels.
    levels : int, optional
        Number of levels, including the full image. If None, levels are added until no axis is larger than 256 voxels or one
        chunk.
    version : {"0.5", "0.4"}
        Version of OME-Zarr: 0.5 is Zarr v3, 0.4 is Zarr v2.
    overwrite : bool
        Whether an existing Zarr is replaced, and an unfinished one is discarded. An existing one stays until the new image is
        complete.
    resume : bool
        Whether to resume the unfinished image at `path`, which must have been started with the same arguments.
    lock : OutputLock, optional
        The lock on `path`, if the caller holds it. If None, the sink holds one while it is open.

    Raises
    ------
    OutputExistsError
        If `path` exists and is not to be replaced.
    SinkError
        If the folder cannot be written to, another run is writing the image, the dtype cannot be stored, the metadata do not
        match the channels, or the image to be resumed does not exist or has another shape, dtype, chunks or shards.
    ArgumentError, GeometryError
        If chunks, shards, levels, pyramid or version have a value that is not allowed.

    Notes
    -----
    Memory beside the block that is written: a few times 16 MiB, or a compressed shard if that is more. `finalize` needs one
    shard more. Neither depends on the size of the image.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> image = np.ones((3, 1, 600, 400), "uint8")
    >>> with TemporaryDirectory() as folder:
    ...     sink = OmeZarrSink(
    ...         Path(folder, "movie.ome.zarr"), axes_map=AxesMap("TYX", (3, 600, 400)), dtype="uint8",
    ...         chunk_shape=(1, 1, 256, 256), shard_shape=(1, 1, 512, 512),
    ...     )
    ...     for start, stop in ((0, 512), (512, 600)):
    ...         region = (slice(0, 3), slice(0, 1), slice(start, stop), slice(0, 400))
    ...         sink.write(region, image[region])
    ...     sink.finalize().name
    'movie.ome.zarr'
    """

    def __init__(
        self,
        path: str | Path,
        *,
        axes_map: AxesMap,
        dtype: DTypeLike,
        chunk_shape: Sequence[int],
        shard_shape: Sequence[int],
        metadata: ImageMetadata | None = None,
        pyramid: Pyramid | None = "auto",
        levels: int | None = None,
        version: OmeZarrVersion = "0.5",
        overwrite: bool = False,
        resume: bool = False,
        lock: OutputLock | None = None,
    ) -> None:
        check_sink_arguments(path, axes_map, metadata=metadata, overwrite=overwrite, resume=resume, lock=lock)
        self.path = Path(normalize_path(path))
        self.axes_map = axes_map
        self.data_shape = axes_map.data_shape
        self.data_dtype = check_zarr_dtype(sink_dtype(dtype))
        self.version, self.zarr_format = version, zarr_format_of(version)
        shard_shape = chunk_shape if self.zarr_format == 2 else shard_shape
        self.grid = ShardGrid(self.data_shape, _shape("chunk_shape", chunk_shape), _shape("shard_shape", shard_shape))
        self.level_shapes = level_shapes(self.data_shape[2:], self.grid.chunk_shape[2:], _n_levels(pyramid, levels))
        self.method = None if pyramid is None else pyramid_method(pyramid, self.data_dtype)
        self.metadata = metadata or ImageMetadata()
        self.metadata = replace(self.metadata, name=self.metadata.name or image_name(path))
        self._records: dict[tuple[tuple[int, int], ...], dict[str, Any]] = {}
        self._written = np.zeros(self.grid.counts, bool)
        self._ranges = ChannelRanges(self.data_shape[1])
        self._attributes()  # checks the metadata before an old output is discarded
        self._output = PendingOutput(path, ZARR, overwrite=overwrite, resume=resume, lock=lock)
        try:
            self._output.make_folder()
            self._full = self._level_array(0)
            self._mark = output_mark(self._output.partial)
        except BaseException:
            # An image that cannot be resumed is kept.
            (self._output.close if resume else self._output.abort)()
            raise

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of a chunk in voxels, `SC(Z)YX`, clipped to the image."""
        return self.grid.chunk_shape

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """Shape of a shard in voxels, `SC(Z)YX`, clipped to the image. Blocks are whole shards."""
        return self.grid.shard_shape

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write whole shards, each of them once; see `ImageSink.write`.

        Raises
        ------
        SinkError
            Also if the region contains a part of a shard, or a shard that was written before. A write that failed may be
            repeated.
        """
        self._output.check_open()
        check_block(region, block, self.data_shape, self.data_dtype)
        self._check_unwritten(region)
        self._full.write(region, block)
        ranges = block_ranges(block)
        self._count(region, ranges, block_record(region, ranges, self._full.stored_bytes(region), self._mark))

    def block_record(self, region: tuple[slice, ...]) -> dict[str, Any]:
        """Return the region, range of values and sizes of files of a block; see `ResumableSink.block_record`."""
        check_region(region, self.data_shape)
        try:
            return self._records[_bounds(region)]
        except KeyError:
            raise SinkError(f"{self.path}: no block was written at {shown_region(region)}: write it first") from None

    def has_block(self, record: dict[str, Any]) -> bool:
        """Return whether the files of a block have the recorded sizes; see `ResumableSink.has_block`."""
        try:
            region, _, stored = read_record(record, self.data_shape)
            self._check_unwritten(region)
        except SinkError:
            return False
        return self._full.stored_bytes(region) == stored

    def restore(self, record: dict[str, Any]) -> Slices:
        """Count the block of an earlier sink as written; see `ResumableSink.restore`."""
        self._output.check_open()
        region, ranges, stored = read_record(record, self.data_shape)
        self._check_unwritten(region)
        found = self._full.stored_bytes(region)
        if found != stored:
            raise SinkError(
                f"{self.path}: the block at {shown_region(region)} is missing or changed: its files have {found} bytes, "
                f"but {stored} were written: write it again"
            )
        self._full.expect(region, stored)
        self._count(region, ranges, record)
        return region

    @property
    def n_steps(self) -> int:
        """Number of shards of all lower levels, which `finalize` writes."""
        return sum(prod(self._level_grid(level).counts) for level in range(1, len(self.level_shapes)))

    def finalize(self, advance: Callable[[int], None] | None = None) -> Path:
        """Write the lower levels and the metadata, and publish the image; see `ImageSink.finalize`.

        Parameters
        ----------
        advance : callable, optional
            Called with 1 after each of `n_steps` shards of the lower levels. If it raises, the image is not published, and may be
            finalized again.

        Raises
        ------
        SinkError
            If shards were never written, are missing or were changed, or if something cannot be written. Then the image is not
            published, and may be finalized again.
        """
        self._output.check_open()
        if advance is not None:
            function("advance", advance)
        missing = self._written.size - int(self._written.sum())
        if missing:
            raise SinkError(
                f"{self.path}: {missing} of {self._written.size} shards were never written: write the missing blocks before finalize"
            )
        self._full.check_whole()
        for leftover in self._output.partial.iterdir():  # of a process that was killed in this loop
            if leftover != self._full.folder:
                remove(leftover)
        levels = [self._full]
        for level in range(1, len(self.level_shapes)):
            levels.append(self._make_level(level, levels[-1], advance))
        self._write_documents()
        for array in levels:
            array.check_whole()
        self._output.publish()
        return self.path

    def abort(self) -> None:
        """Remove what was written; see `ImageSink.abort`."""
        self._output.abort()

    def close(self) -> None:
        """Close the image and keep it to be resumed; see `ResumableSink.close`."""
        self._output.close()

    def _check_unwritten(self, region: Slices) -> None:
        if self._written[self.grid.shard_indices(region)].any():
            raise SinkError(
                f"{self.path}: region {shown_region(region)} was written already, at least in part: write each shard once"
            )

    def _count(self, region: Slices, ranges: Sequence[ValueRange], record: dict[str, Any]) -> None:
        self._written[self.grid.shard_indices(region)] = True
        self._ranges.include(ranges, region[1].start)
        self._records[_bounds(region)] = record

    def _make_level(self, level: int, above: ZarrArray, advance: Callable[[int], None] | None) -> ZarrArray:
        """Write one level, shard by shard, and read each chunk of the level above it once."""
        array = self._level_array(level)
        factors = (1, 1, *halving(self.level_shapes[level - 1]))
        for shard in array.grid.shards(array.grid.whole):
            block = np.empty([part.stop - part.start for part in shard], self.data_dtype)
            chunks = list(array.grid.chunks(shard))
            halves = above.read_halved(chunks, factors, self.method or "nearest")
            for chunk, pixels in zip(chunks, halves, strict=True):
                inside = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(chunk, shard, strict=True))
                block[inside] = pixels
            array.write(shard, block)
            if advance is not None:
                advance(1)
        return array

    def _level_grid(self, level: int) -> ShardGrid:
        return ShardGrid((*self.data_shape[:2], *self.level_shapes[level]), self.chunk_shape, self.shard_shape)

    def _level_array(self, level: int) -> ZarrArray:
        from patchloom.sinks.ome_zarr.metadata import ome_axes  # noqa: PLC0415  # slow to import

        return ZarrArray(
            self._output.partial / str(level),
            self._level_grid(level),
            self.data_dtype,
            ome_axes(self.axes_map),
            self.zarr_format,
        )

    def _attributes(self) -> dict[str, Any]:
        from patchloom.sinks.ome_zarr.metadata import group_attributes  # noqa: PLC0415  # slow to import

        factors = [(1,) * len(self.level_shapes[0])]
        for shape in self.level_shapes[:-1]:
            factors.append(tuple(a * b for a, b in zip(factors[-1], halving(shape), strict=True)))
        return group_attributes(
            self.axes_map,
            self.metadata,
            version=self.version,
            level_factors=factors,
            method=self.method if len(factors) > 1 else None,
            value_ranges=self._ranges.pairs(),
        )

    def _write_documents(self) -> None:
        documents: dict[str, Any]
        if self.zarr_format == 2:
            documents = {".zattrs": self._attributes(), ".zgroup": {"zarr_format": 2}}
        else:
            documents = {"zarr.json": {"zarr_format": 3, "node_type": "group", "attributes": self._attributes()}}
        for name, document in documents.items():
            _write_durably(self._output.partial / name, json.dumps(document, indent=2, allow_nan=False))

    def __repr__(self) -> str:
        return f"OmeZarrSink({str(self.path)!r}, {self.data_shape}, {self.data_dtype}, {self._output.state})"


def _bounds(region: Slices) -> tuple[tuple[int, int], ...]:
    return tuple((part.start, part.stop) for part in region)


def _n_levels(pyramid: str | None, levels: int | None) -> int | None:
    if levels is not None and whole_number("levels", levels) < 1:
        raise ArgumentError(f"levels is {levels}: it must be at least 1, the full image")
    return 1 if pyramid is None else levels


def _write_durably(path: Path, text: str) -> None:
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        raise SinkError(f"cannot write {path}: {explain(error)}") from error


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    sizes = listed(name, shape, "a size for each axis, SC(Z)YX")
    return tuple(whole_number(name, size) for size in sizes)
