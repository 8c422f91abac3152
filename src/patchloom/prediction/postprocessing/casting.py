"""Conversion of predictions to another dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError
from patchloom.pixel_arrays import round_to
from patchloom.prediction.models.batch_prediction import name_tiles
from patchloom.specs.patch_specs import PatchSpecs

_PIECE = 2**16
"""Voxels that are converted at once: so few that they stay in the processor's cache."""


def to_dtype(values: NDArray[Any], dtype: np.dtype[Any], specs: Sequence[PatchSpecs]) -> NDArray[Any]:
    """Convert predictions to another dtype; cropped and blended predictions are converted alike.

    =======  ==========================================================================================
    to       rule
    =======  ==========================================================================================
    integer  Floats are rounded to the nearest, halves to even. Values beyond the range become its ends.
    bool     True from 0.5 on. A negative value is False.
    float    The nearest value. Numbers beyond the range become infinite.
    complex  The imaginary part is 0.
    =======  ==========================================================================================

    Infinite values become the ends of an integer's range. NaN is refused if the dtype has none. Complex numbers are converted to
    complex dtypes only.

    Parameters
    ----------
    values : array
        Predictions, `(B, C, (Z), Y, X)`, or a block, `C(Z)YX`.
    dtype : numpy dtype
        The dtype to convert to.
    specs : sequence of PatchSpecs
        The tiles, for messages; empty for a block.

    Raises
    ------
    ModelOutputError
        If a voxel is NaN and `dtype` is integer or bool, or values are complex and `dtype` is real. The message names the
        tiles.

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
            f"the model returned {values.dtype}{_for_tiles(specs)}, and {dtype} has no imaginary part: postprocess to a complex "
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
    """Check that values have no NaN if they are to be converted to integers or bools.

    Parameters
    ----------
    values, dtype, specs
        As in `to_dtype`.

    Raises
    ------
    ModelOutputError
        If a value is NaN. The message names the tiles.
    """
    if values.dtype.kind not in "fc" or dtype.kind not in "uib" or not values.size or not np.isnan(values.max()):
        return
    raise ModelOutputError(
        nan_refusal([spec for tile, spec in zip(values, specs, strict=False) if np.isnan(tile).any()], dtype)
    )


def nan_refusal(specs: Sequence[PatchSpecs], dtype: np.dtype[Any]) -> str:
    """Return the message about tiles, or about a block if there are none, with NaN that a dtype cannot store."""
    return (
        f"the model returned NaN for {name_tiles(specs) if specs else 'a block'}, which {dtype} cannot store: fix the model, or "
        "postprocess to a float dtype"
    )


def _for_tiles(specs: Sequence[PatchSpecs]) -> str:
    return f" for {name_tiles(specs)}" if specs else ""
