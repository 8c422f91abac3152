"""Image stacks over TIFF files: plain, OME-TIFF, ImageJ's, BigTIFF, tiled or in strips, of any compression."""

from __future__ import annotations

import html
import logging
import math
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from patchloom.axes import LEGAL_AXES, AxesMap
from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.sliced_stack import SlicedStack
from patchloom.image_stacks.source_axes import axes_from_names, unknown_axes
from patchloom.image_stacks.storage_grid import as_data_box
from patchloom.image_stacks.tiff_metadata import tiff_metadata
from patchloom.image_stacks.tiff_pages import (
    MISSING,
    Decoder,
    PageTable,
    check_within_files,
    decoder,
    page_table,
    read_pages,
)
from patchloom.local_paths import normalize_path


class TiffStack(SlicedStack):
    """An image stack over a TIFF; a region read touches its own strips or tiles only.

    No stack keeps its file open. Where the pixels are compressed or cut up, it has a storage grid (`HasStorageGrid`).

    Parameters
    ----------
    path : str or Path
        The file. Of an OME-TIFF made of several files, any one that describes them all.
    axes : str, optional
        The axes, letters of `STCZYX`, outermost first. They overrule what the file says, if they are as many as the
        axes it has, counted with or without those of size 1. Without them the file must say: OME-TIFF and ImageJ's
        hyperstacks do, and the samples of an RGB image are `C`. A `Z` of size 1 is then left out.
    series : int, optional
        Which image of a file with several; by default the first that has a page in this file.
    level : int
        Which level of its pyramid; 0 is the full image.

    Raises
    ------
    SourceNotFoundError
        If there is no such file, series or level.
    SourceError
        If the file is no TIFF, is truncated, or belongs to a set that lacks files.
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
        path = normalize_path(path)
        with _opened(path) as tif:
            _check_last_page(path, tif)
            series = _first_series_inside(tif) if series is None else series
            image = _image(path, tif, series, level)
            table = page_table(image)
            check_within_files(table)
            _check_file_set(path, tif, table)
            axes_map = _axes_map(path, image, axes)
            super().__init__(path, axes_map, np.dtype(image.dtype), _metadata(tif, series, level, axes_map))
            self._table = table
            self._decode: Decoder | None = image.keyframe.decode
        self._series, self._level = series, level
        self._n_leading = _leading_axes(path, axes_map.shape, self._table)
        if not self._table.mapped:
            self.chunk_shape = self.shard_shape = as_data_box(axes_map, self._in_own_axes(self._table.segment_shape))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that pages lie in; see `HasFiles.files`."""
        return tuple(map(Path, self._table.files))

    @property
    def image_in_files(self) -> str:
        """Which series and level; see `HasFiles.image_in_files`."""
        return f"series {self._series}, level {self._level}"

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box, a page at a time; see `SlicedStack.read`."""
        if self._decode is None:
            self._decode = decoder(self._table)
        windows = [slice(index, index + 1) if isinstance(index, int) else index for index in selection]
        leading = windows[: self._n_leading]
        numbers = np.arange(len(self._table.offsets)).reshape(self.original_data_shape[: self._n_leading])
        pages = numbers[tuple(leading)].ravel().tolist()
        box = self._in_page(windows[self._n_leading :])
        boxes = np.zeros((len(pages), *(part.stop - part.start for part in box)), self.data_dtype)
        read_pages(self._table, pages, box, boxes, self._decode)
        return boxes.reshape([index.stop - index.start for index in selection if isinstance(index, slice)])

    def _in_page(self, windows: Sequence[slice]) -> tuple[slice, ...]:
        """Turn windows of the axes within a page into a box of a page; an axis that only one of them has is of size 1."""
        shape = self.original_data_shape[self._n_leading :]
        long = iter(window for window, size in zip(windows, shape, strict=True) if size > 1)
        return tuple(next(long) if size > 1 else slice(0, 1) for size in self._table.page_shape)

    def _in_own_axes(self, segment_shape: Sequence[int]) -> tuple[int, ...]:
        shape = self.original_data_shape
        long = iter(side for side, size in zip(segment_shape, self._table.page_shape, strict=True) if size > 1)
        within = [next(long) if size > 1 else 1 for size in shape[self._n_leading :]]
        return (*[1] * self._n_leading, *within)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decode": None}


@contextmanager
def _opened(path: str | Path) -> Iterator[tifffile.TiffFile]:
    """Open a file, with what is wrong with it as one error, and nothing on the log beside it."""
    with _held_back_log():
        try:
            with tifffile.TiffFile(path) as tif:
                yield tif
        except SourceError:
            raise
        except FileNotFoundError as error:
            raise SourceNotFoundError(f"there is no file {path}") from error
        except (tifffile.TiffFileError, OSError, RuntimeError, IndexError, KeyError, TypeError, struct.error) as error:
            raise SourceError(f"{path} cannot be read as a TIFF: {error}") from error


@contextmanager
def _held_back_log() -> Iterator[None]:
    """Hold back what tifffile logs in this thread; an error replaces it, otherwise it is logged after all."""
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


def _first_series_inside(tif: tifffile.TiffFile) -> int:
    """Of the images that an OME-TIFF describes, find one that does not lie in other files only."""
    inside = (any(page is not None and page.parent is tif for page in series.pages) for series in tif.series)
    return next((number for number, is_inside in enumerate(inside) if is_inside), 0)


def _image(path: str | Path, tif: tifffile.TiffFile, series: int, level: int) -> tifffile.TiffPageSeries:
    n_series = len(tif.series)
    if series not in range(n_series):
        raise SourceNotFoundError(f"{path} has no series {series}: it has {n_series}, counted from 0")
    levels = tif.series[series].levels
    if level not in range(len(levels)):
        raise SourceNotFoundError(f"{path} has no level {level}: it has {len(levels)}, counted from 0")
    image: tifffile.TiffPageSeries = levels[level]
    if image.transform is not None or image.dtype is None:
        raise SourceError(f"{path} keeps its pixels in a way that is not supported ({image.kind})")
    return image


def _axes_map(path: str | Path, image: tifffile.TiffPageSeries, axes: str | None) -> AxesMap:
    if axes is not None:
        shapes = [image.get_shape(squeeze) for squeeze in (None, True, False)]
        shape = next((shape for shape in shapes if len(shape) == len(str(axes))), shapes[0])
        return AxesMap(axes, shape)
    named = [("C" if axis == "S" else axis, size) for axis, size in zip(image.axes, image.shape, strict=True)]
    letters = [axis for axis, _ in named]
    # A single slice is a 2D image, and any other axis of size 1 is no loss where there is no letter for it, or it is there
    # twice.
    fits = {axis for axis in LEGAL_AXES if axis != "Z" and letters.count(axis) == 1}
    kept = [(axis, size) for axis, size in named if size > 1 or axis in fits]
    own = axes_from_names([axis for axis, _ in kept])
    if own is None:
        raise unknown_axes(path, image.shape, f"and its axes are told as {image.axes!r}")
    return AxesMap(own, tuple(size for _, size in kept))


def _metadata(tif: tifffile.TiffFile, series: int, level: int, axes_map: AxesMap) -> ImageMetadata:
    metadata = tiff_metadata(tif, series, axes_map)
    if level:
        full, lower = (tif.series[series].levels[number] for number in (0, level))
        sizes = dict(zip(lower.axes, lower.shape, strict=True))
        for axis, size in zip(full.axes, full.shape, strict=True):
            if axis in "ZYX" and axis in metadata.voxel_size:
                metadata.voxel_size[axis] *= size / sizes[axis]
    return metadata


def _leading_axes(path: str | Path, shape: Sequence[int], table: PageTable) -> int:
    """Count the outer axes, which number the pages; the others lie within a page."""
    within_page = [size for size in table.page_shape if size > 1]
    for n_leading in reversed(range(len(shape) + 1)):
        within = [size for size in shape[n_leading:] if size > 1]
        if within == within_page and math.prod(shape[:n_leading]) == len(table.offsets):
            return n_leading
    raise SourceError(f"{path} has shape {tuple(shape)}, which its pages of shape {table.page_shape} do not make up")


def _check_last_page(path: str | Path, tif: tifffile.TiffFile) -> None:
    """Refuse a file whose list of pages breaks off: the last page names no next one."""
    position, size = tif.pages.next_page_offset, tif.tiff.offsetsize
    if position is not None:
        tif.filehandle.seek(position)
        if tif.filehandle.read(size) != bytes(size):
            raise SourceError(f"{path} is truncated: it ends before its last page")


def _check_file_set(path: str | Path, tif: tifffile.TiffFile, table: PageTable) -> None:
    """Refuse an OME-TIFF of several files of which some are not there; planes never acquired are another matter."""
    if (table.file_of_page == MISSING).any():
        names = re.findall(r'FileName="([^"]+)"', tif.ome_metadata or "")
        absent = [name for name in dict.fromkeys(map(html.unescape, names)) if not Path(path).with_name(name).exists()]
        if absent:
            raise SourceNotFoundError(
                f"{path} is one file of a set, and {len(absent)} are missing, such as {absent[0]}"
            )
