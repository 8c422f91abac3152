"""Ensembles: the mean of the predictions of several models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import lcm
from typing import Any

import numpy as np

from patchloom.argument_checks import listed
from patchloom.errors import ArgumentError, ModelError, ModelOutputError
from patchloom.prediction.models.callables import check_callable
from patchloom.prediction.models.devices import Precision, move_model
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe, tensor_device
from patchloom.prediction.models.outputs import as_outputs, as_pixels
from patchloom.prediction.models.pytorch.torch_model import as_torch_model
from patchloom.tensors.tensor_pixels import Pixels, copied, divided, in_one_place, pixel_dtype_of


@dataclass(frozen=True, slots=True)
class EnsembleModel:
    """A model whose prediction is the mean of the predictions of several models.

    Every tile goes through all models, one after the other, so prediction takes as long as with each of them alone, added up.
    `predict([model_a, model_b], …)` makes one. The models must return the same outputs: the same names, channels and sizes.

    Parameters
    ----------
    models : sequence of callable
        The models, at least one.

    Raises
    ------
    ArgumentError
        If a model is not callable, or there is none.
    ModelError
        If the models declare what contradicts each other, or return labels.

    Notes
    -----
    Predictions are added in the order of the models, in float64 if one of them is float64, else in float32, and the mean has
    the same dtype. Integers and truth values are refused, as a mean of labels is not a label: average the probabilities and
    postprocess with `Argmax` or `Threshold`.

    What the models declare is merged: the largest of their overlaps and halos, the least common multiple of their strides, and
    tile sizes that all of them accept. All else must be equal, as far as it is declared.

    Examples
    --------
    >>> ensemble = EnsembleModel([lambda batch: batch, lambda batch: 3 * batch])
    >>> ensemble(np.ones((1, 1, 1, 2), np.float32)).tolist()
    [[[[2.0, 2.0]]]]
    """

    models: Sequence[Model]

    def __post_init__(self) -> None:
        given = listed("models", self.models, "a list of models")
        if not given:
            raise ArgumentError("models is empty: give at least one model")
        models = tuple(as_torch_model(check_callable(f"models[{index}]", model)) for index, model in enumerate(given))
        object.__setattr__(self, "models", models)
        _merge_descriptions([describe(model) for model in models])  # raises if they contradict each other

    @property
    def description(self) -> ModelDescription:
        """What the models declare together."""
        return _merge_descriptions([describe(model) for model in self.models])

    @property
    def tensor_device(self) -> str | None:
        """The device of the models, if it is the same; see `TakesTensors`."""
        return _common_device([tensor_device(model) for model in self.models])

    def on(self, device: str | None, precision: Precision | None, /) -> EnsembleModel:
        """Return the models on a device; see `RunsOnDevice`."""
        return replace(self, models=[move_model(model, device, precision) for model in self.models])

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelOutputError
            If the models return different outputs, or integers or truth values.
        """
        check_batch(batch, tensors=True)
        total: dict[str, Pixels] = {}
        for index, model in enumerate(self.models):
            # A copy, as a model may change its input; the last one may.
            outputs = as_outputs(model(copied(batch) if index + 1 < len(self.models) else batch))
            predictions = {name: as_pixels(output, self.tensor_device) for name, output in outputs.items()}
            _check_averaged(predictions, index)
            if not index:
                total = {name: _as_sum(prediction) for name, prediction in predictions.items()}
            else:
                _check_same(total, predictions, index)
                total = {name: _added(total[name], prediction) for name, prediction in predictions.items()}
        means = {name: divided(summed, len(self.models), out=summed) for name, summed in total.items()}
        return means[""] if means.keys() == {""} else means


def _common_device(devices: Sequence[str | None]) -> str | None:
    return devices[0] if all(device == devices[0] for device in devices) else None


def _as_sum(prediction: Pixels) -> Pixels:
    """Return a copy of a prediction in the dtype in which predictions are added."""
    return copied(prediction, np.result_type(pixel_dtype_of(prediction), np.float32))


def _added(total: Pixels, prediction: Pixels) -> Pixels:
    total, prediction = in_one_place(total, prediction)
    of_total = pixel_dtype_of(total)
    if np.result_type(of_total, pixel_dtype_of(prediction)) != of_total:
        return total + prediction
    total += prediction
    return total


def _check_averaged(predictions: Mapping[str, Pixels], index: int) -> None:
    for name, prediction in predictions.items():
        dtype = pixel_dtype_of(prediction)
        if dtype.kind in "biu":
            raise ModelOutputError(
                f"model {index} of the ensemble returned {dtype}{_named(name)}, and integers and truth values are not "
                "averaged, as they may be labels: return probabilities, and postprocess their mean with argmax or threshold"
            )


def _check_same(total: Mapping[str, Pixels], predictions: Mapping[str, Pixels], index: int) -> None:
    if total.keys() != predictions.keys():
        raise ModelOutputError(
            f"model 0 of the ensemble returned the outputs {sorted(total)}, and model {index} {sorted(predictions)}: give models "
            "with the same outputs"
        )
    for name, prediction in predictions.items():
        if prediction.shape != total[name].shape:
            raise ModelOutputError(
                f"model 0 of the ensemble returned shape {tuple(total[name].shape)}, and model {index} "
                f"{tuple(prediction.shape)}{_named(name)}: give models with the same channels, scale and margin"
            )


