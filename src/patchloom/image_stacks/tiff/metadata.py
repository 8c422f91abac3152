"""Voxel sizes and channels of OME-TIFF and ImageJ files.

The resolution in other TIFFs is not used: it is meant for printers, and most programs write 72 dots per inch.
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
    """Return the metadata of an image in OME-XML, as far as they fit the axes."""
    return fitting_metadata(
        axes_map,
        name=image.name,
        steps={axis: _known(size, unit) for axis, (size, unit) in image.voxel_size.items()},
        channel_names=image.channel_names,
        channel_colors=image.channel_colors,
        is_rgb=is_rgb,
    )


def metadata_of_imagej(
    description: Mapping[str, Any], page: tifffile.TiffPage, axes_map: AxesMap, *, is_rgb: bool
) -> ImageMetadata:
    """Return the metadata of an ImageJ file, as far as they fit the axes.

    Parameters
    ----------
    description : mapping
        Description of the file, as tifffile reads it.
    page : TiffPage
        First page, which has the resolution.
    axes_map : AxesMap
        Axes and shape of the image.
    is_rgb : bool
        Whether the channels are red, green and blue.
    """
    unit = _unit(description.get("unit"))
    steps = {"T": _known(_number(description.get("finterval")), _unit(description.get("tunit")) or "s")}
    sizes = {
        "Z": description.get("spacing"),
        "Y": _pixel_size(page, "YResolution"),
        "X": _pixel_size(page, "XResolution"),
    }
    for axis, size in sizes.items():
        own_unit = _unit(description.get(f"{axis.lower()}unit")) or unit
        if own_unit:
            # Without a unit, the resolution is the printer's.
            steps[axis] = _known(_number(size), own_unit)
    tables = [np.asarray(table) for table in _listed(description.get("LUTs"))]
    colors = ["".join(f"{value:02X}" for value in table[:, -1].tolist()) for table in tables if _is_lookup_table(table)]
    return fitting_metadata(axes_map, steps=steps, channel_colors=colors, is_rgb=is_rgb)


def _known(size: float | None, unit: str) -> tuple[float | None, str]:
    """Return size and unit of a voxel; no size if the unit is not one of length or time, such as `"pixel"`."""
    name, factor = unit_of(unit)
    return (None if size is None or not name else abs(size) * factor, name)


def _unit(value: Any) -> str:
    """Return a unit of ImageJ, which writes the micro sign as an escape sequence."""
    return str(value or "").replace("\\u00B5", "µ").replace("\\u00b5", "µ").strip()


def _number(value: Any) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300
    return float(value) if is_number and math.isfinite(value) else None


def _pixel_size(page: tifffile.TiffPage, tag: str) -> float | None:
    value = page.tags.valueof(tag)
    if not isinstance(value, tuple) or len(value) != 2 or not all(_number(part) for part in value):
        return None
    return float(value[1] / value[0])


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _is_lookup_table(table: np.ndarray[Any, Any]) -> bool:
    return table.shape == (3, 256) and bool(table.dtype == np.uint8)
