import math

import pytest

from patchloom.axes import AxesMap
from patchloom.image_stacks.fitting_metadata import fitting_metadata
from patchloom.image_stacks.unit_names import unit_name

IMAGE = AxesMap("TCYX", (2, 3, 8, 8))


def test_only_what_is_about_the_image_is_kept():
    steps = {"C": (1.0, "µm"), "Z": (2.0, "µm"), "X": (0.5, "nm"), "Y": (0.25, "pixel"), "T": (1.5, "s")}
    told = fitting_metadata(IMAGE, steps=steps)
    assert told.voxel_size == {"T": 1.5, "Y": 0.25, "X": 0.5}
    assert told.units == {"T": "second", "X": "nanometer"}


@pytest.mark.parametrize("size", [None, 0.0, -0.0, math.nan, math.inf, -math.inf])
def test_a_size_that_is_none_is_left_out(size):
    assert fitting_metadata(IMAGE, steps={"X": (size, "µm")}).voxel_size == {}


@pytest.mark.parametrize("names", [["a", "b"], ["a", "", "c"], list("abcd"), []])
def test_names_are_one_a_channel_or_none(names):
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
def test_units_have_one_name(unit, name):
    assert unit_name(unit) == name
