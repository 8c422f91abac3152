"""The images of a TIFF with the metadata of a program: ImageJ, tifffile, Micro-Manager, slide scanners.

tifffile reads these formats and finds the pages of each image. The storage of each page is read from its own tags.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

from patchloom.axes import AxesMap
from patchloom.errors import SourceError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.metadata import fitting_metadata
from patchloom.image_stacks.tiff.directories import Directories, read_directory
from patchloom.image_stacks.tiff.image import TiffLevel, is_name_of_associated
from patchloom.image_stacks.tiff.metadata import metadata_of_imagej
from patchloom.image_stacks.tiff.page_kinds import PageReader, page_kind
from patchloom.image_stacks.tiff.stored_page import PageKind, StoredPage

_IN_ORDER = {"shaped", "imagej", "scanimage", "nih", "fluoview", "sis"}
"""tifffile's names of formats in which the pages of an image are consecutive."""

_ONE_IMAGE = _IN_ORDER - {"shaped"}
"""Formats with one image of all pages of the file."""


PLANES_FOR_EACH_STORED = 65_536
"""Largest number of planes of an image for each plane that is stored; the others were never acquired."""


@dataclass(frozen=True)
class SeriesImage:
    """An image that tifffile finds."""

    path: Path
    tif: tifffile.TiffFile
    series: tifffile.TiffPageSeries
    directories: Directories
    reader: PageReader

    @property
    def name(self) -> str:
        """Name that tifffile finds."""
        return str(self.series.name)

    @property
    def is_here(self) -> bool:
        """Whether pages of it lie in the file that is opened."""
        return not self.series.is_multifile or any(page is not None and page.parent is self.tif for page in self.series)

    @property
    def is_associated(self) -> bool:
        """Whether it is a smaller copy of another image, or its name that of a label or overview."""
        return bool(self.series.keyframe.is_reduced) or is_name_of_associated(self.name)

    @property
    def outline(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape."""
        return self.series.axes, self.series.shape

    @property
    def n_levels(self) -> int:
        """Number of levels of its pyramid, the full image included."""
        return len(self.series.levels)

    def level(self, number: int) -> TiffLevel:
        """Find the pages of one level of its pyramid.

        Raises
        ------
        SourceError
            If they are stored in a way that is not supported, or do not lie in the folder of the file.
        """
        series = self.series.levels[number]
        if series.transform is not None or series.dtype is None:
            raise SourceError(f"{self.path} keeps its pixels in a way that is not supported ({series.kind})")
        axes, shape = series.get_axes(squeeze=False), tuple(map(int, series.get_shape(squeeze=False)))
        n_pages, rest = divmod(math.prod(shape), math.prod(series.keyframe.shape) or 1)
        if rest or not n_pages or not math.prod(series.keyframe.shape):
            raise SourceError(
                f"{self.path} has shape {shape}, which its pages of shape {series.keyframe.shape} do not make up"
            )
        pages = list(self._pages(series, n_pages))
        self._check_folder(pages)
        return TiffLevel(axes, shape, pages, squeezes=series.shape == series.get_shape(squeeze=True))

    def metadata(self, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:
        """Return voxel sizes and channels of an ImageJ file; of other formats, they are not known."""
        if self.series.kind != "imagej":
            return fitting_metadata(axes_map, is_rgb=is_rgb)
        return metadata_of_imagej(self.tif.imagej_metadata or {}, self.series.keyframe, axes_map, is_rgb=is_rgb)

    def _pages(self, series: tifffile.TiffPageSeries, n_pages: int) -> Iterator[StoredPage | None]:
        keyframe = series.keyframe
        if series.kind in _IN_ORDER and not keyframe.is_subifd:
            if series.kind in _ONE_IMAGE and n_pages < len(self.directories):
                raise SourceError(f"{self.path} describes {n_pages} pages, but has {len(self.directories)}")
            following = range(keyframe.index, keyframe.index + n_pages)
            if not series.is_truncated and following.stop <= len(self.directories):
                with self.path.open("rb") as file:
                    yield from self.reader.pages(self.directories, following, file)
                return
        if len(series) == n_pages and not (n_pages > 1 and series.is_truncated):
            yield from (None if page is None else self._page(page) for page in series)
            return
        yield from self._of_run(series, n_pages)

    def _of_run(self, series: tifffile.TiffPageSeries, n_pages: int) -> Iterator[StoredPage]:
        """Yield consecutive pages without directories, as ImageJ writes them in files of more than 4 GB."""
        kind = page_kind(series.keyframe)
        path = series.keyframe.parent.filehandle.path
        if series.dataoffset is None or not kind.is_plain:
            raise SourceError(f"{self.path} describes {n_pages} pages, but has {len(self.directories)}")
        end, size = series.dataoffset + n_pages * kind.page_bytes, Path(path).stat().st_size
        if end > size:
            raise SourceError(f"{path} is truncated: its pixels need {end} bytes, and it has {size}")
        for number in range(n_pages):
            start = series.dataoffset + number * kind.page_bytes
            yield StoredPage(path, kind, (start,), (kind.page_bytes,), is_run=True)

    def _page(self, page: tifffile.TiffPage | tifffile.TiffFrame) -> StoredPage:
        path = page.parent.filehandle.path
        offsets, byte_counts = (np.array(numbers, np.uint64) for numbers in (page.dataoffsets, page.databytecounts))
        kind = self._kind(path, page)
        if kind.is_plain and page.is_contiguous and len(offsets) > 1:
            # In some formats the lengths of the strips are wrong, which tifffile corrects.
            offsets, byte_counts = offsets[:1], byte_counts[:1]
        return StoredPage.of_segments(path, kind, offsets, byte_counts, page.jpegtables)

    def _kind(self, path: str, page: tifffile.TiffPage | tifffile.TiffFrame) -> PageKind:
        if page.keyframe is not None and (page.is_virtual or page.parent is not self.tif):
            return page_kind(page.keyframe)
        with open(path, "rb") as file:  # noqa: PTH123  # a string
            return self.reader.kind(read_directory(path, page.offset).tags(), file, index=page.index)

    def _check_folder(self, pages: Sequence[StoredPage | None]) -> None:
        for name in {page.path for page in pages if page is not None} - {str(self.path)}:
            if not Path(name).resolve().is_relative_to(self.path.parent):
                raise SourceError(
                    f"{self.path} is one file of a set, and names another outside its folder, {name!r}, which is not read"
                )


def check_micromanager(path: Path, tif: tifffile.TiffFile) -> None:
    """Check numbers of planes and names of files in Micro-Manager's metadata, before tifffile makes lists of as many pages.

    Raises
    ------
    SourceError
        If there are far more planes than are stored, or files outside the folder.
    """
    if tif.is_mmstack:
        metadata = tif.micromanager_metadata or {}
        largest = metadata["IndexMap"][:, :4].max(axis=0).tolist()
        sizes = [int(metadata["Summary"].get(name, 1)) for name in ("Channels", "Slices", "Frames", "Positions")]
        sizes = [max(size, last + 1) for size, last in zip(sizes, largest, strict=True)]
        _check_planes(path, sizes, len(metadata["IndexMap"]))
    elif tif.is_ndtiff:
        check_ndtiff_index(path)


def check_ndtiff_index(path: Path) -> None:
    """Check the index beside a file of an NDTiff data set; see `check_micromanager`."""
    places: dict[str, set[int | str]] = {}
    n_stored = 0
    for axes, name, *_ in tifffile.read_ndtiff_index(path.with_name("NDTiff.index")):
        named = path.parent / name
        if not named.resolve().is_relative_to(path.parent.resolve()) or not named.is_file():
            raise SourceError(
                f"{path} is one file of a set, and names another that is not in its folder, {name[:200]!r}"
            )
        n_stored += 1
        for axis, place in axes.items():
            places.setdefault(str(axis), set()).add(place)
    _check_planes(path, [_extent(found) for found in places.values()], n_stored)


def _extent(places: set[int | str]) -> int:
    numbers = [place for place in places if isinstance(place, int)]
    return max(numbers) - min(numbers) + 1 if numbers else len(places)


def _check_planes(path: Path, sizes: Sequence[int], n_stored: int) -> None:
    n_planes = math.prod(sizes)
    if n_planes > PLANES_FOR_EACH_STORED * n_stored:
        raise SourceError(f"{path} is damaged: it describes {n_planes} planes, of which {n_stored} are stored")
