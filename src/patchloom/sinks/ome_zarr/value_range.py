"""The smallest and largest value of each channel, gathered block by block: what a viewer starts with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ValueRange = tuple[float, float] | None
"""Smallest and largest finite value; nothing where none is finite."""


class ChannelRanges:
    """Ranges of the values in all blocks so far, whatever their order.

    Parameters
    ----------
    n_channels : int
        Number of channels.

    Examples
    --------
    >>> ranges = ChannelRanges(2)
    >>> ranges.include(block_ranges(np.array([[[[1.0, np.nan, 3.0]], [[np.inf, np.nan, np.nan]]]])))
    >>> ranges.pairs()
    [(1.0, 3.0), (0.0, 1.0)]
    """

    def __init__(self, n_channels: int) -> None:
        self._ranges: list[ValueRange] = [None] * n_channels

    def include(self, ranges: Sequence[ValueRange], first_channel: int = 0) -> None:
        """Take in the ranges of a block.

        Parameters
        ----------
        ranges : sequence of (float, float) or None
            One for each channel of the block.
        first_channel : int
            Which channel the block's first one is.
        """
        for channel, found in enumerate(ranges, first_channel):
            known = self._ranges[channel]
            if found and known:
                found = (min(found[0], known[0]), max(found[1], known[1]))  # noqa: PLW2901  # both, from here on
            self._ranges[channel] = found or known

    def pairs(self) -> list[tuple[float, float]]:
        """Smallest and largest value of each channel; 0 and 1 where none was finite."""
        return [found or (0.0, 1.0) for found in self._ranges]


def block_ranges(block: NDArray[Any]) -> list[ValueRange]:
    """Range of the values of each channel; NaN and infinities do not count.

    Parameters
    ----------
    block : array
        `SC(Z)YX`.

    Examples
    --------
    >>> block_ranges(np.array([[[[-0.0, 7.0]], [[np.nan, np.inf]]]]))
    [(0.0, 7.0), None]
    """
    return [_finite_range(values) for values in block.swapaxes(0, 1)]


def _finite_range(values: NDArray[Any]) -> ValueRange:
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    if not np.isfinite([low, high]).all():
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        low, high = finite.min(), finite.max()
    # A zero added takes the sign off one, which would depend on the order of blocks.
    return float(low) + 0.0, float(high) + 0.0
