"""The images of a TIFF without a description: pages of one size and type, in their order, are one image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SourceError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.metadata import fitting_metadata
from patchloom.image_stacks.tiff.directories import SUB_DIRECTORIES, Directories, check_tables, read_directory
from patchloom.image_stacks.tiff.image import TiffImage, TiffLevel
from patchloom.image_stacks.tiff.page_kinds import PageReader
from patchloom.image_stacks.tiff.stored_page import PageKind, StoredPage

_FACTORS = (2, 3, 4)
"""Factors between the sizes of consecutive levels of a pyramid."""


@dataclass(frozen=True)
class _Pages:
    """Pages of one size and type."""

    kind: PageKind
    pages: list[StoredPage] = field(default_factory=list)
    below: list[Sequence[int] | NDArray[np.uint64]] = field(default_factory=list)
    """For each page, the offsets of the directories of its smaller copies."""


@dataclass(frozen=True)
class PagesImage:
    """An image whose pages are alike, and whose pyramid consists of more such pages."""

    groups: list[_Pages]
    """Pages of the full image, and of smaller copies that are pages themselves."""

    reader: PageReader

    @property
    def name(self) -> str:
        """Pages have no name."""
        return ""

    @property
    def is_here(self) -> bool:
        """All pages lie in the file."""
        return True

    @property
    def is_associated(self) -> bool:
        """Whether it is a smaller copy of another image."""
        return self.groups[0].kind.is_reduced

    @property
    def outline(self) -> tuple[str, tuple[int, ...]]:
        """Axes and shape."""
        return self._dimensions(self.groups[0].kind, len(self.groups[0].pages))

    @property
    def n_levels(self) -> int:
        """Number of levels of its pyramid, the full image included."""
        return len(self.groups) + len(self.groups[0].below[0])

    def level(self, number: int) -> TiffLevel:
        """Find the pages of one level of its pyramid."""
        if number < len(self.groups):
            pages = self.groups[number].pages
        else:
            pages = list(self._sub_pages(number - len(self.groups)))
        return TiffLevel(*self._dimensions(pages[0].kind, len(pages)), pages, squeezes=True)

    def metadata(self, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:
        """Return only the colors, as the file does not describe the image."""
        return fitting_metadata(axes_map, is_rgb=is_rgb)

    @staticmethod
    def _dimensions(kind: PageKind, n_pages: int) -> tuple[str, tuple[int, ...]]:
        return (f"I{kind.axes}", (n_pages, *kind.shape)) if n_pages > 1 else (kind.axes, kind.shape)

    def _sub_pages(self, number: int) -> Iterator[StoredPage]:
        for page, below in zip(self.groups[0].pages, self.groups[0].below, strict=True):
            if number >= len(below):
                raise SourceError(f"{page.path} is damaged: not all of its pages have as many smaller copies")
            with open(page.path, "rb") as file:  # noqa: PTH123  # a string
                yield self.reader.page(read_directory(page.path, int(below[number])), file)


@dataclass(frozen=True)
class DamagedPage:
    """A page that cannot be read, as an image by itself."""

    error: SourceError
    name: str = "damaged"
    is_here: bool = True
    is_associated: bool = False
    outline: tuple[str, tuple[int, ...]] = ("", ())
    n_levels: int = 1

    def level(self, number: int) -> TiffLevel:  # noqa: ARG002
        """Raise the error of the page."""
        raise self.error

    def metadata(self, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:  # noqa: ARG002
        """Return empty metadata."""
        return ImageMetadata()


def images_of_pages(tif: tifffile.TiffFile, directories: Directories) -> list[TiffImage]:
    """List the images of pages, in the order of their first pages, and last the first damaged page.

    Pages that are marked as smaller copies are levels of the pyramid of the image before them if their size fits, else separate
    images.
    """
    reader = PageReader(tif)
    groups: dict[object, _Pages] = {}
    damaged: list[TiffImage] = []
    if not directories:
        return []
    check_tables(directories)
    with open(directories.path, "rb") as file:  # noqa: PTH123  # a string
        for index, directory in enumerate(directories):
            tags = directory.tags()
            if not tags.is_page:
                continue
            try:
                page = reader.page(directory, file, index=index)
                below = tags.integers(file, SUB_DIRECTORIES)
            except SourceError as error:
                damaged.append(DamagedPage(error))
                continue
            group = groups.setdefault(page.kind.image, _Pages(page.kind))
            group.pages.append(page)
            group.below.append(below)
    return _with_pyramids(list(groups.values()), reader) + damaged[:1]


def _with_pyramids(groups: Sequence[_Pages], reader: PageReader) -> list[TiffImage]:
    images: list[PagesImage] = []
    for group in groups:
        if images and _is_next_level(images[-1].groups, group):
            images[-1].groups.append(group)
        else:
            images.append(PagesImage([group], reader))
    return [*images]


def _is_next_level(levels: Sequence[_Pages], candidate: _Pages) -> bool:
    """Return whether pages are smaller copies of a pyramid's last level, by the factor between its levels."""
    full, last = levels[0], levels[-1]
    same = candidate.kind.is_reduced and not full.kind.is_reduced and len(candidate.pages) == len(full.pages)
    if not same or candidate.kind.dtype.newbyteorder("=") != full.kind.dtype.newbyteorder("="):
        return False
    steps = [*pairwise([*levels, candidate])]
    return last is not candidate and any(all(_smaller_by(*step, factor) for step in steps) for factor in _FACTORS)


def _smaller_by(upper: _Pages, lower: _Pages, factor: int) -> bool:
    pairs = zip(upper.kind.page_shape, lower.kind.page_shape, strict=True)
    return all(
        small in {large // factor, -(-large // factor)} if axis in {2, 3} else small == large
        for axis, (large, small) in enumerate(pairs)
    )
