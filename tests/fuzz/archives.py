"""Zip archives: packed of files, and damaged as archives, by names, sizes, links and what the members contain."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping

import numpy as np

WITHIN = "!/"
"""Between the name of an archive and that of a member: `net.zip!/rdf.yaml`."""

_NAMES = (
    "../outside", "a/../../outside", "/tmp/outside", "C:outside", "..\\outside", "a\0b", "µ\U0001f52c", "a" * 300, "a/" * 300 + "a", "",
    "/", ".", "CON", "data.pkl", "RDF.YAML", "./rdf.yaml",
)  # fmt: skip

PICKLE = b"cos\nsystem\n(S'touch outside'\ntR."
"""A pickle that runs a command."""


def _laughing(opening: str, closing: str, prefix: str) -> bytes:
    lines = [f"{prefix}a0: &a0 {opening}x{closing}"]
    lines += [f"{prefix}a{n}: &a{n} {opening}{', '.join([f'*a{n - 1}'] * 10)}{closing}" for n in range(1, 12)]
    return "\n".join(lines).encode()


def _bomb(n_bytes: int = 1 << 30) -> bytes:
    """Return an archive of a few KiB whose member unpacks to many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return _zip({"rdf.yaml": bytes(1 << 20)}) + packer.compress(bytes(n_bytes >> 8)) + packer.flush()


def _nested(depth: int = 30) -> bytes:
    content = PICKLE
    for _ in range(depth):
        content = _zip({"data.pkl": content})
    return content


def _zip(files: Mapping[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def hostile_contents() -> tuple[bytes, ...]:
    """Return contents that are made to harm, for any file."""
    return (
        PICKLE,
        b"\x80\x02" + PICKLE,
        b"a: &a [*a]",
        b"a: &a {b: *a}",
        _laughing("[", "]", ""),
        b"!!python/object/apply:os.system ['touch outside']",
        b"[" * 50_000,
        b'{"a":' * 50_000,
        b"a: " * 5000,
        _nested(),
        _bomb(),
        bytes(1 << 20),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    )


def packed(files: Mapping[str, bytes], rng: np.random.Generator | None = None) -> dict[str, bytes]:
    """Return files in which the members of archives are packed.

    Parameters
    ----------
    files : mapping of str to bytes
        Files, and members of archives by names such as `net.zip!/rdf.yaml`.
    rng : numpy.random.Generator, optional
        Damages the archives; if None, they are sound.
    """
    archives = sorted({name.partition(WITHIN)[0] for name in files if WITHIN in name})
    result = {name: content for name, content in files.items() if WITHIN not in name}
    for archive in archives:
        start = f"{archive}{WITHIN}"
        members = {name.removeprefix(start): content for name, content in files.items() if name.startswith(start)}
        result[archive] = _pack(members, rng)
    return result


def _pack(members: Mapping[str, bytes], rng: np.random.Generator | None) -> bytes:
    file = io.BytesIO()
    entries = [(name, content, zipfile.ZIP_STORED, 0) for name, content in members.items()]
    if rng is not None and entries and rng.random() < 0.4:
        at = int(rng.integers(len(entries)))
        change = _CHANGES[rng.integers(len(_CHANGES))]
        entries[at : at + 1] = change(*entries[at][:2], rng)
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of two members with the same name
        for name, content, method, mode in entries:
            info = zipfile.ZipInfo("x" * len(name))
            info.filename = name  # as it is, with zero bytes
            info.compress_type, info.external_attr, info.create_system = method, mode << 16, 3
            archive.writestr(info, content)
    return file.getvalue()


Entry = tuple[str, bytes, int, int]


def _renamed(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    return [(_NAMES[rng.integers(len(_NAMES))], content, zipfile.ZIP_STORED, 0)]


def _added(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    return [(name, content, zipfile.ZIP_STORED, 0), *_renamed(name, PICKLE, rng)]


def _twice(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    second = name if rng.random() < 0.5 else name.swapcase()
    return [(name, content, zipfile.ZIP_STORED, 0), (second, PICKLE, zipfile.ZIP_STORED, 0)]


def _linked(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    return [(name, b"/etc/hosts", zipfile.ZIP_STORED, 0o120777)]


def _compressed(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    methods = (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [(name, content, methods[rng.integers(len(methods))], 0)]


def _inflated(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    return [(name, content + bytes(100 << 20), zipfile.ZIP_DEFLATED, 0)]


def _inside_itself(name: str, content: bytes, rng: np.random.Generator) -> list[Entry]:
    return [(name, content, zipfile.ZIP_STORED, 0), (f"{name}/inside", content, zipfile.ZIP_STORED, 0)]


_CHANGES: tuple[Callable[[str, bytes, np.random.Generator], list[Entry]], ...] = (
    _renamed, _added, _twice, _linked, _compressed, _inflated, _inside_itself,
)  # fmt: skip
