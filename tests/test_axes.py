"""Axes: every legal order is converted to SC(Z)YX and back bit for bit; everything else is refused."""

from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.axes import AxesMap
from patchloom.errors import AxesError

LEGAL = [
    "".join(order)
    for optional in (subset for size in range(5) for subset in combinations("STCZ", size))
    for order in permutations((*optional, "Y", "X"))
]
SIZES = {"S": 2, "T": 3, "C": 4, "Z": 5, "Y": 6, "X": 7}


def image(axes: str) -> tuple[AxesMap, np.ndarray]:
    shape = tuple(SIZES[axis] for axis in axes)
    return AxesMap(axes, shape), np.arange(np.prod(shape)).reshape(shape)


def test_round_trip() -> None:
    """For every legal order of axes, an image is the same after both conversions."""
    for axes in LEGAL:
        axes_map, array = image(axes)
        data = axes_map.to_data(array)
        assert data.shape == axes_map.data_shape
        assert np.array_equal(axes_map.from_data(data), array)


def test_positions() -> None:
    """Every axis of an image lands at its place in `SC(Z)YX`, time within sample."""
    for axes in LEGAL:
        axes_map, array = image(axes)
        data = axes_map.to_data(array)
        place = {axis: SIZES[axis] - 1 - (axis in "TY") for axis in axes}
        sample = place.get("S", 0) * axes_map.size("T") + place.get("T", 0)
        spatial = [place[axis] for axis in axes_map.spatial]
        assert data[(sample, place.get("C", 0), *spatial)] == array[tuple(place[axis] for axis in axes)]


@settings(deadline=None)
@given(axes=st.sampled_from(LEGAL), data=st.data())
def test_selection(axes: str, data: st.DataObject) -> None:
    """A box that is read by its selection equals the box of the whole image."""
    axes_map, array = image(axes)
    sample = data.draw(st.integers(0, axes_map.data_shape[0] - 1))

    def window(size: int) -> slice:
        start = data.draw(st.integers(0, size - 1))
        return slice(start, data.draw(st.integers(start + 1, size)))

    channels, *spatial = [window(size) for size in axes_map.data_shape[1:]]
    region = axes_map.to_canonical(array[axes_map.selection(sample, channels, spatial)])
    assert np.array_equal(region, axes_map.to_data(array)[(sample, channels, *spatial)])


def test_new_channel_axis() -> None:
    """A new channel axis lies directly before the spatial axes."""
    for axes in LEGAL:
        axes_map, _ = image(axes)
        with_two = axes_map.with_channels(2)
        assert with_two.data_shape == (axes_map.data_shape[0], 2, *axes_map.data_shape[2:])
        assert with_two.axes.replace("C", "") == axes.replace("C", "")
        if "C" not in axes:
            assert with_two.axes[with_two.axes.index("C") + 1] in "ZYX"
            assert axes_map.with_channels(1) == axes_map


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        ("CYQ", (1, 2, 3), "unknown axis 'Q'"),
        ("YYX", (1, 2, 3), "name 'Y' more than once"),
        ("CZY", (1, 2, 3), "lack 'X'"),
        ("CYX", (2, 3), "name 3 axes, but the image has 2: shape \\(2, 3\\)"),
        ("YX", (0, 3), "axis Y of shape \\(0, 3\\) has size 0"),
        ("", (), "lack 'Y'"),
        (7, (1, 2), "must be a string"),
    ],
)
def test_bad_axes(axes: str, shape: tuple[int, ...], message: str) -> None:
    """Axes that are invalid or do not fit the image are refused."""
    with pytest.raises(AxesError, match=message):
        AxesMap(axes, shape)


def test_plain_values() -> None:
    """Lower case and sizes of NumPy are accepted, and stored as plain values."""
    axes_map = AxesMap("tyx", np.array([2, 3, 4]))
    assert axes_map == AxesMap("TYX", (2, 3, 4))
    assert all(type(size) is int for size in (*axes_map.shape, *axes_map.data_shape))
