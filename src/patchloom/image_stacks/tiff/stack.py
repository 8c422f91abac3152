"""Image stacks over TIFF files: plain, OME-TIFF, ImageJ's, BigTIFF, tiled or in strips, of any compression."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.axes import LEGAL_AXES, AxesMap
from patchloom.errors import PatchloomError, SeveralImagesError, SourceError, SourceNotFoundError
from patchloom.geometry.checks import whole_number
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.sliced_stack import SlicedStack, as_data_box
from patchloom.image_stacks.source_axes import axes_from_names, axes_map_of, unknown_axes
from patchloom.image_stacks.source_paths import checked_path
from patchloom.image_stacks.tiff.described_images import tiff_images
from patchloom.image_stacks.tiff.directories import Directories, read_directories
from patchloom.image_stacks.tiff.image import TiffImage, TiffLevel
from patchloom.image_stacks.tiff.pages import PageTable, page_table, read_pages
from patchloom.image_stacks.tiff.segments import Decoder, segment_decoder


class TiffStack(SlicedStack):
    """An image stack over a TIFF, of which only the strips or tiles of a region are read.

    No stack keeps its file open. It has a storage grid (`HasStorageGrid`), unless each page is one run of uncompressed pixels.

    Parameters
    ----------
    path : str or Path
        The file. Of an OME-TIFF of several files, any file that describes them all.
    axes : str, optional
        Axes of the image: letters of `STCZYX`, outermost first, one for each axis of the file, with or without axes of size 1.
        They override the metadata. If None, they are read from the metadata of OME-TIFF or ImageJ; the samples of an RGB image
        are `C`, and a `Z` of size 1 is left out.
    series : int, optional
        Index of the image in a file with several images. If None, the file must have one image, not counting its smaller copies,
        labels and overviews, and images in other files of a set.
    level : int
        Level of the image's pyramid; 0 is the full image.

    Raises
    ------
    SourceNotFoundError
        If there is no such file, series or level.
    SeveralImagesError
        If the file has several images, and none is chosen; the message lists them.
    SourceError
        If the file is not a TIFF, is damaged, belongs to a set with missing files, or its description does not fit its pages.
        Files outside its folder are never read.
    AxesError
        If the axes are not known or do not fit the image.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder, "cells.ome.tif")
    ...     tifffile.imwrite(path, np.ones((3, 64, 48), "uint8"), metadata={"axes": "CYX"}, tile=(32, 32))
    ...     stack = TiffStack(path)
    ...     print(stack.original_axes, stack.data_shape, stack.chunk_shape)
    ...     print(stack.extract_patch(0, [2], (60, 0), (8, 1))[0, :, 0])
    CYX (1, 3, 64, 48) (1, 1, 32, 32)
    [1 1 1 1 0 0 0 0]
    """

    chunk_shape: tuple[int, ...]
    """The strip or tile, `SC(Z)YX`; only where pixels are stored in such pieces."""

    shard_shape: tuple[int, ...]
    """The same as `chunk_shape`."""

    def __init__(self, path: str | Path, axes: str | None = None, *, series: int | None = None, level: int = 0) -> None:
        path = checked_path("path", path)
        with _opened(path) as (tif, directories):
            images = tiff_images(tif, directories, ignores_description=axes is not None)
            number = _chosen(path, images) if series is None else _checked("image", path, series, len(images))
            image = images[number]
            chosen = image.level(_checked("level", path, level, image.n_levels))
            table = page_table(chosen.pages)
            axes_map = _axes_map(path, chosen, axes)
            metadata = _metadata(image, chosen, level, axes_map)
        super().__init__(path if series is None else f"{path}@{series}", axes_map, table.dtype, metadata)
        self._table = table
        self._decoders: dict[int, Decoder] = {}
        self._series, self._level = number, level
        self._n_leading = _leading_axes(path, axes_map.shape, table)
        if table.segment_shape is not None:
            self.chunk_shape = self.shard_shape = as_data_box(axes_map, self._in_own_axes(table.segment_shape))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files in which pages lie; see `HasFiles.files`."""
        return tuple(map(Path, self._table.files))

    @property
    def image_in_files(self) -> str:
        """Series and level; see `HasFiles.image_in_files`."""
        return f"series {self._series}, level {self._level}"

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box, a page at a time; see `SlicedStack.read`."""
        windows = [slice(index, index + 1) if isinstance(index, int) else index for index in selection]
        leading = windows[: self._n_leading]
        numbers = np.arange(len(self._table.offsets)).reshape(self.original_data_shape[: self._n_leading])
        pages = numbers[tuple(leading)].ravel().tolist()
        box = self._in_page(windows[self._n_leading :])
        boxes = np.zeros((len(pages), *(part.stop - part.start for part in box)), self.data_dtype)
        read_pages(self._table, pages, box, boxes, self._decoder)
        return boxes.reshape([index.stop - index.start for index in selection if isinstance(index, slice)])

    def _decoder(self, kind: int) -> Decoder:
        if kind not in self._decoders:
            self._decoders[kind] = segment_decoder(*self._table.kinds[kind].directory)
        return self._decoders[kind]

    def _in_page(self, windows: Sequence[slice]) -> tuple[slice, ...]:
        """Return windows of the axes within a page as a box of a page; axes that only one of them has are of size 1."""
        shape = self.original_data_shape[self._n_leading :]
        long = iter(window for window, size in zip(windows, shape, strict=True) if size > 1)
        return tuple(next(long) if size > 1 else slice(0, 1) for size in self._table.page_shape)

    def _in_own_axes(self, segment_shape: Sequence[int]) -> tuple[int, ...]:
        shape = self.original_data_shape
        long = iter(side for side, size in zip(segment_shape, self._table.page_shape, strict=True) if size > 1)
        within = [next(long) if size > 1 else 1 for size in shape[self._n_leading :]]
        return (*[1] * self._n_leading, *within)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decoders": {}}


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[tifffile.TiffFile, Directories]]:
    """Open a file; if it is damaged, raise one error and log nothing."""
    with _held_back_log():
        try:
            _check_is_file(path)
            # Links are followed once, here: the other files of a set are beside the file, not beside a link to it.
            real = Path(path).resolve()
            directories = read_directories(real)
            with tifffile.TiffFile(real) as tif:
                yield tif, directories
        except (PatchloomError, MemoryError):
            raise
        except Exception as error:
            # A damaged value may cause any error in tifffile.
            raise SourceError(f"{path} cannot be read as a TIFF: {type(error).__name__}: {error}") from error


def _check_is_file(path: str | Path) -> None:
    if not Path(path).exists():
        raise SourceNotFoundError(f"there is no file {path}: check the path")
    if not Path(path).is_file():
        raise SourceError(f"{path} cannot be read as a TIFF: it is not a file")


@contextmanager
def _held_back_log() -> Iterator[None]:
    """Hold back the log records of tifffile in this thread; they are dropped if an error is raised, else logged at the end."""
    held: list[logging.LogRecord] = []
    thread = threading.get_ident()

    def hold(record: logging.LogRecord) -> bool:
        if record.thread == thread:
            held.append(record)
        return record.thread != thread

    log = logging.getLogger("tifffile")
    log.addFilter(hold)
    try:
        yield
    finally:
        log.removeFilter(hold)
    for record in held:
        log.handle(record)


def _chosen(path: str | Path, images: Sequence[TiffImage]) -> int:
    """Return the index of the only image of a file, not counting associated ones."""
    own = [number for number, image in enumerate(images) if not image.is_associated] or list(range(len(images)))
    here = [number for number in own if images[number].is_here] or own
    if not here:
        raise SourceError(f"{path} has no images")
    if len(here) > 1:
        described = {f"{path}@{number}": _described(image) for number, image in enumerate(images)}
        raise SeveralImagesError.of(path, described)
    return here[0]


def _described(image: TiffImage) -> str:
    axes, shape = image.outline
    name = f"{image.name[:100]!r}, " if image.name else ""
    return f"{name}{axes} {' × '.join(map(str, shape))}{', associated' * image.is_associated}".strip()


def _checked(what: str, path: str | Path, number: int, limit: int) -> int:
    if whole_number(what, number) not in range(limit):
        raise SourceNotFoundError(f"{path} has no {what} {number}: it has {limit}, counted from 0")
    return number


def _axes_map(path: str | Path, level: TiffLevel, axes: str | None) -> AxesMap:
    if axes is not None:
        shapes = [level.declared[1], level.squeezed[1], level.shape]
        shape = next((shape for shape in shapes if len(shape) == len(str(axes))), shapes[0])
        return axes_map_of(path, axes, shape)
    named = [("C" if axis == "S" else axis, size) for axis, size in zip(*level.declared, strict=True)]
    letters = [axis for axis, _ in named]
    # A single slice is a 2D image, and any other axis of size 1 is left out if it has no letter or occurs twice.
    fits = {axis for axis in LEGAL_AXES if axis != "Z" and letters.count(axis) == 1}
    kept = [(axis, size) for axis, size in named if size > 1 or axis in fits]
    own = axes_from_names([axis for axis, _ in kept])
    if own is None:
        unknown = ", ".join(dict.fromkeys(axis for axis in letters if axis not in LEGAL_AXES))
        reason = f"the file contains the axes {level.declared[0]!r}" + (f" (unknown: {unknown})" if unknown else "")
        raise unknown_axes(path, level.declared[1], reason, letters)
    return AxesMap(own, tuple(size for _, size in kept))


def _metadata(image: TiffImage, chosen: TiffLevel, level: int, axes_map: AxesMap) -> ImageMetadata:
    metadata = image.metadata(axes_map, is_rgb=chosen.is_rgb)
    if level:
        full, lower = (dict(zip(*of.squeezed, strict=True)) for of in (image.level(0), chosen))
        for axis in metadata.voxel_size:
            if axis in "ZYX":
                metadata.voxel_size[axis] *= full.get(axis, 1) / lower.get(axis, 1)
    return metadata


def _leading_axes(path: str | Path, shape: Sequence[int], table: PageTable) -> int:
    """Return the number of outer axes, along which pages lie; the others are axes of a page."""
    within_page = [size for size in table.page_shape if size > 1]
    for n_leading in reversed(range(len(shape) + 1)):
        within = [size for size in shape[n_leading:] if size > 1]
        if within == within_page and math.prod(shape[:n_leading]) == len(table.offsets):
            return n_leading
    raise SourceError(f"{path} has shape {tuple(shape)}, which its pages of shape {table.page_shape} do not make up")
