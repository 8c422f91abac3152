"""Metadata of ZEISS model files: JSON in `.czann`, XML in `.czseg` and `.czmodel`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from patchloom.errors import ModelError

CHANNELS_OF_COLOR = {"Bgr": (2, 1, 0), "Bgra": (2, 1, 0, 3)}
"""Indices of red, green, blue and alpha, in the order in which a pixel type contains them."""

NO_IMAGE_TYPES = ("SingleClassClassification", "MultiClassClassification", "ObjectDetection")
"""Types of `.czann` models whose output is not an image."""


@dataclass(frozen=True, slots=True)
class CzannMetadata:
    """The metadata of a ZEISS model file, in Patchloom's terms; None or empty if the file does not declare them.

    Parameters
    ----------
    n_dims : int
        Number of spatial axes, 2 or 3.
    patch_size : tuple of int, optional
        Tile size, `(z,) y, x`, in voxels.
    overlaps : tuple of int, optional
        Voxels that neighboring tiles have to share, `(z,) y, x`.
    scaled : bool
        Whether the network was trained on integers divided by the largest value of their dtype.
    in_channels : int, optional
        Number of channels of the input.
    channel_order : tuple of int, optional
        Indices of the image's channels in the order in which the network takes them; None if it is their own order.
    class_names, class_colors : tuple of str
        One for each output channel; colors are `RRGGBB`.
    """

    n_dims: int = 2
    patch_size: tuple[int, ...] | None = None
    overlaps: tuple[int, ...] | None = None
    scaled: bool = True
    in_channels: int | None = None
    channel_order: tuple[int, ...] | None = None
    class_names: tuple[str, ...] = ()
    class_colors: tuple[str, ...] = ()


def read_czann_json(content: bytes) -> CzannMetadata:
    """Read the `model.json` of a `.czann` file.

    The format declares shapes as `(z,) y, x, c`, the overlap of two tiles, and inputs from 0 to 1. Its `Scaling` is the size of
    a pixel, not a factor for intensities. It does not declare the order of colors.

    Raises
    ------
    ModelError
        If the content is not JSON, a field is missing or has the wrong type, or the model does not return an image.

    Examples
    --------
    >>> read_czann_json(b'{"Type": "Regression", "InputShape": [256, 256, 1], "MinOverlap": [32, 32]}').overlaps
    (32, 32)
    """
    try:
        declared = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"its metadata are not JSON: {error}") from error
    if not isinstance(declared, dict):
        raise ModelError("its metadata are JSON, but not an object")
    kind = declared.get("Type")
    if kind in NO_IMAGE_TYPES:
        raise ModelError(
            f"it is a model of type {kind}, whose output is not an image and cannot be stitched: take a model that returns images"
        )
    shape = _integers(declared, "InputShape", least=1)
    if shape is None or len(shape) not in (3, 4):
        raise ModelError(f"InputShape is {declared.get('InputShape')!r}: it must be [y, x, c] or [z, y, x, c]")
    *space, in_channels = shape
    overlaps = _integers(declared, "MinOverlap", least=0)
    if overlaps is not None and len(overlaps) != len(space):
        raise ModelError(f"MinOverlap is {list(overlaps)}: it must have one number for each of {len(space)} axes")
    names = declared.get("Classes") or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ModelError(f"Classes is {names!r}: it must be a list of names")
    return CzannMetadata(len(space), tuple(space), overlaps, in_channels=in_channels, class_names=tuple(names))


def read_czseg_xml(content: bytes) -> CzannMetadata:
    """Read the XML file of a `.czseg` or `.czmodel` file.

    Its border is the margin on one side of a tile, so two tiles share twice the border. Older files declare neither the tile
    size nor whether inputs are scaled; they are scaled.

    Raises
    ------
    ModelError
        If the content is not XML, or not that of a model, or a number in it is invalid.

    Examples
    --------
    >>> read_czseg_xml(b"<Model><BorderSize>64</BorderSize></Model>").overlaps
    (128, 128)
    """
    root = _parse_xml(content)
    height, width, border = (_number(root, tag) for tag in ("TotalTileHeight", "TotalTileWidth", "BorderSize"))
    classes = root.findall("TrainingClasses/Item")
    return CzannMetadata(
        patch_size=None if height is None or width is None else (height, width),
        overlaps=None if border is None else (2 * border, 2 * border),
        scaled=(root.findtext("ScaleInputsByBitdepth") or "true").strip().lower() != "false",
        channel_order=_channel_order(root),
        class_names=tuple(item.get("Name", "") for item in classes),
        class_colors=_colors(classes),
    )


def _parse_xml(content: bytes) -> ET.Element:
    # Entities can expand without bound or refer to other files. They can only be declared in a document type. Zero bytes are
    # removed to find it in UTF-16 too.
    if b"<!DOCTYPE" in content.replace(b"\0", b""):
        raise ModelError("its metadata are XML with a document type, which is not allowed")
    try:
        root = ET.fromstring(content)  # noqa: S314  # safe without a document type
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ModelError(f"its metadata are not XML: {error}") from error
    if root.tag != "Model":
        raise ModelError(f"its metadata are XML of a <{root.tag}>: it must be a <Model>")
    return root


def _number(root: ET.Element, tag: str) -> int | None:
    text = root.findtext(tag)
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise ModelError(f"{tag} is {text!r}: it must be a whole number")
    return int(text)


def _channel_order(root: ET.Element) -> tuple[int, ...] | None:
    """Return the order in which a network takes the channels of an image; None if it is the order of the image."""
    order: list[int] = []
    for item in root.findall("Channels/Item"):
        color = re.match(r"\s*(Bgra?)\d", item.get("PixelType", ""))  # the first of the pixel types that are allowed
        order += [len(order) + channel for channel in (CHANNELS_OF_COLOR[color[1]] if color else (0,))]
    return None if order == sorted(order) or _is_monochrome(root) else tuple(order)


def _is_monochrome(root: ET.Element) -> bool:
    """Return whether colors are converted to one gray channel before the network."""
    after = root.find("Channels[@IsAfterColorHandling='true']") is not None
    return root.findtext("ColorHandling") == "ConvertToMonochrome" and not after


def _colors(classes: list[ET.Element]) -> tuple[str, ...]:
    """Return the color of each class as `RRGGBB`; an empty tuple unless every class has one."""
    colors = [[item.get(part, "") for part in ("colR", "colG", "colB")] for item in classes]
    if not all(part.isdecimal() and int(part) < 256 for parts in colors for part in parts):
        return ()
    return tuple("".join(f"{int(part):02X}" for part in parts) for parts in colors)


def _integers(declared: dict[str, Any], field: str, *, least: int) -> tuple[int, ...] | None:
    values = declared.get(field)
    if values is None:
        return None
    if not (isinstance(values, list) and all(type(value) is int and value >= least for value in values)):
        raise ModelError(f"{field} is {values!r}: it must be a list of whole numbers of at least {least}")
    return tuple(values)
