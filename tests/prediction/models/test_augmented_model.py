"""Augmentation: the mean over all flips and turns, each written in NumPy."""

from __future__ import annotations

import pickle
from fractions import Fraction

import numpy as np
import pytest

from patchloom.errors import ModelError, ModelOutputError
from patchloom.prediction.models.augmented_model import AugmentedModel
from patchloom.prediction.models.model import ModelDescription
from patchloom.testing.model_conformance import ModelConformance


def lopsided(batch: np.ndarray) -> np.ndarray:
    """A model whose prediction depends on every flip and turn, along every axis."""
    drift = sum(np.roll(batch, 1, axis=axis) * weight for axis, weight in zip((-1, -2, 2), (3, 5, 7), strict=True))
    return np.concatenate([drift, batch * np.arange(batch.shape[-1]).astype(batch.dtype)], axis=1)


def pointwise(batch: np.ndarray) -> np.ndarray:
    return np.sqrt(np.abs(batch)) + 1


class Declaring:
    def __init__(self, **declared) -> None:
        self.description = ModelDescription(**declared)

    def __call__(self, batch):
        return batch


ALL_TURNS = [
    (lambda a: a, lambda a: a),
    (lambda a: a[..., ::-1], lambda a: a[..., ::-1]),
    (lambda a: a[..., ::-1, :], lambda a: a[..., ::-1, :]),
    (lambda a: a[..., ::-1, ::-1], lambda a: a[..., ::-1, ::-1]),
    (lambda a: a.swapaxes(-1, -2), lambda a: a.swapaxes(-1, -2)),
    (lambda a: a[..., ::-1, ::-1].swapaxes(-1, -2), lambda a: a.swapaxes(-1, -2)[..., ::-1, ::-1]),
    (lambda a: a[..., ::-1].swapaxes(-1, -2), lambda a: a.swapaxes(-1, -2)[..., ::-1]),
    (lambda a: a[..., ::-1, :].swapaxes(-1, -2), lambda a: a.swapaxes(-1, -2)[..., ::-1, :]),
]


def mean_of_turns(model, batch: np.ndarray, *, quarter_turns: bool, flip_z: bool) -> np.ndarray:
    """The mean over all flips and turns, by slices and exchanged axes only."""
    predictions = []
    for turn, turn_back in ALL_TURNS if quarter_turns else ALL_TURNS[:4]:
        for z in (1, -1) if flip_z else (1,):
            seen = turn(batch if z == 1 else batch[:, :, ::-1]).copy()
            predicted = turn_back(model(seen))
            predictions.append(predicted if z == 1 else predicted[:, :, ::-1])
    return np.mean(predictions, axis=0, dtype=np.float64)


@pytest.mark.parametrize("quarter_turns", [True, False])
@pytest.mark.parametrize(
    ("shape", "flip_z"),
    [((2, 1, 8, 8), False), ((3, 2, 7, 12), False), ((1, 1, 5, 6, 9), True), ((2, 2, 4, 6, 6), False)],
)
def test_mean_of_turns(shape, flip_z, quarter_turns, rng):
    """The prediction is the mean over all flips and turns."""
    batch = rng.random(shape).astype(np.float32)
    before = batch.copy()
    predicted = AugmentedModel(lopsided, quarter_turns, flip_z)(batch)
    expected = mean_of_turns(lopsided, batch, quarter_turns=quarter_turns, flip_z=flip_z)
    np.testing.assert_allclose(predicted, expected, rtol=1e-5)
    assert predicted.dtype == np.float32
    assert np.array_equal(batch, before)
    assert not np.allclose(predicted, lopsided(batch), rtol=1e-2)


@pytest.mark.parametrize(("quarter_turns", "flip_z", "n_ways"), [(True, False, 8), (False, False, 4), (True, True, 16)])
def test_distinct_turns(quarter_turns, flip_z, n_ways, rng):
    """Each flip or turn is predicted once."""
    seen = []
    image = rng.random((1, 1, 3, 5, 5))
    AugmentedModel(lambda batch: seen.append(batch.tobytes()) or batch, quarter_turns, flip_z)(image)
    assert len(seen) == len(set(seen)) == n_ways


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int16", "uint16", "int32", "bool"])
def test_invariant_model(dtype, rng):
    """The prediction of an invariant model is unchanged, bit for bit."""
    kind = np.dtype(dtype).kind
    batch = rng.random((2, 3, 9, 9)) if kind == "f" else rng.integers(0, 2 if kind == "b" else 100, (2, 3, 9, 9))
    batch = batch.astype(dtype)
    model = pointwise if kind == "f" else np.copy
    for quarter_turns in (True, False):
        predicted = AugmentedModel(model, quarter_turns)(batch)
        assert predicted.dtype == model(batch).dtype
        assert predicted.tobytes() == model(batch).tobytes()


