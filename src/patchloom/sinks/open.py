"""One way to open all sinks: the ending of the name selects the format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from patchloom.argument_checks import file_path
from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.geometry.checks import one_per_axis
from patchloom.image_metadata import ImageMetadata
from patchloom.sinks.files.npy_sink import NpySink, check_npy_dtype
from patchloom.sinks.files.tiff_sink import TiffSink, check_tiff_dtype
from patchloom.sinks.memory_sink import MemorySink
from patchloom.sinks.ome_zarr.options import OmeZarr
from patchloom.sinks.ome_zarr.sink import OmeZarrSink
from patchloom.sinks.ome_zarr.zarr_format import check_zarr_dtype
from patchloom.sinks.output_kinds import NPY, TIFF, output_kind
from patchloom.sinks.protocols import ImageSink
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.sink_arguments import check_sink_arguments


def check_storable(path: str | Path | None, dtype: DTypeLike) -> None:
    """Check that an output can store a dtype, without touching any file.

    Parameters
    ----------
    path : str, Path or None
        As in `open_sink`.
    dtype : dtype-like
        The dtype to be stored.

    Raises
    ------
    SinkError
        If it cannot, or if no output has the ending of the name.
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
    output: str | Path | OmeZarr | None,
    *,
    axes_map: AxesMap,
    dtype: DTypeLike,
    chunk_shape: Sequence[int],
    shard_shape: Sequence[int],
    metadata: ImageMetadata | None = None,
    overwrite: bool = False,
    resume: bool = False,
    lock: OutputLock | None = None,
) -> ImageSink:
    """Open the sink for an output.

    Parameters
    ----------
    output : str, Path, OmeZarr or None
        A name with one of the endings in `SINK_SUFFIXES`, or an `OmeZarr` with options. If None, the image stays in memory.
    axes_map : AxesMap
        The axes and shape of the finished image, as its user sees it.
    dtype : dtype-like
        The dtype to store.
    chunk_shape, shard_shape : sequence of int
        Voxels, `SC(Z)YX`. Every sink takes blocks of whole shards, but only OME-Zarr stores chunks and shards. The `chunks`
        of an `OmeZarr` replace the spatial sizes of `chunk_shape`.
    metadata : ImageMetadata, optional
        Voxel sizes and channels, for formats that can store them.
    overwrite : bool
        Whether an output of the same kind is replaced, and one that a killed run left unfinished is discarded.
    resume : bool
        Whether to resume the output that a killed run left unfinished. The sink is then a `ResumableSink`.
    lock : OutputLock, optional
        The lock on the output, if the caller holds it. If None, the sink holds one while it is open.

    Returns
    -------
    ImageSink
        A sink for one image, open for writing.

    Raises
    ------
    SinkError
        If no output has the ending of the name, if an output of that kind cannot be resumed, or as described for the sinks.
    OutputExistsError
        If an output exists and is not to be replaced.

    Examples
    --------
    >>> grid = {"chunk_shape": (1, 1, 64, 64), "shard_shape": (1, 1, 64, 64)}
    >>> open_sink(None, axes_map=AxesMap("YX", (64, 64)), dtype="uint8", **grid).data_shape
    (1, 1, 64, 64)
    """
    if output is None:
        return MemorySink(axes_map, dtype)
    options = output if isinstance(output, OmeZarr) else None
    path = output.path if isinstance(output, OmeZarr) else file_path("output", output, error=SinkError)
    check_sink_arguments(path, axes_map, metadata=metadata, overwrite=overwrite, resume=resume, lock=lock)
    kind = output_kind(path)
    if resume and not kind.resumable:
        raise SinkError(f"{path}: a {kind.name} cannot be resumed: start afresh with overwrite=True (--overwrite)")
    if kind is NPY:
        return NpySink(path, axes_map=axes_map, dtype=dtype, overwrite=overwrite, lock=lock)
    if kind is TIFF:
        return TiffSink(path, axes_map=axes_map, dtype=dtype, metadata=metadata, overwrite=overwrite, lock=lock)
    options = options or OmeZarr(path)
    if options.chunks is not None:
        chunk_shape = (1, 1, *one_per_axis("chunks", options.chunks, len(axes_map.spatial), least=1))
    return OmeZarrSink(
        path,
        axes_map=axes_map,
        dtype=dtype,
        chunk_shape=chunk_shape,
        shard_shape=shard_shape,
        metadata=metadata,
        pyramid=options.pyramid,
        version=options.version,
        overwrite=overwrite,
        resume=resume,
        lock=lock,
    )
