"""The transforms of a MONAI bundle, as far as a prediction can apply them.

Three things can become of a transform before the network:

- it changes each voxel by numbers that are fixed (`ScaleIntensityRange`): a `VoxelStep` of the model;
- it needs statistics of the image (`NormalizeIntensity`): they are measured over the whole image, by `normalize` of `predict`;
- it changes the geometry of the image (`Orientation`): it is not applied, and a note names it.

Any other is refused, as results would be wrong. After the network, activations and discretization become `postprocess` of
`predict`. The first transform that it cannot apply ends them, and a note names it and those behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, Literal

import numpy as np

from patchloom.argument_checks import shown
from patchloom.errors import ModelError
from patchloom.prediction.models.monai.bundle_config import Unevaluated
from patchloom.prediction.models.processed_model import VoxelStep

_NEUTRAL = frozenset(
    [
        "LoadImage",
        "EnsureChannelFirst",
        "AsChannelFirst",
        "AddChannel",
        "EnsureType",
        "CastToType",
        "ToTensor",
        "ToDevice",
        "Identity",
        "CopyItems",
        "DeleteItems",
        "SelectItems",
        "RenameItems",
        "SqueezeDim",
        "SaveImage",
        "Invert",
        "Compose",
    ]
)
"""Transforms that read, write or convert an image and do not change its values, as arrays `C(Z)YX` come in and out here."""

_GEOMETRY = frozenset(["Orientation", "Spacing", "CropForeground", "SpatialPad", "DivisiblePad", "BorderPad"])

_TRANSPOSING_READERS = frozenset(["ITKReader", "NibabelReader", "PILReader", "PydicomReader", "NrrdReader"])
"""Readers of MONAI that deliver an image with X first."""


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """What has to be done to images before the network; made by `read_preprocessing`."""

    normalize: str | None = None
    """The normalization by statistics of the whole image, as `normalize` of `predict`."""

    steps: tuple[VoxelStep, ...] = ()
    """What is done to each voxel after that."""

    pixel_size: tuple[float, ...] | None = None
    """Size of a voxel in micrometers, in the order of the network's axes."""

    x_is_first: bool = False
    """Whether the network takes images with their axes from X to Z."""

    notes: tuple[str, ...] = ()
    """What is not applied."""


def read_preprocessing(config: Any, key: str) -> Preprocessing:
    """Read the transforms before the network.

    Parameters
    ----------
    config : mapping or list
        A `Compose`, or its transforms, resolved by `BundleConfig`; None if there are none.
    key : str
        Name of the image in the transforms.

    Raises
    ------
    ModelError
        If results would be wrong without a transform that cannot be applied here.

    Examples
    --------
    >>> scaling = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 255, "b_min": 0, "b_max": 1}
    >>> [(step.operation, step.operand) for step in read_preprocessing([scaling], "image").steps]
    [('subtract', (0.0,)), ('divide', (255.0,)), ('multiply', (1.0,)), ('add', (0.0,))]
    """
    known = Preprocessing()
    for transform in _transforms(config, key, "preprocessing"):
        name = _short_name(transform)
        if name == "LoadImage":
            known = replace(known, x_is_first=_x_is_first(transform))
        elif name in _GEOMETRY:
            known = _with_geometry(known, name, transform)
        elif name in _INTENSITIES:
            known = _INTENSITIES[name](known, transform)
        elif name not in _NEUTRAL:
            raise _refused(transform, "it is not among the transforms that can be applied here")
    return known


def read_postprocessing(config: Any, key: str) -> tuple[str | None, tuple[str, ...]]:
    """Read the transforms after the network.

    Parameters
    ----------
    config : mapping or list
        As in `read_preprocessing`.
    key : str
        Name of the prediction in the transforms.

    Returns
    -------
    postprocess : str or None
        What can be applied, as `postprocess` of `predict`.
    notes : tuple of str
        What is not applied.

    Examples
    --------
    >>> sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    >>> largest = {"_target_": "KeepLargestConnectedComponentd", "keys": "pred"}
    >>> read_postprocessing({"_target_": "Compose", "transforms": [sigmoid, largest]}, "pred")
    ('sigmoid', ('KeepLargestConnectedComponentd, after the network, is not applied',))
    """
    steps: list[str] = []
    transforms = [known for known in _transforms(config, key, "postprocessing") if _short_name(known) not in _NEUTRAL]
    for index, transform in enumerate(transforms):
        new = _post_steps(transform)
        if new is None:
            notes = tuple(f"{_full_name(left)}, after the network, is not applied" for left in transforms[index:])
            return "|".join(steps) or None, notes
        steps += new
    return "|".join(steps) or None, ()


