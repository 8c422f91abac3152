"""The normalization of an image undone in predictions, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import whole_number
from patchloom.errors import ModelOutputError
from patchloom.pixel_arrays import pixel_dtype
from patchloom.prediction.postprocessing.chain import PostprocessingChain
from patchloom.prediction.postprocessing.steps import Postprocessing, check_block

_SLAB_VOXELS = 2**18
"""Voxels that are processed at once, to bound the memory of intermediate arrays."""


@dataclass(frozen=True, slots=True)
class Denormalize:
    """Undo the normalization of an image in predictions: `(value - offset) / scale`, in float64.

    Normalization is linear, and the weights of blended tiles sum to one. So undoing it in a blended block is the same as undoing it
    in each tile. Predictions that are not floats, such as labels, are not changed.

    Parameters
    ----------
    scale, offset : tuple of float
        The numbers with which the sample was normalized: one for each channel of the predictions, or one for all. If empty,
        blocks are not changed, and `for_sample` gives the numbers.

    Examples
    --------
    >>> Denormalize(scale=(0.5,), offset=(-3.0,))(np.array([[[1.0, -3.0]]])).tolist()
    [[[8.0, 0.0]]]
    """

    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    @property
    def identity(self) -> str:
        """The name of the step."""
        return "denormalize"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        whole_number("n_channels", n_channels, least=1)
        dtype = pixel_dtype("dtype", dtype)
        return n_channels, np.result_type(dtype, np.float32) if dtype.kind == "f" else dtype

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        if not self.scale or block.dtype.kind != "f":
            return block
        restored = np.empty(block.shape, self.output(len(block), block.dtype)[1])
        shape = (-1, *[1] * (block.ndim - 1))
        scale, offset = (np.array(numbers, np.float64).reshape(shape) for numbers in (self.scale, self.offset))
        thickness = max(1, _SLAB_VOXELS // max(1, prod(block.shape) // block.shape[1]))
        for start in range(0, block.shape[1], thickness):
            slab = slice(start, start + thickness)
            restored[:, slab] = (block[:, slab] - offset) / scale
        return restored


def for_sample(step: Postprocessing, scale: Sequence[float], offset: Sequence[float]) -> Postprocessing:
    """Return a postprocessing for the blocks of one sample.

    Parameters
    ----------
    step : Postprocessing
        A step, or a chain of steps.
    scale, offset : sequence of float
        The numbers with which the sample was normalized, one for each channel of the image.
    """
    if isinstance(step, PostprocessingChain):
        return PostprocessingChain(tuple(for_sample(inner, scale, offset) for inner in step.steps))
    if not isinstance(step, Denormalize):
        return step
    same = len(set(zip(scale, offset, strict=True))) == 1
    return Denormalize(tuple(scale[:1] if same else scale), tuple(offset[:1] if same else offset))


def for_spread(step: Denormalize) -> Denormalize:
    """Return the step for a standard deviation, which the normalization multiplied by its scale, without the offset.

    Parameters
    ----------
    step : Denormalize
        The step for gray values.

    Examples
    --------
    >>> for_spread(Denormalize(scale=(0.5,), offset=(-3.0,)))(np.array([[[1.0]]])).tolist()
    [[[2.0]]]
    """
    return Denormalize(step.scale, (0.0,) * len(step.offset))


def check_denormalizable(scale: Sequence[Sequence[float]], offset: Sequence[Sequence[float]], n_channels: int) -> None:
    """Check that the normalization of an image can be undone in predictions.

    Parameters
    ----------
    scale, offset : sequence of sequence of float
        The numbers with which the image is normalized, one for each channel of each sample.
    n_channels : int
        Number of channels of the predictions.

    Raises
    ------
    ModelOutputError
        If the channels of a sample are not normalized alike, and predictions have another number of channels.
    """
    for of_sample in zip(scale, offset, strict=True):
        numbers = list(zip(*of_sample, strict=True))
        if len(set(numbers)) > 1 and len(numbers) != n_channels:
            raise ModelOutputError(
                f"denormalize is True, and the model returns {n_channels} channel(s) for an image of {len(numbers)} that are "
                "normalized channel by channel: normalize all channels alike, or leave denormalize out (--no-denormalize)"
            )
