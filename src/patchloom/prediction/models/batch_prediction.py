"""Prediction of one batch, and the checks of what the model returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.outputs import OutputSpec, as_array, as_outputs, as_pixels
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.tensors.tensor_pixels import Pixels, concatenate, pixel_dtype_of


def predict_batch(
    model: Model, batch: NDArray[Any], specs: Sequence[PatchSpecs], batch_size: int | None = None
) -> dict[str, NDArray[Any]]:
    """Run a model on a batch of tiles and check that it returns images; return arrays.

    Parameters
    ----------
    model, batch, specs, batch_size
        As in `predict_on_device`.

    Raises
    ------
    ModelError, ModelOutputError
        As `predict_on_device`.
    """
    return _predict(partial(_predict_portion, model, as_array), batch, specs, batch_size)


def predict_on_device(
    model: Model,
    batch: Pixels,
    specs: Sequence[PatchSpecs],
    batch_size: int | None = None,
    device: str | None = None,
) -> dict[str, Pixels]:
    """Run a model on a batch of tiles and check that it returns images; tensors on a GPU stay there.

    Parameters
    ----------
    model : callable
        The model.
    batch : array or tensor
        `(B, C, (Z), Y, X)`.
    specs : sequence of PatchSpecs
        The tiles, for messages.
    batch_size : int, optional
        The only number of tiles that the model accepts: a smaller batch is filled up with copies of its last tile, and a larger
        one is divided. If None, the model accepts any number.
    device : str, optional
        A device whose tensors stay there, besides GPUs.

    Returns
    -------
    dict of str to array or tensor
        `(B, C', (Z), Y, X)` in the dtype of the model, by the name of the output; the name of a single output is empty.

    Raises
    ------
    ModelError
        If the model raises. The message names the tiles.
    ModelOutputError
        If it does not return arrays of numbers with one prediction for each tile.
    """
    return _predict(partial(_predict_portion, model, partial(as_pixels, device=device)), batch, specs, batch_size)


def _predict(run: _Run, batch: Pixels, specs: Sequence[PatchSpecs], batch_size: int | None) -> dict[str, Any]:
    """Run a model on a batch, in portions of the number of tiles that it accepts."""
    if batch_size in (None, len(batch)):
        return run(batch, specs)
    portions = []
    for start in range(0, len(batch), batch_size):
        portion = batch[start : start + batch_size]
        full = concatenate([portion, *[portion[-1:]] * (batch_size - len(portion))])
        predictions = run(full, specs[start : start + batch_size])
        portions.append({name: prediction[: len(portion)] for name, prediction in predictions.items()})
    _check_alike(portions, specs)
    return {name: concatenate([portion[name] for portion in portions]) for name in portions[0]}


_Run = Callable[[Pixels, Sequence[PatchSpecs]], dict[str, Any]]
"""Runs a model on a portion of a batch."""


def _predict_portion(
    model: Model, convert: Callable[[Any], Pixels], batch: Pixels, specs: Sequence[PatchSpecs]
) -> dict[str, Pixels]:
    # Before the call, as the model may change the batch, and its shape.
    n_tiles, n_axes = len(batch), batch.ndim
    try:
        returned = model(batch)
    except Exception as error:
        raise model_failure(error, specs) from error
    try:
        predictions = {name: convert(output) for name, output in as_outputs(returned).items()}
    except ModelOutputError as error:
        raise ModelOutputError(f"{error}, for {name_tiles(specs)}") from error
    for prediction in predictions.values():
        if prediction.ndim != n_axes or prediction.shape[0] != n_tiles or not prod(prediction.shape):
            axes = "(B, C, Y, X)" if n_axes == 4 else "(B, C, Z, Y, X)"
            raise ModelOutputError(
                f"the model returned shape {tuple(prediction.shape)} for {name_tiles(specs)}: it must be {axes} with B = {n_tiles}"
            )
    if not predictions:
        raise ModelOutputError(f"the model returned no output for {name_tiles(specs)}: return at least one array")
    return predictions


def model_failure(error: Exception, specs: Sequence[PatchSpecs]) -> ModelError:
    """Return the error of a model as one that names the tiles.

    Parameters
    ----------
    error : Exception
        What the model raised.
    specs : sequence of PatchSpecs
        The tiles.
    """
    reason = str(error) if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
    return ModelError(f"the model failed on {name_tiles(specs)}: {reason}")


def _check_alike(portions: Sequence[Mapping[str, Pixels]], specs: Sequence[PatchSpecs]) -> None:
    """Check that the portions of a batch can be concatenated."""
    kinds = [
        {name: (prediction.shape[1:], prediction.dtype) for name, prediction in portion.items()} for portion in portions
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise ModelOutputError(
            f"the model returned outputs of different shapes or dtypes for {name_tiles(specs)}: return the same for all tiles"
        )


def check_predictions(
    predictions: Mapping[str, Pixels],
    outputs: Sequence[OutputSpec],
    patch_size: Sequence[int],
    specs: Sequence[PatchSpecs],
) -> None:
    """Check that predictions have the outputs that were inferred before.

    Parameters
    ----------
    predictions : mapping of str to array or tensor
        `(B, C, (Z), Y, X)`, by the name of the output.
    outputs : sequence of OutputSpec
        The expected outputs.
    patch_size : sequence of int
        Size of the tiles, `(z,) y, x` in voxels.
    specs : sequence of PatchSpecs
        The tiles, for messages.

    Raises
    ------
    ModelOutputError
        If names, channels, dtypes or sizes differ.
    """
    found = {
        name: (prediction.shape[1], pixel_dtype_of(prediction), tuple(prediction.shape[2:]))
        for name, prediction in predictions.items()
    }
    expected = {
        output.name: (
            output.n_channels,
            output.dtype,
            output.scale_size([size - 2 * margin for size, margin in zip(patch_size, output.margin, strict=True)]),
        )
        for output in outputs
    }
    if found != expected:
        raise ModelOutputError(
            f"the model returned {_description(found)} for {name_tiles(specs)}, and {_description(expected)} before: return "
            "the same outputs for all tiles"
        )


def _description(outputs: Mapping[str, tuple[int, np.dtype[Any], tuple[int, ...]]]) -> str:
    return "; ".join(
        f"{repr(name) + ': ' if name else ''}{n_channels} channels of {dtype}, {' × '.join(map(str, size))}"
        for name, (n_channels, dtype, size) in outputs.items()
    )


def name_tiles(specs: Sequence[PatchSpecs]) -> str:
    """Return a text that names tiles by image stack, sample and coordinates.

    Examples
    --------
    >>> name_tiles([{"data_idx": 0, "sample_idx": 2, "coords": (0, 64), "patch_size": (64, 64)}])
    'the tile at (0, 64) of sample 2 of image stack 0'
    """
    named = [
        f"{tuple(spec['coords'])} of sample {spec['sample_idx']} of image stack {spec['data_idx']}" for spec in specs
    ]
    return f"the tile at {named[0]}" if len(named) == 1 else f"the tiles at {'; '.join(named)}"