def _post_steps(transform: Mapping[str, Any]) -> list[str] | None:
    """Return the steps of `postprocess` for a transform; None if there are none."""
    name = _short_name(transform)
    sigmoid, softmax, argmax = (_is_set(transform.get(option)) for option in ("sigmoid", "softmax", "argmax"))
    if name == "Activations" and not transform.get("other"):
        return ["sigmoid"] * sigmoid + ["softmax"] * softmax
    if name != "AsDiscrete" or any(_is_set(transform.get(option)) for option in ("to_onehot", "rounding")):
        return None
    threshold = _first(transform.get("threshold"))
    steps = ["argmax"] * argmax
    if threshold is not None:
        # MONAI takes values from the threshold on, and postprocess those above it.
        below = np.nextafter(np.float32(_number(transform, "threshold", threshold)), np.float32(-np.inf))
        steps.append(f"threshold:{float(below)!r}")
    return steps


def _transforms(config: Any, key: str, place: str) -> list[Mapping[str, Any]]:
    """Return the transforms of an image, without those of other keys and disabled ones."""
    if config is None:
        return []
    listed = config.get("transforms") if isinstance(config, Mapping) and "transforms" in config else config
    if isinstance(listed, Unevaluated) or not isinstance(listed, list):
        raise ModelError(
            f"{place} of the bundle is {shown(getattr(listed, 'text', listed))}, which is code: give trust=True (--trust) if you trust "
            "its author, or preprocess=False, and an image that is preprocessed"
        )
    found: list[Mapping[str, Any]] = []
    for transform in listed:
        if not isinstance(transform, Mapping) or not isinstance(transform.get("_target_"), str):
            raise ModelError(
                f"{place} of the bundle contains {shown(getattr(transform, 'text', transform))}, which is not a transform of MONAI: give "
                "preprocess=False, and an image that is preprocessed"
            )
        keys = transform.get("keys", key)
        is_of_key = isinstance(keys, Unevaluated) or key in ([keys] if isinstance(keys, str) else keys)
        if is_of_key and not _is_set(transform.get("_disabled_")):
            found += _transforms(transform, key, place) if _short_name(transform) == "Compose" else [transform]
    return found


def _full_name(transform: Mapping[str, Any]) -> str:
    return str(transform["_target_"]).rpartition(".")[2]


def _short_name(transform: Mapping[str, Any]) -> str:
    """Return the name of a transform without the ending of its variant for dictionaries; empty if it is not of MONAI."""
    target = str(transform["_target_"])
    if "." in target and not target.startswith("monai."):
        return ""
    name = _full_name(transform)
    for ending in ("Dict", "d", "D"):
        short = name.removesuffix(ending)
        if short in _NEUTRAL or short in _GEOMETRY or short in _INTENSITIES or short in ("Activations", "AsDiscrete"):
            return short
    return name


def _x_is_first(transform: Mapping[str, Any]) -> bool:
    """Return whether a `LoadImage` delivers images with X first, as most readers of MONAI do."""
    reader = transform.get("reader")
    name = str(reader).rpartition(".")[2] if isinstance(reader, str) else None
    return (reader is None or name in _TRANSPOSING_READERS) and not _is_set(transform.get("reverse_indexing"))


def _with_geometry(known: Preprocessing, name: str, transform: Mapping[str, Any]) -> Preprocessing:
    pixdim = transform.get("pixdim")
    remedy = ""
    if name == "Spacing" and isinstance(pixdim, Sequence) and all(_is_number(size) and size > 0 for size in pixdim):
        known = replace(known, pixel_size=tuple(1000 * float(size) for size in pixdim))  # from millimeters
        remedy = ", unless pixel_size='model' is given (--pixel-size model)"
    arguments = ", ".join(
        f"{option}={shown(value)}"
        for option, value in transform.items()
        if option in ("axcodes", "pixdim", "k", "spatial_size")
    )
    note = f"{_full_name(transform)}({arguments}) is not applied{remedy}"
    return replace(known, notes=(*known.notes, note))


def _scale_intensity_range(known: Preprocessing, transform: Mapping[str, Any]) -> Preprocessing:
    a_min, a_max = (_number(transform, name, transform.get(name)) for name in ("a_min", "a_max"))
    if a_min == a_max:
        raise _refused(transform, "a_min equals a_max")
    steps = [VoxelStep("subtract", (a_min,)), VoxelStep("divide", (a_max - a_min,))]
    return replace(known, steps=(*known.steps, *steps, *_to_range(transform, "b_min", "b_max")))


