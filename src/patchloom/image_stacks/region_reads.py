"""Reading regions of any image stack, together where it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from patchloom.image_stacks.protocols import ImageStack, ReadsRegions, Region


def read_regions(stack: ImageStack, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
    """Read regions into given arrays: all together where the stack `ReadsRegions`, one by one where it does not.

    Parameters
    ----------
    stack : ImageStack
        Where to read.
    regions, out
        As for `ReadsRegions.read_regions`.

    Raises
    ------
    SourceError
        If pixels cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom.image_stacks import ArrayStack
    >>> out = np.zeros((1, 1, 2), "uint8")
    >>> read_regions(ArrayStack(np.eye(3), "YX"), [Region(0, slice(0, 1), (slice(1, 2), slice(0, 2)))], [out])
    >>> out.tolist()
    [[[0, 1]]]
    """
    if isinstance(stack, ReadsRegions):
        stack.read_regions(regions, out)
        return
    for region, target in zip(regions, out, strict=True):
        channels = list(range(region.channels.start, region.channels.stop))  # other libraries index by it
        coords = [part.start for part in region.window]
        sizes = [part.stop - part.start for part in region.window]
        target[...] = stack.extract_patch(region.sample_idx, channels, coords, sizes)
