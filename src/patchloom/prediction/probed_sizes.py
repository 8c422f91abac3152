"""The tiles of a model that declares none: it is probed on random numbers, and what is missing is filled in.

No pixel of an image is read. A probe is kept in memory for the process, by the identity of the model.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

from patchloom.errors import GeometryError
from patchloom.geometry.checks import one_per_axis
from patchloom.prediction.models.identity.model_identity import identify_model
from patchloom.prediction.models.model import Model, ModelDescription, size_rule, tensor_device
from patchloom.prediction.models.replicas import replicas_of
from patchloom.prediction.models.rescaling.rescaled_model import PixelGrid
from patchloom.prediction.planning.tile_choice import TileChoice, choose_tiles, needed_overlaps
from patchloom.prediction.probe.model_probe import ModelProbe
from patchloom.prediction.probe.probing import probe
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.survey import Survey

_KEPT = 32
"""Number of probes that are kept in memory."""

_BATCH_VOXELS = 2**20
"""Voxels of a batch on a GPU."""

_probes: dict[str, ModelProbe] = {}


def with_probed_sizes(request: PredictionRequest, survey: Survey, model: Model | None) -> Survey:
    """Probe a model if neither the user nor the model gives the size of its tiles, and fill in sizes, overlaps and stride.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    survey : Survey
        What is known without running the model.
    model : callable, optional
        The model. If None, nothing is filled in.

    Raises
    ------
    GeometryError
        If the model refuses every tile that is tried.
    """
    if model is None or not _needs_probe(request, survey.model):
        return survey
    one, *_ = replicas_of(model)
    found = _kept_probe(one, survey, is_normalized=request.normalize is not None)
    if not found.sizes:
        raise _refused(found, one)
    steps = survey.pixel_steps or (Fraction(1),) * survey.n_dims
    largest = [max(facts.data_shape[2 + axis] for facts in survey.stacks) for axis in range(survey.n_dims)]
    choice = choose_tiles(
        found, PixelGrid(steps).pixels_of(largest), survey.memory_limit // 2, is_blended=request.blend is not None
    )
    _warn_of_small_overlaps(request, found)
    return replace(
        survey,
        model=_described(survey.model, found, choice, one, is_given=request.overlaps is not None),
        chosen=_in_words(found, choice, request),
    )


def _warn_of_small_overlaps(request: PredictionRequest, found: ModelProbe) -> None:
    """Warn of an overlap that is certainly too small; it is used all the same."""
    if request.overlaps is None or not found.is_certain or found.reach is None:
        return
    given, needed = one_per_axis("overlaps", request.overlaps, found.n_dims, least=0), needed_overlaps(found)
    if any(voxels < least for voxels, least in zip(given, needed, strict=True)):
        wrong = [-(-max(0, least - voxels) // 2) for voxels, least in zip(given, needed, strict=True)]
        warnings.warn(
            f"overlaps is {_text(given)}, and the model looks {_text([max(pair) for pair in found.reach.context])} voxels: "
            f"give {_text(needed)} or more, or up to {_text(wrong)} voxels on each side of a seam differ from the whole image",
            RuntimeWarning,
            stacklevel=2,
        )


def _needs_probe(request: PredictionRequest, declared: ModelDescription) -> bool:
    is_sized = declared.patch_size or declared.preferred_patch_size or size_rule(declared)
    return request.patch_size is None and not is_sized


def _kept_probe(model: Model, survey: Survey, *, is_normalized: bool) -> ModelProbe:
    n_channels, n_dims = survey.stacks[0].data_shape[1], survey.n_dims
    dtype = "float32" if is_normalized else str(survey.stacks[0].data_dtype)
    identity = identify_model(model)
    if identity.unknown:
        return probe(model, n_channels=n_channels, n_dims=n_dims, dtype=dtype)
    key = json.dumps([dict(identity.parts), n_channels, n_dims, dtype], sort_keys=True)
    if key not in _probes:
        found = probe(model, n_channels=n_channels, n_dims=n_dims, dtype=dtype)
        while len(_probes) >= _KEPT:
            del _probes[next(iter(_probes))]
        _probes[key] = found
    return _probes[key]


def _refused(found: ModelProbe, model: Model) -> GeometryError:
    """Return the error for a model that takes no tile; a network for planes gets the remedy for images with Z."""
    reason = found.remarks[0] if found.remarks else "the model took no tile"
    is_flat = found.n_dims == 3 and bool(
        probe(model, n_dims=2, n_channels=found.n_channels, dtype=found.dtype, seconds=2).sizes
    )
    remedy = (
        "it takes 2D tiles: give two numbers, such as patch_size=(256, 256), to predict slice by slice"
        if is_flat
        else f"give patch_size, one number for each of the {found.n_dims} axes"
    )
    return GeometryError(f"patch_size is not given, and {reason}: {remedy}")


def _described(
    declared: ModelDescription, found: ModelProbe, choice: TileChoice, model: Model, *, is_given: bool
) -> ModelDescription:
    """Return what the model declares, with what was measured where it declares nothing; an overlap that is given is used as it is."""
    is_fixed = all(rule.is_fixed for rule in found.sizes)
    measured: dict[str, Any] = {
        "overlaps": choice.overlaps,
        "halo": choice.halo if found.is_certain and choice.is_enough and not is_given else None,
        "context": found.reach.context if found.is_certain and found.reach is not None else None,
        "origin_multiple": choice.origin_multiple,
        "preferred_batch_size": _batch_size(choice, model) if found.takes_batches else 1,
    }
    if is_fixed:
        measured["patch_size"] = choice.patch_size
    else:
        measured |= {
            "preferred_patch_size": choice.patch_size,
            "min_size": tuple(rule.least for rule in found.sizes),
            "size_step": tuple(rule.modulus for rule in found.sizes),
        }
    unknown = {name: value for name, value in measured.items() if getattr(declared, name) is None}
    return replace(declared, **unknown, is_global=declared.is_global or found.is_global)


def _batch_size(choice: TileChoice, model: Model) -> int:
    """Return the number of tiles at once: several only where that is faster, on a GPU."""
    return 1 if tensor_device(model) is None else max(1, _BATCH_VOXELS // prod(choice.patch_size))


def _in_words(found: ModelProbe, choice: TileChoice, request: PredictionRequest) -> str:
    """Return what was chosen, and why, in one line."""
    size, halo = _text(choice.patch_size), _text([max(pair) for pair in found.reach.context] if found.reach else [0])
    computed = f"{choice.computed:.2f} voxels are computed for each voxel of the image"
    if found.reach is None and found.is_global:
        return f"tiles of {size}: the model looks at the whole tile, or very far, so tiles differ from the whole image; {computed}"
    if found.reach is None:
        return f"tiles of {size}: how far the model looks is not known; {computed}"
    if found.is_global:
        reason = f"the model looks at the whole tile ({', '.join(found.reach.global_operators)}), so tiles differ from the whole image"
    elif found.reach.is_lower_bound:
        reason = f"the model looks {halo} voxels or farther (a lower bound by {found.reach.method})"
    else:
        reason = f"the model looks {halo} voxels ({found.reach.method})"
    if not choice.is_enough:
        reason += f"; the overlap that this needs, {_text(needed_overlaps(found))}, does not fit into memory"
    stride = f", starts on multiples of {_text(choice.origin_multiple)}" if max(choice.origin_multiple) > 1 else ""
    overlap = "" if request.overlaps is not None else f", overlap {_text(choice.overlaps)}"
    return f"tiles of {size}{overlap}{stride}: {reason}; {computed}"


def _text(numbers: Any) -> str:
    return " × ".join(map(str, numbers))
