"""Zip archives of models, which are not trusted: checked before a library reads them."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from patchloom.errors import ModelError

DAMAGES = (
    OSError,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""Errors of reading a damaged archive."""

_LARGEST_RATIO = 100
_LEAST_UNPACKED = 64 << 20
"""An archive may unpack to 64 MiB and to 100 times its own size; weights are hardly compressible."""

_CHUNK = 1 << 20


def check_unpacked_size(members: Sequence[zipfile.ZipInfo], size: int) -> None:
    """Check that an archive does not unpack to much more than its own size.

    Parameters
    ----------
    members : sequence of ZipInfo
        Its members.
    size : int
        Its own size in bytes.

    Raises
    ------
    ModelError
        If it does.
    """
    unpacked, limit = sum(member.file_size for member in members), _LEAST_UNPACKED + _LARGEST_RATIO * size
    if unpacked > limit:
        raise ModelError(
            f"its archive unpacks to {unpacked} bytes: at most {limit} are unpacked from an archive of its size"
        )


def check_archive(path: Path) -> None:
    """Check the checksums of all members of an archive, which PyTorch does not, and what it unpacks to.

    Parameters
    ----------
    path : Path
        The file. A member whose checksum is 0 has none, as PyTorch can be asked not to compute them.

    Raises
    ------
    ModelError
        If it is damaged, or unpacks to much more than its own size.
    """
    with _opened(path) as archive:
        for member in archive.infolist():
            if member.CRC:
                with archive.open(member) as file:  # the checksum is compared at the end
                    while file.read(_CHUNK):
                        pass


def read_members(path: Path) -> dict[str, bytes]:
    """Read the members of an archive, and check them.

    Parameters
    ----------
    path : Path
        The file.

    Raises
    ------
    ModelError
        If it is damaged, unpacks to much more than its own size, or contains two members whose names differ by case only: libraries
        differ in which one they read.
    """
    with _opened(path) as archive:
        members = archive.infolist()
        if len({member.filename.lower() for member in members}) < len(members):
            raise ModelError("it contains parts of the same name")
        for member in members:
            member.CRC = member.CRC or None  # type: ignore[assignment]  # zipfile compares it unless it is None
        return {member.filename: archive.read(member) for member in members}


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            check_unpacked_size(archive.infolist(), path.stat().st_size)
            yield archive
    except ModelError as error:
        raise ModelError(f"{path} is damaged or not safe: {error}") from error
    except DAMAGES as error:
        raise ModelError(f"{path} is damaged ({error}): copy it again") from error


def pack_members(members: Mapping[str, bytes]) -> io.BytesIO:
    """Return an archive of members in memory, in which a library finds these members and no others.

    Parameters
    ----------
    members : mapping of str to bytes
        Contents by names.

    Examples
    --------
    >>> zipfile.ZipFile(pack_members({"net/version": b"3"})).read("net/version")
    b'3'
    """
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    file.seek(0)
    return file
