"""The files of an ONNX network: its own, and the files of weights beside it."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from patchloom.digests import file_digest, text_digest

# A StringStringEntryProto {key: "location", value: file name}, as in TensorProto.external_data.
_LOCATION = re.compile(rb"\x0a\x08location\x12")
_LONGEST_NAME = 4096


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
