"""The kinds of output, and the endings of names that select them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from patchloom.errors import SinkError
from patchloom.local_paths import normalize_path


@dataclass(frozen=True, slots=True)
class OutputKind:
    """A kind of output.

    Parameters
    ----------
    name : str
        Name of the kind, for messages.
    suffixes : tuple of str
        Endings of names that select it, the longest first.
    resumable : bool
        Whether an unfinished output of a killed run can be resumed.
    files_inside : tuple of str
        Every folder of this kind contains one of these files; empty if the kind is a file.
    first_bytes : tuple of bytes
        Every file of this kind starts with one of these; empty if the kind is a folder.
    """

    name: str
    suffixes: tuple[str, ...]
    resumable: bool
    files_inside: tuple[str, ...] = ()
    first_bytes: tuple[bytes, ...] = ()

    def is_at(self, path: Path) -> bool:
        """Return whether the file or folder at a path is of this kind."""
        if self.files_inside:
            return any((path / name).is_file() for name in self.files_inside)
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8).startswith(self.first_bytes)


ZARR = OutputKind(
    "Zarr", (".ome.zarr", ".zarr"), resumable=True, files_inside=("zarr.json", ".zgroup", ".zattrs", ".zarray")
)
TIFF = OutputKind(
    "TIFF",
    (".ome.tiff", ".ome.tif", ".tiff", ".tif", ".btf"),
    resumable=False,
    first_bytes=(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
)
NPY = OutputKind("NumPy file", (".npy",), resumable=False, first_bytes=(b"\x93NUMPY",))

OUTPUT_KINDS = (ZARR, TIFF, NPY)
SINK_SUFFIXES = tuple(suffix for kind in OUTPUT_KINDS for suffix in kind.suffixes)
"""Endings of names that select a kind of output; `.ome.zarr` comes before `.zarr`."""

SUPPORTED_OUTPUTS = "OME-Zarr (.ome.zarr, .zarr), OME-TIFF (.ome.tif, .ome.tiff, .tif, .tiff, .btf) or NumPy (.npy)"
"""All kinds with their endings, as a part of a sentence."""


def image_name(path: str | Path) -> str:
    """Return the name of an image from the name of its file.

    Examples
    --------
    >>> image_name("out/day.2.ome.tif"), image_name("out/day 3")
    ('day.2', 'day 3')
    """
    name = Path(normalize_path(path)).name
    ending = next((suffix for suffix in SINK_SUFFIXES if name.lower().endswith(suffix)), "")
    # Metadata are Unicode, and names of files need not be.
    return os.fsencode(name[: len(name) - len(ending)]).decode("utf-8", "replace")


def output_kind(path: str | Path) -> OutputKind:
    """Return the kind of output that the ending of a name selects. Case does not matter.

    Raises
    ------
    SinkError
        If no kind has this ending. The message lists all endings.

    Examples
    --------
    >>> output_kind("cells.ome.zarr").name, output_kind("cells.OME.TIF").name
    ('Zarr', 'TIFF')
    >>> output_kind("cells.png")
    Traceback (most recent call last):
        ...
    patchloom.errors.SinkError: the ending of cells.png is not that of an output: choose OME-Zarr (.ome.zarr, .zarr),
    OME-TIFF (.ome.tif, .ome.tiff, .tif, .tiff, .btf) or NumPy (.npy), or, for several images, a folder
    """
    for kind in OUTPUT_KINDS:
        if normalize_path(str(path)).lower().endswith(kind.suffixes):
            return kind
    raise SinkError(
        f"the ending of {path} is not that of an output: choose {SUPPORTED_OUTPUTS}, or, for several images, a folder"
    )
