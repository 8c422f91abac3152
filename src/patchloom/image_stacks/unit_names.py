"""Units as file formats abbreviate them, by the full names that OME-Zarr uses."""

from __future__ import annotations

_NAMES = {
    "å": "angstrom",
    "pm": "picometer",
    "nm": "nanometer",
    "um": "micrometer",
    "µm": "micrometer",  # the micro sign
    "μm": "micrometer",  # the Greek letter, which some programs write instead
    "micron": "micrometer",
    "microns": "micrometer",
    "mm": "millimeter",
    "cm": "centimeter",
    "m": "meter",
    "inch": "inch",
    "in": "inch",
    "ns": "nanosecond",
    "us": "microsecond",
    "µs": "microsecond",
    "ms": "millisecond",
    "s": "second",
    "sec": "second",
    "min": "minute",
    "h": "hour",
    "d": "day",
}


def unit_name(unit: str) -> str:
    """Full name of a unit; empty for one that is no length and no time, such as `"pixel"`.

    Examples
    --------
    >>> unit_name("nm"), unit_name("Micrometer"), unit_name("pixel")
    ('nanometer', 'micrometer', '')
    """
    word = unit.strip().lower().replace("metre", "meter")
    if word in _NAMES:
        return _NAMES[word]
    return word if word.endswith(("meter", "second")) or word in _NAMES.values() else ""
