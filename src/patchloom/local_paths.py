"""One spelling for each place: the same file however its path is written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit
from urllib.request import url2pathname

_LOCAL_HOSTS = ("", "localhost")


def is_url(place: str | os.PathLike[str]) -> bool:
    """Whether a place is named by a URL.

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
    """Write a local path in one way; every source, output, model and cache that a user names passes through here.

    A `file://` URL becomes the path that it names, `~` and `~user` the home directory, and a trailing slash is removed. A
    path with `..` becomes absolute: links before the last `..` are followed, as the system follows them. Other URLs, and
    paths without any of these, stay as they are.

    Parameters
    ----------
    place : str or path-like
        A path or URL.

    Returns
    -------
    str or Path
        Text for text, and a `Path` for anything else.

    Examples
    --------
    >>> normalize_path("plate/cells.tif/"), normalize_path("file:///data/day%201.ome.zarr/")
    ('plate/cells.tif', '/data/day 1.ome.zarr')
    >>> normalize_path("https://example.org/cells.ome.zarr?token=1")
    'https://example.org/cells.ome.zarr?token=1'
    """
    text = os.fsdecode(place)
    if text[:6].lower() == "file:/":  # also with a single slash, to which a `Path` brings it
        parts = urlsplit(text)
        if parts.netloc.lower() in _LOCAL_HOSTS:
            text = url2pathname(parts.path)
    if is_url(text):
        return text if isinstance(place, str) else Path(place)
    if os.name != "nt" and text.startswith("//"):  # which POSIX leaves to the system, and libraries refuse
        text = f"/{text.lstrip('/')}"
    path = _without_dots(Path(os.path.expanduser(text)))  # noqa: PTH111  # Path.expanduser raises for an unknown user
    return str(path) if isinstance(place, str) else path


def _without_dots(path: Path) -> Path:
    if ".." not in path.parts or "\0" in str(path):
        return path
    # Not `os.path.normpath`: after a link, `..` is the parent of what the link points to.
    end = len(path.parts) - path.parts[::-1].index("..")
    return Path(*path.parts[:end]).resolve().joinpath(*path.parts[end:])
