"""One batch through the model, and what may go wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError
from patchloom.pixel_arrays import round_to
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.model_output import as_array, as_outputs
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.specs.patch_specs import PatchSpecs

_PIECE = 2**16
"""Voxels that are converted at a time: they stay in the processor's cache from one step to the next."""


def predict_batch(
    model: Model, batch: NDArray[Any], specs: Sequence[PatchSpecs], batch_size: int | None = None
) -> dict[str, NDArray[Any]]:
    """Run a model on a batch of tiles and check that it returns images.

    Parameters
    ----------
    model : callable
        The model.
    batch : array
        `(B, C, (Z), Y, X)`.
    specs : sequence of PatchSpecs
        Where the tiles lie, for messages.
    batch_size : int, optional
        The only number of tiles that the model takes, if there is one: a smaller batch is filled up with copies of its last
        tile, and a larger one goes in portions.

    Returns
    -------
    dict of str to array
        `(B, C', (Z), Y, X)` in the model's own dtype, by the name of the output; the name is empty where there is only one.

    Raises
    ------
    ModelError
        If the model raises; the message says on which tiles.
    ModelOutputError
        If what it returns is not an array of numbers, or not as many as tiles went in.
    """
    if batch_size in (None, len(batch)):
        return _predict_portion(model, batch, specs)
    portions = []
    for start in range(0, len(batch), batch_size):
        portion = batch[start : start + batch_size]
        full = np.concatenate([portion, *[portion[-1:]] * (batch_size - len(portion))])
        predictions = _predict_portion(model, full, specs[start : start + batch_size])
        portions.append({name: prediction[: len(portion)] for name, prediction in predictions.items()})
    _check_alike(portions, specs)
    return {name: np.concatenate([portion[name] for portion in portions]) for name in portions[0]}


def _predict_portion(model: Model, batch: NDArray[Any], specs: Sequence[PatchSpecs]) -> dict[str, NDArray[Any]]:
    # Taken before the call: a batch is the model's to change, its shape too.
    n_tiles, n_axes = len(batch), batch.ndim
    try:
        returned = model(batch)
    except Exception as error:
        raise ModelError(f"the model failed on {name_tiles(specs)}: {type(error).__name__}: {error}") from error
    try:
        predictions = {name: as_array(output) for name, output in as_outputs(returned).items()}
    except ModelOutputError as error:
        raise ModelOutputError(f"{error}, for {name_tiles(specs)}") from error
    for prediction in predictions.values():
        if prediction.ndim != n_axes or prediction.shape[0] != n_tiles or not prediction.size:
            axes = "(B, C, Y, X)" if n_axes == 4 else "(B, C, Z, Y, X)"
            raise ModelOutputError(
                f"the model returned shape {prediction.shape} for {name_tiles(specs)}: it must be {axes} with B {n_tiles}"
            )
    if not predictions:
        raise ModelOutputError(f"the model returned nothing for {name_tiles(specs)}")
    return predictions


def _check_alike(portions: Sequence[dict[str, NDArray[Any]]], specs: Sequence[PatchSpecs]) -> None:
    """Check that the portions of a batch can be joined."""
    kinds = [
        {name: (prediction.shape[1:], prediction.dtype) for name, prediction in portion.items()} for portion in portions
    ]
    if any(kind != kinds[0] for kind in kinds):
        raise ModelOutputError(f"the model returned outputs of different shapes or dtypes for {name_tiles(specs)}")


def check_forms(
    predictions: dict[str, NDArray[Any]],
    forms: Sequence[OutputSpec],
    patch_size: Sequence[int],
    specs: Sequence[PatchSpecs],
) -> None:
    """Check that a model goes on returning what it returned before.

    Raises
    ------
    ModelOutputError
        If outputs, channels, dtype or size have changed.
    """
    scale = forms[0].scale if forms else None
    now = {
        name: (prediction.shape[1], prediction.dtype, prediction.shape[2:]) for name, prediction in predictions.items()
    }
    before = {
        form.name: (
            form.n_channels,
            form.dtype,
            form.size([size - 2 * lost for size, lost in zip(patch_size, form.margin, strict=True)]),
        )
        for form in forms
    }
    if now == before or scale is None:
        return
    described = [
        f"{channels} channels of {dtype}, {' × '.join(map(str, size))}" for channels, dtype, size in (*now.values(),)
    ]
    expected = [
        f"{channels} channels of {dtype}, {' × '.join(map(str, size))}" for channels, dtype, size in before.values()
    ]
    raise ModelOutputError(
        f"the model returned {'; '.join(described)} for {name_tiles(specs)}, and {'; '.join(expected)} before"
    )


