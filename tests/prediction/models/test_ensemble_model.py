"""Ensembles: the mean of the predictions of several models."""

from __future__ import annotations

import pickle
from fractions import Fraction
from itertools import count
from math import lcm
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchloom as pl
from patchloom.errors import ArgumentError, ModelError, ModelOutputError
from patchloom.prediction.models import ensemble_model
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.identity.model_identity import identify_model
from patchloom.prediction.models.model import ModelDescription
from patchloom.testing.model_conformance import ModelConformance


class Net:
    """A model with weights and a description."""

    def __init__(self, factor: float = 1.0, dtype: str = "float32", **declared: Any) -> None:
        self.factor, self.dtype = factor, dtype
        self.description = ModelDescription(**declared)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(batch * self.factor, self.dtype)


def square(batch: np.ndarray) -> np.ndarray:
    return batch.astype(np.float32) ** 2


def root(batch: np.ndarray) -> np.ndarray:
    return np.sqrt(batch.astype(np.float32))


def plus(batch: np.ndarray) -> np.ndarray:
    batch += 1  # of its own copy
    return batch.astype(np.float32)


class TestConformance(ModelConformance):
    """The model of an ensemble is a model like any other."""

    def make_model(self) -> Any:
        return EnsembleModel([square, root])

    def make_batch(self, size: int) -> Any:
        return np.random.default_rng(0).random((size, 1, 9, 8))


@pytest.mark.parametrize("models", [[square], [square, root], [plus, square, root], [root, plus, plus, square]])
def test_mean(models: list[Any], rng: np.random.Generator) -> None:
    """The prediction of an image is the mean of the predictions of all models, also if a model changes its input."""
    image = rng.random((2, 50, 40))
    expected = np.mean([model(image.copy()).astype(np.float64) for model in models], axis=0)
    result = pl.predict(
        EnsembleModel(models), image, axes="CYX", patch_size=16, overlaps=4, batch_size=3, progress=False
    )
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    assert result.dtype == np.float32


@pytest.mark.parametrize("how", [{}, {"device": "cpu"}, {"device": "cpu,cpu"}, {"n_draws": 2}])
def test_list(how: dict[str, Any], rng: np.random.Generator) -> None:
    """A list of networks is averaged, by `predict` and by a plan, on any number of devices, also if they draw."""
    torch = pytest.importorskip("torch")
    networks = [torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.Dropout(0.5)) for _ in range(3)]
    image = rng.random((40, 30)).astype(np.float32)
    options: dict[str, Any] = {"axes": "YX", "patch_size": 20, "overlaps": 8}
    result = pl.predict(networks, image, **options, progress=False, **how)
    if "n_draws" in how:
        assert result["std"].max() > 0
        return
    with torch.inference_mode():
        whole = [network[0](torch.from_numpy(image[None, None]))[0].numpy() for network in networks]
    np.testing.assert_allclose(result[:, 1:-1, 1:-1], np.mean(whole, axis=0)[:, 1:-1, 1:-1], rtol=1e-4, atol=1e-6)
    planned = pl.plan(image, model=networks, **options).run(networks, sources=image, progress=False, **how)
    assert planned.tobytes() == result.tobytes()


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [(["float32", "float32"], "float32"), (["float16", "float32"], "float32"), (["float32", "float64"], "float64")],
)
def test_dtype(dtypes: list[str], expected: str) -> None:
    """The mean is in float32, or in float64 if a model returns it."""
    assert EnsembleModel([Net(dtype=dtype) for dtype in dtypes])(np.ones((1, 1, 4, 4))).dtype == expected


def test_half_floats(rng: np.random.Generator) -> None:
    """Predictions in float16 are added in float32, where their sum does not overflow."""
    ensemble = EnsembleModel([Net(1.0, "float16"), Net(1.0, "float16")])
    assert ensemble(np.full((1, 1, 2, 2), 60000.0)).max() == np.float16(60000.0)


def test_several_outputs(rng: np.random.Generator) -> None:
    """Outputs are averaged by their names, in any order."""
    batch = rng.random((2, 1, 6, 6)).astype(np.float32)
    ensemble = EnsembleModel([lambda tiles: {"a": tiles, "b": 2 * tiles}, lambda tiles: {"b": 4 * tiles, "a": tiles}])
    means = ensemble(batch)
    np.testing.assert_array_equal(means["a"], batch)
    np.testing.assert_array_equal(means["b"], 3 * batch)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda batch: {"a": batch}, r"outputs \[''\], and model 1 \['a'\]"),
        (lambda batch: batch[..., 1:-1, 1:-1], "shape .* and model 1"),
        (lambda batch: batch > 0, "returned bool"),
        (lambda batch: {"": batch.astype(np.int32)}, "may be labels"),
    ],
)
def test_different_outputs(other: Any, message: str) -> None:
    """Models with other outputs, or with labels, are refused."""
    with pytest.raises(ModelOutputError, match=message):
        EnsembleModel([square, other])(np.ones((1, 1, 8, 8), np.float32))


