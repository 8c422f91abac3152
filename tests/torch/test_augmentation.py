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


def test_square(rng):
    """A square patch gets all eight positions equally often."""
    patch = rng.random((1, 5, 5))

    seen = positions_seen(FlipRot90(), patch)

    assert set(seen) == orbit(patch[0])
    assert sum((count - 500) ** 2 / 500 for count in seen.values()) < 24.3  # chi-square of 7 degrees, one in a thousand


def test_not_square(rng):
    """A patch that is not square is flipped, but not turned by 90°."""
    patch = rng.random((1, 4, 5))

    seen = positions_seen(FlipRot90(), patch)

    assert set(seen) == {tuple(patch[0, ::y, ::x].ravel()) for y in (1, -1) for x in (1, -1)}


def test_flip_z(rng):
    """Z is flipped only if `axes` contains it."""
    patch = rng.random((1, 3, 4, 4))

    assert len(positions_seen(FlipRot90(), patch)) == 8
    assert len(positions_seen(FlipRot90("ZYX"), patch)) == 16
    assert set(positions_seen(FlipRot90("Z", turns=False), patch)) == {
        tuple(patch.ravel()),
        tuple(patch[:, ::-1].ravel()),
    }
    assert len(positions_seen(FlipRot90("", turns=False), patch)) == 1


@pytest.mark.parametrize("axes", ["W", "YY", "yx"])
def test_wrong_axes(axes):
    """Other letters, and letters given twice, are refused."""
    with pytest.raises(pl.GeometryError, match="axes"):
        FlipRot90(axes)


def test_input_and_target(inputs, patching):
    """Input and target get the same position, which is a function of (seed, epoch, index)."""
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


def test_epochs(inputs, patching):
    """A patch that is the same in every epoch gets other positions."""
    fixed = pl.FixedPatching(list(patching))
    dataset = PatchDataset(inputs, fixed, augmentation=FlipRot90(), seed=4)

    seen = {tuple(dataset[PatchKey(epoch, 3)].input[0].ravel().tolist()) for epoch in range(20)}

    assert 4 <= len(seen) <= 8
