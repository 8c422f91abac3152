"""One way into all sinks: the name says what is written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.sinks.files.npy_sink import NpySink, check_npy_dtype
from patchloom.sinks.files.tiff_sink import TiffSink, check_tiff_dtype
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.ome_zarr.pyramid import Pyramid, check_pyramid
from patchloom.sinks.ome_zarr.sink import OmeZarrSink
from patchloom.sinks.ome_zarr.zarr_format import OmeZarrVersion, check_zarr_dtype, zarr_format_of
from patchloom.sinks.output_kinds import NPY, TIFF, output_kind
from patchloom.sinks.protocols import ImageSink
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.sink_arguments import check_sink_arguments


def check_storable(path: str | Path | None, dtype: DTypeLike) -> None:
    """Check that the kind of output that a name asks for can store a dtype; touches nothing.

    Parameters
    ----------
    path : str, Path or None
        As in `open_sink`.
    dtype : dtype-like
        The dtype to be stored.

    Raises
    ------
    SinkError
        If it cannot, or the name's ending says nothing.
    """
    if path is None:
        return
    kind = output_kind(path)
    if kind is NPY:
        check_npy_dtype(np.dtype(dtype))
    elif kind is TIFF:
        check_tiff_dtype(np.dtype(dtype))
    else:
        check_zarr_dtype(np.dtype(dtype))


def open_sink(
    path: str | Path | None,
    *,
    axes_map: AxesMap,
    dtype: DTypeLike,
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int],
    metadata: ImageMetadata | None = None,
    pyramid: Pyramid | None = "auto",
    version: OmeZarrVersion = "0.5",
    overwrite: bool = False,
    resume: bool = False,
    lock: OutputLock | None = None,
) -> ImageSink:
    """Make the sink that a name asks for.

    Parameters
    ----------
    path : str, Path or None
        Where the output is to be: a name ending in one of `SINK_SUFFIXES`, or `None` for an array in memory.
    axes_map : AxesMap
        The axes and shape that the image has for its user.
    dtype : dtype-like
        The dtype stored.
    chunk_shape, shard_shape : sequence of int
        `SC(Z)YX`. Blocks of whole shards fit every sink; only OME-Zarr stores chunks and shards.
    metadata : ImageMetadata, optional
        Voxel sizes and channels, for outputs that have a place for them.
    pyramid, version
        As `OmeZarrSink`; for other outputs of no effect.
    overwrite : bool
        Whether an output of the same kind may be replaced, and one that a killed run left be discarded.
    resume : bool
        Whether to go on with what a killed run left. The sink is a `ResumableSink` then.
    lock : OutputLock, optional
        The lock on `path`, if the caller holds it.

    Raises
    ------
    SinkError
        If the name's ending says nothing, that kind of output cannot be resumed, or as the sinks say.

    Examples
    --------
    >>> grid = {"chunk_shape": (1, 1, 64, 64), "shard_shape": (1, 1, 64, 64)}
    >>> open_sink(None, axes_map=AxesMap("YX", (64, 64)), dtype="uint8", **grid).data_shape
    (1, 1, 64, 64)
    """
    if path is None:
        return MemorySink(axes_map, dtype)
    check_sink_arguments(path, axes_map, metadata=metadata, overwrite=overwrite, resume=resume, lock=lock)
    check_pyramid(pyramid)
    zarr_format_of(version)
    kind = output_kind(path)
    if resume and not kind.resumable:
        raise SinkError(f"{path}: a {kind.name} cannot be resumed: start afresh with overwrite=True (--overwrite)")
    if kind is NPY:
        return NpySink(path, axes_map=axes_map, dtype=dtype, overwrite=overwrite, lock=lock)
    if kind is TIFF:
        return TiffSink(path, axes_map=axes_map, dtype=dtype, metadata=metadata, overwrite=overwrite, lock=lock)
    return OmeZarrSink(
        path,
        axes_map=axes_map,
        dtype=dtype,
        chunk_shape=chunk_shape,
        shard_shape=shard_shape,
        metadata=metadata,
        pyramid=pyramid,
        version=version,
        overwrite=overwrite,
        resume=resume,
        lock=lock,
    )
