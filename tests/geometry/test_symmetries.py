"""Symmetries of the pixel grid, against NumPy's own turns and flips."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.geometry.symmetries import Symmetry, symmetries


@pytest.mark.parametrize("flip_z", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("turns", range(-1, 6))
def test_turned(turns: int, mirrored: bool, flip_z: bool) -> None:
    """A turn is NumPy's `rot90`, then X is reversed, then Z."""
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    expected = np.rot90(images, turns, axes=(-2, -1))
    expected = expected[..., ::-1] if mirrored else expected
    expected = expected[:, ::-1] if flip_z else expected

    np.testing.assert_array_equal(Symmetry.turned(turns, mirrored=mirrored, flip_z=flip_z).apply(images), expected)


@pytest.mark.parametrize("quarter_turns", [False, True])
@pytest.mark.parametrize("flip_z", [False, True])
def test_undo(quarter_turns: bool, flip_z: bool) -> None:
    """`undo` gives back what `apply` was given, also where Y and X differ in size, and neither copies."""
    images = np.arange(3 * 4 * 5).reshape(3, 4, 5)

    for way in symmetries(quarter_turns=quarter_turns, flip_z=flip_z):
        restored = way.undo(way.apply(images))
        np.testing.assert_array_equal(restored, images)
        assert np.shares_memory(restored, images)


def test_all_differ() -> None:
    """The symmetries listed are all of the group, each once."""
    images = np.arange(27).reshape(3, 3, 3)

    for options, number in (({}, 8), ({"quarter_turns": False}, 4), ({"flip_z": True}, 16)):
        listed = symmetries(**options)
        assert len({tuple(way.apply(images).ravel().tolist()) for way in listed}) == len(set(listed)) == number
