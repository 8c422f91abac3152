"""A sink that is an OME-Zarr image on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import listed, whole_number
from patchloom.axes import AxesMap
from patchloom.errors import GeometryError, SinkError
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
from patchloom.sinks.regions import Slices, check_block, check_region, show
from patchloom.sinks.sink_arguments import check_sink_arguments, sink_dtype
from patchloom.sinks.write_errors import explain


class OmeZarrSink:
    """An `ImageSink` that writes an OME-Zarr image with a pyramid: sharded Zarr v3, or Zarr v2 where a viewer wants that.

    Every shard is written once, whole, and is durable when `write` returns. All is written to `<path>.partial`; `finalize`
    makes the lower levels and the metadata and then renames the folder, so that an image at `path` is always complete. What
    a killed process left there can be gone on with: see `ResumableSink`.

    Parameters
    ----------
    path : str or Path
        Where the image is to be: a local path, by custom ending in `.ome.zarr`.
    axes_map : AxesMap
        The axes and shape that the image has for its user. Stored are `tczyx`, in this order, as OME-Zarr wants it: `c` if
        there is a `C`, `t` if there is a `T` or an `S` (OME-Zarr knows no samples; `S` and `T` together fold into `t`).
        The axes and shape themselves are kept in the attributes, under `"patchloom"`.
    dtype : dtype-like
        Boolean, integer or floating-point.
    chunk_shape, shard_shape : sequence of int
        `SC(Z)YX`; what is decoded at once, and what a file holds: a whole number of chunks. Both are clipped to the image.
        Equal ones make plain chunks, without the sharding codec. OME-Zarr 0.4 has no shards: a chunk is a file.
    metadata : ImageMetadata, optional
        Voxel sizes, units, and names and colors of the channels, carried over.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        How each lower level, half the size of the one above it along each spatial axis, is made: of the mean of neighbors,
        of the commonest of them, which is right for labels, or of every second voxel. `"auto"` takes the mode of truth
        values and of integers of 32 and 64 bits, and the mean of others. `None` makes no lower levels.
    levels : int, optional
        How many levels to make, the full image among them. Without it, levels are made until no axis is larger than 256
        voxels or one chunk.
    version : {"0.5", "0.4"}
        Of OME-Zarr; 0.5 is Zarr v3, 0.4 is Zarr v2.
    overwrite : bool
        Whether a Zarr that is at `path` already may be replaced, and an unfinished one be discarded. The former stays until
        the new image is complete.
    resume : bool
        Whether to go on with the unfinished image at `path`, which must have been begun with the same arguments.
    lock : OutputLock, optional
        The lock on `path`, if the caller holds it; else the sink holds one for as long as it is open.

    Raises
    ------
    OutputExistsError
        If something is at `path` that is not to be replaced.
    SinkError
        If the place cannot be written to, another run is writing there, the dtype cannot be stored, the metadata do not
        fit the channels, or what is to be resumed is not there or has another shape, dtype, chunks or shards.
    GeometryError
        If chunks, shards, levels, pyramid or version make no sense.

    Notes
    -----
    Memory, beside the block written: a few times 16 MiB, or what a shard takes once more compressed, whichever is more;
    `finalize` takes a shard on top. Neither depends on the size of the image.

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
        self._attributes()  # so that metadata which do not fit are found before there is anything to lose
        self._output = PendingOutput(path, ZARR, overwrite=overwrite, resume=resume, lock=lock)
        try:
            self._output.make_folder()
            self._full = self._level_array(0)
            self._mark = output_mark(self._output.partial)
        except BaseException:
            # What was there before is not ours to remove.
            (self._output.close if resume else self._output.abort)()
            raise

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """What is decoded at once, `SC(Z)YX`, clipped to the image."""
        return self.grid.chunk_shape

    @property
    def shard_shape(self) -> tuple[int, ...]:
        """What a file holds, `SC(Z)YX`, clipped to the image: blocks are whole shards."""
        return self.grid.shard_shape

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write whole shards, each for the only time; see `ImageSink.write`.

        Raises
        ------
        SinkError
            Also if the region holds a part of a shard, or a shard that was written before. A write that failed may be
            tried again.
        """
        self._output.check_open()
        check_block(region, block, self.data_shape, self.data_dtype)
        self._check_unwritten(region)
        self._full.write(region, block)
        ranges = block_ranges(block)
        self._count(region, ranges, block_record(region, ranges, self._full.stored_bytes(region), self._mark))

    def block_record(self, region: tuple[slice, ...]) -> dict[str, Any]:
        """Return what to keep of a block: its region, its values' range and the sizes of its files; see `ResumableSink`."""
        check_region(region, self.data_shape)
        try:
            return self._records[_bounds(region)]
        except KeyError:
            raise SinkError(f"{self.path}: no block was written at {show(region)}") from None

    def has_block(self, record: dict[str, Any]) -> bool:
        """Whether the files of a block have the sizes that they were written with; see `ResumableSink.has_block`."""
        try:
            region, _, stored = read_record(record, self.data_shape)
            self._check_unwritten(region)
        except SinkError:
            return False
        return self._full.stored_bytes(region) == stored

    def restore(self, record: dict[str, Any]) -> Slices:
        """Count a block as written that was written by an earlier sink; see `ResumableSink.restore`."""
        self._output.check_open()
        region, ranges, stored = read_record(record, self.data_shape)
        self._check_unwritten(region)
        found = self._full.stored_bytes(region)
        if found != stored:
            raise SinkError(
                f"{self.path}: what was written at {show(region)} is gone or changed: its files have {found} bytes, "
                f"and {stored} were written"
            )
        self._full.expect(region, stored)
        self._count(region, ranges, record)
        return region

    def finalize(self) -> Path:
        """Make the lower levels and the metadata, and show the image; see `ImageSink.finalize`.

        Raises
        ------
        SinkError
            If shards are missing, were lost or changed since they were written, or something cannot be written. The image is
            not shown then, and may be finalized again.
        """
        self._output.check_open()
        missing = self._written.size - int(self._written.sum())
        if missing:
            raise SinkError(
                f"{self.path}: {missing} of {self._written.size} shards were never written: it is incomplete"
            )
        self._full.check_whole()
        for leftover in self._output.partial.iterdir():  # of a process that was killed here
            if leftover != self._full.folder:
                remove(leftover)
        levels = [self._full]
        for level in range(1, len(self.level_shapes)):
            levels.append(self._make_level(level, levels[-1]))
        self._write_documents()
        for array in levels:
            array.check_whole()
        self._output.publish()
        return self.path

    def abort(self) -> None:
        """Remove what was written; see `ImageSink.abort`."""
        self._output.abort()

    def close(self) -> None:
        """Leave what was written to be resumed; see `ResumableSink.close`."""
        self._output.close()

    def _check_unwritten(self, region: Slices) -> None:
        if self._written[self.grid.shard_indices(region)].any():
            raise SinkError(
                f"{self.path}: region {show(region)} was written already, at least in part: each shard is once"
            )

    def _count(self, region: Slices, ranges: Sequence[ValueRange], record: dict[str, Any]) -> None:
        self._written[self.grid.shard_indices(region)] = True
        self._ranges.include(ranges, region[1].start)
        self._records[_bounds(region)] = record

    def _make_level(self, level: int, above: ZarrArray) -> ZarrArray:
        """Make one level from the one above it, shard by shard, reading each of the upper's chunks once."""
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
        return array

    def _level_array(self, level: int) -> ZarrArray:
        from patchloom.sinks.ome_zarr.metadata import ome_axes  # noqa: PLC0415  # slow to import

        shape = (*self.data_shape[:2], *self.level_shapes[level])
        grid = ShardGrid(shape, self.chunk_shape, self.shard_shape)
        return ZarrArray(
            self._output.partial / str(level), grid, self.data_dtype, ome_axes(self.axes_map), self.zarr_format
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
        raise GeometryError(f"levels is {levels}: it must be at least 1, the full image")
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
