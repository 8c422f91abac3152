"""Image stacks of paths, URLs, arrays or open stacks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from patchloom.argument_checks import shown, whole_number
from patchloom.errors import ArgumentError, AxesError, PatchloomError, SourceError, SourceNotFoundError
from patchloom.image_stacks.array_stack import ArrayStack, SliceableArray
from patchloom.image_stacks.czi.stack import CziStack
from patchloom.image_stacks.npy_stack import NpyStack
from patchloom.image_stacks.protocols import HasFiles, ImageStack
from patchloom.image_stacks.source_paths import image_format, images_of, is_collection, split_number
from patchloom.image_stacks.tiff.stack import TiffStack
from patchloom.image_stacks.zarr.stack import ZarrStack
from patchloom.local_paths import normalize_path

Source = str | os.PathLike[str] | SliceableArray | ImageStack
"""One image (a path, a URL, an array or a stack), or several (a folder or a glob pattern)."""


def open_stacks(
    sources: Source | Sequence[Source], axes: str | Sequence[str | None] | None = None, *, level: int | None = None
) -> list[ImageStack]:
    """Open images lazily; no pixel is read.

    Parameters
    ----------
    sources : source or sequence of sources
        Paths, URLs (of Zarrs), folders of images, glob patterns, arrays and array-likes, or stacks, which are returned
        unchanged. Images of a folder or pattern are in natural order (`img2` before `img10`), and an image of several files
        (OME-TIFF) is listed once. `image.ome.zarr/1` is a level of an OME-Zarr, `slide.czi@2` a scene of a CZI, and
        `cells.ome.tif@2` one of several images of a TIFF, counted from 0. A path may be relative, contain `..`, `~` and
        links, or be a `file://` URL.
    axes : str or sequence of str or None, optional
        Axes of the sources: letters of `STCZYX`, outermost first; one string for all, or one for each source. They override
        the metadata. If None, they are read from the metadata.
    level : int, optional
        Level of the images' pyramids. If None, the full images.

    Returns
    -------
    list of ImageStack
        One stack for each image. They may differ in shape, axes and dtype: see `check_series`.

    Raises
    ------
    SourceNotFoundError, SourceError, AxesError, MissingExtraError
        If a source cannot be opened. If several cannot, one error lists them all.
    ArgumentError
        If there are no sources.

    Examples
    --------
    >>> import numpy as np
    >>> [stack.data_shape for stack in open_stacks([np.zeros((3, 64, 48)), np.zeros((9, 9))], axes=["CYX", "YX"])]
    [(1, 3, 64, 48), (1, 1, 9, 9)]
    >>> open_stacks(np.zeros((3, 64, 48)))
    Traceback (most recent call last):
        ...
    patchloom.errors.AxesError: array has shape (3, 64, 48), but its axes are not known: give one letter of 'STCZYX' for
    each, such as axes='ZYX' (--axes ZYX)
    """
    given = _listed(sources)
    if level is not None:
        level = whole_number("level", level, least=0)
    stacks: list[ImageStack] = []
    failures: list[PatchloomError] = []
    for source, own_axes in zip(given, _axes_of_each(axes, len(given)), strict=True):
        for stack in _opened(source, own_axes, level):
            if isinstance(stack, PatchloomError):
                failures.append(stack)
            else:
                stacks.append(stack)
    if failures:
        raise _one_error(failures, len(failures) + len(stacks))
    return stacks


def is_series(sources: Source | Sequence[Source]) -> bool:
    """Return whether sources are a series, even of a single image: a sequence, a folder or a pattern.

    Examples
    --------
    >>> import numpy as np
    >>> is_series(np.zeros((4, 4))), is_series("a.tif"), is_series(["a.tif"]), is_series("*.tif")
    (False, False, True, True)
    """
    if isinstance(sources, (str, os.PathLike)):
        try:
            return is_collection(normalize_path(sources))
        except (OSError, ValueError):  # a name that the file system does not accept, which open_stacks refuses
            return False
    return not _is_image(sources)


def _opened(source: Source, axes: str | None, level: int | None) -> Iterator[ImageStack | PatchloomError]:
    """Open the images of one source, and yield a stack or an error for each."""
    try:
        images = _images_of(source) if isinstance(source, (str, os.PathLike)) else None
    except PatchloomError as error:
        yield error
    else:
        yield from [_opened_one(source, axes, level)] if images is None else _opened_files(images, axes, level)


def _images_of(source: str | os.PathLike[str]) -> list[str | Path]:
    try:
        os.fsencode(source)
        return images_of(normalize_path(source))
    except (OSError, ValueError) as error:  # a name that the file system does not accept
        if isinstance(error, PatchloomError):
            raise
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise SourceNotFoundError(f"{shown(source)} is not a path: {why}; give the name of a file or folder") from error


def _opened_one(source: Source, axes: str | None, level: int | None) -> ImageStack | PatchloomError:
    try:
        return _open(source, axes, level)
    except PatchloomError as error:
        return error


def _opened_files(
    paths: Sequence[str | Path], axes: str | None, level: int | None
) -> Iterable[ImageStack | PatchloomError]:
    """Open the files and folders of a collection; a file that is part of another image is not opened as one."""
    opened: list[tuple[Path, ImageStack | PatchloomError]] = []
    parts: set[Path] = set()
    for path in paths:
        place = Path(os.path.realpath(path))  # Path.resolve raises where links are a loop
        if place in parts:
            continue
        stack = _opened_one(path, axes, level)
        files = {file.resolve() for file in stack.files} if isinstance(stack, HasFiles) else set()
        if len(files) > 1:
            parts |= files
            opened = [(earlier, image) for earlier, image in opened if earlier not in files]
        opened.append((place, stack))
    return [stack for _, stack in opened]


def _open(source: Source, axes: str | None, level: int | None) -> ImageStack:
    if isinstance(source, (str, os.PathLike)):
        return _open_path(normalize_path(source), axes, level)
    if isinstance(source, ImageStack):
        _check_no_level(source.source, level)
        if axes not in (None, source.original_axes):
            raise AxesError(
                f"axes are {axes!r}, but {source.source} is an open stack with axes {source.original_axes!r}: give None"
            )
        return source
    if not _is_image(source):
        raise SourceError(f"{shown(source)} is not a source of images: give a path, a URL, an array or an image stack")
    _check_no_level("array", level)
    return ArrayStack(source, axes)


def _open_path(path: str | Path, axes: str | None, level: int | None) -> ImageStack:
    match image_format(path):
        case "zarr":
            return ZarrStack(path, axes, level)
        case "tiff":
            file, number = split_number(path)
            return TiffStack(file, axes, series=number, level=level or 0)
        case "czi":
            _check_no_level(path, level)
            return CziStack(*split_number(path), axes=axes)
        case _:
            _check_no_level(path, level)
            return NpyStack(path, axes)


def _check_no_level(source: str | Path, level: int | None) -> None:
    if level not in (None, 0):
        raise SourceNotFoundError(f"{source} has no level {level}, it is a single image: leave out the level")


def _listed(sources: Source | Sequence[Source]) -> list[Source]:
    if isinstance(sources, (str, os.PathLike)) or _is_image(sources):
        return [cast("Source", sources)]
    if not isinstance(sources, Iterable) or isinstance(sources, (bytes, Mapping, type)):
        raise SourceError(f"{shown(sources)} is not a source of images: give a path, a URL, an array or an image stack")
    listed = list(cast("Iterable[Source]", sources))
    if not listed:
        raise ArgumentError("the series is empty: give at least one source")
    return listed


def _axes_of_each(axes: str | Sequence[str | None] | None, n_sources: int) -> list[str | None]:
    if not isinstance(axes, (list, tuple)):
        return [cast("str | None", axes)] * n_sources
    if len(axes) != n_sources:
        raise AxesError(
            f"axes are given for {len(axes)} sources, but there are {n_sources}: give one string for all, or one for each"
        )
    return list(axes)


def _is_image(source: object) -> bool:
    is_array = hasattr(source, "shape") and hasattr(source, "dtype") and hasattr(source, "__getitem__")
    return not isinstance(source, type) and (is_array or isinstance(source, ImageStack))


def _one_error(failures: Sequence[PatchloomError], n_images: int) -> PatchloomError:
    """Return the only error, or one that lists them all; it has their class if they share one."""
    if len(failures) == 1:
        return failures[0]
    kinds = {type(failure) for failure in failures}
    kind = kinds.pop() if len(kinds) == 1 else SourceError
    listed = "\n".join(f"  {failure}" for failure in failures)
    return kind(f"{len(failures)} of {n_images} images cannot be opened:\n{listed}")
