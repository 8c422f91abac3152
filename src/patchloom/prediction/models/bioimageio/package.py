"""The files of a bioimage.io package: a folder, a zip archive, or a description beside its files.

A package is not trusted: names that leave it are refused, an archive is unpacked member by member into a temporary folder and only
up to a size that its own size allows, and nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from patchloom._optional import require
from patchloom.errors import ModelError, ModelNotFoundError
from patchloom.prediction.models.archives import DAMAGES, check_unpacked_size

WeightsFormat = Literal["onnx", "torchscript", "pytorch_state_dict"]
"""Weights that can be run, the preferred ones first."""

DESCRIPTION_NAMES = ("bioimageio.yaml", "rdf.yaml", "model.yaml")
"""Names of the file that describes a package, the preferred one first."""

_LARGEST_DESCRIPTION = 4 << 20
_MOST_VALUES = 200_000
"""Values in a description: aliases of YAML can turn a few bytes into billions."""


def is_package(path: Path) -> bool:
    """Return whether a path is that of a bioimage.io package: a folder or archive with a description, or the description.

    Parameters
    ----------
    path : Path
        Any path.
    """
    try:
        if path.is_dir():
            return _description_name(entry.name for entry in path.iterdir()) is not None
        if path.suffix.lower() in {".yaml", ".yml"}:
            return True
        if path.suffix.lower() != ".zip" or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return _description_name(archive.namelist()) is not None
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


class Package:
    """A package whose description has been read; its other files are found when they are needed.

    Parameters
    ----------
    path : Path
        A folder, a `.zip` file, or the description in a folder.

    Raises
    ------
    ModelNotFoundError
        If there is no such file or folder.
    ModelError
        If it is not a package, or it is damaged or not safe.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.close: Callable[[], Any] = lambda: None
        """Removes the temporary folder of an archive; it is also removed when the package is no longer used."""
        if not path.exists():
            raise ModelNotFoundError(f"there is no bioimage.io package {path}: check the path")
        self._is_archive = path.is_file() and path.suffix.lower() == ".zip"
        try:
            if self._is_archive:
                self._folder = Path(tempfile.mkdtemp(prefix="patchloom-"))
                self.close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
                self._members = _safe_members(self.path)
                name = _description_name(self._members)
            else:
                self._folder = self.path if path.is_dir() else self.path.parent
                self._members = {}
                name = self.path.name if path.is_file() else _description_name(p.name for p in self._folder.iterdir())
            with self._find(name or DESCRIPTION_NAMES[0], "the description").open("rb") as file:
                text = file.read(_LARGEST_DESCRIPTION + 1)
            self.content = _parse(text)
        except ModelError as error:
            raise ModelError(f"{self.path} is not a bioimage.io package that can be used: {error}") from error
        except DAMAGES as error:
            raise ModelError(f"{self.path} is not a bioimage.io package, or it is damaged: {error}") from error
        self.digest = hashlib.sha256(text).hexdigest()

    def file(self, name: str, what: str, sha256: str | None = None) -> Path:
        """Return the path of a file of the package; one of an archive is unpacked.

        Parameters
        ----------
        name : str
            Its name in the description, relative to the description.
        what : str
            Its role, for messages.
        sha256 : str, optional
            The SHA-256 that the description declares; checked if it is given.

        Raises
        ------
        ModelError
            If there is no such file, its name leaves the package, or it has another SHA-256.
        """
        try:
            found = self._find(name, what)
            actual = file_sha256(found) if sha256 is not None else None
        except ModelError as error:
            raise ModelError(f"{self.path}: {error}") from error
        except DAMAGES as error:
            raise ModelError(f"{self.path}: {what} {name!r} cannot be read ({error}): get the package again") from error
        if actual != sha256:
            raise ModelError(
                f"{self.path}: {what} {name!r} has the SHA-256 {actual}, and the description declares {sha256}: the file was changed "
                "or damaged; get the package again"
            )
        return found

    def _find(self, name: str, what: str) -> Path:
        parts = _safe_parts(name, what)
        path = self._folder.joinpath(*parts)
        if not self._is_archive:
            if not path.resolve().is_relative_to(self._folder.resolve()):
                raise ModelError(f"{what} {name!r} is a link that leaves the package: put the file into the package")
        elif not path.exists():
            member = self._members.get("/".join(parts))
            if member is not None:
                _unpack(self.path, member, path)
        if not path.is_file():
            raise ModelError(f"{what} {name!r} is missing: get the complete package")
        return path


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, as descriptions contain it.

    Parameters
    ----------
    path : Path
        The file.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _description_name(names: Iterable[str]) -> str | None:
    """Return the name of the description among the names of a package's files."""
    found = sorted(names)
    for wanted in DESCRIPTION_NAMES:
        for name in found:
            if name == wanted or ("/" not in name and name.endswith(f".{wanted}")):
                return name
    return None


def _safe_parts(name: str, what: str) -> tuple[str, ...]:
    """Return the parts of a name relative to the package, or refuse the name."""
    if re.match(r"\w+://", name):
        raise ModelError(
            f"{what} is at {name}, and nothing is downloaded: get the package with its files, such as the zip from bioimage.io"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or re.match(r"[A-Za-z]:", name) or "\\" in name or "\0" in name or ".." in path.parts:
        raise ModelError(f"{what} {name!r} leaves the package: only files of the package are read")
    return path.parts


def _safe_members(path: Path) -> Mapping[str, zipfile.ZipInfo]:
    """Return the members of an archive by name, or refuse the archive."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members:
        _safe_parts(member.filename, "its member")
    check_unpacked_size(members, path.stat().st_size)
    return {member.filename: member for member in members}


def _unpack(archive_path: Path, member: zipfile.ZipInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive_path) as archive, archive.open(member) as packed, path.open("xb") as out:
        # At most the declared number of bytes is unpacked. If the declaration is wrong, the checksum differs.
        shutil.copyfileobj(packed, out)


def _parse(text: bytes) -> dict[str, Any]:
    if len(text) > _LARGEST_DESCRIPTION:
        raise ModelError(f"its description has more than {_LARGEST_DESCRIPTION} bytes")
    utils = require("bioimageio.spec.utils", extra="bioimageio")
    try:
        content = utils.read_yaml(text.decode())
    except Exception as error:  # a parser raises any error
        raise ModelError(f"its description is not YAML: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise ModelError("its description is not a mapping of names to values")
    if _count_values(content, _MOST_VALUES) > _MOST_VALUES:
        raise ModelError(f"its description has more than {_MOST_VALUES} values")
    return content


def _count_values(value: Any, most: int) -> int:
    """Count the values inside a value, each as often as it occurs; counting ends soon after `most`."""
    pending, count = [value], 0
    while pending and count <= most:
        inside = pending.pop()
        count += 1
        if isinstance(inside, dict):
            pending += [*inside, *inside.values()]
        elif isinstance(inside, list):
            pending += inside
    return count
