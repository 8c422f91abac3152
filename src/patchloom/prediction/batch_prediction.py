"""One batch through the model, and what may go wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError
from patchloom.patch_specs import PatchSpecs
from patchloom.prediction.models.model import Model


def predict_batch(model: Model, batch: NDArray[Any], specs: Sequence[PatchSpecs]) -> NDArray[Any]:
    """Run a model on a batch of tiles and check what it returns.

    Parameters
    ----------
    model : callable
        The model.
    batch : array
        `(B, C, (Z), Y, X)`.
    specs : sequence of PatchSpecs
        Where the tiles lie, for messages.

    Returns
    -------
    array
        `(B, C', (Z), Y, X)` in the model's own dtype.

    Raises
    ------
    ModelError
        If the model raises; the message says on which tiles.
    ModelOutputError
        If what it returns is no array of numbers, or of another size.
    """
    # Taken before the call: a batch is the model's to change, its shape too.
    n_tiles, spatial = len(batch), batch.shape[2:]
    try:
        output = model(batch)
    except Exception as error:
        raise ModelError(f"the model failed on {name_tiles(specs)}: {type(error).__name__}: {error}") from error
    prediction = np.asarray(output)
    if prediction.dtype.kind not in "buifc":
        raise ModelOutputError(
            f"the model returned {type(output).__name__}, which is no array of numbers, on {name_tiles(specs)}"
        )
    if prediction.ndim != len(spatial) + 2 or prediction.shape[0] != n_tiles or prediction.shape[2:] != spatial:
        expected = ", ".join(map(str, [n_tiles, "any number of channels", *spatial]))
        raise ModelOutputError(
            f"the model returned shape {prediction.shape} for {name_tiles(specs)}: it must be ({expected}), as the input was "
            f"({', '.join(map(str, [n_tiles, 'C', *spatial]))})"
        )
    return prediction


def to_dtype(prediction: NDArray[Any], dtype: np.dtype[Any], specs: Sequence[PatchSpecs]) -> NDArray[Any]:
    """Convert a prediction to the dtype asked for.

    Floats turn into integers by rounding to the nearest (halves to even); values past the range stop at its ends.

    Raises
    ------
    ModelOutputError
        If a voxel is NaN and integers are asked for; the message says in which tile.

    Examples
    --------
    >>> to_dtype(np.array([[[[1.5, 260.0, -3.0]]]]), np.dtype(np.uint8), []).tolist()
    [[[[2, 255, 0]]]]
    """
    if prediction.dtype == dtype:
        return prediction
    if dtype.kind not in "ui":
        return prediction.astype(dtype)
    if prediction.dtype.kind == "f":
        _refuse_nan(prediction, dtype, specs)
        prediction = np.rint(prediction)
    return _saturate(prediction, dtype)


def _refuse_nan(prediction: NDArray[Any], dtype: np.dtype[Any], specs: Sequence[PatchSpecs]) -> None:
    for tile, spec in zip(prediction, specs, strict=False):
        if np.isnan(tile).any():
            raise ModelOutputError(
                f"the model returned NaN for {name_tiles([spec])}, and {dtype} was asked for, which has no NaN: ask for a "
                "float dtype, or mend the model"
            )


def _saturate(prediction: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    limits = np.iinfo(dtype)
    converted: NDArray[Any]
    with np.errstate(invalid="ignore"):  # the voxels this warns of are set right below
        converted = prediction.astype(dtype)
    # The ends of a 64-bit range are no floats: compare so that what rounds up to the end counts as past it.
    converted[prediction >= limits.max] = limits.max
    converted[prediction <= limits.min] = limits.min
    return converted


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
