"""From what a file tells of voxels and channels to what is true of the image read from it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.unit_names import unit_name


def fitting_metadata(
    axes_map: AxesMap,
    *,
    name: str = "",
    steps: Mapping[str, tuple[float | None, str]] | None = None,
    channel_names: Sequence[str] = (),
    channel_colors: Sequence[str] = (),
) -> ImageMetadata:
    """Keep what fits an image: files tell of axes that the image lacks, of sizes of 0, and of fewer channels.

    Parameters
    ----------
    axes_map : AxesMap
        The image's own axes and shape.
    name : str
        Its name.
    steps : mapping of str to (float, str)
        Size and unit of a voxel along each axis, as the file has them.
    channel_names, channel_colors : sequence of str
        Left out as a whole unless there is one for each channel.

    Examples
    --------
    >>> fitting_metadata(AxesMap("YX", (64, 64)), steps={"Z": (2, "µm"), "Y": (0.5, "µm"), "X": (0, "µm")})
    ImageMetadata(name='', voxel_size={'Y': 0.5}, units={'Y': 'micrometer'}, channel_names=(), channel_colors=())
    """
    told = {axis: (steps or {}).get(axis, (None, "")) for axis in "TZYX" if axis in axes_map.axes}
    known = {
        axis: (float(size), unit_name(unit))
        for axis, (size, unit) in told.items()
        if size is not None and size > 0 and math.isfinite(size)
    }
    n_channels = axes_map.size("C")
    return ImageMetadata(
        name=name,
        voxel_size={axis: size for axis, (size, _) in known.items()},
        units={axis: unit for axis, (_, unit) in known.items() if unit},
        channel_names=tuple(channel_names) if len(channel_names) == n_channels and all(channel_names) else (),
        channel_colors=tuple(channel_colors) if len(channel_colors) == n_channels and all(channel_colors) else (),
    )
