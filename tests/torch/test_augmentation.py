"""Flips and quarter turns: the positions of the grid, each as likely, the same for input and target."""

from __future__ import annotations

import numpy as np
import pytest

import patchloom as pl
from patchloom.patching.counter_random import CounterRandom
from patchloom.torch import FlipRot90, PatchDataset, PatchKey


def positions_seen(augmentation: FlipRot90, patch: np.ndarray, n: int = 4000) -> dict[tuple[float, ...], int]:
    """Count in which positions copies of a patch come out."""
    batch = np.repeat(patch[np.newaxis], n, axis=0)
    drawn = augmentation.draw(CounterRandom(seed=3), np.arange(n), patch.shape[1:])
    augmentation.put(batch, drawn)
    seen, counts = np.unique(batch.reshape(n, -1), axis=0, return_counts=True)
    return dict(zip(map(tuple, seen.tolist()), counts.tolist(), strict=True))


def orbit(image: np.ndarray) -> set[tuple[float, ...]]:
    """All turned and mirrored copies of a plane, by means of NumPy's own functions."""
    return {tuple(np.rot90(side, turns).ravel()) for side in (image, image[:, ::-1]) for turns in range(4)}


def test_a_square_patch_gets_all_eight_positions_equally_often(rng):
    patch = rng.random((1, 5, 5))

    seen = positions_seen(FlipRot90(), patch)

    assert set(seen) == orbit(patch[0])
    assert sum((count - 500) ** 2 / 500 for count in seen.values()) < 24.3  # chi-square of 7 degrees, one in a thousand


def test_a_patch_that_is_not_square_is_not_turned_by_a_quarter(rng):
    patch = rng.random((1, 4, 5))

    seen = positions_seen(FlipRot90(), patch)

    assert set(seen) == {tuple(patch[0, ::y, ::x].ravel()) for y in (1, -1) for x in (1, -1)}


def test_z_is_flipped_only_if_asked_for(rng):
    patch = rng.random((1, 3, 4, 4))

    assert len(positions_seen(FlipRot90(), patch)) == 8
    assert len(positions_seen(FlipRot90("ZYX"), patch)) == 16
    assert set(positions_seen(FlipRot90("Z", turns=False), patch)) == {
        tuple(patch.ravel()),
        tuple(patch[:, ::-1].ravel()),
    }
    assert len(positions_seen(FlipRot90("", turns=False), patch)) == 1


@pytest.mark.parametrize("axes", ["W", "YY", "yx"])
def test_axes_that_there_are_not_are_refused(axes):
    with pytest.raises(pl.GeometryError, match="axes"):
        FlipRot90(axes)


def test_input_and_target_get_the_same_position_which_depends_on_seed_epoch_and_index_alone(inputs, patching):
    dataset = PatchDataset(inputs, patching, inputs, augmentation=FlipRot90(), target_dtype=np.float64, seed=4)
    plain = PatchDataset(inputs, patching)
    keys = [PatchKey(2, index) for index in range(24)]

    together = list(dataset.__getitems__(keys))

    for patch, key in zip(together, keys, strict=True):
        np.testing.assert_array_equal(patch.input, patch.target)
        np.testing.assert_array_equal(patch.input, dataset[key].input)
        assert tuple(patch.input[0].ravel().tolist()) in orbit(plain[key].input[0].numpy())
    turned = [not np.array_equal(patch.input, plain[key].input) for patch, key in zip(together, keys, strict=True)]
    assert 12 <= sum(turned) < 24


def test_a_patch_that_is_the_same_in_every_epoch_gets_other_positions(inputs, patching):
    fixed = pl.FixedPatching(list(patching))
    dataset = PatchDataset(inputs, fixed, augmentation=FlipRot90(), seed=4)

    seen = {tuple(dataset[PatchKey(epoch, 3)].input[0].ravel().tolist()) for epoch in range(20)}

    assert 4 <= len(seen) <= 8
