"""Images in OME-XML as typed values, each of which is checked, since files are not trusted."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple
from xml.etree import ElementTree as ET

_LETTERS = {"angle": "A", "phase": "P", "tile": "R", "lifetime": "H", "lambda": "E"}
"""tifffile's letters for the types of `Modulo` annotations; `Q` for any other."""

_LARGEST = 2**62


class PlaneRun(NamedTuple):
    """Planes that are consecutive in the image and in a file (`TiffData`)."""

    first: Mapping[str, int]
    """Position of the first one along `Z`, `C` and `T`."""

    directory: int
    """Index of its page in the file."""

    n_planes: int | None
    """Number of planes; None for all pages from there on."""

    file_name: str | None
    """Name of the file; None for the file that contains the description."""

    uuid: str | None
    """Identifier of the file."""


@dataclass(frozen=True, slots=True)
class OmeImage:
    """One image in OME-XML."""

    name: str
    axes: str
    """Axes in the order of storage, outermost first: `Z`, `C` and `T` in any order, then `YX`."""
    sizes: Mapping[str, int]
    samples: int | None
    """Number of samples of a pixel, which count as channels; None if the channels do not declare it."""
    planes: tuple[PlaneRun, ...]
    voxel_size: Mapping[str, tuple[float | None, str]]
    """Size and unit of a voxel along `TZYX`, as in the file."""
    channel_names: tuple[str, ...]
    channel_colors: tuple[str, ...]
    """Colors as `RRGGBB`; empty for a channel without one."""
    split_axes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    """For each axis that contains another axis, the letter and the size of the other."""


@dataclass(frozen=True, slots=True)
class OmeDocument:
    """All images in OME-XML."""

    uuid: str | None
    images: tuple[OmeImage, ...]


def read_ome_xml(text: str) -> OmeDocument:
    """Read OME-XML.

    Raises
    ------
    ValueError
        If it is not XML, declares entities, or has values of the wrong type.

    Examples
    --------
    >>> sizes = 'SizeX="30" SizeY="20" SizeZ="3" SizeC="1" SizeT="1" PhysicalSizeX="0.5"'
    >>> pixels = f'<Pixels DimensionOrder="XYZCT" {sizes}><Channel Name="0488"/><TiffData IFD="0" PlaneCount="3"/></Pixels>'
    >>> (image,) = read_ome_xml(f'<OME UUID="urn:uuid:1"><Image Name="007">{pixels}</Image></OME>').images
    >>> image.name, image.axes, image.sizes["Z"], image.voxel_size["X"], image.channel_names
    ('007', 'TCZYX', 3, (0.5, 'µm'), ('0488',))
    """
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which OME-XML does not have")
    try:
        root = ET.fromstring(text)  # noqa: S314  # entities, the danger in XML, are refused above
    except ET.ParseError as error:
        raise ValueError(f"it is not XML: {error}") from error
    annotations = _split_axes(root)
    pairs = [(image, pixels) for image in _children(root, "Image") for pixels in _children(image, "Pixels")]
    return OmeDocument(root.get("UUID"), tuple(_image(image, pixels, annotations) for image, pixels in pairs))


def _image(
    image: ET.Element, pixels: ET.Element, annotations: Mapping[str | None, Mapping[str, tuple[str, int]]]
) -> OmeImage:
    axes = pixels.get("DimensionOrder", "")[::-1]
    if sorted(axes) != sorted("TCZYX") or not axes.endswith("YX"):
        raise ValueError(f"DimensionOrder is {pixels.get('DimensionOrder')!r}")
    channels = list(_children(pixels, "Channel"))
    samples = {
        _whole(channel, "SamplesPerPixel", least=1) for channel in channels if "SamplesPerPixel" in channel.attrib
    }
    if len(samples) > 1:
        raise ValueError("its channels differ in SamplesPerPixel")
    voxel_size = {
        axis: (_number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm"))
        for axis in "ZYX"
    }
    return OmeImage(
        name=image.get("Name", ""),
        axes=axes,
        sizes={axis: _whole(pixels, f"Size{axis}", least=1) for axis in axes},
        samples=next(iter(samples), None),
        planes=tuple(map(_plane_run, _children(pixels, "TiffData"))),
        voxel_size={**voxel_size, "T": (_number(pixels.get("TimeIncrement")), pixels.get("TimeIncrementUnit", "s"))},
        channel_names=tuple(channel.get("Name", "") for channel in channels),
        channel_colors=tuple(_color(channel.get("Color")) for channel in channels),
        split_axes=next((annotations.get(ref.get("ID"), {}) for ref in _children(image, "AnnotationRef")), {}),
    )


def _plane_run(data: ET.Element) -> PlaneRun:
    count = next((_whole(data, name) for name in ("PlaneCount", "NumPlanes") if name in data.attrib), None)
    if count is None and "IFD" in data.attrib:
        count = 1
    file = next(_children(data, "UUID"), None)
    return PlaneRun(
        first={axis: _whole(data, f"First{axis}", default=0) for axis in "ZCT"},
        directory=_whole(data, "IFD", default=0),
        n_planes=count,
        file_name=None if file is None else file.get("FileName"),
        uuid=None if file is None or file.text is None else file.text.strip(),
    )


def _split_axes(root: ET.Element) -> dict[str | None, dict[str, tuple[str, int]]]:
    """Find the annotations of axes that contain another axis."""
    return {
        annotation.get("ID"): {
            along.tag[-1]: (_LETTERS.get(along.get("Type", "").lower(), "Q"), _n_labels(along))
            for along in annotation.iter()
            if re.search(r"ModuloAlong[ZCT]$", along.tag)
        }
        for annotations in _children(root, "StructuredAnnotations")
        for annotation in annotations
        if annotation.get("Namespace", "").lower().endswith("modulo")
    }


def _n_labels(along: ET.Element) -> int:
    start, end, step = (
        _number(along.get(name, default)) for name, default in (("Start", "0"), ("End", ""), ("Step", "1"))
    )
    if start is None or end is None or not step:
        return max(1, sum(1 for _ in _children(along, "Label")))
    number = abs(end - start) / abs(step) + 1.5
    return int(min(number, _LARGEST)) if math.isfinite(number) else 1


def _children(element: ET.Element, tag: str) -> Iterator[ET.Element]:
    """Return the children with a name, in any namespace."""
    return (child for child in element if child.tag.rpartition("}")[2] == tag)


def _whole(element: ET.Element, name: str, *, least: int = 0, default: int | None = None) -> int:
    text = element.get(name)
    if text is None and default is not None:
        return default
    if text is None or not re.fullmatch(r"\s*\+?[0-9]{1,19}\s*", text) or not least <= int(text) <= _LARGEST:
        raise ValueError(f"{name} is {(text or '')[:40]!r}, not a whole number of at least {least}")
    return int(text)


def _number(text: str | None) -> float | None:
    """Return a text as a number; None if it is not a finite number."""
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _color(text: str | None) -> str:
    """Return a signed 32-bit number, red to alpha, as `RRGGBB`; empty if it is not a number."""
    if text is None or not re.fullmatch(r"\s*[-+]?[0-9]{1,10}\s*", text):
        return ""
    return f"{(int(text) >> 8) & 0xFFFFFF:06X}"
