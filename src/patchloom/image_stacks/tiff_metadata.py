"""Voxel sizes and channels as OME-TIFF and ImageJ files tell them.

The resolution that any other TIFF may give is not used: it is meant for printers, and 72 dots an inch is what most
programs write there.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tifffile

from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.fitting_metadata import fitting_metadata
from patchloom.image_stacks.unit_names import unit_name


def tiff_metadata(tif: tifffile.TiffFile, series: int, axes_map: AxesMap) -> ImageMetadata:
    """Metadata of one series of an open file, as far as they fit the image.

    Parameters
    ----------
    tif : TiffFile
        The open file.
    series : int
        Which series of it.
    axes_map : AxesMap
        The image's axes and shape.
    """
    if tif.is_ome and tif.ome_metadata:
        images = _listed(tifffile.xml2dict(tif.ome_metadata).get("OME", {}).get("Image"))
        if series < len(images):
            return _of_ome_image(images[series], axes_map)
    if tif.is_imagej and tif.imagej_metadata:
        return _of_imagej(tif.imagej_metadata, tif.series[series].keyframe, axes_map)
    return ImageMetadata()


def _of_ome_image(image: dict[str, Any], axes_map: AxesMap) -> ImageMetadata:
    pixels = image.get("Pixels", {})
    steps = {axis: (pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "ZYX"}
    steps["T"] = (pixels.get("TimeIncrement"), pixels.get("TimeIncrementUnit", "s"))
    channels = _listed(pixels.get("Channel"))
    colors = [channel.get("Color") for channel in channels]
    return fitting_metadata(
        axes_map,
        name=str(image.get("Name", "")),
        steps=steps,
        channel_names=[str(channel.get("Name", "")) for channel in channels],
        # OME keeps a colour as a signed 32-bit number, red to alpha.
        channel_colors=["" if color is None else f"{(int(color) >> 8) & 0xFFFFFF:06X}" for color in colors],
    )


def _of_imagej(told: dict[str, Any], page: tifffile.TiffPage, axes_map: AxesMap) -> ImageMetadata:
    unit = str(told.get("unit", "")).replace("\\u00B5", "µ")
    steps: dict[str, tuple[float | None, str]] = {"T": (told.get("finterval"), "s")}
    if unit_name(unit):
        # Without a unit these are the printer's again.
        steps["Z"] = (told.get("spacing"), unit)
        steps["Y"] = (_pixel_size(page, "YResolution"), unit)
        steps["X"] = (_pixel_size(page, "XResolution"), unit)
    tables = [np.asarray(table) for table in told.get("LUTs", ())]
    colors = ["".join(f"{value:02X}" for value in table[:, -1].tolist()) for table in tables if table.shape == (3, 256)]
    return fitting_metadata(axes_map, steps=steps, channel_colors=colors)


def _pixel_size(page: tifffile.TiffPage, tag: str) -> float | None:
    numerator, denominator = page.tags.valueof(tag, (0, 1))
    return denominator / numerator if numerator else None


def _listed(element: Any) -> list[dict[str, Any]]:
    """Return XML children as a list, which a lone one is not."""
    if element is None:
        return []
    return list(element) if isinstance(element, (list, tuple)) else [element]
