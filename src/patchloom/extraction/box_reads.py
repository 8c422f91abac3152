"""Boxes of an image stack that go into one array: read together, cast and rescaled on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from patchloom.extraction.gather import Boxes, as_slices, parts_of, rescale_parts
from patchloom.extraction.rescaling import Rescaling
from patchloom.image_stacks import ImageStack, Region, read_regions


class BoxReads(NamedTuple):
    """Boxes inside an image stack, and the array that they are read into."""

    boxes: Boxes
    """From the stack, `SC(Z)YX`, to `target`; `int64`."""

    target: NDArray[Any]
    """`(N, C, (Z), Y, X)`."""

    rescaling: Rescaling | None = None
    """For the target; from `Rescaling.astype`."""


ReadBoxes = Callable[[Sequence[BoxReads]], None]
"""Reads boxes of one image stack. Returns when all are read; raises `SourceError` if pixels cannot be read."""


def read_boxes(stack: ImageStack, reads: Sequence[BoxReads]) -> None:
    """Read boxes, all requested together; bound to a stack, it is a `ReadBoxes`."""
    regions: list[Region] = []
    parts: list[NDArray[Any]] = []
    for boxes, target, *_ in reads:
        samples = boxes.corners[:, 0].tolist()
        windows = as_slices(boxes.corners[:, 1:], boxes.extents)
        regions += [Region(sample, window[0], window[1:]) for sample, window in zip(samples, windows, strict=True)]
        parts += parts_of(target, boxes.places, boxes.extents)
    read_regions(stack, regions, parts)
    left = iter(parts)
    for boxes, _, rescaling in reads:
        of_read = list(itertools.islice(left, len(boxes.extents)))
        if rescaling is not None:
            rescale_parts(of_read, boxes.places, rescaling)
