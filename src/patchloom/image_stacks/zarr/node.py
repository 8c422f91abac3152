"""Nodes of a Zarr: an array of one of several formats, a group, or nothing.

A place is a path or URL, for which TensorStore has a key-value store. The JSON documents of all formats at this place are read
together, and determine the kind of the node.
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
"""Bytes of decoded chunks in TensorStore's cache, for all stacks of a process together."""

_RETRIES = {"max_retries": 4}
"""Waits of 1, 2, 4 and 8 s: enough for a busy server, and a wrong address fails within 15 s."""

_ZARR_DOCUMENTS = ("zarr.json", ".zarray", ".zattrs", ".zgroup")
DOCUMENTS = (*_ZARR_DOCUMENTS, "attributes.json", "info")
"""Names of files with the metadata of the formats."""

_DOCUMENT_BYTES = 64 << 20
"""Largest document in bytes; the longest ones list all arrays of a plate."""


@dataclass(frozen=True, slots=True)
class ZarrNode:
    """An array, a group, or nothing, at a place.

    Parameters
    ----------
    kvstore : dict
        TensorStore's specification of the place; its path ends in `/`.
    kind : {"array", "group", "none"}
        Kind of the node.
    driver : str
        TensorStore's driver for the array.
    attributes : dict
        User attributes of the array or group.
    """

    kvstore: dict[str, Any]
    kind: str = "none"
    driver: str = ""
    attributes: dict[str, Any] = field(default_factory=dict)

    def child(self, path: str) -> ZarrNode:
        """Read the node at a path inside this one."""
        return read_node({**self.kvstore, "path": f"{self.kvstore['path']}{path.strip('/')}/"})

    def parents(self) -> Iterator[tuple[ZarrNode, str]]:
        """Yield the groups around this node, innermost first, each with the path from it to this node."""
        above, _, name = self.kvstore["path"].rstrip("/").rpartition("/")
        while above and (parent := read_node({**self.kvstore, "path": f"{above}/"})).kind == "group":
            yield parent, name
            above, _, last = above.rpartition("/")
            name = f"{last}/{name}"


@cache
def context(*, cached: bool = True) -> ts.Context:
    """Return the limits, and optionally the cache, that all stacks of this process share."""
    return ts.Context(
        {
            "cache_pool": {"total_bytes_limit": CACHE_BYTES if cached else 0},
            "http_request_retries": _RETRIES,
            "s3_request_retries": _RETRIES,
            "gcs_request_retries": _RETRIES,
        }
    )


def place(source: str | Path) -> dict[str, Any]:
    """Return TensorStore's specification of the key-value store at a path or URL.

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
        raise SourceError(f"{source} is not a URL that can be read: {reason(error)}") from error
    return spec


def read_node(kvstore: dict[str, Any]) -> ZarrNode:
    """Read the node at a place.

    Raises
    ------
    SourceError
        If the place cannot be read, or a document there is corrupt.
    """
    found = _documents(kvstore)
    v3 = found.get("zarr.json", {})
    attributes = v3.get("attributes") or found.get(".zattrs", {})
    arrays = {
        "zarr3": v3.get("node_type") == "array",
        "zarr": ".zarray" in found,
        "n5": "dimensions" in found.get("attributes.json", {}),
        "neuroglancer_precomputed": "scales" in found.get("info", {}),
    }
    driver = next((driver for driver, is_there in arrays.items() if is_there), "")
    kind = "array" if driver else "group" if found.keys() - {"info"} else "none"
    if driver == "neuroglancer_precomputed":
        attributes = found["info"]
    return ZarrNode(kvstore, kind, driver, attributes if isinstance(attributes, dict) else {})


def is_zarr_folder(path: Path) -> bool:
    """Return whether a folder is an array or a group of one of the formats."""
    return any((path / name).is_file() for name in DOCUMENTS) and read_node(place(path)).kind != "none"


def reason(error: Exception) -> str:
    """Return the message of an error of TensorStore, without the specification at its end."""
    return str(error).split(" [", 1)[0]


def _documents(kvstore: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the documents of all formats that exist at a place."""
    check_not_forked()
    place = _describe(kvstore)
    try:
        store = ts.KvStore.open(kvstore, context=context()).result()
        if kvstore.get("driver") == "file":
            _check_sizes(kvstore["path"])
        reads = {name: store.read(name) for name in DOCUMENTS}
        contents = {name: read.result() for name, read in reads.items()}
    except (ValueError, OSError, RuntimeError) as error:
        raise SourceError(f"{place} cannot be read: {reason(error)}") from error
    documents = {
        name: _parsed(f"{place}{name}", content.value, is_ours=name in _ZARR_DOCUMENTS)
        for name, content in contents.items()
        if content.state == "value"
    }
    return {name: document for name, document in documents.items() if document is not None}


def _check_sizes(folder: str) -> None:
    """Refuse local documents that are too long, before they are read, and those without an end, such as named pipes."""
    for name in DOCUMENTS:
        path = Path(folder, name)
        if path.is_file():
            if path.stat().st_size > _DOCUMENT_BYTES:
                raise ValueError(f"{name} has more than {_DOCUMENT_BYTES} bytes")
        elif path.exists() and not path.is_dir():
            raise ValueError(f"{name} is not a file")


def _parsed(name: str, content: bytes, *, is_ours: bool) -> dict[str, Any] | None:
    """Parse a document. Other programs use the names that are not Zarr's own, so that such a file is ignored if it is not JSON."""
    try:
        document = json.loads(content) if len(content) <= _DOCUMENT_BYTES else None
    except (ValueError, RecursionError) as error:
        if is_ours:
            raise SourceError(f"{name} is corrupt: {error}") from error
        return None
    if is_ours and not isinstance(document, dict):
        raise SourceError(f"{name} is corrupt: it is not a JSON object of at most {_DOCUMENT_BYTES} bytes")
    return document if isinstance(document, dict) else None


def _describe(kvstore: dict[str, Any]) -> str:
    """Return the name of a place for messages, even of an invalid one."""
    try:
        return str(ts.KvStore.Spec(kvstore).url)
    except ValueError:
        return str(kvstore.get("path"))
