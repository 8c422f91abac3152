"""The box that a source stores as one, seen as `SC(Z)YX`."""

from __future__ import annotations

from collections.abc import Sequence

from patchloom.axes import AxesMap


def as_data_box(axes_map: AxesMap, box: Sequence[int]) -> tuple[int, ...]:
    """Turn the shape of a chunk in a source's own axes into `SC(Z)YX`, clipped to the image.

    Samples and times fold into one axis, where a chunk of some of the times of several samples is no box any more; then it
    counts as its times of one sample.

    Examples
    --------
    >>> as_data_box(AxesMap("TCYX", (10, 3, 600, 500)), (4, 1, 256, 256))
    (4, 1, 256, 256)
    >>> as_data_box(AxesMap("STYX", (5, 10, 600, 500)), (2, 10, 256, 256))
    (20, 1, 256, 256)
    """
    size = {axis: min(side, axes_map.size(axis)) for axis, side in zip(axes_map.axes, box, strict=True)}
    times = size.get("T", 1)
    samples = size.get("S", 1) * times if times == axes_map.size("T") else times
    return (samples, size.get("C", 1), *(size[axis] for axis in axes_map.spatial))
