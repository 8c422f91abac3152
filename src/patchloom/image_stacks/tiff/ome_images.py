"""The images of an OME-TIFF: the file and the page of each of their planes.

A description may name other files of a set. They are read only from the folder of the file that is opened.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from patchloom.axes import AxesMap
from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.tiff.directories import (
    SUB_DIRECTORIES,
    Directories,
    Directory,
    read_directories,
    read_directory,
)
from patchloom.image_stacks.tiff.image import TiffLevel, is_name_of_associated
from patchloom.image_stacks.tiff.metadata import metadata_of_ome
from patchloom.image_stacks.tiff.ome_xml import OmeDocument, OmeImage, PlaneRun
from patchloom.image_stacks.tiff.page_kinds import PageReader
from patchloom.image_stacks.tiff.series_images import PLANES_FOR_EACH_STORED
from patchloom.image_stacks.tiff.stored_page import StoredPage

_DESCRIPTIONS_OF_EACH, _DESCRIPTIONS = 10, 10_000
"""Number of descriptions that each plane of an image may have on average, and all planes of a small image together."""

_log = logging.getLogger(__name__)


class FileSet:
    """The files that OME-XML names, in the folder of the file that is opened.

    Parameters
    ----------
    path : Path
        The file that is opened, without links.
    uuid : str or None
        Identifier of the file.
    directories : Directories
        Directories of its pages.
    """

    def __init__(self, path: Path, uuid: str | None, directories: Directories) -> None:
        self.path = path
        self._uuid = uuid
        self._directories: dict[Path, Directories] = {self.path: directories}

    @property
    def own(self) -> Directories:
        """The directories of the file that is opened."""
        return self._directories[self.path]

    def is_own(self, run: PlaneRun) -> bool:
        """Return whether planes lie in the file that is opened."""
        if run.file_name is None or (run.uuid and run.uuid == self._uuid):
            return True
        if run.file_name == self.path.name:
            return True
        same_but_for_case = run.file_name.lower() == self.path.name.lower()
        return same_but_for_case and not self.path.with_name(run.file_name).exists()

    def directories(self, run: PlaneRun) -> Directories | None:
        """Return the directories of the file in which planes lie; None if the file does not exist.

        Raises
        ------
        SourceError
            If it lies outside the folder, or cannot be read.
        """
        path = self.path if self.is_own(run) else self._named(run.file_name or "")
        if path is not None and path not in self._directories:
            self._directories[path] = read_directories(path)
        return None if path is None else self._directories[path]

    def _named(self, name: str) -> Path | None:
        path = self.path.parent / name
        try:
            is_inside = path.resolve().is_relative_to(self.path.parent)
            is_file = path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise SourceError(f"{self.path} is one file of a set, and names another {name[:200]!r}: {error}") from error
        if not is_inside:
            raise SourceError(
                f"{self.path} is one file of a set, and names another outside its folder, {name[:200]!r}, which is not read: "
                "put the files of the set into one folder, and open one there"
            )
        return path if is_file else None


@dataclass(frozen=True)
class OmeTiffImage:
    """One image in OME-XML, whose planes are pages of one or several files."""

    described: OmeImage
    files: FileSet
    reader: PageReader

    @property
    def name(self) -> str:
        """Its name in the description."""
        return self.described.name

    @property
    def is_associated(self) -> bool:
        """Whether its name is that of a label or overview."""
        return is_name_of_associated(self.name)

    @property
    def is_here(self) -> bool:
        """Whether planes of it lie in the file that is opened."""
        return any(map(self.files.is_own, self.described.planes))

    @property
    def own_pages(self) -> Iterator[range]:
        """Indices of the pages, in the file that is opened, that the description declares planes of the image."""
        n_planes, n_pages = math.prod(self.described.sizes[axis] for axis in "ZCT"), len(self.files.own)
        for run in filter(self.files.is_own, self.described.planes):
            stop = n_pages if run.n_planes is None else run.directory + run.n_planes
            yield range(run.directory, min(stop, n_pages, run.directory + n_planes))

    @property
    def outline(self) -> tuple[str, tuple[int, ...]]:
        """Axes longer than 1 and their sizes, as described."""
        sizes = self.described.sizes
        axes = "".join(axis for axis in self.described.axes if sizes[axis] > 1 or axis in "YX")
        return axes, tuple(sizes[axis] for axis in axes)

    @property
    def n_levels(self) -> int:
        """Number of levels of its pyramid, the full image included."""
        first = next(directory for directory in self._directories if directory is not None)
        with open(first.path, "rb") as file:  # noqa: PTH123  # a string
            return 1 + len(first.tags().integers(file, SUB_DIRECTORIES))

    def level(self, number: int) -> TiffLevel:
        """Find the pages of one level of its pyramid.

        Raises
        ------
        SourceError
            If the description does not fit the pages.
        """
        pages = list(self._pages(number))
        first = next((page.kind for page in pages if page is not None), None)
        if first is None:
            raise SourceError(f"{self.files.path} has no pages for level {number} of image {self.name!r}")
        axes, shape = _with_samples(self.described, first.axes, dict(zip(first.axes, first.shape, strict=True)))
        n_pages = math.prod(shape) // math.prod(first.shape)
        if math.prod(shape) != n_pages * math.prod(first.shape) or len(pages) < n_pages:
            raise SourceError(
                f"{self.files.path} describes {self._sizes}, which its pages of {' × '.join(map(str, first.shape))} pixels do "
                "not make up"
            )
        if number == 0 and (first.page_shape[2:4] != (self.described.sizes["Y"], self.described.sizes["X"])):
            raise SourceError(
                f"{self.files.path} describes {self._sizes}, but its pages have Y {first.page_shape[2]}, X {first.page_shape[3]}"
            )
        return TiffLevel(*_split(axes, shape, self.described), pages[:n_pages], squeezes=True)

    def metadata(self, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:
        """Voxel sizes and channels, as far as they fit the axes."""
        return metadata_of_ome(self.described, axes_map, is_rgb=is_rgb)

    @property
    def _sizes(self) -> str:
        return ", ".join(f"{axis} {size}" for axis, size in self.described.sizes.items())

    @cached_property
    def _directories(self) -> list[Directory | None]:
        """The directory of each plane; None for one that was never written."""
        sizes = {**self.described.sizes, "C": self._n_channels}
        order = self.described.axes[:-2]
        shape = [sizes[axis] for axis in order]
        n_planes = math.prod(shape)
        found: dict[int, Directory] = {}
        missing: list[str] = []
        n_described = 0
        for run in self.described.planes:
            position = [run.first[axis] for axis in order]
            if any(place >= size for place, size in zip(position, shape, strict=True)):
                continue  # ImageJ keeps the planes that it has cropped
            first = sum(place * math.prod(shape[axis + 1 :]) for axis, place in enumerate(position))
            there = self.files.directories(run)
            if there is None:
                missing.append(run.file_name or "")
                continue
            pages = self._of_run(run, there, n_planes - first)
            found.update(enumerate(pages, start=first))
            n_described += len(pages)
            if n_described > _DESCRIPTIONS_OF_EACH * len(found) + _DESCRIPTIONS:
                raise SourceError(f"{self.files.path} is damaged: it describes the same planes again and again")
        if missing and len(found) < n_planes:
            names = list(dict.fromkeys(missing))
            raise SourceNotFoundError(
                f"{self.files.path} is one file of a set, and {len(names)} are missing, such as {names[0][:200]}"
            )
        if n_planes > PLANES_FOR_EACH_STORED * len(found):
            raise SourceError(
                f"{self.files.path} describes {n_planes} planes ({self._sizes}), of which {len(found)} are stored"
            )
        return [found.get(plane) for plane in range(n_planes)]

    def _of_run(self, run: PlaneRun, there: Directories, n_left: int) -> Sequence[Directory]:
        count = n_left if run.n_planes is None else min(run.n_planes, n_left)
        pages = there[run.directory : run.directory + count]
        if run.n_planes is not None and len(pages) < count:
            raise SourceError(
                f"{self.files.path} describes {run.n_planes} planes from page {run.directory} on, but "
                f"{run.file_name or 'it'} has {len(there)} pages"
            )
        return pages

    @cached_property
    def _n_channels(self) -> int:
        n_channels, samples = self.described.sizes["C"], self.described.samples or 1
        if n_channels % samples:
            raise SourceError(f"{self.files.path} describes {n_channels} channels of {samples} samples a pixel")
        return n_channels // samples

    def _pages(self, level: int) -> Iterator[StoredPage | None]:
        with ExitStack() as opened:
            name, file = "", None
            for directory in self._directories:
                if directory is None:
                    yield None
                    continue
                if directory.path != name or file is None:
                    opened.close()
                    name, file = directory.path, opened.enter_context(open(directory.path, "rb"))  # noqa: PTH123  # a string
                if level == 0:
                    yield self.reader.page(directory, file)
                    continue
                below = directory.tags().integers(file, SUB_DIRECTORIES)
                if level > len(below):
                    raise SourceError(f"{name} is damaged: not all of its pages have as many smaller copies")
                yield self.reader.page(read_directory(name, int(below[level - 1])), file)


def ome_images(document: OmeDocument, files: FileSet, reader: PageReader) -> list[OmeTiffImage]:
    """List the images of a description that have pixels, and warn of pages that belong to none of them."""
    images = [OmeTiffImage(image, files, reader) for image in document.images if image.planes]
    is_used = np.zeros(len(files.own), bool)
    for pages in (pages for image in images for pages in image.own_pages):
        is_used[pages.start : pages.stop] = True
    if images and not is_used.all():
        counts = (is_used.sum(), len(is_used))
        _log.warning("%s: the OME-XML describes %d of %d pages, and the others are ignored", files.path, *counts)
    return images


def _with_samples(described: OmeImage, page_axes: str, page_sizes: dict[str, int]) -> tuple[str, list[int]]:
    """Return the axes and shape of an image; samples of a pixel are an axis if they are one in its pages."""
    samples = page_sizes.get("S", 1)
    sizes = {**described.sizes, "Y": page_sizes["Y"], "X": page_sizes["X"], "S": samples}
    if samples > 1 and sizes["C"] % samples == 0:
        sizes["C"] //= samples
    axes = described.axes
    if samples > 1:
        axes = f"{axes}S" if page_axes.endswith("S") else f"{axes[:-2]}S{axes[-2:]}"
    return axes, [sizes[axis] for axis in axes]


def _split(axes: str, shape: Sequence[int], described: OmeImage) -> tuple[str, tuple[int, ...]]:
    """Split the axes that contain another axis."""
    sizes = list(shape)
    for axis, (inner, size) in described.split_axes.items():
        place = axes.index(axis)
        if sizes[place] == size:
            axes = axes.replace(axis, inner)
        elif sizes[place] % size == 0 and inner not in axes:
            sizes[place : place + 1] = [sizes[place] // size, size]
            axes = axes.replace(axis, axis + inner)
    return axes, tuple(np.array(sizes).tolist())
