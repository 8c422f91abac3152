"""Scale and offset of a whole series: which numbers a patch is normalized with, wherever it comes from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchloom.errors import GeometryError
from patchloom.extraction.rescaling import Rescaling
from patchloom.image_stacks import ImageStack
from patchloom.specs.spec_table import SpecTable

_LARGE_OFFSET = 64.0
"""Above it, normalized pixels would be rounded to more than 4e-6 in `float32`."""


@runtime_checkable
class ScaleAndOffset(Protocol):
    """What normalizes an image: `pixel * scale + offset`, by statistics of the whole of it or of the whole series."""

    @property
    def scale(self) -> ArrayLike:
        """One number, or one a channel, or for each sample one a channel."""

    @property
    def offset(self) -> ArrayLike:
        """As many."""


class GrayValues:
    """Scale and offset of every channel of every sample of a series.

    Parameters
    ----------
    normalization : ScaleAndOffset or sequence of them
        For all image stacks together, or one for each.
    stacks : sequence of ImageStack
        The series, with all its channels.
    channels : sequence of int, optional
        Which of the channels are read; all where not given.

    Raises
    ------
    GeometryError
        If there are not as many as stacks, samples or channels, or one is not finite.
    """

    def __init__(
        self,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset],
        stacks: Sequence[ImageStack],
        channels: Sequence[int] | None = None,
    ) -> None:
        of_stacks = _one_a_stack(normalization, len(stacks))
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
        self.working_dtype = working_dtype(self._offset)
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


def working_dtype(offset: ArrayLike) -> np.dtype[Any]:
    """Return the dtype in which pixels are read and normalized before they become `float32`.

    A large offset cancels most of a pixel, and what is left is lost if the pixel was rounded before.

    Examples
    --------
    >>> working_dtype([-0.5, 3]).name, working_dtype(-1e8).name
    ('float32', 'float64')
    """
    return np.dtype(np.float64 if np.abs(offset).max(initial=0.0) > _LARGE_OFFSET else np.float32)


def _one_a_stack(normalization: Any, n_stacks: int) -> list[ScaleAndOffset]:
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
