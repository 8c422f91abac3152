"""The region of an image that is predicted: ranges along its axes, in voxels, or in units of length or time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import floor
from typing import Any

from patchloom.argument_checks import shown, whole_number
from patchloom.axes import AxesMap
from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import ImageStack
from patchloom.image_stacks.metadata import unit_of, unit_size

REGION_AXES = "STZYX"
_POSITION = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\s\d].*?)?\s*")
_SYMBOLS = {"micrometer": "um", "nanometer": "nm", "millimeter": "mm", "second": "s", "millisecond": "ms"}
_HELP = "write ranges such as 'y=100:400,x=0:512,t=3' or 'z=2um:8um', or {'y': (100, 400), 'x': (0, 512), 't': 3}"
_DIGITS = 6
"""Digits behind the decimal point that count, of a position in voxels that is computed from a length."""


@dataclass(frozen=True, slots=True)
class Position:
    """A position on an axis: a number of voxels, or a length or time from the start of the image."""

    number: float
    unit: str = ""
    """Full name of the unit; empty for voxels."""

    def __str__(self) -> str:
        return f"{self.number!r}".removesuffix(".0") + _SYMBOLS.get(self.unit, self.unit)


@dataclass(frozen=True, slots=True)
class AxisRange:
    """A range along one axis, or one position on it."""

    axis: str
    start: Position | None
    """If None, from the start of the image."""
    stop: Position | None
    """If None, to the end of the image."""
    is_single: bool = False
    """Whether the range is the voxel at `start`."""

    def __str__(self) -> str:
        ends = "" if self.start is None else str(self.start), "" if self.stop is None else str(self.stop)
        return f"{self.axis.lower()}={ends[0] if self.is_single else ':'.join(ends)}"


@dataclass(frozen=True, slots=True)
class ImageRegion:
    """A box of an image.

    Examples
    --------
    >>> str(parse_region({"x": (0, 512), "z": "2 µm:8 µm", "t": 3}))
    't=3,z=2um:8um,x=0:512'
    """

    ranges: tuple[AxisRange, ...]
    """Ordered as `STZYX`; axes that are missing are predicted whole."""

    def __str__(self) -> str:
        return ",".join(map(str, self.ranges))


def parse_region(value: Any) -> ImageRegion | None:
    """Parse the argument `region` of `predict`.

    Parameters
    ----------
    value : mapping, str, ImageRegion or None
        As in `predict`.

    Raises
    ------
    ArgumentError
        If it is something else, a range is empty, or an axis is unknown or given twice.

    Examples
    --------
    >>> parse_region("y=100:400,T=3") == parse_region({"y": (100, 400), "t": 3})
    True
    """
    if value is None or isinstance(value, ImageRegion):
        return value
    if isinstance(value, str):
        pairs = [part.partition("=")[::2] for part in value.split(",")]
    elif isinstance(value, Mapping):
        pairs = list(value.items())
    else:
        raise ArgumentTypeError(f"region is {shown(value)} of type {type(value).__name__}: {_HELP}")
    if not pairs:
        raise ArgumentError(f"region is {shown(value)}: {_HELP}; leave it out for the whole image")
    ranges: dict[str, AxisRange] = {}
    for axis, part in pairs:
        letter = _letter(axis, value)
        if letter in ranges:
            raise ArgumentError(
                f"region is {shown(value)}, which has {letter} more than once: give one range for each axis"
            )
        ranges[letter] = _range(letter, part)
    return ImageRegion(tuple(ranges[axis] for axis in REGION_AXES if axis in ranges))


def _letter(axis: Any, value: Any) -> str:
    letter = axis.strip().upper() if isinstance(axis, str) else ""
    if letter == "C":
        raise ArgumentError(f"region is {shown(value)}: choose channels with channels= (--channels)")
    if len(letter) != 1 or letter not in REGION_AXES:
        raise ArgumentError(
            f"region is {shown(value)}, with the axis {shown(axis)}: use letters of {REGION_AXES!r}; {_HELP}"
        )
    return letter


def _range(axis: str, part: Any) -> AxisRange:
    """Parse a range along one axis."""
    if isinstance(part, str):
        ends: list[Any] = part.split(":")
        ends = [None if len(ends) > 1 and not end.strip() else end for end in ends]
    elif isinstance(part, slice) and part.step in (None, 1):
        ends = [part.start, part.stop]
    elif isinstance(part, (tuple, list)) and len(part) == 2:
        ends = list(part)
    elif isinstance(part, (slice, tuple, list)):
        ends = []
    else:
        ends = [part]
    if len(ends) not in (1, 2):
        raise ArgumentError(f"region is {shown(part)} along {axis}: give a start and a stop, or one position")
    start, *rest = [_position(axis, end) for end in ends]
    stop = rest[0] if rest else None
    chosen = AxisRange(axis, start, stop, is_single=not rest)
    if not rest and start is None:
        raise ArgumentTypeError(f"region is {shown(part)} along {axis}: give a start and a stop, or one position")
    if start is not None and stop is not None and start.unit == stop.unit and start.number >= stop.number:
        raise GeometryError(f"region is {chosen}, which is empty: give a stop that is larger than the start")
    return chosen


def _position(axis: str, end: Any) -> Position | None:
    if end is None:
        return None
    if not isinstance(end, str):
        return Position(whole_number(f"region along {axis}", end, least=0, most=2**62))
    match = _POSITION.fullmatch(end)
    if match is None:
        raise ArgumentError(
            f"region is {shown(end)} along {axis}: write a whole number of voxels, or a number with a unit, such as 12.5um"
        )
    number, symbol = match[1], match[2] or ""
    if not symbol:
        try:
            return Position(whole_number(f"region along {axis}", int(number), least=0, most=2**62))
        except ValueError as error:
            if isinstance(error, GeometryError):
                raise
            raise GeometryError(
                f"region is {shown(end)} along {axis}: voxels are whole numbers; a length has a unit, such as {number}um"
            ) from None
    unit, factor = unit_of(symbol)
    kind = "time" if axis == "T" else "length"
    if not unit or axis == "S" or unit_size(unit)[0] != kind:
        allowed = (
            "a whole number"
            if axis == "S"
            else "voxels as a whole number, or a number with "
            + ("a unit of time, such as 10s" if axis == "T" else "a unit of length, such as 12.5um")
        )
        raise GeometryError(f"region is {shown(end)} along {axis}: give {allowed}")
    if not 0 <= float(number) * factor < 2.0**62:
        raise GeometryError(f"region is {shown(end)} along {axis}: positions count from the start of the image, at 0")
    return Position(float(number) * factor, unit)


def region_ranges(region: ImageRegion, image: ImageStack, metadata: ImageMetadata) -> dict[str, tuple[int, int]]:
    """Return the start and stop of a region in an image, in voxels, for each axis of `STZYX` that the image has, S and T always.

    Parameters
    ----------
    region : ImageRegion
        The region.
    image : ImageStack
        The image.
    metadata : ImageMetadata
        Its voxel sizes.

    Raises
    ------
    GeometryError
        If the region is not inside the image, the image does not have an axis, or a voxel size is needed and not known.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom import ArrayStack
    >>> metadata = ImageMetadata(voxel_size={"Y": 0.25}, units={"Y": "micrometer"})
    >>> region_ranges(parse_region("y=2um:4um,t=1"), ArrayStack(np.zeros((3, 40, 30)), "TYX"), metadata)
    {'S': (0, 1), 'T': (1, 2), 'Y': (8, 16), 'X': (0, 30)}
    """
    sizes = axis_sizes(image.original_axes, image.original_data_shape, image.data_shape)
    ranges = {axis: (0, size) for axis, size in sizes.items()}
    for chosen in region.ranges:
        axis = chosen.axis
        if axis not in image.original_axes.upper():
            raise GeometryError(
                f"region is {chosen}, but {image.source} has the axes {image.original_axes}: leave {axis} out"
            )
        ranges[axis] = _in_voxels(chosen, sizes[axis], image, metadata)
    return ranges


def axis_sizes(axes: str, shape: tuple[int, ...], data_shape: tuple[int, ...]) -> dict[str, int]:
    """Return the sizes of an image along S, T and its spatial axes.

    Examples
    --------
    >>> axis_sizes("TYX", (5, 40, 30), (5, 1, 40, 30))
    {'S': 1, 'T': 5, 'Y': 40, 'X': 30}
    """
    n_times = AxesMap(axes, shape).size("T")
    return {
        "S": data_shape[0] // n_times,
        "T": n_times,
        **dict(zip("ZYX"[-len(data_shape) + 2 :], data_shape[2:], strict=True)),
    }


def _in_voxels(chosen: AxisRange, size: int, image: ImageStack, metadata: ImageMetadata) -> tuple[int, int]:
    start = 0.0 if chosen.start is None else _voxels(chosen, chosen.start, image, metadata)
    if chosen.is_single:
        first = floor(start)
        window = (first, first + 1)
    else:
        stop = size if chosen.stop is None else _voxels(chosen, chosen.stop, image, metadata)
        window = (floor(start + 0.5), floor(stop + 0.5))
    if not 0 <= window[0] < window[1] <= size:
        ends = (chosen.start, chosen.stop)
        as_voxels = f", which is {window[0]}:{window[1]} in voxels" if any(end and end.unit for end in ends) else ""
        raise GeometryError(
            f"region is {chosen}{as_voxels}, and {image.source} has size {size} along {chosen.axis}: give a range that is not "
            f"empty, inside 0:{size}"
        )
    return window


def _voxels(chosen: AxisRange, position: Position, image: ImageStack, metadata: ImageMetadata) -> float:
    """Return a position in voxels, which need not be whole."""
    if not position.unit:
        return position.number
    size = voxel_length(metadata, chosen.axis)
    if size is None:
        remedy = "give a number of frames" if chosen.axis == "T" else "give voxel_size= (--voxel-size), or voxels"
        raise GeometryError(
            f"region is {chosen}, but {image.source} contains no voxel size along {chosen.axis}: {remedy}"
        )
    return round(position.number * unit_size(position.unit)[1] / size, _DIGITS)


def voxel_length(metadata: ImageMetadata, axis: str) -> float | None:
    """Return the size of a voxel along an axis in meters or seconds; None if it is not known.

    Examples
    --------
    >>> voxel_length(ImageMetadata(voxel_size={"Y": 0.5}, units={"Y": "meter"}), "Y"), voxel_length(ImageMetadata(), "Y")
    (0.5, None)
    """
    kind, unit = unit_size(metadata.units.get(axis, ""))
    size = metadata.voxel_size.get(axis)
    wanted = "time" if axis == "T" else "length"
    return size * unit if size is not None and 0 < size < float("inf") and kind == wanted else None
