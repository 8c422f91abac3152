"""Voxel sizes and channels as OME-TIFF and ImageJ files tell them.

The resolution that any other TIFF may give is not used: it is meant for printers, and 72 dots an inch is what most
programs write there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import tifffile

from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.metadata import fitting_metadata, unit_of
from patchloom.image_stacks.tiff.ome_xml import OmeImage


def metadata_of_ome(image: OmeImage, axes_map: AxesMap, *, is_rgb: bool) -> ImageMetadata:
    """Metadata of an image that OME-XML describes, as far as they fit the axes."""
    return fitting_metadata(
        axes_map,
        name=image.name,
        steps={axis: _known(size, unit) for axis, (size, unit) in image.voxel_size.items()},
        channel_names=image.channel_names,
        channel_colors=image.channel_colors,
        is_rgb=is_rgb,
    )


def metadata_of_imagej(
    told: Mapping[str, Any], page: tifffile.TiffPage, axes_map: AxesMap, *, is_rgb: bool
) -> ImageMetadata:
    """Metadata of an ImageJ file, as far as they fit the axes.

    Parameters
    ----------
    told : mapping
        Its description, as tifffile reads it.
    page : TiffPage
        Its first page, which has the resolution.
    axes_map : AxesMap
        The image's axes and shape.
    is_rgb : bool
        Whether its channels are red, green and blue.
    """
    unit = _unit(told.get("unit"))
    steps = {"T": _known(_number(told.get("finterval")), _unit(told.get("tunit")) or "s")}
    sizes = {"Z": told.get("spacing"), "Y": _pixel_size(page, "YResolution"), "X": _pixel_size(page, "XResolution")}
    for axis, size in sizes.items():
        own_unit = _unit(told.get(f"{axis.lower()}unit")) or unit
        if own_unit:
            # Without a unit these are the printer's again.
            steps[axis] = _known(_number(size), own_unit)
    tables = [np.asarray(table) for table in _listed(told.get("LUTs"))]
    colors = ["".join(f"{value:02X}" for value in table[:, -1].tolist()) for table in tables if _is_lookup_table(table)]
    return fitting_metadata(axes_map, steps=steps, channel_colors=colors, is_rgb=is_rgb)


def _known(size: float | None, unit: str) -> tuple[float | None, str]:
    """Size and unit of a voxel; no size where the unit is not one of length or time, such as `"pixel"`."""
    name, factor = unit_of(unit)
    return (None if size is None or not name else abs(size) * factor, name)


def _unit(told: Any) -> str:
    """Read a unit of ImageJ's, which writes the micro sign as an escape."""
    return str(told or "").replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip()


def _number(told: Any) -> float | None:
    is_number = isinstance(told, (int, float)) and not isinstance(told, bool) and abs(told) < 1e300
    return float(told) if is_number and math.isfinite(told) else None


def _pixel_size(page: tifffile.TiffPage, tag: str) -> float | None:
    told = page.tags.valueof(tag)
    if not isinstance(told, tuple) or len(told) != 2 or not all(_number(part) for part in told):
        return None
    return float(told[1] / told[0])


def _listed(told: Any) -> list[Any]:
    return list(told) if isinstance(told, (list, tuple)) else []


def _is_lookup_table(table: np.ndarray[Any, Any]) -> bool:
    return table.shape == (3, 256) and bool(table.dtype == np.uint8)