def to_dtype(values: NDArray[Any], dtype: np.dtype[Any], specs: Sequence[PatchSpecs]) -> NDArray[Any]:
    """Convert predictions to the dtype asked for, cropped and blended ones alike.

    =======  ==========================================================================================
    to       rule
    =======  ==========================================================================================
    integer  Floats are rounded to the nearest, halves to even. Values beyond the range stop at its ends.
    bool     As an integer that ends at 0 and 1: True from 0.5 on. A negative value is False.
    float    The nearest value. Numbers beyond the range become infinite.
    complex  The imaginary part is 0.
    =======  ==========================================================================================

    Infinite values stop at the ends of an integer's range; NaN is refused where the dtype has none. A complex number is
    converted to complex dtypes only.

    Raises
    ------
    ModelOutputError
        If a voxel is NaN and integers or bools are asked for, or values are complex and real numbers are asked for. The
        message names the tile.

    Examples
    --------
    >>> to_dtype(np.array([[[[1.5, 260.0, -3.0]]]]), np.dtype(np.uint8), []).tolist()
    [[[[2, 255, 0]]]]
    >>> to_dtype(np.array([[[[1, 0, -3]]]]), np.dtype(bool), []).tolist()
    [[[[True, False, False]]]]
    """
    if values.dtype == dtype:
        return values
    if values.dtype.kind == "c" and dtype.kind != "c":
        raise ModelOutputError(
            f"the model returned {values.dtype}{_for_tiles(specs)}, and {dtype} has no imaginary part: ask for a complex "
            "dtype, or return real numbers"
        )
    if dtype.kind not in "uib":
        return round_to(values, dtype)
    converted = np.empty(values.shape, dtype)
    voxels, target = np.ascontiguousarray(values).reshape(-1), converted.reshape(-1)
    for start in range(0, len(voxels), _PIECE):
        piece = voxels[start : start + _PIECE]
        if np.isnan(piece.max()):
            refuse_nan(values, dtype, specs)
        target[start : start + _PIECE] = round_to(piece, dtype)
    return converted


def refuse_nan(values: NDArray[Any], dtype: np.dtype[Any], specs: Sequence[PatchSpecs]) -> None:
    """Check that values which are to become integers or bools have no NaN among them.

    Raises
    ------
    ModelOutputError
        If one has; the message says in which tile, where specifications are given.
    """
    if values.dtype.kind not in "fc" or dtype.kind not in "uib" or not values.size or not np.isnan(values.max()):
        return
    found = [spec for tile, spec in zip(values, specs, strict=False) if np.isnan(tile).any()]
    raise ModelOutputError(
        f"the model returned NaN for {name_tiles(found) if found else 'a block'}, and {dtype} was asked for, which has no "
        "NaN: ask for a float dtype, or mend the model"
    )


def _for_tiles(specs: Sequence[PatchSpecs]) -> str:
    return f" for {name_tiles(specs)}" if specs else ""


def name_tiles(specs: Sequence[PatchSpecs]) -> str:
    """Name tiles in a message, by image stack, sample and coordinates.

    Examples
    --------
    >>> name_tiles([{"data_idx": 0, "sample_idx": 2, "coords": (0, 64), "patch_size": (64, 64)}])
    'the tile at (0, 64) of sample 2 of image stack 0'
    """
    named = [
        f"{tuple(spec['coords'])} of sample {spec['sample_idx']} of image stack {spec['data_idx']}" for spec in specs
    ]
    return f"the tile at {named[0]}" if len(named) == 1 else f"the tiles at {'; '.join(named)}"
