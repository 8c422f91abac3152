"""Channels that are read apart and summed to what the microscope would see of them together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError
from patchloom.extraction.channel_mixing import (
    AlphaRanges,
    checked_alpha_ranges,
    draw_alphas,
    mix_channels,
    specs_of_channel,
)
from patchloom.image_stacks import ImageStack
from patchloom.patching.counter_random import CounterRandom
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.context_series import ContextSeries
from patchloom.torch.datasets.gray_values import ScaleAndOffset, working_dtype
from patchloom.torch.patches import Allocate, PatchPair


class ChannelMixture:
    """Makes inputs and targets of the same channels.

    Parameters
    ----------
    series : sequence of ContextSeries
        One of all channels; or one of a single channel for each.
    alpha_ranges : sequence of (float, float), optional
        Lowest and highest weight of each channel; 1 / number of channels where not given.
    normalization : ScaleAndOffset, optional
        Of the sums: one scale and one offset.

    Raises
    ------
    GeometryError
        If there are fewer than two channels, or ranges or normalization do not fit.
    """

    def __init__(
        self,
        series: Sequence[ContextSeries],
        alpha_ranges: AlphaRanges | None = None,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
    ) -> None:
        self._series = list(series)
        self._n_scales = series[0].n_scales
        self.n_channels = sum(one.n_channels for one in series)
        if self.n_channels < 2:
            raise GeometryError("the targets have 1 channel: there must be at least 2 to be mixed")
        self._alpha_ranges = checked_alpha_ranges(alpha_ranges, self.n_channels)
        self._scale, self._offset = (1.0, 0.0) if normalization is None else _single_values(normalization)
        self._dtype = np.result_type(working_dtype(self._offset), *(one.working_dtype for one in series))

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The images of all channels."""
        return [stack for one in self._series for stack in one.image_stacks]

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch."""
        return any(one.may_hold_nan for one in self._series)

    @property
    def weights_vary(self) -> bool:
        """Whether the weights of the channels are drawn anew for each patch."""
        return bool((self._alpha_ranges[:, 0] != self._alpha_ranges[:, 1]).any())

    def alphas(self, random: CounterRandom, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw the weights of the channels, `(B, C)`."""
        return draw_alphas(random, self._alpha_ranges, indices)

    def read(
        self, table: SpecTable, random: CounterRandom, indices: NDArray[np.int64], allocate: Allocate
    ) -> PatchPair:
        """Read a batch; see `ReadsPixels.read`."""
        parts = self._parts(table)
        size = table.columns["patch_size"][0].tolist()
        channels = np.empty((len(table), self.n_channels, self._n_scales, *size), self._dtype)
        for series, specs, own in parts:
            series.read(specs, channels[:, own])
        mixed = allocate((len(table), self._n_scales, *size), torch.float32)
        sums = mixed if self._dtype == np.float32 else torch.empty(mixed.shape, dtype=torch.float64)
        mix_channels(channels, self.alphas(random, indices), sums.numpy())
        mixed.copy_(sums.mul_(self._scale).add_(self._offset))
        apart = allocate((len(table), self.n_channels, *size), torch.float32)
        patches = channels[:, :, 0]
        for series, specs, own in parts:
            series.normalize(specs, patches[:, own])
        apart.numpy()[...] = patches
        return PatchPair(mixed, apart, {})

    def _parts(self, table: SpecTable) -> list[tuple[ContextSeries, SpecTable, slice]]:
        """Which series gives which channels, and where it is read."""
        if len(self._series) == 1:
            return [(self._series[0], table, slice(None))]
        return [
            (series, specs_of_channel(table, channel), slice(channel, channel + 1))
            for channel, series in enumerate(self._series)
        ]


def _single_values(normalization: ScaleAndOffset | Sequence[ScaleAndOffset]) -> tuple[float, float]:
    """Scale and offset of a mixture, of which there is one each."""
    values = []
    if not (hasattr(normalization, "scale") and hasattr(normalization, "offset")):
        raise GeometryError(f"normalization is {shown(normalization)}: it must have one scale and one offset")
    for name in ("scale", "offset"):
        numbers = np.asarray(getattr(normalization, name, ()), np.float64)
        if numbers.size != 1 or not np.isfinite(numbers).all():
            raise GeometryError(
                f"normalization has the {name} {numbers.tolist()}: inputs that are sums of channels have one finite number"
            )
        values.append(float(numbers.item()))
    return values[0], values[1]
