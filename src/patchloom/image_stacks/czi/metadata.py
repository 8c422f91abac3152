"""Voxel sizes and channels of CZI files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.metadata import fitting_metadata

_MICROMETERS_A_METER = 1e6


def czi_metadata(
    document: dict[str, Any], axes_map: AxesMap, channels: Sequence[int], *, is_rgb: bool = False
) -> ImageMetadata:
    """Return the metadata of a CZI, as far as they fit the image.

    Parameters
    ----------
    document : dict
        XML of the file as nested dictionaries, in which the names of attributes begin with `@`.
    axes_map : AxesMap
        Axes and shape of the image.
    channels : sequence of int
        Indices of the image's channels in the file.
    is_rgb : bool
        Whether the channels are red, green and blue.

    Examples
    --------
    >>> items = {"Distance": [{"@Id": "X", "Value": "2.5e-07"}, {"@Id": "Y", "Value": "2.5e-07"}]}
    >>> czi_metadata({"ImageDocument": {"Metadata": {"Scaling": {"Items": items}}}}, AxesMap("YX", (64, 48)), [0]).voxel_size
    {'Y': 0.25, 'X': 0.25}
    """
    listed = _children(document, "Information", "Image", "Dimensions", "Channels", "Channel")
    used = [listed[channel] for channel in channels if channel in range(len(listed))]
    displayed = {str(shown.get("@Id")): shown for shown in _children(document, "DisplaySetting", "Channels", "Channel")}
    colors = [displayed.get(str(channel.get("@Id")), {}).get("Color") or channel.get("Color") for channel in used]
    distances = {
        str(distance.get("@Id")): _number(distance.get("Value"))
        for distance in _children(document, "Scaling", "Items", "Distance")
    }
    return fitting_metadata(
        axes_map,
        steps={
            # Stored in meters. No microscope measures more exactly than a femtometer.
            axis: (round(distance * _MICROMETERS_A_METER, 9), "micrometer")
            for axis, distance in distances.items()
        },
        channel_names=[str(channel.get("@Name") or "") for channel in used],
        channel_colors=[_rgb(color) for color in colors],
        is_rgb=is_rgb,
    )


def _number(text: Any) -> float:
    """Return a text as a number, NaN if it is not one."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan


def _rgb(color: Any) -> str:
    """Return `#AARRGGBB` as `RRGGBB`, empty if it is not a color."""
    text = str(color or "").removeprefix("#")[-6:]
    return text.upper() if len(text) == 6 and set(text.upper()) <= set("0123456789ABCDEF") else ""


def _children(document: dict[str, Any], *path: str) -> list[dict[str, Any]]:
    """Return the elements at a path below the metadata; the document contains a single one without a list."""
    node: Any = document
    for name in ("ImageDocument", "Metadata", *path):
        node = node.get(name) if isinstance(node, dict) else None
    found = node if isinstance(node, list) else [node]
    return [child for child in found if isinstance(child, dict)]
