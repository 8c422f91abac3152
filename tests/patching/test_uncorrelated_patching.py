"""Uncorrelated patches: each channel from a place of its own, and the specification says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from patchloom.errors import GeometryError, NotIntegerError
from patchloom.patching import (
    FixedPatching,
    RandomPatching,
    StratifiedPatching,
    UncorrelatedPatching,
    WholeSamplePatching,
)
from patchloom.specs.patch_specs import is_uncorrelated_specs
from patchloom.specs.spec_validation import validate_specs

Departure = Callable[..., float]
SHAPES = [(2, 3, 60, 50), (1, 3, 40, 44)]


@pytest.fixture
def base() -> RandomPatching:
    return RandomPatching(SHAPES, (8, 6), 3, n_patches=500)


def channels_of(patching: UncorrelatedPatching) -> np.ndarray:
    """Place of every channel of every patch: `(patches, channels, stack and sample and coordinates)`."""
    table = patching.specs(range(len(patching))).columns
    single = [table[name][..., np.newaxis] for name in ("all_data_idx", "all_sample_idx")]
    return np.concatenate([*single, table["all_coords"]], axis=2)


@pytest.mark.parametrize("principal", [0, 2])
def test_channels(base: RandomPatching, principal: int) -> None:
    """The principal channel follows the base, and the other channels lie elsewhere."""
    patching = UncorrelatedPatching(base, 3, principal_channel=principal)
    specs = list(patching)
    validate_specs(specs, SHAPES)
    assert len(specs) == len(base)
    assert all(is_uncorrelated_specs(spec) and spec["principal_channel"] == principal for spec in specs)
    for spec, own in zip(specs, base, strict=True):
        assert {name: spec[name] for name in own} == own
        assert spec["all_coords"][principal] == own["coords"]
        assert (spec["all_data_idx"][principal], spec["all_sample_idx"][principal]) == (
            own["data_idx"],
            own["sample_idx"],
        )
    places = channels_of(patching)
    known = {(spec["data_idx"], spec["sample_idx"], *spec["coords"]) for spec in base}
    assert set(map(tuple, places.reshape(-1, 4).tolist())) <= known, "every channel is some patch of the base"
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (places[:, one] == places[:, other]).all(axis=1).mean() < 0.02


def test_uniform_and_independent(departure: Departure) -> None:
    """Channels are drawn uniformly and independently."""
    base = RandomPatching([(1, 1, 100, 100)], (10, 10), 3, n_patches=50_000)
    patching = UncorrelatedPatching(base, 3, seed=5)
    y = channels_of(patching)[..., 2] * 8 // 91
    pairs = {"0 and 1": (0, 1), "0 and 2": (0, 2), "1 and 2": (1, 2)}
    shares = np.bincount(np.arange(91) * 8 // 91, minlength=8) / 91
    for name, (one, other) in pairs.items():
        counts = np.bincount(y[:, one] * 8 + y[:, other], minlength=64)
        assert departure(counts, np.outer(shares, shares).ravel() * 50_000) < 4, name
    same = np.bincount(y[:, 0] * 8 + y[:, 0], minlength=64)
    assert departure(same, np.outer(shares, shares).ravel() * 50_000) > 100


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_probability(base: RandomPatching, probability: float) -> None:
    """The share of uncorrelated patches is `probability`, and correlated ones have the same kind."""
    patching = UncorrelatedPatching(base, 2, probability=probability)
    places = np.concatenate([channels_of(patching.at_epoch(epoch)) for epoch in range(20)])
    correlated = (places[:, 0] == places[:, 1]).all(axis=1)
    assert correlated.mean() == pytest.approx(1 - probability, abs=4 * 0.5 / 100)
    assert {tuple(spec) for spec in patching} == {tuple(patching[0])}
    validate_specs(list(patching), SHAPES)


def test_series_per_channel() -> None:
    """Each channel may have its own series."""
    shapes = [[(1, 1, 30, 30)], [(4, 1, 90, 20), (1, 1, 25, 70)], [(1, 1, 400, 400)]]
    bases = [RandomPatching(of_channel, (8, 8), 3, n_patches=200 + i) for i, of_channel in enumerate(shapes)]
    patching = UncorrelatedPatching(bases, 3, principal_channel=1)
    assert len(patching) == 201
    places = channels_of(patching)
    for channel, of_channel in enumerate(shapes):
        known = {(spec["data_idx"], spec["sample_idx"], *spec["coords"]) for spec in bases[channel]}
        assert set(map(tuple, places[:, channel].tolist())) <= known
        assert set(places[:, channel, 0].tolist()) == set(range(len(of_channel)))
    assert list(patching.get_patch_indices(1)) == list(bases[1].get_patch_indices(1))


def test_epochs_and_seeds(base: RandomPatching) -> None:
    """Epochs and seeds change the positions of the channels."""
    patching = UncorrelatedPatching(base, 2)
    moved = patching.at_epoch(3)
    assert moved.epoch == 3
    assert channels_of(moved)[:, 0].tolist() == channels_of(UncorrelatedPatching(base.at_epoch(3), 2))[:, 0].tolist()
    fixed = FixedPatching(base)
    here, there = (channels_of(UncorrelatedPatching(fixed, 2).at_epoch(epoch)) for epoch in (0, 1))
    assert (here[:, 0] == there[:, 0]).all(), "listed patches stay"
    assert (here[:, 1] == there[:, 1]).all(axis=1).mean() < 0.02, "their partners change"
    other = channels_of(UncorrelatedPatching(base, 2, seed=1))
    assert (other[:, 1] == channels_of(patching)[:, 1]).all(axis=1).mean() < 0.02
    assert UncorrelatedPatching(base.at_epoch(7), 2).epoch == 7


def test_recorded_spec() -> None:
    """A specification is the same on every machine."""
    base = RandomPatching([(1, 1, 500, 400), (2, 1, 300, 700)], (64, 32), 2024)
    spec = UncorrelatedPatching(base, 3, principal_channel=1, seed=9).at_epoch(2)[4]
    assert spec["all_data_idx"] == (1, 0, 1)
    assert spec["all_sample_idx"] == (0, 0, 0)
    assert spec["all_coords"] == ((80, 17), (306, 368), (92, 398))


def test_empty_base() -> None:
    """A base without patches gives an empty patching."""
    base = StratifiedPatching([(1, 1, 20, 20)], (10, 10), 1)
    base.exclude_patches(0, 0, base.get_all_grid_coords()[0, 0])
    assert list(UncorrelatedPatching(base, 2)) == []


def other_series(shape: tuple[int, ...], **options: Any) -> list[RandomPatching]:
    return [RandomPatching(SHAPES, (8, 6), 1), RandomPatching([shape], (8, 6), 1, **options)]


@pytest.mark.parametrize(
    ("base", "options", "error", "message"),
    [
        (RandomPatching(SHAPES, (8, 6), 1), {"n_channels": 0}, GeometryError, "n_channels is 0"),
        (RandomPatching(SHAPES, (8, 6), 1), {"n_channels": 2.0}, NotIntegerError, r"n_channels is 2\.0"),
        (RandomPatching(SHAPES, (8, 6), 1), {"principal_channel": 2}, GeometryError, "principal_channel is 2, but"),
        (RandomPatching(SHAPES, (8, 6), 1), {"principal_channel": -1}, GeometryError, "principal_channel is -1"),
        (RandomPatching(SHAPES, (8, 6), 1), {"probability": 1.1}, GeometryError, r"probability is 1\.1"),
        (RandomPatching(SHAPES, (8, 6), 1), {"probability": float("nan")}, GeometryError, "probability is NaN"),
        (RandomPatching(SHAPES, (8, 6), 1), {"seed": -1}, GeometryError, "seed is -1"),
        (other_series((1, 1, 99, 99)), {"n_channels": 3}, GeometryError, "there are 2 bases for 3 channels"),
        (other_series((1, 1, 99, 99)), {"probability": 0.5}, GeometryError, "different data_shapes"),
        (
            [RandomPatching(SHAPES, (8, 6), 1), RandomPatching(SHAPES, (8, 8), 1)],
            {},
            GeometryError,
            r"patches of sizes \[\(8, 6\), \(8, 8\)\]",
        ),
        (WholeSamplePatching(SHAPES), {}, GeometryError, r"patches of sizes \[\(40, 44\), \(60, 50\)\]"),
        ([RandomPatching(SHAPES, (8, 6), 1), FixedPatching([])], {}, GeometryError, "a channel without patches"),
    ],
)
def test_bad_arguments(base: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """Arguments that cannot be combined are refused."""
    with pytest.raises(error, match=message):
        UncorrelatedPatching(base, **{"n_channels": 2, **options})
