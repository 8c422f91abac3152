"""What there is at a place in a Zarr: an array of one of several formats, a group, or nothing.

A place is a path or URL, which TensorStore turns into a key-value store. The small JSON documents that the formats keep
there are read all together, and tell which it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import tensorstore as ts

from patchloom.errors import SourceError
from patchloom.forked_process import check_not_forked
from patchloom.local_paths import is_url, normalize_path

CACHE_BYTES = 128 << 20
"""Decoded chunks that TensorStore keeps, all stacks of a process together."""

_RETRIES = {"max_retries": 4}
"""Waits of 1, 2, 4 and 8 s: enough for a busy server, and a wrong address is found out in a quarter of a minute."""

_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup", "attributes.json", "info")


@dataclass(frozen=True, slots=True)
class ZarrNode:
    """What was found at a place.

    Parameters
    ----------
    kvstore : dict
        The place as TensorStore's specification; its path ends in `/`.
    kind : {"array", "group", "none"}
        What is there.
    driver : str
        TensorStore's driver for the array.
    attributes : dict
        The user attributes of the array or group.
    """

    kvstore: dict[str, Any]
    kind: str = "none"
    driver: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def child(self, path: str) -> ZarrNode:
        """Look at a place inside this one."""
        return read_node({**self.kvstore, "path": f"{self.kvstore['path']}{path.strip('/')}/"})

    def parents(self) -> Iterator[tuple[ZarrNode, str]]:
        """Look at the groups around this place, innermost first, each with the path from there to here."""
        above, _, name = self.kvstore["path"].rstrip("/").rpartition("/")
        while above and (parent := read_node({**self.kvstore, "path": f"{above}/"})).kind == "group":
            yield parent, name
            above, _, last = above.rpartition("/")
            name = f"{last}/{name}"


@cache
def context(*, cached: bool = True) -> ts.Context:
    """Return the cache, if one is wanted, and the limits that all stacks of this process share."""
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES if cached else 0},
            "http_request_retries": _RETRIES,
            "s3_request_retries": _RETRIES,
            "gcs_request_retries": _RETRIES,
        }
    )


def place(source: str | Path) -> dict[str, Any]:
    """Turn a path or URL into TensorStore's specification of a key-value store.

    Raises
    ------
    SourceError
        If TensorStore has no store for such a URL.

    Examples
    --------
    >>> place("s3://bucket/cells.zarr")
    {'bucket': 'bucket', 'driver': 's3', 'path': 'cells.zarr/'}
    """
    source = normalize_path(source)
    if not is_url(source):
        return {"driver": "file", "path": f"{Path(source).absolute().as_posix().rstrip('/')}/"}
    path, mark, query = str(source).partition("?")
    try:
        spec: dict[str, Any] = ts.KvStore.Spec(f"{path.rstrip('/')}/{mark}{query}").to_json()
    except ValueError as error:
        raise SourceError(f"{source} is no URL that can be read from: {reason(error)}") from error
    return spec


def read_node(kvstore: dict[str, Any]) -> ZarrNode:
    """Look at a place.

    Raises
    ------
    SourceError
        If the place cannot be reached, or a document there is corrupt.
    """
    found = _documents(kvstore)
    v3 = found.get("zarr.json", {})
    arrays = {
        "zarr3": v3.get("node_type") == "array",
        "zarr": ".zarray" in found,
        "n5": "dimensions" in found.get("attributes.json", {}),
        "neuroglancer_precomputed": "scales" in found.get("info", {}),
    }
    driver = next((driver for driver, is_there in arrays.items() if is_there), "")
    kind = "array" if driver else "group" if found.keys() - {"info"} else "none"
    return ZarrNode(kvstore, kind, driver, v3.get("attributes") or found.get(".zattrs", {}))


def is_zarr_folder(path: Path) -> bool:
    """Whether a folder is an array or a group of one of the formats."""
    return any((path / name).is_file() for name in _DOCUMENTS) and read_node(place(path)).kind != "none"


def reason(error: Exception) -> str:
    """Return the first words of an error of TensorStore's, without the specification that follows."""
    return str(error).split(" [", 1)[0]


def _documents(kvstore: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the JSON objects of all formats, as far as they are there."""
    check_not_forked()
    found = {}
    try:
        store = ts.KvStore.open(kvstore, context=context()).result()
        reads = {name: store.read(name) for name in _DOCUMENTS}
        for name, read in reads.items():
            answer = read.result()
            if answer.state == "value":
                document = json.loads(answer.value)
                if isinstance(document, dict):
                    found[name] = document
    except json.JSONDecodeError as error:
        raise SourceError(f"{ts.KvStore.Spec(kvstore).url}{name} is corrupt: {error}") from error
    except (ValueError, OSError, RuntimeError) as error:
        raise SourceError(f"{ts.KvStore.Spec(kvstore).url} cannot be read: {reason(error)}") from error
    return found
