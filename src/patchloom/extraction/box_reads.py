"""Boxes of an image stack that go into one array: read together, cast and normalized on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from patchloom.extraction.gather import Boxes, as_slices, normalize, parts_of
from patchloom.image_stacks import ImageStack, Region, read_regions


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


def read_boxes(stack: ImageStack, reads: Sequence[BoxReads]) -> None:
    """Read boxes, all issued together; with a stack it is a `ReadBoxes`."""
    regions: list[Region] = []
    parts: list[NDArray[Any]] = []
    for boxes, target, *_ in reads:
        samples = boxes.corners[:, 0].tolist()
        windows = as_slices(boxes.corners[:, 1:], boxes.extents)
        regions += [Region(sample, window[0], window[1:]) for sample, window in zip(samples, windows, strict=True)]
        parts += parts_of(target, boxes.places, boxes.extents)
    read_regions(stack, regions, parts)
    left = iter(parts)
    for boxes, _, scale, offset in reads:
        for first, part in zip(boxes.places[:, 1].tolist(), left, strict=False):
            if scale is not None and offset is not None:
                channels = slice(first, first + len(part))
                normalize(part, part.ndim, scale[channels], offset[channels])
