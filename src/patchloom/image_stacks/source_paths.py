"""The images that a path, folder or glob pattern names, and the format of each."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from patchloom.argument_checks import file_path
from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.image_stacks.zarr.node import is_zarr_folder
from patchloom.local_paths import is_url, normalize_path

ImageFormat = Literal["tiff", "czi", "zarr", "npy"]

SUPPORTED = "TIFF (.tif, .tiff, .btf, .tf8), Zarr and OME-Zarr (.zarr), N5 (.n5), CZI (.czi) and NumPy (.npy)"

_SUFFIXES: dict[str, ImageFormat] = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".btf": "tiff",
    ".tf8": "tiff",
    ".czi": "czi",
    ".npy": "npy",
}
_ZARR_SUFFIXES = (".zarr", ".n5")
_NUMBERED = re.compile(r"(?P<path>.+\.(czi|tiff?|btf|tf8))@(?P<number>\d{1,9})", re.IGNORECASE)


def checked_path(name: str, source: str | Path) -> str | Path:
    """Return the path or URL of one image, written in the one way that `normalize_path` knows.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    source : str or Path
        The argument.

    Raises
    ------
    ArgumentTypeError
        If it is not a text or path.
    SourceError
        If the file system does not accept it.
    """
    is_remote = isinstance(source, str) and is_url(source)
    return normalize_path(source if is_remote else file_path(name, source, error=SourceError))


def image_format(source: str | Path) -> ImageFormat | None:
    """Return the format of one image by its name, or of a folder by its content; None if it is not an image.

    Examples
    --------
    >>> image_format("cells.OME.TIF"), image_format("plate.ome.zarr/A/1/0"), image_format("slide.czi@2")
    ('tiff', 'zarr', 'czi')
    >>> image_format("holiday.png") is None
    True
    """
    path = Path(split_number(source)[0])
    if is_url(source) or any(part.lower().endswith(_ZARR_SUFFIXES) for part in path.parts):
        return "zarr"
    if path.is_dir():
        return "zarr" if is_zarr_folder(path) else None
    numbered = _NUMBERED.fullmatch(path.name)  # also the name of a file
    return _SUFFIXES.get(Path(numbered["path"] if numbered else path).suffix.lower())


def split_number(source: str | Path) -> tuple[str | Path, int | None]:
    """Split a path into a file and the number of an image in it: a scene of a CZI, an image of a TIFF.

    The path of an existing file is not split.

    Examples
    --------
    >>> split_number("slide.czi@2"), split_number("cells.ome.tif@0"), split_number("cells@2.tif")
    (('slide.czi', 2), ('cells.ome.tif', 0), ('cells@2.tif', None))
    """
    match = _NUMBERED.fullmatch(str(source))
    return (source, None) if match is None or Path(source).exists() else (match["path"], int(match["number"]))


def is_collection(source: str | Path) -> bool:
    """Return whether a path names a collection, even of one image: a folder that is not a Zarr, or a pattern."""
    if image_format(source) == "zarr" and not _is_pattern(source):
        return False
    return Path(source).is_dir() or _is_pattern(source)


def images_of(source: str | Path) -> list[str | Path]:
    """List the images that a path names, in natural order; hidden files and other files are skipped.

    Raises
    ------
    SourceNotFoundError
        If the path does not exist, or the folder or pattern contains no image.
    SourceError
        If it is a file of another format.
    """
    if not str(source) or "\0" in str(source):
        raise SourceNotFoundError(f"{str(source)!r} is not a path: give the name of a file or folder")
    if _is_pattern(source):
        return _only_images(f"{source} matches", _matches(Path(source)))
    if is_collection(source):
        return _only_images(f"{source} contains", Path(source).iterdir())
    if image_format(source) is None:
        if not Path(source).exists():
            raise SourceNotFoundError(f"there is no file or folder {source}: check the path")
        raise SourceError(f"{source} is not a supported image: give {SUPPORTED}")
    return [source]


def _only_images(what: str, paths: Iterable[Path]) -> list[str | Path]:
    visible = [path for path in paths if not path.name.startswith(".")]
    images = [path for path in visible if image_format(path) is not None]
    if not images:
        raise SourceNotFoundError(f"{what} {len(visible)} files and folders, none of them an image: give {SUPPORTED}")
    return [*sorted(images, key=_natural_order)]


def _is_pattern(source: str | Path) -> bool:
    return not is_url(source) and glob.has_magic(str(source)) and not Path(split_number(source)[0]).exists()


def _matches(pattern: Path) -> list[Path]:
    """List the matches of a pattern; folders above it that exist by that name are not part of the pattern."""
    folder = next((parent for parent in pattern.parents if parent.is_dir()), Path())
    below = str(pattern.relative_to(folder))
    return [folder / name for name in glob.glob(below, root_dir=folder, recursive=True)]  # noqa: PTH207  # not through links


def _natural_order(path: Path) -> tuple[list[tuple[str, int]], str]:
    """Return a sort key that has `img2` before `img10`: letters in order, and numbers by value."""
    words = re.findall(r"(\D*)(\d*)", str(path).lower())
    return [(word, int(number or -1)) for word, number in words], str(path)
