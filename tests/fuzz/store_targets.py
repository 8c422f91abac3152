"""Stores and small files: NumPy files, Zarr v2 and v3, OME-Zarr, N5, tables of specifications and kept scores.

Chunks are compressed with all but blosc: TensorStore allocates the size in the header of such a chunk, up to 2 GiB, before it
finds that it is wrong. That memory is never touched, but it is beyond the limit that the child has.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

import patchloom as pl
from bounded_process import Target
from image_use import open_and_read
from mutations import Seed
from patchloom.filters.score_files import ScoreFile


def _random(shape: Sequence[int], dtype: str = "uint16") -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).integers(0, 200, shape).astype(dtype)


def _npy(image: np.ndarray[Any, Any], version: tuple[int, int] = (1, 0)) -> Seed:
    file = io.BytesIO()
    np.lib.format.write_array(file, image, version)
    return Seed(f"{image.dtype} {image.shape}", {"image.npy": file.getvalue()}, "image.npy")


def _npy_seeds() -> list[Seed]:
    return [
        _npy(_random((20, 30))),
        _npy(_random((2, 3, 20, 30), "float32"), (2, 0)),
        _npy(np.asfortranarray(_random((20, 30, 3), "uint8")), (3, 0)),
        _npy(_random((5, 20, 30), ">i4")),
        _npy(_random((20, 30)) > 99),
    ]


def _files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def _stored(
    name: str, spec: dict[str, Any], image: np.ndarray[Any, Any], path: str = "image.zarr/"
) -> dict[str, bytes]:
    """Return the files of an array that TensorStore writes."""
    with tempfile.TemporaryDirectory() as folder:
        kvstore = {"driver": "file", "path": f"{folder}/{path}"}
        ts.open({"driver": name, "kvstore": kvstore, **spec}, create=True).result().write(image).result()
        return _files_below(Path(folder))


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _zarr_v2_seeds() -> list[Seed]:
    compressors = {
        "raw": None,
        "zlib": {"id": "zlib", "level": 1},
        "zstd": {"id": "zstd", "level": 1},
    }
    seeds = []
    for name, compressor in compressors.items():
        metadata = {"shape": [3, 20, 30], "chunks": [1, 16, 16], "dtype": "<u2", "compressor": compressor}
        files = _stored("zarr", {"metadata": metadata}, _random((3, 20, 30)))
        seeds.append(
            Seed(name, files | {"image.zarr/.zattrs": _json({"_ARRAY_DIMENSIONS": ["c", "y", "x"]})}, "image.zarr")
        )
    return seeds


def _v3(shape: Sequence[int], codecs: Sequence[Any], names: Sequence[str], **told: Any) -> dict[str, Any]:
    return {
        "metadata": {
            "shape": list(shape),
            "data_type": "uint16",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1, *[16] * (len(shape) - 1)]}},
            "codecs": list(codecs),
            "dimension_names": list(names),
            **told,
        }
    }


_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_ZSTD = {"name": "zstd", "configuration": {"level": 1}}


def _zarr_v3_seeds() -> list[Seed]:
    sharded = {
        "name": "sharding_indexed",
        "configuration": {"chunk_shape": [1, 8, 8], "codecs": [_BYTES, _ZSTD, {"name": "crc32c"}]},
    }
    codecs = {
        "raw": [_BYTES],
        "gzip": [_BYTES, {"name": "gzip", "configuration": {"level": 1}}],
        "transposed": [{"name": "transpose", "configuration": {"order": [2, 0, 1]}}, _BYTES, _ZSTD],
        "sharded": [sharded],
    }
    return [
        Seed(name, _stored("zarr3", _v3((3, 20, 30), chain, ["c", "y", "x"]), _random((3, 20, 30))), "image.zarr")
        for name, chain in codecs.items()
    ]


def _multiscale(version: str) -> dict[str, Any]:
    def steps(factor: int) -> list[dict[str, Any]]:
        return [
            {"type": "scale", "scale": [1.0, 0.5 * factor, -0.5 * factor]},
            {"type": "translation", "translation": [0.0, 7.5, 20.0]},
        ]

    axes = [{"name": "c", "type": "channel"}] + [{"name": a, "type": "space", "unit": "micrometer"} for a in "yx"]
    datasets = [{"path": str(level), "coordinateTransformations": steps(2**level)} for level in range(2)]
    told = {"name": "cells", "axes": axes, "datasets": datasets, "type": "mean"}
    common = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    return {**told, "coordinateTransformations": common, **({"version": version} if version == "0.4" else {})}


def _ome_attributes(version: str) -> dict[str, Any]:
    window = {"start": 0, "end": 255, "min": 0, "max": 255}
    channels = [{"label": color, "color": color, "window": window} for color in ("FF0000", "00FF00", "0000FF")]
    told = {"multiscales": [_multiscale(version)], "omero": {"channels": channels}}
    return {"ome": {"version": version, **told}} if version == "0.5" else told


def _group(version: str, attributes: dict[str, Any], folder: str = "image.zarr") -> dict[str, bytes]:
    if version == "0.4":
        return {f"{folder}/.zgroup": _json({"zarr_format": 2}), f"{folder}/.zattrs": _json(attributes)}
    return {f"{folder}/zarr.json": _json({"zarr_format": 3, "node_type": "group", "attributes": attributes})}


@cache
def _levels(version: str, folder: str = "image.zarr") -> dict[str, bytes]:
    files = {}
    for level, shape in enumerate([(3, 20, 30), (3, 10, 15)]):
        path = f"{folder}/{level}/"
        if version == "0.4":
            metadata = {"shape": list(shape), "chunks": [1, 16, 16], "dtype": "<u2", "compressor": None}
            files |= _stored("zarr", {"metadata": metadata}, _random(shape), path)
        else:
            files |= _stored("zarr3", _v3(shape, [_BYTES, _ZSTD], "cyx"), _random(shape), path)
    return files


def _ome_zarr_seeds() -> list[Seed]:
    seeds = []
    for version in ("0.4", "0.5"):
        told = _ome_attributes(version)
        seeds += [
            Seed(f"{version} image", _group(version, told) | _levels(version), "image.zarr"),
            Seed(f"{version} level", _group(version, told) | _levels(version), "image.zarr/1"),
        ]
    layout = {"bioformats2raw.layout": 3}
    inside = _group("0.4", _ome_attributes("0.4"), "image.zarr/0") | _levels("0.4", "image.zarr/0")
    return [*seeds, Seed("converted", _group("0.4", layout) | inside, "image.zarr")]


def _ome_zarr_metadata_seeds() -> list[Seed]:
    """The documents alone are damaged; the pixels come with `_use_ome_zarr_metadata`."""
    seeds = [Seed(version, {"attributes": _json(_ome_attributes(version))}, "attributes") for version in ("0.4", "0.5")]
    return [
        *seeds,
        Seed("layout", {"attributes": _json({"bioformats2raw.layout": 3, **_ome_attributes("0.4")})}, "attributes"),
    ]


def _use_ome_zarr_metadata(path: Path) -> None:
    """Put the damaged files into a sound store."""
    try:
        attributes = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    version = "0.4" if path.read_bytes().find(b'"ome"') < 0 else "0.5"
    for name, content in (_group(version, attributes) | _levels(version)).items():
        (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (path.parent / name).write_bytes(content)
    open_and_read(path.parent / "image.zarr")


def _n5_seeds() -> list[Seed]:
    seeds = []
    for compression in ({"type": "raw"}, {"type": "gzip"}, {"type": "bzip2"}):
        metadata = {
            "dimensions": [3, 20, 30],
            "blockSize": [1, 16, 16],
            "dataType": "uint16",
            "compression": compression,
        }
        files = _stored("n5", {"metadata": metadata}, _random((3, 20, 30)), "image.n5/")
        seeds.append(Seed(compression["type"], files, "image.n5"))
    scale = {"size": [30, 20, 3], "encoding": "raw", "chunk_size": [16, 16, 1], "resolution": [8, 8, 40]}
    told = {"data_type": "uint16", "num_channels": 1, "type": "image"}
    spec = {"multiscale_metadata": told, "scale_metadata": scale}
    precomputed = _stored("neuroglancer_precomputed", spec, _random((30, 20, 3, 1)), "image/")
    return [*seeds, Seed("precomputed", precomputed, "image")]


def _tables() -> list[Seed]:
    specs = [{"data_idx": 0, "sample_idx": n, "coords": (0, 8 * n), "patch_size": (16, 16)} for n in range(9)]
    table = pl.SpecTable.from_specs(specs)
    tiles = pl.TiledPatching([(1, 1, 40, 50)], patch_size=(16, 16), overlaps=(4, 4)).specs(range(8))
    seeds = []
    with tempfile.TemporaryDirectory() as folder:
        for number, one in enumerate((table, tiles)):
            for suffix in (".npz", ".jsonl"):
                content = one.save(Path(folder, f"{number}{suffix}")).read_bytes()
                seeds.append(Seed(f"{number}{suffix}", {f"table{suffix}": content}, f"table{suffix}"))
    return seeds


def _use_table(path: Path) -> None:
    pl.SpecTable.load(path).to_specs()


_SCORES = np.arange(12.0).reshape(1, 3, 4)


def _scores() -> list[Seed]:
    with tempfile.TemporaryDirectory() as folder:
        file = ScoreFile(Path(folder, "scores.npz"), '{"filter": "max"}', "0123", _SCORES.shape)
        file.write(_SCORES)
        return [Seed("scores", {"scores.npz": file.path.read_bytes()}, "scores.npz")]


def _use_scores(path: Path) -> None:
    """Read scores: those that were written, or none."""
    found = ScoreFile(path, '{"filter": "max"}', "0123", _SCORES.shape).read()
    if found is not None and not np.array_equal(found, _SCORES):
        raise AssertionError(f"other scores: {found}")


_SHARE = 0.15

NPY = Target(_npy_seeds, open_and_read, _SHARE)
ZARR_V2 = Target(_zarr_v2_seeds, open_and_read, _SHARE)
ZARR_V3 = Target(_zarr_v3_seeds, open_and_read, _SHARE)
OME_ZARR = Target(_ome_zarr_seeds, open_and_read, _SHARE)
OME_ZARR_METADATA = Target(_ome_zarr_metadata_seeds, _use_ome_zarr_metadata, _SHARE)
N5 = Target(_n5_seeds, open_and_read, _SHARE)
SPEC_TABLES = Target(_tables, _use_table)
SCORES = Target(_scores, _use_scores)
