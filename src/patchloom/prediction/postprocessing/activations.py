"""Activations as postprocessing steps: the scores of a network become probabilities.

Where tiles are blended, scores and not probabilities are averaged, as these steps come afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelOutputError
from patchloom.prediction.postprocessing.steps import by_slabs, check_block, check_real


@dataclass(frozen=True, slots=True)
class Sigmoid:
    """The logistic function of each value, `1 / (1 + exp(-x))`, from 0 to 1.

    Examples
    --------
    >>> Sigmoid()(np.array([[[-np.inf, 0.0, 800.0]]])).tolist()
    [[[0.0, 0.5, 1.0]]]
    """

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return "sigmoid"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`. It is float32 at least."""
        check_real(self, n_channels, dtype)
        return n_channels, np.result_type(dtype, np.float32)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        n_channels, dtype = self.output(len(block), block.dtype)

        def logistic(slab: NDArray[Any]) -> NDArray[Any]:
            with np.errstate(over="ignore"):  # of a large negative score: the result is 0
                values = np.exp(np.negative(slab, dtype=dtype))
                np.add(values, 1, out=values)
                return np.asarray(np.reciprocal(values, out=values))

        return by_slabs(logistic, block, n_channels, dtype)


@dataclass(frozen=True, slots=True)
class Softmax:
    """The probability of each channel, `exp(x) / Σ exp(x)`, where the sum is over the channels of a voxel.

    Examples
    --------
    >>> Softmax()(np.array([[[0.0, 800.0]], [[0.0, -800.0]]])).tolist()
    [[[0.5, 1.0]], [[0.5, 0.0]]]
    """

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return "softmax"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`. It is float32 at least."""
        check_real(self, n_channels, dtype)
        if n_channels < 2:
            raise ModelOutputError(
                "postprocess is 'softmax', and the model returns one channel: return a channel for each class, or use 'sigmoid'"
            )
        return n_channels, np.result_type(dtype, np.float32)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        n_channels, dtype = self.output(len(block), block.dtype)

        def probabilities(slab: NDArray[Any]) -> NDArray[Any]:
            # Less the largest, so that no exponential overflows.
            with np.errstate(invalid="ignore"):  # of an infinite score: the result is NaN
                values = np.subtract(slab, slab.max(axis=0), dtype=dtype)
            np.exp(values, out=values)
            return np.asarray(np.divide(values, values.sum(axis=0), out=values))

        return by_slabs(probabilities, block, n_channels, dtype)
