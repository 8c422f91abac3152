"""A package that is damaged or hostile is refused with one error; nothing outside it is read, written or run."""

from __future__ import annotations

import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import patchloom as pl
from patchloom.errors import ModelError

Make = Callable[..., Any]


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def weights(content: Any) -> Any:
    return content["weights"]["onnx"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../net.onnx", r"the file of weights '\.\./net\.onnx' leaves the package"),
        ("a/../../net.onnx", "leaves the package"),
        ("/etc/passwd", "'/etc/passwd' leaves the package"),
        ("C:/net.onnx", "leaves the package"),
        ("..\\net.onnx", "leaves the package"),
        ("https://example.invalid/net.onnx", "is at https://example.invalid/net.onnx, and nothing is downloaded"),
        ("missing.onnx", "the file of weights 'missing.onnx' is missing"),
        ("folder", "the file of weights 'folder' is missing"),
    ],
)
@pytest.mark.parametrize("as_zip", [False, True])
def test_names(name: str, message: str, as_zip: bool, make_package: Make, rewrite: Make, pack: Make) -> None:
    """A file is read only if it belongs to the package."""
    folder = rewrite(make_package(), lambda content: weights(content).update(source=name))
    shutil.copy(folder / "net.onnx", folder.parent / "net.onnx")
    (folder / "folder").mkdir()
    with pytest.raises(ModelError, match=message):
        pl.load_model(pack(folder) if as_zip else folder)


def test_link(make_package: Make, tmp_path: Path) -> None:
    """A link that leaves the package is not followed."""
    folder = make_package()
    (folder / "net.onnx").replace(tmp_path / "net.onnx")
    (folder / "net.onnx").symlink_to(tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="is a link that leaves the package"):
        pl.load_model(folder)


@pytest.mark.parametrize("as_zip", [False, True])
def test_digest(as_zip: bool, make_package: Make, rewrite: Make, pack: Make) -> None:
    """A file with another SHA-256 than the declared one is refused."""
    folder = rewrite(make_package(), lambda content: weights(content).update(sha256="0" * 64))
    with pytest.raises(ModelError, match=r"'net\.onnx' has the SHA-256 .*, and the description declares 0000"):
        pl.load_model(pack(folder) if as_zip else folder)


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a\\..\\out.txt", "C:out.txt"])
def test_member_names(name: str, make_package: Make) -> None:
    """An archive with a member outside is refused as a whole."""
    archive = make_package(as_zip=True)
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr(name, "harmless")
    with pytest.raises(ModelError, match=r"its member .*out\.txt' leaves the package"):
        pl.load_model(archive)


def test_zip_bomb(make_package: Make) -> None:
    """An archive that unpacks to far more than its size is refused before it is unpacked."""
    archive = make_package(as_zip=True)
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        file.writestr("zeros.bin", b"\0" * (200 << 20))
    with pytest.raises(ModelError, match=r"its archive unpacks to 2097\d* bytes: at most .* are unpacked"):
        pl.load_model(archive)


def test_wrong_member_size(make_package: Make) -> None:
    """A member that is larger than it declares is not unpacked."""
    archive = make_package(as_zip=True)
    content = bytearray(archive.read_bytes())
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("net.onnx")
        place = content.rindex(b"net.onnx", 0) - 46
    content[place + 24 : place + 28] = struct.pack("<I", info.file_size - 10)
    archive.write_bytes(content)
    with pytest.raises(ModelError, match=r"cannot be read|damaged"):
        pl.load_model(archive)


@pytest.mark.parametrize("n_bytes", [0, 100, -40])
def test_cut_archive(n_bytes: int, make_package: Make) -> None:
    """An archive that was cut is refused."""
    archive = make_package(as_zip=True)
    archive.write_bytes(archive.read_bytes()[:n_bytes])
    with pytest.raises(ModelError, match=r"is not a bioimage\.io package, or it is damaged"):
        pl.load_model(archive)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "its description is not YAML"),
        ("- 1", "its description is not a mapping"),
        ("1: 2", "its description is not a mapping"),
        ("", "its description is not a mapping"),
        ("[" * 5000, "its description is not YAML"),
        ("a: !!python/object/apply:os.system ['touch here']", "its description is not YAML"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "".join(
                f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "its description has more than 200000 values",
        ),
        (f"a: {'x' * 5_000_000}", "its description has more than 4194304 bytes"),
        ("type: model\nformat_version: 0.5.0", "its description is not valid"),
        ("type: model\nformat_version: [0.5]", "of format"),
        ("\x00", "its description is not YAML"),
    ],
)
def test_descriptions(text: str, message: str, make_package: Make) -> None:
    """A description of anything is refused."""
    folder = make_package()
    (folder / "rdf.yaml").write_text(text)
    with pytest.raises(ModelError, match=message):
        pl.load_model(folder)
    assert not Path("here").exists()


def test_pickle_as_weights(make_package: Make, tmp_path: Path) -> None:
    """A pickle is not loaded, whatever it is called."""
    folder = make_package()
    (folder / "net.onnx").write_bytes(pickle.dumps(Bomb(tmp_path / "opened")))
    with pytest.raises(ModelError, match=r"SHA-256|is not an ONNX model"):
        pl.load_model(folder)
    assert not (tmp_path / "opened").exists()


def test_folder_without_description(tmp_path: Path) -> None:
    """A folder without a description is not a package."""
    with pytest.raises(ModelError, match="is not a model that can be loaded"):
        pl.load_model(tmp_path)


def test_nothing_is_left(
    make_package: Make, rewrite: Make, pack: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package that is refused leaves no temporary folder."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    folder = rewrite(make_package(), lambda content: weights(content).update(source="missing.onnx"))
    with pytest.raises(
        ModelError, match=r"^[^:]*: the file of weights 'missing.onnx' is missing: get the complete"
    ) as caught:
        pl.load_model(pack(folder))
    del caught
    assert not list((tmp_path / "temporary").iterdir())
