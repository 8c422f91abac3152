"""Normalize paths, so that every spelling of a path names the same file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit
from urllib.request import url2pathname

_LOCAL_HOSTS = ("", "localhost")


def is_url(place: str | os.PathLike[str]) -> bool:
    """Return whether a place is a URL.

    Examples
    --------
    >>> is_url("https://example.org/cells.ome.zarr"), is_url("cells.ome.zarr")
    (True, False)
    """
    return "://" in os.fsdecode(place)


@overload
def normalize_path(place: str) -> str: ...
@overload
def normalize_path(place: os.PathLike[str]) -> Path: ...
@overload
def normalize_path(place: str | os.PathLike[str]) -> str | Path: ...
def normalize_path(place: str | os.PathLike[str]) -> str | Path:
    """Normalize a local path; every path of a source, output, model or cache that a user gives is normalized here.

    A `file://` URL becomes its path, `~` and `~user` become the home directory, and a trailing slash is removed. A path with
    `..` becomes absolute: links before the last `..` are followed, as the operating system does. Other URLs and paths are
    returned unchanged.

    Parameters
    ----------
    place : str or path-like
        A path or URL.

    Returns
    -------
    str or Path
        A text if `place` is a text, else a `Path`.

    Examples
    --------
    >>> normalize_path("plate/cells.tif/"), normalize_path("file:///data/day%201.ome.zarr/")
    ('plate/cells.tif', '/data/day 1.ome.zarr')
    >>> normalize_path("https://example.org/cells.ome.zarr?token=1")
    'https://example.org/cells.ome.zarr?token=1'
    """
    text = os.fsdecode(place)
    if text[:6].lower() == "file:/":  # a `Path` reduces the slashes to one
        parts = urlsplit(text)
        if parts.netloc.lower() in _LOCAL_HOSTS:
            text = url2pathname(parts.path)
    if is_url(text):
        return text if isinstance(place, str) else Path(place)
    if os.name != "nt" and text.startswith("//"):  # allowed by POSIX, refused by libraries
        text = f"/{text.lstrip('/')}"
    path = _without_dots(Path(os.path.expanduser(text)))  # noqa: PTH111  # Path.expanduser raises for an unknown user
    return str(path) if isinstance(place, str) else path


def _without_dots(path: Path) -> Path:
    if ".." not in path.parts or "\0" in str(path):
        return path
    # Not `os.path.normpath`: after a link, `..` is the parent of the link's target.
    end = len(path.parts) - path.parts[::-1].index("..")
    return Path(*path.parts[:end]).resolve().joinpath(*path.parts[end:])
