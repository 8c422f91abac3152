"""Search for NaN in the pixels of a batch, and the place of a NaN in its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom.image_stacks import ImageStack
from patchloom.specs.spec_table import SpecTable

NanPolicy = Literal["raise", "skip", "keep"]
"""Treatment of a patch with a NaN: raise an error, replace it by another patch, or keep it."""


def rows_with_nan(batch: NDArray[Any]) -> NDArray[np.intp]:
    """Return the patches of a batch that contain a NaN.

    Examples
    --------
    >>> rows_with_nan(np.array([[1.0, 2.0], [np.nan, 3.0]]))
    array([1])
    """
    if not np.isnan(batch.min()):  # one pass, many times faster than a mask
        return np.empty(0, np.intp)
    return np.flatnonzero(np.isnan(batch.reshape(len(batch), -1)).any(axis=1))


def name_nan(batch: NDArray[Any], row: int, table: SpecTable, stacks: Sequence[ImageStack]) -> str:
    """Describe the place of the first NaN of a patch: source, sample, channel, position in the image."""
    channel, *position = np.argwhere(np.isnan(batch[row]))[0].tolist()
    columns = {field: column[row] for field, column in table.columns.items()}
    own = ("data_idx", "sample_idx", "coords")
    data_idx, sample_idx, coords = (
        columns[f"all_{field}"][channel] if "all_data_idx" in columns else columns[field] for field in own
    )
    place = tuple(int(start) + step for start, step in zip(coords, position, strict=True))
    axes = "ZYX"[-len(place) :]
    where = ", ".join(f"{axis} {number}" for axis, number in zip(axes, place, strict=True))
    return f"{stacks[data_idx].source} (image stack {data_idx}), sample {sample_idx}, channel {channel}, {where}"