def _named(name: str) -> str:
    return f" for output {name!r}" if name else ""


def _largest(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(max, zip(*sizes, strict=True)))


def _common_multiple(sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(lcm(*of_axis) for of_axis in zip(*sizes, strict=True))


def _mean_dtype(names: Sequence[str]) -> str:
    """Return the dtype of the mean of outputs that are declared."""
    labels = [name for name in names if np.dtype(name).kind in "biu"]
    if labels:
        raise ModelError(
            f"a model of the ensemble declares that it returns {labels[0]}, and integers and truth values are not averaged, as they "
            "may be labels: give models that return probabilities"
        )
    return str(np.result_type(np.float32, *names))


_MERGED: dict[str, Callable[[Any], Any]] = {
    "overlaps": _largest,
    "halo": _largest,
    "context": lambda contexts: tuple(map(_largest, zip(*contexts, strict=True))),
    "is_global": any,
    "origin_multiple": _common_multiple,
    "preferred_patch_size": _largest,
    "preferred_batch_size": min,
    "out_dtype": _mean_dtype,
}
"""How what several models declare becomes one value."""

_SIZE_RULE = ("min_size", "size_step")

_MUST_ALL_DECLARE = ("normalize", "postprocess", "pixel_size")
"""Fields that describe how a network was trained: one that does not declare them takes other pixels, or gives other values."""


def _merge_descriptions(declared: Sequence[ModelDescription]) -> ModelDescription:
    """Merge what models declare.

    Raises
    ------
    ModelError
        If they contradict each other.
    """
    names = [entry.name for entry in fields(ModelDescription) if entry.name not in ("identity", *_SIZE_RULE)]
    _check_axes(declared)
    merged: dict[str, Any] = {
        name: _merge_field(name, [getattr(of_model, name) for of_model in declared]) for name in names
    }
    identity = "mean of " + "; ".join(of_model.identity for of_model in declared)
    return ModelDescription(**merged | _merge_size_rules(declared), identity=identity)


def _check_axes(declared: Sequence[ModelDescription]) -> None:
    dims = sorted({of_model.n_dims for of_model in declared if of_model.n_dims is not None})
    if len(dims) > 1:
        raise ModelError("the ensemble has models in 2D and in 3D: give models with the same number of axes")


def _merge_field(name: str, values: Sequence[Any]) -> Any:
    known = [value for value in values if value not in (None, ())]
    if not known:
        return values[0]
    merged = _MERGED[name](known) if name in _MERGED else _equal(name, known)
    is_partly_known = len(known) < len(values)
    if is_partly_known and name in _MUST_ALL_DECLARE:
        raise ModelError(
            f"one model of the ensemble declares {name} {_text(merged)}, and another declares none: give models that declare the same"
        )
    return None if is_partly_known and name in ("out_dtype", "context") else merged


def _equal(name: str, values: Sequence[Any]) -> Any:
    for value in values:
        if value != values[0]:
            raise ModelError(
                f"the models of the ensemble declare different {name}, {_text(values[0])} and {_text(value)}: give models that "
                "declare the same"
            )
    return values[0]


def _text(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else repr(value)


def _merge_size_rules(declared: Sequence[ModelDescription]) -> dict[str, tuple[int, ...]]:
    """Return the tile sizes that all models accept; empty if no model has a rule, or description has none."""
    rules = [
        rule
        for rule in (tuple(getattr(of_model, name, None) for name in _SIZE_RULE) for of_model in declared)
        if any(rule)
    ]
    if not rules:
        return {}
    n_dims = len(next(sizes for rule in rules for sizes in rule if sizes))
    ones = (1,) * n_dims
    along = [
        _common_sizes([((smallest or step or ones)[axis], (step or ones)[axis]) for smallest, step in rules])
        for axis in range(n_dims)
    ]
    smallest, steps = zip(*along, strict=True)
    return {"min_size": smallest, "size_step": steps}


def _common_sizes(rules: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the smallest size and the step of the sizes that all rules accept along one axis.

    Examples
    --------
    >>> _common_sizes([(16, 16), (32, 8)]), _common_sizes([(5, 4), (7, 6)])
    ((32, 16), (13, 12))
    """
    for size in _candidates(rules):
        if all((size - smallest) % step == 0 for smallest, step in rules):
            return size, lcm(*(step for _, step in rules))
    raise ModelError(
        "no tile size fits all models of the ensemble: they accept "
        f"{', and '.join(f'{smallest} + k · {step}' for smallest, step in rules)}; predict with each of them alone"
    )


def _candidates(rules: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Yield sizes that the model with the largest step accepts, over one period of all rules."""
    least = max(smallest for smallest, _ in rules)
    smallest, step = max(rules, key=lambda rule: rule[1])
    first = least + (smallest - least) % step
    yield from range(first, first + lcm(*(of_rule for _, of_rule in rules)), step)
