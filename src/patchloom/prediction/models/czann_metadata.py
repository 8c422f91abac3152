"""What a ZEISS model file declares beside its network: `.czann` in JSON, `.czseg` and `.czmodel` in XML."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from patchloom.errors import ModelError

CHANNELS_OF_COLOR = {"Bgr": (2, 1, 0), "Bgra": (2, 1, 0, 3)}
"""An image's red, green, blue and alpha in the order in which a pixel of a color type holds them."""

NO_IMAGE_TYPES = ("SingleClassClassification", "MultiClassClassification", "ObjectDetection")
"""Types of `.czann` models whose output is not an image."""


@dataclass(frozen=True, slots=True)
class CzannMetadata:
    """What a ZEISS model file declares, in Patchloom's terms; `None` or empty where it is silent.

    Parameters
    ----------
    n_dims : int
        2 or 3.
    patch_size : tuple of int, optional
        Tile size, `(z,) y, x`.
    overlaps : tuple of int, optional
        Voxels that neighboring tiles have to share, `(z,) y, x`.
    scaled : bool
        Whether the network was trained on integers divided by the largest value of their dtype.
    in_channels : int, optional
        Number of channels.
    channel_order : tuple of int, optional
        The image's channels as the network takes them, where that is not their own order: colors are blue first.
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

    The format declares shapes as `(z,) y, x, c`, the overlap as that between two tiles, and inputs as floats from 0 to 1.
    Its `Scaling` is the size of a pixel and has nothing to do with intensities. Of the order of colors it says nothing.

    Raises
    ------
    ModelError
        If the content is no JSON, lacks a field or has one of the wrong type, or the model returns no image.

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
        raise ModelError(f"it is a model of type {kind}, which returns no image that could be stitched")
    shape = _integers(declared, "InputShape", least=1)
    if shape is None or len(shape) not in (3, 4):
        raise ModelError(f"InputShape must be [y, x, c] or [z, y, x, c], not {declared.get('InputShape')!r}")
    *space, in_channels = shape
    overlaps = _integers(declared, "MinOverlap", least=0)
    if overlaps is not None and len(overlaps) != len(space):
        raise ModelError(f"MinOverlap must have one number for each of {len(space)} axes, not {list(overlaps)}")
    names = declared.get("Classes") or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ModelError(f"Classes must be a list of names, not {names!r}")
    return CzannMetadata(len(space), tuple(space), overlaps, in_channels=in_channels, class_names=tuple(names))


def read_czseg_xml(content: bytes) -> CzannMetadata:
    """Read the XML file of a `.czseg` or `.czmodel` file.

    Its border is that on one side of a tile, so that two tiles share twice as much. Older files declare no tile size, and
    do not say whether inputs are scaled: they are.

    Raises
    ------
    ModelError
        If the content is no XML or not that of a model, or a number in it is none.

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
    # Entities, which can blow up or point elsewhere, can only be declared in a document type. Without zero bytes one
    # search serves UTF-16 as well.
    if b"<!DOCTYPE" in content.replace(b"\0", b""):
        raise ModelError("its metadata are XML with a document type, which no such file needs")
    try:
        root = ET.fromstring(content)  # noqa: S314  # without a document type there is nothing to attack with
    except (ET.ParseError, ValueError, LookupError) as error:
        raise ModelError(f"its metadata are not XML: {error}") from error
    if root.tag != "Model":
        raise ModelError(f"its metadata are XML of a <{root.tag}>, not of a <Model>")
    return root


def _number(root: ET.Element, tag: str) -> int | None:
    text = root.findtext(tag)
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise ModelError(f"{tag} must be a whole number, not {text!r}")
    return int(text)


def _channel_order(root: ET.Element) -> tuple[int, ...] | None:
    """Find the order in which a network takes an image's channels; `None` if it is the image's own."""
    order: list[int] = []
    for item in root.findall("Channels/Item"):
        color = re.match(r"\s*(Bgra?)\d", item.get("PixelType", ""))  # the first of the types that it may have
        order += [len(order) + place for place in (CHANNELS_OF_COLOR[color[1]] if color else (0,))]
    return None if order == sorted(order) or _is_monochrome(root) else tuple(order)


def _is_monochrome(root: ET.Element) -> bool:
    """Whether colors turn into one gray channel before they reach the network."""
    after = root.find("Channels[@IsAfterColorHandling='true']") is not None
    return root.findtext("ColorHandling") == "ConvertToMonochrome" and not after


def _colors(classes: list[ET.Element]) -> tuple[str, ...]:
    """Write each class's color as `RRGGBB`; none at all unless every class has one."""
    colors = [[item.get(part, "") for part in ("colR", "colG", "colB")] for item in classes]
    if not all(part.isdecimal() and int(part) < 256 for parts in colors for part in parts):
        return ()
    return tuple("".join(f"{int(part):02X}" for part in parts) for parts in colors)


def _integers(declared: dict[str, Any], field: str, *, least: int) -> tuple[int, ...] | None:
    values = declared.get(field)
    if values is None:
        return None
    if not (isinstance(values, list) and all(type(value) is int and value >= least for value in values)):
        raise ModelError(f"{field} must be a list of whole numbers of at least {least}, not {values!r}")
    return tuple(values)
