"""Blending weights along one axis: they sum to one at every voxel, for every window, size and overlap."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.geometry.blend_weights import (
    BlendWindow,
    check_blend,
    most_tiles_at_a_voxel,
    neighbour_shifts,
    shared_weights,
    window_profile,
)
from patchloom.geometry.tile_rule import TileRule

WINDOWS: list[BlendWindow] = ["hann", "gaussian", "linear", "mean"]


@settings(deadline=None, max_examples=300)
@given(data=st.data(), window=st.sampled_from(WINDOWS), size=st.integers(1, 90), patch=st.integers(1, 40))
def test_weights_of_all_tiles_sum_to_one_at_every_voxel(
    data: st.DataObject, window: BlendWindow, size: int, patch: int
) -> None:
    overlap = data.draw(st.integers(0, patch - 1))
    rule = TileRule(patch, overlap, data.draw(st.sampled_from(["centered", "grid"])))
    count = rule.count(size)
    total = np.zeros(size + patch)
    over = np.zeros(size + patch, int)
    for tile in range(count):
        start = rule.window(tile, size, count).start
        weights = shared_weights(window, patch, neighbour_shifts(rule, size, start))
        assert (weights > 0).all()
        total[start : start + patch] += weights
        over[start : start + patch] += 1
    np.testing.assert_allclose(total[:size], 1, rtol=0, atol=1e-14)
    assert over[:size].max() <= most_tiles_at_a_voxel(rule, size) <= over.max()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_windows_are_symmetric_positive_and_highest_in_the_middle(window: BlendWindow, size: int) -> None:
    profile = window_profile(window, size)
    assert (profile > 0).all()
    np.testing.assert_allclose(profile, profile[::-1], rtol=1e-12)
    assert (np.diff(profile[: (size + 1) // 2]) >= 0).all()


def test_windows_have_the_values_of_their_definitions() -> None:
    centers = (np.arange(10) + 0.5) / 10
    np.testing.assert_allclose(window_profile("hann", 10), 0.5 - 0.5 * np.cos(2 * np.pi * centers))
    np.testing.assert_allclose(window_profile("gaussian", 10), np.exp(-32 * (centers - 0.5) ** 2))
    np.testing.assert_allclose(window_profile("linear", 10)[:5], [0.1, 0.3, 0.5, 0.7, 0.9])


def test_a_window_that_does_not_exist_is_refused() -> None:
    with pytest.raises(GeometryError, match="blend is 'hamming': it must be one of 'hann'"):
        check_blend("hamming")
