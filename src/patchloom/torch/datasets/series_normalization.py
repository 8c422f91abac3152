"""Scale and offset of every channel of every sample of a series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchloom.errors import GeometryError
from patchloom.extraction.rescaling import Rescaling, cancels
from patchloom.image_stacks import ImageStack
from patchloom.specs.spec_table import SpecTable


@runtime_checkable
class ScaleAndOffset(Protocol):
    """Normalizes an image as `pixel * scale + offset`, by statistics of the whole image or series."""

    @property
    def scale(self) -> ArrayLike:
        """One number, `(C,)` with one for each channel, or `(S, C)` with one for each sample and channel."""

    @property
    def offset(self) -> ArrayLike:
        """One number, `(C,)` or `(S, C)`."""


class SeriesNormalization:
    """Looks up scale and offset for the patches of a batch.

    Parameters
    ----------
    normalization : ScaleAndOffset or sequence of them
        For all image stacks together, or one for each.
    stacks : sequence of ImageStack
        The series, with all its channels.
    channels : sequence of int, optional
        The channels that are read, in this order. If None, all.

    Raises
    ------
    GeometryError
        If there is not one normalization for the series or each stack, with one finite number or one for each channel, or that
        for each sample.
    """

    def __init__(
        self,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset],
        stacks: Sequence[ImageStack],
        channels: Sequence[int] | None = None,
    ) -> None:
        of_stacks = _of_each_stack(normalization, len(stacks))
        chosen = list(range(stacks[0].data_shape[1])) if channels is None else list(channels)
        self._first_row = np.cumsum([0, *(stack.data_shape[0] for stack in stacks)])
        self._scale, self._offset = (
            np.concatenate(
                [
                    _of_samples(name, getattr(values, name), stack)[:, chosen]
                    for values, stack in zip(of_stacks, stacks, strict=True)
                ]
            )
            for name in ("scale", "offset")
        )
        self.working_dtype = np.dtype(np.float64 if cancels(self._offset) else np.float32)
        self._all_alike = all((table == table[0]).all() for table in (self._scale, self._offset))

    def of(self, table: SpecTable) -> Rescaling:
        """Look up the numbers for the patches of a batch."""
        if self._all_alike:
            return Rescaling(self._scale[:1], self._offset[:1])
        columns = table.columns
        if "all_data_idx" in columns:
            rows = self._first_row[columns["all_data_idx"]] + columns["all_sample_idx"]
            channels = np.arange(rows.shape[1])
            return Rescaling(self._scale[rows, channels], self._offset[rows, channels])
        rows = self._first_row[columns["data_idx"]] + columns["sample_idx"]
        return Rescaling(self._scale[rows], self._offset[rows])


def _of_each_stack(normalization: Any, n_stacks: int) -> list[ScaleAndOffset]:
    if isinstance(normalization, ScaleAndOffset):
        return [normalization] * n_stacks
    if not isinstance(normalization, Sequence) or not all(isinstance(one, ScaleAndOffset) for one in normalization):
        raise GeometryError(
            f"normalization is {normalization!r}: it must have a scale and an offset, or be one such for each image stack"
        )
    if len(normalization) != n_stacks:
        raise GeometryError(f"there are {len(normalization)} normalizations for {n_stacks} image stacks")
    return list(normalization)


def _of_samples(name: str, numbers: ArrayLike, stack: ImageStack) -> NDArray[np.float64]:
    """One row a sample, one column a channel."""
    wanted = (int(stack.data_shape[0]), int(stack.data_shape[1]))
    values = np.asarray(numbers, dtype=np.float64)
    if values.shape not in {(), (1,), wanted[1:], (1, wanted[1]), wanted} or not np.isfinite(values).all():
        raise GeometryError(
            f"the {name} of {stack.source} is {values.tolist()}: it must be one finite number, or one for each of its "
            f"{wanted[1]} channels, or that for each of its {wanted[0]} samples"
        )
    return np.array(np.broadcast_to(values, wanted))
