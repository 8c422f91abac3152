"""Voxel sizes, units and channels as files contain them, and as they are for the image that is read."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from patchloom.axes import AxesMap
from patchloom.image_metadata import RGB_COLORS, ImageMetadata

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
    """Make the metadata of an image from those of a file, which may have other axes, sizes of 0, or fewer channels.

    Parameters
    ----------
    axes_map : AxesMap
        Axes and shape of the image.
    name : str
        Name of the image.
    steps : mapping of str to (float, str)
        Size and unit of a voxel along each axis, as in the file. A negative size means a flipped axis; a size of 0, infinity or
        NaN is unknown.
    origin : mapping of str to float
        Position of the first voxel along each axis. Of a flipped axis, it becomes that of the last voxel, so that the image
        covers the same part of space.
    channel_names, channel_colors : sequence of str
        Names and colors (`RRGGBB`) of channels. They are ignored unless there is one for each channel.
    is_rgb : bool
        Whether the channels are red, green and blue, which are then their colors. Ignored unless there are three.

    Examples
    --------
    >>> metadata = fitting_metadata(AxesMap("YX", (64, 64)), steps={"Z": (2, "µm"), "Y": (-0.5, "µm"), "X": (0, "µm")})
    >>> metadata.voxel_size, metadata.units
    ({'Y': 0.5}, {'Y': 'micrometer'})
    """
    given = {axis: (steps or {}).get(axis, (None, "")) for axis in "TZYX" if axis in axes_map.axes}
    signed = {
        axis: (float(size), unit_name(unit)) for axis, (size, unit) in given.items() if size and math.isfinite(size)
    }
    places = {axis: (origin or {}).get(axis) for axis in given}
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


# Units as file formats abbreviate them, by the full names that OME-Zarr uses.

_PREFIXES = {
    "Y": "yotta", "Z": "zetta", "E": "exa", "P": "peta", "T": "tera", "G": "giga", "M": "mega", "k": "kilo", "h": "hecto",
    "d": "deci", "c": "centi", "m": "milli", "u": "micro", "n": "nano", "p": "pico", "f": "femto", "a": "atto", "z": "zepto",
    "y": "yocto",
}  # fmt: skip
_MICRO_SIGNS = str.maketrans({"\u00b5": "u", "\u03bc": "u"})  # the sign, and the Greek letter that some programs write

_WORDS = {
    "angstrom": "angstrom", "ångström": "angstrom", "micron": "micrometer", "in": "inch", "inches": "inch", '"': "inch",
    "ft": "foot", "feet": "foot", "yd": "yard", "mi": "mile", "sec": "second", "secs": "second", "min": "minute",
    "h": "hour", "hr": "hour", "d": "day",
}  # fmt: skip
_NAMES = {"angstrom", "inch", "foot", "yard", "mile", "parsec", "minute", "hour", "day"}

_CONVERTED = {
    "thou": (0.001, "inch"), "li": (1 / 12, "inch"), "pt": (1 / 72, "inch"), "dam": (10.0, "meter"), "das": (10.0, "second"),
    "decameter": (10.0, "meter"), "ua": (1.495978707e11, "meter"), "ly": (9.4607304725808e15, "meter"),
}  # fmt: skip
"""Units of OME-XML that OME-Zarr does not name, with factors to units that it names."""

_SYMBOLS = {
    **{f"{prefix}{unit}": f"{name}{full}" for prefix, name in _PREFIXES.items() for unit, full in (("m", "meter"), ("s", "second"))},
    "m": "meter", "s": "second", "\u00c5": "angstrom", "\u212b": "angstrom", "\u00e5": "angstrom", "pc": "parsec",
}  # fmt: skip
_NAMES |= set(_SYMBOLS.values())


def unit_of(unit: str) -> tuple[str, float]:
    """Return the full name of a unit of length or time, and the factor by which the unit is converted to it.

    The name is empty for any other unit, such as `"pixel"`. The case of symbols counts: `Mm` is a megameter.

    Examples
    --------
    >>> unit_of("nm"), unit_of("Mm"), unit_of("dam"), unit_of("pixel")
    (('nanometer', 1.0), ('megameter', 1.0), ('meter', 10.0), ('', 1.0))
    """
    symbol = unit.strip().translate(_MICRO_SIGNS)
    word = symbol.lower().replace("metre", "meter")
    if symbol in _CONVERTED or word in _CONVERTED:
        factor, name = _CONVERTED.get(symbol) or _CONVERTED[word]
        return name, factor
    return _SYMBOLS.get(symbol) or _name_of_word(word), 1.0


def _name_of_word(word: str) -> str:
    """Return a full name from its singular or plural, or from a symbol in another case."""
    for candidate in (word, word.removesuffix("s")):
        name = _WORDS.get(candidate, candidate)
        if name in _NAMES:
            return name
    return _SYMBOLS.get(word, "")


def unit_name(unit: str) -> str:
    """Return the full name of a unit; empty if it is neither a length nor a time, such as `"pixel"`.

    Examples
    --------
    >>> unit_name("nm"), unit_name("Micrometer"), unit_name("pixel")
    ('nanometer', 'micrometer', '')
    """
    name, factor = unit_of(unit)
    return name if factor == 1 else ""


_POWERS = {
    "yotta": 24, "zetta": 21, "exa": 18, "peta": 15, "tera": 12, "giga": 9, "mega": 6, "kilo": 3, "hecto": 2, "": 0, "deci": -1,
    "centi": -2, "milli": -3, "micro": -6, "nano": -9, "pico": -12, "femto": -15, "atto": -18, "zepto": -21, "yocto": -24,
}  # fmt: skip
_OTHER_LENGTHS = {
    "angstrom": 1e-10, "inch": 0.0254, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344, "parsec": 3.0856775814913673e16,
}  # fmt: skip
_SIZES = {
    **{f"{prefix}meter": ("length", float(f"1e{power}")) for prefix, power in _POWERS.items()},
    **{f"{prefix}second": ("time", float(f"1e{power}")) for prefix, power in _POWERS.items()},
    **{name: ("length", size) for name, size in _OTHER_LENGTHS.items()},
    **{name: ("time", size) for name, size in {"minute": 60.0, "hour": 3600.0, "day": 86400.0}.items()},
}


def unit_size(name: str) -> tuple[str, float]:
    """Return what a unit measures, `"length"` or `"time"`, and its size in meters or seconds; empty and NaN if it is neither.

    Parameters
    ----------
    name : str
        Full name of the unit, from `unit_of`.

    Examples
    --------
    >>> unit_size("micrometer"), unit_size("minute"), unit_size("")
    (('length', 1e-06), ('time', 60.0), ('', nan))
    """
    return _SIZES.get(name, ("", math.nan))
