"""Descriptions of arrays in Zarr v2 and v3, for TensorStore and for all readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from patchloom.argument_checks import shown
from patchloom.errors import ArgumentError, SinkError
from patchloom.sinks.ome_zarr.shard_grid import ShardGrid

ZarrFormat = Literal[2, 3]
OmeZarrVersion = Literal["0.4", "0.5"]

STORABLE = frozenset(
    "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()  # noqa: SIM905  # reads well
)
"""Names of the dtypes that OME-Zarr can store."""

ZSTD_LEVEL = 3
"""A higher level takes much more time, and saves almost no bytes on microscope images and predictions."""

_FORMATS: dict[OmeZarrVersion, ZarrFormat] = {"0.4": 2, "0.5": 3}

DRIVERS: dict[ZarrFormat, str] = {2: "zarr", 3: "zarr3"}
"""Names of TensorStore's drivers."""


def check_zarr_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Check that OME-Zarr can store a dtype, and return it in the machine's byte order.

    Raises
    ------
    SinkError
        If it cannot.
    """
    native = dtype.newbyteorder("=")
    if native.name not in STORABLE:
        remedy = "store its parts as channels" if native.kind == "c" else f"use one of {', '.join(sorted(STORABLE))}"
        raise SinkError(f"dtype {native} cannot be stored as OME-Zarr: {remedy}")
    return native


def zarr_format_of(version: object) -> ZarrFormat:
    """Return the Zarr format of a version of OME-Zarr.

    Raises
    ------
    ArgumentError
        If it is neither `"0.4"` nor `"0.5"`.
    """
    for known, zarr_format in _FORMATS.items():
        if isinstance(version, str) and version == known:
            return zarr_format
    raise ArgumentError(f"OME-Zarr version is {shown(version)}: it must be '0.4' or '0.5'")


def array_metadata(
    zarr_format: ZarrFormat, grid: ShardGrid, kept: Sequence[bool], dtype: np.dtype[Any], axes: str
) -> dict[str, Any]:
    """Return the metadata of an array.

    Parameters
    ----------
    zarr_format : {2, 3}
        Version of Zarr. Zarr v2 has no shards.
    grid : ShardGrid
        Shape, chunks and shards, as `SC(Z)YX`.
    kept : sequence of bool
        For each of these axes, whether it is stored.
    dtype : numpy dtype
        One of `STORABLE`.
    axes : str
        Names of the axes that are stored.
    """

    def stored(shape: Sequence[int]) -> list[int]:
        return [size for size, keep in zip(shape, kept, strict=True) if keep]

    shape, chunk, shard = map(stored, (grid.data_shape, grid.chunk_shape, grid.shard_shape))
    fill = False if dtype.kind == "b" else 0
    if zarr_format == 2:
        return {
            "shape": shape,
            "chunks": chunk,
            "dtype": dtype.newbyteorder("<").str,
            "fill_value": fill,
            "order": "C",
            "dimension_separator": "/",
            "filters": None,
            # The codec that most readers of Zarr v2 have.
            "compressor": {"id": "blosc", "cname": "zstd", "clevel": ZSTD_LEVEL, "shuffle": 1, "blocksize": 0},
        }
    return {
        "shape": shape,
        "data_type": dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shard}},
        "chunk_key_encoding": {"name": "default"},
        "dimension_names": list(axes),
        "fill_value": fill,
        "codecs": _codecs(chunk, sharded=shard != chunk),
    }


def array_document(zarr_format: ZarrFormat) -> str:
    """Return the name of the file in the folder of an array that describes it."""
    return "zarr.json" if zarr_format == 3 else ".zarray"


def chunk_file(zarr_format: ZarrFormat, position: Sequence[int]) -> str:
    """Return the path of a stored object (a shard in Zarr v3, a chunk in v2) in the folder of its array.

    Examples
    --------
    >>> chunk_file(3, (0, 2, 5)), chunk_file(2, (0, 2, 5))
    ('c/0/2/5', '0/2/5')
    """
    return "/".join(["c"] * (zarr_format == 3) + [str(index) for index in position])


def _codecs(chunk: Sequence[int], *, sharded: bool) -> list[dict[str, Any]]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    codecs: list[dict[str, Any]] = [little, {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}}]
    if not sharded:
        return codecs
    inner = {"chunk_shape": list(chunk), "codecs": codecs, "index_codecs": [little, {"name": "crc32c"}]}
    return [{"name": "sharding_indexed", "configuration": inner}]
