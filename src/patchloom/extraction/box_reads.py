"""Boxes of an image stack that go into one array: read together, cast and normalised on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.gather import Boxes, gather, normalise
from patchloom.image_stacks import HoldsPixels, ImageStack, Region, read_regions


class BoxReads(NamedTuple):
    """Boxes that lie inside an image stack, and the array they go to."""

    boxes: Boxes
    """From the stack, `SC(Z)YX`, to `target`; `int64`."""

    target: NDArray[Any]
    """`(N, C, (Z), Y, X)`."""

    scale: NDArray[Any] | None = None
    """A factor for each channel of the target, in its dtype; with `offset` or not at all."""

    offset: NDArray[Any] | None = None


ReadBoxes = Callable[[Sequence[BoxReads]], None]
"""Reads boxes of one image stack; returns when all are there, and raises `SourceError` if pixels cannot be read."""


def box_reader(stack: ImageStack) -> ReadBoxes:
    """Choose how boxes of a stack are read: from memory where it holds its pixels, otherwise all issued together."""
    # Asked once, as the question takes longer than copying many a box.
    return partial(_read_held_pixels if isinstance(stack, HoldsPixels) else _read_from_source, stack)


def _read_held_pixels(stack: ImageStack, reads: Sequence[BoxReads]) -> None:
    pixels = cast("HoldsPixels", stack).pixels
    if pixels is None:
        _read_from_source(stack, reads)
        return
    for read in reads:
        gather(pixels, read.target, read.boxes, read.scale, read.offset)


def _read_from_source(stack: ImageStack, reads: Sequence[BoxReads]) -> None:
    targets = [_targets(read) for read in reads]
    regions = [region for read in reads for region in box_regions(read.boxes.corners, read.boxes.extents)]
    read_regions(stack, regions, [target for views in targets for target in views])
    for read, views in zip(reads, targets, strict=True):
        for first_channel, view in zip(read.boxes.places[:, 1].tolist(), views, strict=True):
            normalise(view, first_channel, read.scale, read.offset)


def box_regions(corners: NDArray[np.int64], extents: NDArray[np.int64]) -> list[Region]:
    """Name boxes as a stack wants them named.

    Parameters
    ----------
    corners : array
        `(n, axes)`, `SC(Z)YX`: the first voxel inside.
    extents : array
        `(n, axes - 1)`, `C(Z)YX`.

    Examples
    --------
    >>> box_regions(np.array([[4, 0, 10, 20]]), np.array([[2, 5, 6]]))
    [Region(sample_idx=4, channels=slice(0, 2, None), window=(slice(10, 15, None), slice(20, 26, None)))]
    """
    stops = (corners[:, 1:] + extents).tolist()
    regions = []
    for (sample_idx, *first), last in zip(corners.tolist(), stops, strict=True):
        channels, *window = map(slice, first, last)
        regions.append(Region(sample_idx, channels, tuple(window)))
    return regions


def _targets(read: BoxReads) -> list[NDArray[Any]]:
    places, stops = read.boxes.places, read.boxes.places[:, 1:] + read.boxes.extents
    return [
        read.target[(number, *map(slice, first, last))]
        for (number, *first), last in zip(places.tolist(), stops.tolist(), strict=True)
    ]
