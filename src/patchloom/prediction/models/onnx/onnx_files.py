"""The files of an ONNX network: its own, and the files of weights beside it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from patchloom.argument_checks import shown
from patchloom.digests import file_digest, text_digest
from patchloom.errors import ModelError

# A StringStringEntryProto {key: "location", value: file name}, as in TensorProto.external_data.
_LOCATION = re.compile(rb"\x0a\x08location\x12")
_LONGEST_NAME = 4096

_FIELDS_WITH_TENSORS = {
    "ModelProto": ("graph", "functions"),
    "GraphProto": ("initializer", "node"),
    "FunctionProto": ("node",),
    "NodeProto": ("attribute",),
    "AttributeProto": ("t", "tensors", "g", "graphs"),
}
"""The fields of the messages of ONNX that lead to tensors."""


def onnx_digest(network: Path | bytes) -> str:
    """Return the digest of a network and of all its weights, those in other files included.

    Parameters
    ----------
    network : Path or bytes
        The ONNX file, or its content. Files beside it are read only if a path is given.

    Raises
    ------
    OSError
        If the file cannot be read. A missing file of weights is skipped, as the network cannot be loaded without it.
    """
    content = network if isinstance(network, bytes) else network.read_bytes()
    digests = [hashlib.sha256(content).hexdigest()]
    if isinstance(network, Path):
        digests += [f"{path.name} {file_digest(path)}" for path in external_files(network, content)]
    return text_digest(" ".join(digests))


def external_files(network: Path, content: bytes) -> list[Path]:
    """List the files of weights that a network names; files outside its folder are skipped.

    Parameters
    ----------
    network : Path
        The ONNX file.
    content : bytes
        Its content. Names are found in all tensors: in initializers, attributes, subgraphs and functions.
    """
    folder = network.resolve().parent
    names = sorted({name for match in _LOCATION.finditer(content) if (name := _text_at(content, match.end()))})
    files = [(folder / name).resolve() for name in names]
    return [path for path in files if path.is_relative_to(folder) and path.is_file()]


def check_external_files(model: Any, source: Path | bytes, name: str) -> None:
    """Check that the files of weights that a network names are there, in its folder.

    Parameters
    ----------
    model : onnx.ModelProto
        The network.
    source : Path or bytes
        Its file, or its content.
    name : str
        Name of the network in messages.

    Raises
    ------
    ModelError
        If a file is missing or outside the folder, or the network was given as bytes.
    """
    for location in sorted(set(_locations(model))):
        if isinstance(source, bytes):
            raise ModelError(
                f"{name} has weights in another file, {shown(location)}, and is given as bytes: give the path of the network, with "
                "that file beside it"
            )
        folder = source.resolve().parent
        path = (folder / location).resolve()
        if not path.is_relative_to(folder):
            raise ModelError(
                f"{name} has weights in {shown(location)}, outside its own folder: only files in its folder are read; save the "
                "network again with its weights beside it"
            )
        if not path.is_file():
            raise ModelError(
                f"{name} has weights in {shown(location)}, and there is no such file: put it beside the network"
            )


def _locations(message: Any) -> Iterator[str]:
    """Yield the names of files in all tensors of a network: in initializers, attributes, subgraphs and functions."""
    kind = message.DESCRIPTOR.name
    if kind == "TensorProto":
        yield from (entry.value for entry in message.external_data if entry.key == "location")
        return
    for field in _FIELDS_WITH_TENSORS.get(kind, ()):
        inside = getattr(message, field)
        for part in [inside] if hasattr(inside, "DESCRIPTOR") else inside:
            yield from _locations(part)


def _text_at(content: bytes, position: int) -> str:
    """Read a string of Protocol Buffers: its length in portions of 7 bits, then its bytes; return an empty text if it is invalid."""
    length = shift = 0
    for byte in content[position : position + 3]:
        length |= (byte & 0x7F) << shift
        shift += 7
        position += 1
        if byte < 0x80:
            break
    name = content[position : position + length] if length <= _LONGEST_NAME else b""
    return "" if b"\0" in name else name.decode(errors="replace")
