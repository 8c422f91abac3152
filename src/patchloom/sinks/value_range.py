"""The smallest and largest value of each channel, gathered block by block: what a viewer starts with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class ChannelRanges:
    """Ranges of the values seen so far; NaN and infinities do not count.

    Parameters
    ----------
    n_channels : int
        Number of channels.

    Examples
    --------
    >>> ranges = ChannelRanges(2)
    >>> ranges.include(np.array([[[[1.0, np.nan, 3.0]], [[np.inf, np.nan, np.nan]]]]))
    >>> ranges.pairs()
    [(1.0, 3.0), (0.0, 1.0)]
    """

    def __init__(self, n_channels: int) -> None:
        self._low = [float("inf")] * n_channels
        self._high = [float("-inf")] * n_channels

    def include(self, block: NDArray[Any], first_channel: int = 0) -> None:
        """Take in a block.

        Parameters
        ----------
        block : array
            `SC(Z)YX`.
        first_channel : int
            Which channel the block's first one is.
        """
        for channel, values in enumerate(block.swapaxes(0, 1), first_channel):
            low, high = _finite_range(values)
            self._low[channel] = min(self._low[channel], low)
            self._high[channel] = max(self._high[channel], high)

    def pairs(self) -> list[tuple[float, float]]:
        """Smallest and largest value of each channel; 0 and 1 where none was finite."""
        return [(low, high) if low <= high else (0.0, 1.0) for low, high in zip(self._low, self._high, strict=True)]


def _finite_range(values: NDArray[Any]) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        low, high = float(np.fmin.reduce(values, axis=None)), float(np.fmax.reduce(values, axis=None))
    if np.isfinite([low, high]).all():
        return low, high
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (float("inf"), float("-inf"))
