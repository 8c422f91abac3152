"""Archives of models that are damaged, or larger than they seem."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

import patchloom as pl
from patchloom.prediction.models.archives import check_archive, pack_members, read_members


def write(path: Path, members: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def test_members(tmp_path):
    """Members are read as they are, and packed again."""
    path = write(tmp_path / "net.pt", [("net/version", b"3"), ("net/data", b"abcdefgh")])
    check_archive(path)
    assert read_members(path) == {"net/version": b"3", "net/data": b"abcdefgh"}
    with zipfile.ZipFile(pack_members(read_members(path))) as again:
        assert again.read("net/data") == b"abcdefgh"


def test_damage(tmp_path):
    """A changed byte is found by the checksum; a member without one, as PyTorch may write it, is read."""
    path = write(tmp_path / "net.pt", [("net/data", b"abcdefgh")])
    content = path.read_bytes()
    path.write_bytes(content.replace(b"abcdefgh", b"abcdXfgh"))
    for read in (check_archive, read_members):
        with pytest.raises(pl.ModelError, match=r"net.pt is damaged"):
            read(path)
    checksum = zipfile.ZipFile(io.BytesIO(content)).infolist()[0].CRC.to_bytes(4, "little")
    path.write_bytes(content.replace(b"abcdefgh", b"abcdXfgh").replace(checksum, bytes(4)))
    check_archive(path)
    assert read_members(path) == {"net/data": b"abcdXfgh"}


def test_bomb(tmp_path):
    """An archive that unpacks to much more than its own size is refused."""
    path = write(tmp_path / "net.pt", [("net/data", bytes(100 << 20))], zipfile.ZIP_DEFLATED)
    with pytest.raises(pl.ModelError, match=r"net.pt is damaged or not safe: its archive unpacks to 104857600 bytes"):
        check_archive(path)


def test_same_name(tmp_path):
    """Members whose names differ by case only are refused, as libraries differ in which one they read."""
    path = write(tmp_path / "net.pt", [("net/code.py", b"1"), ("net/Code.py", b"2")])
    with pytest.raises(pl.ModelError, match="parts of the same name"):
        read_members(path)
