"""Pre- and postprocessing of a package: fixed steps on arrays, and one statistic of the whole image.

A statistic is measured by the run, over the whole image and never over a tile: it becomes a text that `normalize` reads. Steps before
it must be a multiplication and an addition, which are folded into it; all other steps run on tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchloom.errors import ModelError
from patchloom.prediction.models.bioimageio.tensors import Step, Tensor, n_channels

Operation = Callable[[NDArray[Any]], NDArray[Any]]
"""A step on a batch `(B, C, (Z), Y, X)`."""

_FIXED_EPS = 1e-6
"""bioimageio.core adds it to the fixed standard deviations, too."""

_NOT_ON_TILES = {
    "cellpose_flow_dynamics": "it makes instances of a whole image",
    "custom": "it is code of the package",
    "scale_mean_variance": "it needs statistics of the whole output",
    "stardist_postprocessing": "it makes instances of a whole image",
}
_WITHOUT = "remove the step from the description, and do it to the result"


@dataclass(frozen=True)
class Preprocessing:
    """The steps before a network."""

    normalize: str | None
    """The statistic of the whole image, as `normalize` takes it; None if there is none."""

    operations: tuple[Operation, ...]
    """The steps on tiles, which are normalized already if there is a statistic."""

    image_dtype: np.dtype[Any] | None
    """The dtype of the images that the package takes."""


def prepare_preprocessing(tensor: Tensor) -> Preprocessing:
    """Divide the preprocessing of an input into a statistic of the whole image and steps on tiles.

    Parameters
    ----------
    tensor : Tensor
        The input.

    Raises
    ------
    ModelError
        If a step cannot be run: a statistic after steps that are not a multiplication and an addition, or a second statistic.
    """
    steps = tensor.steps
    first = steps[0] if steps and steps[0].name == "ensure_dtype" else None
    dtype = None if first is None else np.dtype(first.settings["dtype"])
    places = [index for index, step in enumerate(steps) if _is_statistic(step)]
    if not places:
        return Preprocessing(None, tuple(_operation(step, tensor, "preprocessing") for step in steps), dtype)
    if len(places) > 1:
        names = " and ".join(repr(steps[place].name) for place in places)
        raise ModelError(
            f"the preprocessing of input {tensor.name!r} has two statistics, {names}: only one can be measured before a run"
        )
    place = places[0]
    gain = _folded_gain(steps[:place], steps[place], tensor)
    method = _method(steps[place], gain, tensor)
    after = tuple(_operation(step, tensor, "preprocessing") for step in steps[place + 1 :])
    return Preprocessing(method, (np.negative, *after) if gain < 0 else after, dtype)


def prepare_postprocessing(tensor: Tensor) -> tuple[Operation, ...]:
    """Return the postprocessing of an output as steps on tiles.

    Parameters
    ----------
    tensor : Tensor
        The output.

    Raises
    ------
    ModelError
        If a step needs the whole output.
    """
    for step in tensor.steps:
        if _is_statistic(step):
            raise ModelError(
                f"the postprocessing of output {tensor.name!r} has the step {step.name!r}, which cannot be run on tiles, as it needs "
                f"statistics of the whole output: {_WITHOUT}"
            )
    return tuple(_operation(step, tensor, "postprocessing") for step in tensor.steps)


def final_dtype(tensor: Tensor) -> str | None:
    """Return the dtype of an output after its postprocessing; None if it is that of the network.

    Parameters
    ----------
    tensor : Tensor
        The output.
    """
    if not tensor.steps:
        return None
    last = tensor.steps[-1]
    return "bool" if last.name == "binarize" else last.settings.get("dtype")


def _is_statistic(step: Step) -> bool:
    percentiles = (step.settings.get("min_percentile"), step.settings.get("max_percentile"))
    return step.name in {"zero_mean_unit_variance", "scale_range"} or (
        step.name == "clip" and percentiles != (None, None)
    )


def _folded_gain(before: Sequence[Step], statistic: Step, tensor: Tensor) -> float:
    """Return the factor by which the steps before a statistic multiply an image; what they add has no influence on it."""
    gain = 1.0
    for step in before:
        factors: NDArray[np.float64]
        if step.name == "ensure_dtype" and (np.dtype(step.settings["dtype"]).kind == "f" or step is tensor.steps[0]):
            continue
        if step.name == "scale_linear":
            factors = np.atleast_1d(np.asarray(step.settings.get("gain", 1.0), np.float64))
            shifts = np.atleast_1d(np.asarray(step.settings.get("offset", 0.0), np.float64))
        elif step.name == "fixed_zero_mean_unit_variance":
            factors = 1 / (np.atleast_1d(np.asarray(step.settings["std"], np.float64)) + _FIXED_EPS)
            shifts = -np.atleast_1d(np.asarray(step.settings["mean"], np.float64)) * factors
        else:
            raise ModelError(
                f"the preprocessing of input {tensor.name!r} has {step.name!r} before {statistic.name!r}, so that the statistics are not "
                "those of the image: only scale_linear and fixed_zero_mean_unit_variance may come first"
            )
        if len(set(factors.tolist())) > 1 or len(set(shifts.tolist())) > 1:
            raise ModelError(
                f"the preprocessing of input {tensor.name!r} has {step.name!r} with another number for each channel before "
                f"{statistic.name!r}, which cannot be measured before a run"
            )
        gain *= float(factors[0])
    if gain == 0 or (gain < 0 and statistic.name != "zero_mean_unit_variance"):
        raise ModelError(
            f"the preprocessing of input {tensor.name!r} multiplies by {gain} before {statistic.name!r}: it must be a positive number"
        )
    return gain


def _method(step: Step, gain: float, tensor: Tensor) -> str:
    """Return the statistic as a text that `normalize` reads.

    For gray values `g * x + o`, the mean is `g * mean(x) + o` and the deviation is `abs(g) * std(x)`, so that
    `(g * x + o - mean) / (std + eps)` is `sign(g) * (x - mean(x)) / (std(x) + eps / abs(g))`.
    """
    parts = _parts(step, tensor)
    eps = step.settings.get("eps", 1e-6) / abs(gain)
    if step.name == "zero_mean_unit_variance":
        return f"mean_std:eps={eps!r}{parts}"
    if step.name == "clip":
        raise ModelError(
            f"the preprocessing of input {tensor.name!r} has 'clip' by percentiles, which are measured only for 'scale_range': give "
            "fixed limits, or take scale_range"
        )
    reference = step.settings.get("reference_tensor")
    if reference is not None and str(reference) != tensor.name:
        raise ModelError(
            f"the preprocessing of input {tensor.name!r} takes the percentiles of tensor {str(reference)!r}: only its own are measured"
        )
    lower, upper = (float(step.settings.get(f"{end}_percentile", at)) for end, at in (("min", 0), ("max", 100)))
    return f"percentiles:{lower!r},{upper!r},eps={eps!r}{parts}"


def _parts(step: Step, tensor: Tensor) -> str:
    """Return the parts of an image that are measured together, as `normalize` names them after a method.

    A step measures over the axes that it names, and over all of them if it names none.
    """
    axes = step.settings.get("axes")
    if axes is None:
        return ""
    apart = [axis.letter for axis in tensor.axes if axis.letter not in axes and not axis.is_singleton]
    for letter in apart:
        if letter not in "bc":
            raise ModelError(
                f"the preprocessing of input {tensor.name!r} has {step.name!r} over the axes {', '.join(axes)}, so that each plane along "
                f"{letter} has statistics of its own: only statistics of whole images, samples and channels are measured"
            )
    by_channel = "c" in apart
    if "b" in axes:
        return "/channel" if by_channel else ""
    return "/sample_channel" if by_channel else "/sample"


def _operation(step: Step, tensor: Tensor, role: str) -> Operation:
    if step.name in _NOT_ON_TILES:
        raise ModelError(
            f"the {role} of tensor {tensor.name!r} has the step {step.name!r}, which cannot be run on tiles, as "
            f"{_NOT_ON_TILES[step.name]}: {_WITHOUT}"
        )
    axis = step.settings.get("axis")
    if axis not in (None, "c"):
        raise ModelError(
            f"the {role} of tensor {tensor.name!r} has {step.name!r} along the axis {axis!r}, which tiles divide: only the channel axis "
            "is possible"
        )
    counts = {len(value) for value in step.settings.values() if isinstance(value, (list, tuple))}
    channels = n_channels(tensor)
    if counts - {1, channels} and channels is not None:
        raise ModelError(
            f"the {role} of tensor {tensor.name!r} has {max(counts)} numbers for the channels in {step.name!r}, and the tensor has "
            f"{channels} channels: they must be as many"
        )
    return _OPERATIONS[step.name](step)


def _ensure_dtype(step: Step) -> Operation:
    dtype = np.dtype(step.settings["dtype"])
    return lambda batch: batch.astype(dtype, copy=False)


def _scale_linear(step: Step) -> Operation:
    gain, offset = (_factor(step, name, default) for name, default in (("gain", 1.0), ("offset", 0.0)))
    return lambda batch: batch * _shaped(gain, batch) + _shaped(offset, batch)


def _fixed_mean_std(step: Step) -> Operation:
    mean, std = (np.atleast_1d(np.asarray(step.settings[name], np.float64)) for name in ("mean", "std"))
    return lambda batch: (batch - _shaped(mean, batch)) / _shaped(std + _FIXED_EPS, batch)


def _binarize(step: Step) -> Operation:
    threshold = _factor(step, "threshold", 0.0)
    return lambda batch: batch > _shaped(threshold, batch)


def _clip(step: Step) -> Operation:
    low, high = step.settings.get("min"), step.settings.get("max")
    return lambda batch: np.asarray(np.clip(batch, low, high))


def _sigmoid(step: Step) -> Operation:  # noqa: ARG001  # it has no settings
    def apply(batch: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and the result is 0
            return np.asarray(1.0 / (1.0 + np.exp(-batch)))

    return apply


def _softmax(step: Step) -> Operation:  # noqa: ARG001  # along the channels
    def apply(batch: NDArray[Any]) -> NDArray[Any]:
        powers = np.exp(batch - batch.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    return apply


def _factor(step: Step, name: str, default: float) -> Any:
    """Return a number, or numbers for the channels in float64."""
    value = step.settings.get(name, default)
    return np.asarray(value, np.float64) if isinstance(value, (list, tuple)) else float(value)


def _shaped(numbers: ArrayLike, batch: NDArray[Any]) -> Any:
    """Return numbers for the channels in the shape `(C, 1, …)`; a single number is not changed."""
    if not isinstance(numbers, np.ndarray) or numbers.size == 1:
        return numbers if not isinstance(numbers, np.ndarray) else numbers.reshape(())
    return numbers.reshape(-1, *[1] * (batch.ndim - 2))


_OPERATIONS: dict[str, Callable[[Step], Operation]] = {
    "binarize": _binarize,
    "clip": _clip,
    "ensure_dtype": _ensure_dtype,
    "fixed_zero_mean_unit_variance": _fixed_mean_std,
    "scale_linear": _scale_linear,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}
