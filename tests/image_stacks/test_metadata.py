import math
import warnings

import pytest
from yaozarrs import v05

from patchloom.axes import AxesMap
from patchloom.image_stacks.metadata import fitting_metadata, unit_name, unit_of

IMAGE = AxesMap("TCYX", (2, 3, 8, 8))


def test_other_axes():
    """Only metadata of the image's own axes are kept."""
    steps = {"C": (1.0, "µm"), "Z": (2.0, "µm"), "X": (0.5, "nm"), "Y": (0.25, "pixel"), "T": (1.5, "s")}
    told = fitting_metadata(IMAGE, steps=steps)
    assert told.voxel_size == {"T": 1.5, "Y": 0.25, "X": 0.5}
    assert told.units == {"T": "second", "X": "nanometer"}


@pytest.mark.parametrize("size", [None, 0.0, -0.0, math.nan, math.inf, -math.inf])
def test_invalid_sizes(size):
    """Invalid sizes are left out."""
    assert fitting_metadata(IMAGE, steps={"X": (size, "µm")}).voxel_size == {}


@pytest.mark.parametrize("names", [["a", "b"], ["a", "", "c"], list("abcd"), []])
def test_channel_names(names):
    """Names are kept if there is one for each channel."""
    told = fitting_metadata(IMAGE, channel_names=names, channel_colors=["FF0000", "00FF00", "0000FF"])
    assert told.channel_names == ()
    assert len(told.channel_colors) == 3


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("µm", "micrometer"),
        ("\u03bcm", "micrometer"),
        ("um", "micrometer"),
        ("Micron", "micrometer"),
        ("nm", "nanometer"),
        ("millimetre", "millimeter"),
        ("sec", "second"),
        ("inch", "inch"),
        ("pixel", ""),
        ("", ""),
        ("banana", ""),
    ],
)
def test_units(unit, name):
    """Every unit has one full name."""
    assert unit_name(unit) == name


METERS = {
    "Ym": 1e24, "Zm": 1e21, "Em": 1e18, "Pm": 1e15, "Tm": 1e12, "Gm": 1e9, "Mm": 1e6, "km": 1e3, "hm": 1e2, "dam": 10, "m": 1,
    "dm": 0.1, "cm": 1e-2, "mm": 1e-3, "µm": 1e-6, "nm": 1e-9, "pm": 1e-12, "fm": 1e-15, "am": 1e-18, "zm": 1e-21, "ym": 1e-24,
    "Å": 1e-10, "thou": 2.54e-5, "li": 2.54e-2 / 12, "in": 2.54e-2, "ft": 0.3048, "yd": 0.9144, "mi": 1609.344,
    "ua": 149597870700, "ly": 9460730472580800, "pc": 3.0856775814913673e16, "pt": 2.54e-2 / 72,
}  # fmt: skip
"""All of OME's units of length (2016-06) that are lengths."""

SECONDS = {
    "Ys": 1e24, "Zs": 1e21, "Es": 1e18, "Ps": 1e15, "Ts": 1e12, "Gs": 1e9, "Ms": 1e6, "ks": 1e3, "hs": 1e2, "das": 10, "s": 1,
    "ds": 0.1, "cs": 1e-2, "ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "ps": 1e-12, "fs": 1e-15, "as": 1e-18, "zs": 1e-21, "ys": 1e-24,
    "min": 60, "h": 3600, "d": 86400,
}  # fmt: skip

SIZES_OF_NAMES = {
    "angstrom": 1e-10, "inch": 2.54e-2, "foot": 0.3048, "yard": 0.9144, "mile": 1609.344, "parsec": 3.0856775814913673e16,
    "minute": 60, "hour": 3600, "day": 86400,
}  # fmt: skip
PREFIXES = {
    "yotta": 1e24, "zetta": 1e21, "exa": 1e18, "peta": 1e15, "tera": 1e12, "giga": 1e9, "mega": 1e6, "kilo": 1e3, "hecto": 1e2,
    "deci": 0.1, "centi": 1e-2, "milli": 1e-3, "micro": 1e-6, "nano": 1e-9, "pico": 1e-12, "femto": 1e-15, "atto": 1e-18,
    "zepto": 1e-21, "yocto": 1e-24, "": 1,
}  # fmt: skip


def size_of(name):
    if name in SIZES_OF_NAMES:
        return SIZES_OF_NAMES[name]
    return PREFIXES[name.removesuffix("meter").removesuffix("second")]


@pytest.mark.parametrize(("unit", "size"), [*METERS.items(), *SECONDS.items()])
def test_converted_units(unit, size):
    """Units that OME-Zarr does not name are converted."""
    name, factor = unit_of(unit)
    kind = v05.TimeAxis if unit in SECONDS else v05.SpaceAxis
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # so yaozarrs says that a unit is not one of OME-Zarr's
        assert kind(name="x", unit=name).unit == name
    assert factor * size_of(name) == pytest.approx(size, rel=1e-12)


@pytest.mark.parametrize("unit", ["pixel", "pixels", "reference frame", "", " ", "banana", "mol", "meterstick"])
def test_other_units(unit):
    """Other units have no name."""
    assert unit_of(unit) == ("", 1)