@pytest.mark.parametrize(
    ("models", "message"), [([], "empty"), ([square, 3], r"models\[1\]"), (3, "models"), ("ab", "models")]
)
def test_no_models(models: Any, message: str) -> None:
    """Something that is not a list of models is refused."""
    with pytest.raises(ArgumentError, match=message):
        EnsembleModel(models)


def test_description() -> None:
    """What models declare is merged: the largest overlap, common strides; the rest has to be equal."""
    first = Net(patch_size=(64, 64), overlaps=(8, 16), origin_multiple=(4, 4), out_dtype="float16", identity="a")
    second = Net(overlaps=(16, 8), origin_multiple=(6, 2), out_dtype="float64", scale=(Fraction(2),) * 2, identity="b")
    merged = EnsembleModel([first, second]).description
    assert (merged.patch_size, merged.overlaps, merged.origin_multiple) == ((64, 64), (16, 16), (12, 4))
    assert (merged.out_dtype, merged.scale, merged.identity) == ("float64", (Fraction(2),) * 2, "mean of a; b")
    assert EnsembleModel([first, square]).description.out_dtype is None


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ({"patch_size": (8, 8)}, {"patch_size": (8, 9)}, "different patch_size, 8 × 8 and 8 × 9"),
        ({"in_channels": 1}, {"in_channels": 2}, "different in_channels"),
        ({"out_channel_names": ("a", "b")}, {"out_channel_names": ("b", "a")}, "different out_channel_names"),
        ({"scale": (2, 2)}, {"scale": (1, 1)}, "different scale"),
        ({"n_dims": 2}, {"n_dims": 3}, "in 2D and in 3D"),
        ({"out_dtype": "uint8"}, {}, "declares that it returns uint8"),
    ],
)
def test_contradictions(first: dict[str, Any], second: dict[str, Any], message: str) -> None:
    """Models that declare what contradicts each other are refused at once."""
    with pytest.raises(ModelError, match=message):
        EnsembleModel([Net(**first), Net(**second)])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 12)), min_size=1, max_size=3))
def test_common_sizes(rules: list[tuple[int, int]]) -> None:
    """The sizes that all models accept are those of one rule, or there are none."""
    period, least = lcm(*(step for _, step in rules)), max(smallest for smallest, _ in rules)
    accepted = [
        size
        for size in range(least, least + 2 * period)
        if all((size - smallest) % step == 0 for smallest, step in rules)
    ]
    if not accepted:
        with pytest.raises(ModelError, match="no tile size fits"):
            ensemble_model._common_sizes(rules)
    else:
        smallest, step = ensemble_model._common_sizes(rules)
        found = (smallest + k * step for k in count())
        assert [next(found) for _ in accepted] == accepted


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([{"size_step": (4, 4)}], ((4, 4), (4, 4))),
        ([{"size_step": (4, 4)}, {"size_step": (6, 4)}], ((12, 4), (12, 4))),
        ([{"size_step": (4, 4)}, {"min_size": (9, 8)}], ((12, 8), (4, 4))),
        ([{"min_size": (9, 8)}, {}], ((9, 8), (1, 1))),
    ],
)
def test_size_rules(rules: list[dict[str, Any]], expected: Any) -> None:
    """A step alone is the least size, too, as for one model."""
    merged = EnsembleModel([Net(**rule) for rule in rules]).description
    assert (merged.min_size, merged.size_step) == expected


def test_identity() -> None:
    """Other models, or the same in another order, are another ensemble; pickling changes nothing."""
    identities = [
        identify_model(EnsembleModel([Net(factor) for factor in factors])).parts
        for factors in ([1, 2], [2, 1], [1, 3], [1, 2, 2], [1, 2])
    ]
    assert identities[0] == identities[-1]
    assert [identities.count(parts) for parts in identities] == [2, 1, 1, 1, 2]
    declared = [EnsembleModel([Net(identity=name), Net(2, identity="b")]) for name in ("a", "c")]
    assert identify_model(declared[0]).parts != identify_model(declared[1]).parts
    again = pickle.loads(pickle.dumps(declared[0]))
    assert identify_model(again).parts == identify_model(declared[0]).parts