def _to_range(transform: Mapping[str, Any], low_name: str, high_name: str) -> list[VoxelStep]:
    """Return the steps from 0 … 1 to another range, with a clip if it is asked for."""
    bounds = [transform.get(low_name), transform.get(high_name)]
    steps = []
    if None not in bounds:
        low, high = (_number(transform, name, bound) for name, bound in zip((low_name, high_name), bounds, strict=True))
        steps = [VoxelStep("multiply", (high - low,)), VoxelStep("add", (low,))]
    if _is_set(transform.get("clip")):
        limits: list[tuple[Literal["at_least", "at_most"], str, Any]] = [
            ("at_least", low_name, bounds[0]),
            ("at_most", high_name, bounds[1]),
        ]
        for operation, name, bound in limits:
            steps += [] if bound is None else [VoxelStep(operation, (_number(transform, name, bound),))]
    return steps


def _scale_intensity(known: Preprocessing, transform: Mapping[str, Any]) -> Preprocessing:
    low, high = transform.get("minv", 0.0), transform.get("maxv", 1.0)
    if low is None and high is None:
        factor = transform.get("factor")
        step = VoxelStep("multiply", (1 + _number(transform, "factor", 0 if factor is None else factor),))
        return replace(known, steps=(*known.steps, step))
    measured = _measured(known, transform, "percentiles:0,100")
    return replace(measured, steps=tuple(_to_range({**transform, "minv": low, "maxv": high}, "minv", "maxv")))


def _scale_by_percentiles(known: Preprocessing, transform: Mapping[str, Any]) -> Preprocessing:
    if _is_set(transform.get("relative")):
        raise _refused(transform, "relative is set")
    lower, upper = (_number(transform, name, transform.get(name)) for name in ("lower", "upper"))
    measured = _measured(known, transform, f"percentiles:{lower!r},{upper!r}")
    return replace(measured, steps=tuple(_to_range(transform, "b_min", "b_max")))


def _normalize_intensity(known: Preprocessing, transform: Mapping[str, Any]) -> Preprocessing:
    if _is_set(transform.get("nonzero")):
        raise _refused(transform, "its statistics are of the voxels other than 0 only")
    subtrahend, divisor = transform.get("subtrahend"), transform.get("divisor")
    if subtrahend is None and divisor is None:
        return replace(_measured(known, transform, "mean_std"), steps=())
    if subtrahend is None or divisor is None:
        raise _refused(transform, "only one of subtrahend and divisor is given")
    divisors = tuple(number or 1.0 for number in _numbers(transform, "divisor", divisor))
    steps = (VoxelStep("subtract", _numbers(transform, "subtrahend", subtrahend)), VoxelStep("divide", divisors))
    return replace(known, steps=(*known.steps, *steps))


def _measured(known: Preprocessing, transform: Mapping[str, Any], method: str) -> Preprocessing:
    """Return a normalization by statistics of the whole image.

    Earlier steps can be left out if they are the same increasing line for all voxels that are measured together: the result is
    the same.
    """
    per_channel = _is_set(transform.get("channel_wise"))
    is_line = all(
        step.operation in ("add", "subtract") or (step.operation in ("multiply", "divide") and min(step.operand) > 0)
        for step in known.steps
    )
    is_same_line = per_channel or (
        all(len(step.operand) == 1 for step in known.steps) and "channel" not in (known.normalize or "")
    )
    if not is_line or not is_same_line:
        raise _refused(transform, "its statistics are of voxels that a transform before it has changed")
    return replace(known, normalize=f"{method}/{'sample_channel' if per_channel else 'sample'}")


_INTENSITIES: dict[str, Callable[[Preprocessing, Mapping[str, Any]], Preprocessing]] = {
    "ScaleIntensity": _scale_intensity,
    "ScaleIntensityRange": _scale_intensity_range,
    "ScaleIntensityRangePercentiles": _scale_by_percentiles,
    "NormalizeIntensity": _normalize_intensity,
}


def _first(value: Any) -> Any:
    """Return the first of several values: options may be given once for each key."""
    return value[0] if isinstance(value, list) and value else value


def _is_set(value: Any) -> bool:
    value = _first(value)
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _number(transform: Mapping[str, Any], name: str, value: Any) -> float:
    if not _is_number(value):
        raise _refused(transform, f"{name} is {shown(getattr(value, 'text', value))}, which is not a number")
    return float(value)


def _numbers(transform: Mapping[str, Any], name: str, value: Any) -> tuple[float, ...]:
    return tuple(_number(transform, name, number) for number in (value if isinstance(value, list) else [value]))


def _refused(transform: Mapping[str, Any], reason: str) -> ModelError:
    return ModelError(
        f"{_full_name(transform)}, before the network of the bundle, cannot be applied: {reason}. Give preprocess=False, and an image "
        "that is preprocessed"
    )
