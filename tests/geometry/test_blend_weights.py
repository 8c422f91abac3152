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
    shared_weights,
    tile_extents,
    window_profile,
)
from patchloom.geometry.tile_rule import Seams, TileRule

WINDOWS: list[BlendWindow] = ["hann", "gaussian", "linear", "mean"]


@settings(deadline=None, max_examples=300)
@given(data=st.data(), window=st.sampled_from(WINDOWS), size=st.integers(1, 90), patch=st.integers(1, 40))
def test_sum_to_one(data: st.DataObject, window: BlendWindow, size: int, patch: int) -> None:
    """The weights of all tiles over a voxel sum to one."""
    overlap = data.draw(st.integers(0, patch - 1))
    halo = data.draw(st.integers(0, overlap // 2))
    rule = TileRule(patch, overlap, data.draw(st.sampled_from(["centered", "grid"])), halo=halo)
    count = rule.count(size)
    total = np.zeros(size + patch)
    over = np.zeros(size + patch, int)
    for tile in range(count):
        start = rule.window(tile, size, count).start
        weights = shared_weights(window, patch, tile_extents(window, rule, size, start), halo)
        used = slice(halo * (start > 0), patch - halo * (start + patch < size))
        assert (weights >= 0).all()
        assert not weights[: used.start].any()
        assert not weights[used.stop :].any()
        total[start : start + patch] += weights
        over[start : start + patch][used] += 1
    np.testing.assert_allclose(total[:size], 1, rtol=0, atol=1e-14)
    assert over[:size].max() <= most_tiles_at_a_voxel(rule, size) <= over.max()


def value_at(window: BlendWindow, context: float, patch: int) -> float:
    """The window at a distance to the nearer end of the tile, by its definition."""
    place = min(context, patch / 2) / patch
    return {
        "hann": np.sin(np.pi * place) ** 2,
        "gaussian": np.exp(-32 * (place - 0.5) ** 2),
        "linear": 2 * place,
        "mean": 1.0,
    }[window]


def outermost_weights(window: BlendWindow, rule: TileRule, size: int) -> list[float]:
    """The weights of the first and last voxel of each tile, and of the first that counts, unless at the image's border."""
    found = []
    for start in {rule.window(tile, size, rule.count(size)).start for tile in range(rule.count(size))}:
        weights = shared_weights(window, rule.patch_size, tile_extents(window, rule, size, start))
        inside = np.flatnonzero(weights > 0)
        if start > 0:
            found += [weights[0], weights[inside[0]]]
        if start + rule.patch_size < size:
            found += [weights[-1], weights[inside[-1]]]
    return found


@pytest.mark.parametrize("seams", ["centered", "grid"])
@pytest.mark.parametrize("window", ["hann", "gaussian", "linear"])
def test_outermost_voxels(window: BlendWindow, seams: Seams) -> None:
    """At every image size, the outermost voxels of a tile weigh at most as much as in an endless row."""
    for patch, overlaps in ((1, ()), (2, (1,)), (8, range(1, 8)), (15, (2, 7, 11)), (32, (4, 10, 16, 20, 28))):
        for overlap in overlaps:
            rule = TileRule(patch, overlap, seams)
            own, shared = value_at(window, 0.5, patch), patch - rule.step
            steps_apart = [min(start, patch - 1 - start) + 0.5 for start in range(0, patch, rule.step)]
            endless = own / sum(value_at(window, context, patch) for context in steps_apart)
            two_tiles = own / (own + value_at(window, shared - 0.5, patch))
            found = [weight for size in range(1, 201) for weight in outermost_weights(window, rule, size)]
            assert max(found) <= max(endless, two_tiles) * 1.002


@pytest.mark.parametrize("window", ["hann", "gaussian", "linear"])
@pytest.mark.parametrize("halo", [0, 4, 6])
@pytest.mark.parametrize("size", range(33, 70))
def test_context(window: BlendWindow, halo: int, size: int) -> None:
    """Weights follow the context that a voxel has in each tile, beyond the halo."""
    # Against the definition, voxel by voxel: context to the nearer end, ends at the image's border not counted.
    patch, overlap, step = 32, 12, 20
    rule = TileRule(patch, overlap, halo=halo)
    starts = [rule.window(tile, size, rule.count(size)).start for tile in range(rule.count(size))]
    first = [start + halo * (start > 0) for start in starts]
    if len(starts) > 2:
        first[-1] = min((len(starts) - 1) * step + halo, max(starts[-1] + halo, starts[-3] + patch - halo))
    expected = np.zeros((len(starts), size))
    for tile, start in enumerate(starts):
        stop = start + patch - halo * (start + patch < size)
        for voxel in range(first[tile], stop):
            before = voxel - first[tile] if start > 0 else patch
            after = stop - 1 - voxel if stop < size else patch
            expected[tile, voxel] = value_at(window, min(before, after) + 0.5, patch - 2 * halo)
    expected /= expected.sum(axis=0)
    for tile, start in enumerate(starts):
        weights = shared_weights(window, patch, tile_extents(window, rule, size, start), halo)
        np.testing.assert_allclose(weights, expected[tile, start : start + patch], rtol=1e-12)


def test_mean() -> None:
    """`"mean"` gives all tiles over a voxel the same weight."""
    rule = TileRule(patch_size=8, overlap=4)
    weights = shared_weights("mean", 8, tile_extents("mean", rule, 17, 9))
    np.testing.assert_allclose(weights, [1 / 3, 1 / 3, 1 / 3, 0.5, 0.5, 0.5, 0.5, 1])


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_window_shape(window: BlendWindow, size: int) -> None:
    """Windows are symmetric, positive and highest in the middle."""
    profile = window_profile(window, size)
    assert (profile > 0).all()
    np.testing.assert_allclose(profile, profile[::-1], rtol=1e-12)
    assert (np.diff(profile[: (size + 1) // 2]) >= 0).all()


def test_window_values() -> None:
    """Windows have the values of their definitions."""
    centers = (np.arange(10) + 0.5) / 10
    np.testing.assert_allclose(window_profile("hann", 10), 0.5 - 0.5 * np.cos(2 * np.pi * centers))
    np.testing.assert_allclose(window_profile("gaussian", 10), np.exp(-32 * (centers - 0.5) ** 2))
    np.testing.assert_allclose(window_profile("linear", 10)[:5], [0.1, 0.3, 0.5, 0.7, 0.9])


def test_bad_window() -> None:
    """A window that does not exist is refused."""
    with pytest.raises(GeometryError, match="blend is 'hamming': it must be one of 'hann'"):
        check_blend("hamming")
