"""From what a file tells of voxels and channels to what is true of the image read from it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from patchloom.axes import AxesMap
from patchloom.image_metadata import RGB_COLORS, ImageMetadata
from patchloom.image_stacks.unit_names import unit_name

_COLOR = re.compile("[0-9A-Fa-f]{6}")


def fitting_metadata(
    axes_map: AxesMap,
    *,
    name: str = "",
    steps: Mapping[str, tuple[float | None, str]] | None = None,
    origin: Mapping[str, float | None] | None = None,
    channel_names: Sequence[str] = (),
    channel_colors: Sequence[str] = (),
    is_rgb: bool = False,
) -> ImageMetadata:
    """Keep what fits an image: files tell of axes that the image lacks, of sizes of 0, and of fewer channels.

    Parameters
    ----------
    axes_map : AxesMap
        The image's own axes and shape.
    name : str
        Its name.
    steps : mapping of str to (float, str)
        Size and unit of a voxel along each axis, as the file has them. A negative size is that of a flipped axis; one that is
        0, infinite or NaN is unknown.
    origin : mapping of str to float
        Where the first voxel is along each axis. That of a flipped axis is where the last voxel is, so that the image
        covers the same part of space.
    channel_names, channel_colors : sequence of str
        Left out as a whole unless there is one for each channel; so are colors other than `RRGGBB`.
    is_rgb : bool
        Whether the channels are red, green and blue, which then are their colors. Heeded where there are three.

    Examples
    --------
    >>> told = fitting_metadata(AxesMap("YX", (64, 64)), steps={"Z": (2, "µm"), "Y": (-0.5, "µm"), "X": (0, "µm")})
    >>> told.voxel_size, told.units
    ({'Y': 0.5}, {'Y': 'micrometer'})
    """
    told = {axis: (steps or {}).get(axis, (None, "")) for axis in "TZYX" if axis in axes_map.axes}
    signed = {
        axis: (float(size), unit_name(unit)) for axis, (size, unit) in told.items() if size and math.isfinite(size)
    }
    places = {axis: (origin or {}).get(axis) for axis in told}
    moved = {
        axis: place + min(signed[axis][0], 0) * (axes_map.size(axis) - 1)
        for axis, place in places.items()
        if place is not None and axis in signed
    }
    n_channels = axes_map.size("C")
    is_rgb = is_rgb and n_channels == 3
    colors = RGB_COLORS if is_rgb else tuple(color.upper() for color in channel_colors)
    return ImageMetadata(
        name=name,
        voxel_size={axis: abs(size) for axis, (size, _) in signed.items()},
        origin={axis: place for axis, place in moved.items() if math.isfinite(place)},
        units={axis: unit for axis, (_, unit) in signed.items() if unit},
        channel_names=tuple(channel_names) if len(channel_names) == n_channels and all(channel_names) else (),
        channel_colors=colors if len(colors) == n_channels and all(map(_COLOR.fullmatch, colors)) else (),
        is_rgb=is_rgb,
    )
