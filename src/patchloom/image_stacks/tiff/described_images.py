"""The images of a TIFF, as described by OME-XML, by the metadata of another program, or by the pages alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import tifffile

from patchloom.errors import SourceError
from patchloom.image_stacks.tiff.directories import Directories, check_tables
from patchloom.image_stacks.tiff.image import TiffImage
from patchloom.image_stacks.tiff.ome_images import FileSet, ome_images
from patchloom.image_stacks.tiff.ome_xml import read_ome_xml
from patchloom.image_stacks.tiff.page_images import images_of_pages
from patchloom.image_stacks.tiff.page_kinds import PageReader
from patchloom.image_stacks.tiff.series_images import SeriesImage, check_micromanager

_BEFORE_OME = ("shaped", "lsm", "mmstack")
_AFTER_OME = (
    "imagej", "ndtiff", "fluoview", "stk", "sis", "svs", "scn", "qpi", "ndpi", "bif", "avs", "eer", "philips", "scanimage",
    "nih", "mdgel",
)  # fmt: skip
"""tifffile's names of formats whose metadata describe the images, in the order in which it tries them."""

_FEW = 100
"""Number of pages whose tables of segments are read without a check, even if each is as long as the file."""

_PAGES_ALONE = {"generic", "uniform"}
"""tifffile's names of files in which only the pages describe the images."""


def tiff_images(tif: tifffile.TiffFile, directories: Directories, *, ignores_description: bool) -> Sequence[TiffImage]:
    """List the images of an open file.

    Parameters
    ----------
    tif : TiffFile
        The file.
    directories : Directories
        Its pages.
    ignores_description : bool
        Whether a description that cannot be used is ignored, so that the pages alone count.

    Raises
    ------
    SourceError
        If the description of the images cannot be used.
    """
    path = Path(tif.filehandle.path)
    if _has_format(tif, _BEFORE_OME):
        return _described_by_series(path, tif, directories, ignores_description=ignores_description)
    if tif.is_ome:
        images = _described_by_ome(path, tif, directories, ignores_description=ignores_description)
        if images:
            return images
        tif.is_ome = False
    if _has_format(tif, _AFTER_OME):
        return _described_by_series(path, tif, directories, ignores_description=ignores_description)
    return images_of_pages(tif, directories)


def _has_format(tif: tifffile.TiffFile, names: Sequence[str]) -> bool:
    return any(getattr(tif, f"is_{name}") for name in names)


def _described_by_ome(
    path: Path, tif: tifffile.TiffFile, directories: Directories, *, ignores_description: bool
) -> Sequence[TiffImage]:
    try:
        document = read_ome_xml(tif.ome_metadata or "")
    except ValueError as error:
        if not ignores_description:
            raise SourceError(
                f"{path} has OME-XML that cannot be used: {error}; give axes to read its pages in their order"
            ) from error
        logging.getLogger(__name__).warning("%s: the OME-XML cannot be used, and is ignored: %s", path, error)
        return []
    return ome_images(document, FileSet(path, document.uuid, directories), PageReader(tif))


def _described_by_series(
    path: Path, tif: tifffile.TiffFile, directories: Directories, *, ignores_description: bool
) -> Sequence[TiffImage]:
    check_micromanager(path, tif)
    if len(directories) > _FEW:
        check_tables(directories)
    kinds = {series.kind for series in tif.series}
    if tif.is_imagej and (kinds <= _PAGES_ALONE or kinds == {"imagej"}) and not ignores_description:
        _check_imagej(path, tif, len(directories), is_guessed=kinds <= _PAGES_ALONE)
    if kinds <= _PAGES_ALONE or (tif.is_scanimage and len(tif.pages) < len(directories)):
        # tifffile guesses where the pages of ScanImage are, and may find fewer than there are.
        return images_of_pages(tif, directories)
    return [SeriesImage(path, tif, series, directories, PageReader(tif)) for series in tif.series]


def _check_imagej(path: Path, tif: tifffile.TiffFile, n_directories: int, *, is_guessed: bool) -> None:
    """Check that a file has the pages that ImageJ's metadata declare; if tifffile ignores these, exactly as many."""
    n_images = (tif.imagej_metadata or {}).get("images", 1)
    # Beyond 4 GB ImageJ writes one directory for all pages.
    described = [math.prod(series.shape) // math.prod(series.keyframe.shape) for series in tif.series]
    n_pages = n_directories if is_guessed else max(n_directories, *described)
    if n_images > n_pages or (is_guessed and n_images != n_pages):
        raise SourceError(
            f"{path} is damaged: ImageJ describes {n_images} pages, and there are {n_pages}; give axes to read them"
        )