@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint16"])
def test_integers(dtype, rng):
    """The mean of integers is rounded, halves to even."""
    batch = rng.integers(0, 100, (2, 1, 8, 8)).astype(dtype)

    def model(tiles: np.ndarray) -> np.ndarray:
        return np.roll(tiles, 1, axis=-1)

    expected = np.rint(mean_of_turns(model, batch, quarter_turns=True, flip_z=False))
    predicted = AugmentedModel(model)(batch)
    assert predicted.dtype == dtype
    np.testing.assert_array_equal(predicted, expected)


def test_model_changes_input(rng):
    """A model that changes its input gets a copy each time."""

    def greedy(batch):
        batch *= 2
        return batch

    batch = rng.random((1, 1, 4, 4))
    np.testing.assert_array_equal(AugmentedModel(greedy)(batch.copy()), batch * 2)


def test_output_sizes(rng):
    """Outputs that are larger, or lack a margin, are turned back too."""
    batch = rng.random((1, 1, 8, 12))
    doubled = AugmentedModel(lambda tiles: tiles.repeat(2, axis=-1).repeat(2, axis=-2))(batch)
    np.testing.assert_array_equal(doubled, batch.repeat(2, axis=-1).repeat(2, axis=-2))
    cropped = AugmentedModel(lambda tiles: tiles[..., 2:-2, 2:-2])(batch)
    np.testing.assert_array_equal(cropped, batch[..., 2:-2, 2:-2])


@pytest.mark.parametrize("pack", [tuple, list, lambda outputs: dict(zip("ab", outputs, strict=True))])
def test_several_outputs(pack, rng):
    """Each of several outputs is averaged."""
    batch = rng.random((2, 1, 6, 6))
    predicted = AugmentedModel(lambda tiles: pack([pointwise(tiles), (tiles * 9).astype(np.uint8)]))(batch)
    first, second = predicted.values()
    assert list(predicted) == (["a", "b"] if isinstance(pack([1, 2]), dict) else ["0", "1"])
    np.testing.assert_array_equal(first, pointwise(batch))
    np.testing.assert_array_equal(second, (batch * 9).astype(np.uint8))


def test_description():
    """The description is that of the model, with overlaps for turned tiles."""
    declared = {"patch_size": (8, 32, 32), "overlaps": (2, 4, 6), "out_channels": 3, "scale": (Fraction(1),) * 3}
    model = Declaring(**declared, identity="net")
    turned, flipped = AugmentedModel(model).description, AugmentedModel(model, quarter_turns=False).description
    assert (turned.patch_size, turned.out_channels, turned.scale) == ((8, 32, 32), 3, (Fraction(1),) * 3)
    assert turned.overlaps == (2, 6, 6)  # whichever way a tile lies
    assert flipped.overlaps == (2, 4, 6)
    assert len({"net", turned.identity, flipped.identity, AugmentedModel(model, flip_z=True).description.identity}) == 4


@pytest.mark.parametrize(
    ("declared", "arguments", "message"),
    [
        (
            {"patch_size": (32, 64)},
            {},
            r"tiles of 32 × 64: quarter turns need the same number for Y and X, use quarter_turns=False",
        ),
        ({"scale": (Fraction(2), Fraction(1))}, {}, "a scale of 2 × 1: quarter turns"),
        ({"n_dims": 2}, {"flip_z": True}, "flip_z is True, and the model is 2D"),
    ],
)
def test_refused_models(declared, arguments, message):
    """Models that cannot be turned are refused when they are wrapped."""
    with pytest.raises(ModelError, match=message):
        AugmentedModel(Declaring(**declared), **arguments)
    AugmentedModel(Declaring(**declared), quarter_turns=False)


def test_errors_of_call(rng):
    """Batches and predictions that cannot be turned are errors."""
    with pytest.raises(ModelError, match="flip_z is True, and batch has shape"):
        AugmentedModel(pointwise, flip_z=True)(rng.random((1, 1, 4, 4)))
    with pytest.raises(ModelOutputError, match="use quarter_turns=False"):
        AugmentedModel(lambda tiles: tiles.repeat(2, axis=-1))(rng.random((1, 1, 4, 4)))
    with pytest.raises(ModelOutputError, match="returned shape"):
        AugmentedModel(lambda tiles: tiles[0])(rng.random((1, 1, 4, 4)))


def test_changing_outputs(rng):
    """A model that returns other outputs for turned tiles is an error."""
    calls = iter([{"a": 0}, {"b": 0}] * 4)
    with pytest.raises(ModelOutputError, match="outputs"):
        AugmentedModel(lambda tiles: dict.fromkeys(next(calls), tiles))(rng.random((1, 1, 4, 4)))


class TestAugmentedModelsConform(ModelConformance):
    """An augmented model is a model."""

    def make_model(self):
        return AugmentedModel(lopsided, quarter_turns=True, flip_z=True)

    def make_batch(self, size):
        return np.random.default_rng(0).random((3, 1, 5, 6, 6))[:size]


def test_pickle():
    """An augmented model pickles."""
    model = AugmentedModel(pointwise, quarter_turns=False)
    assert pickle.loads(pickle.dumps(model)) == model
