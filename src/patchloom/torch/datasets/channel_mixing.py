"""Weighted sums of channels, as a microscope would record them together: the inputs that MicroSplit is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, real_number, shown
from patchloom.errors import GeometryError
from patchloom.patching.counter_random import CounterRandom
from patchloom.specs.spec_table import SpecTable

AlphaRanges = Sequence[tuple[float, float]]

_FRACTIONS = 2**53
"""Resolution of a `float` between 0 and 1."""


def checked_alpha_ranges(alpha_ranges: AlphaRanges | None, n_channels: int) -> NDArray[np.float64]:
    """Return the lowest and highest weight of each channel.

    Parameters
    ----------
    alpha_ranges : sequence of (float, float), optional
        Lowest and highest weight of each channel. If None, all are 1 / `n_channels`.
    n_channels : int
        Number of channels.

    Returns
    -------
    array
        `(C, 2)`.

    Raises
    ------
    GeometryError
        If the number of ranges is not that of channels, a weight is not finite, or the lowest is above the highest.

    Examples
    --------
    >>> checked_alpha_ranges(None, 4).tolist()
    [[0.25, 0.25], [0.25, 0.25], [0.25, 0.25], [0.25, 0.25]]
    """
    if alpha_ranges is None:
        return np.full((n_channels, 2), 1 / n_channels)
    alpha_ranges = listed("alpha_ranges", alpha_ranges, "a pair (lowest, highest) for each channel")
    if len(alpha_ranges) != n_channels:
        raise GeometryError(
            f"alpha_ranges has {len(alpha_ranges)} ranges for {n_channels} channels: give (lowest, highest) for each channel"
        )
    for channel, of_channel in enumerate(alpha_ranges):
        lowest, highest = _pair(of_channel)
        if not (isfinite(lowest) and isfinite(highest) and lowest <= highest):
            raise GeometryError(
                f"alpha_ranges has {shown(of_channel)} for channel {channel}: it must be two finite numbers, the lowest weight first"
            )
    return np.array(alpha_ranges, np.float64)


def _pair(of_channel: Any) -> tuple[float, float]:
    """Return two numbers; for anything else, a pair that the caller refuses."""
    try:
        lowest, highest = (
            real_number("alpha_ranges", number) for number in listed("alpha_ranges", of_channel, "a pair")
        )
    except ValueError:
        return 1.0, 0.0
    return lowest, highest


def draw_alphas(
    random: CounterRandom, alpha_ranges: NDArray[np.float64], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Draw the weights of the channels for many patches.

    Parameters
    ----------
    random : CounterRandom
        Random numbers of a seed and epoch.
    alpha_ranges : array
        `(C, 2)`, from `checked_alpha_ranges`.
    indices : array of int64
        Indices of the patches, `(B,)`.

    Returns
    -------
    array
        `(B, C)`, each uniform within its range. A pure function of (seed, epoch, index, channel).

    Examples
    --------
    >>> draw_alphas(CounterRandom(seed=7), np.array([[0.5, 0.5], [1, 2]]), np.array([3, 4])).round(2).tolist()
    [[0.5, 1.47], [0.5, 1.01]]
    """
    n_channels = len(alpha_ranges)
    draws = indices[:, np.newaxis] * n_channels + np.arange(n_channels)
    fractions = random.below_many(_FRACTIONS, draws.ravel()).reshape(draws.shape) / _FRACTIONS
    lowest, highest = alpha_ranges.T
    alphas: NDArray[np.float64] = lowest + (highest - lowest) * fractions
    return alphas


def mix_channels(channels: NDArray[Any], alphas: NDArray[Any], out: NDArray[Any]) -> None:
    """Sum the channels of each patch, multiplied by their weights.

    Parameters
    ----------
    channels : array
        `(B, C, ...)`.
    alphas : array
        `(B, C)`.
    out : array
        `(B, ...)`, to be filled; channels are added one after the other, in its dtype.

    Examples
    --------
    >>> mixed = np.empty((1, 2), np.float32)
    >>> mix_channels(np.array([[[1, 2], [10, 20]]], np.float32), np.array([[1.0, 0.5]], np.float32), mixed)
    >>> mixed.tolist()
    [[6.0, 12.0]]
    """
    for patch, of_channels, weights in zip(
        out, channels, alphas.astype(out.dtype), strict=True
    ):  # patch by patch: it stays in the processor's cache
        np.multiply(of_channels[0], weights[0], out=patch)
        for channel, weight in zip(of_channels[1:], weights[1:], strict=True):
            np.add(patch, channel * weight, out=patch)


def specs_of_channel(specs: SpecTable, channel: int) -> SpecTable:
    """Return where one channel of patches was drawn, as specifications in the series of that channel.

    Examples
    --------
    >>> table = SpecTable.from_specs([{
    ...     "data_idx": 0, "sample_idx": 0, "coords": (5, 7), "patch_size": (8, 8), "principal_channel": 0,
    ...     "all_data_idx": (0, 3), "all_sample_idx": (0, 1), "all_coords": ((5, 7), (90, 12)),
    ... }])
    >>> specs_of_channel(table, 1)[0]
    {'data_idx': 3, 'sample_idx': 1, 'coords': (90, 12), 'patch_size': (8, 8)}
    """
    columns = {field: specs.columns[f"all_{field}"][:, channel] for field in ("data_idx", "sample_idx", "coords")}
    return SpecTable({**columns, "patch_size": specs.columns["patch_size"]})
