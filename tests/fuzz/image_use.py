"""The use of an image by a target: open it, read its metadata, and read a few windows."""

from __future__ import annotations

from pathlib import Path

from patchloom.errors import AxesError, SeveralImagesError
from patchloom.image_stacks import HasMetadata, HasStorageGrid, ImageStack, open_stacks

_WINDOW = 24
"""Voxels that a window has along each axis."""

_IMAGES = 4
"""Images of a file that are read."""

_AXES = ("YX", "ZYX", "CZYX", "TCZYX", "STCZYX")


def open_and_read(path: Path) -> None:
    """Open all images of a path and read the corners and the middle of each.

    Parameters
    ----------
    path : Path
        A file or folder.
    """
    for stack in _opened(path):
        if isinstance(stack, HasMetadata):
            hash(repr(stack.metadata))
        if isinstance(stack, HasStorageGrid):
            hash((stack.chunk_shape, stack.shard_shape))
        _read_windows(stack)


def _opened(path: Path) -> list[ImageStack]:
    try:
        return _opened_somehow(path)
    except SeveralImagesError as error:
        return [stack for name in list(error.images)[:_IMAGES] for stack in _opened_somehow(Path(name))]


def _opened_somehow(path: Path) -> list[ImageStack]:
    """Open a path with the first axes that fit, where it has none of its own."""
    try:
        return open_stacks(path)
    except AxesError as error:
        unknown = error
    for axes in _AXES:
        try:
            return open_stacks(path, axes)
        except AxesError:
            continue
    raise unknown


def _read_windows(stack: ImageStack) -> None:
    n_samples, n_channels, *spatial = stack.data_shape
    size = [min(side, _WINDOW) for side in spatial]
    channels = sorted({0, n_channels // 2, n_channels - 1})
    for sample_idx in sorted({0, n_samples // 2, n_samples - 1}):
        for share in (0, 1, 2):
            coords = [(side - length) * share // 2 for side, length in zip(spatial, size, strict=True)]
            stack.extract_patch(sample_idx, channels, coords, size)
