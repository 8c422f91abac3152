"""Sources of a MicroSplit batch: inputs that were acquired, or channels that are read separately and summed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError
from patchloom.extraction.rescaling import Rescaling, cancels, rescale
from patchloom.image_stacks import ImageStack
from patchloom.patching.counter_random import CounterRandom
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.channel_mixing import (
    AlphaRanges,
    checked_alpha_ranges,
    draw_alphas,
    mix_channels,
    specs_of_channel,
)
from patchloom.torch.datasets.pairing import check_pairs
from patchloom.torch.datasets.series_normalization import ScaleAndOffset
from patchloom.torch.datasets.series_reader import LocatedPatches, SeriesFacts, SeriesReader
from patchloom.torch.patches import Patch, PatchPair
from patchloom.torch.tensor_memory import Allocate


class MicroSplitSource(Protocol):
    """Reads the pixels of a MicroSplit dataset."""

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The images that patches lie in."""

    @property
    def series_facts(self) -> list[SeriesFacts]:
        """What the inputs, and the targets if there are any, were created from."""

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch."""

    def locate(self, table: SpecTable) -> list[LocatedPatches]:
        """Locate patches of one size in each series, for one batch or many.

        Raises
        ------
        SpecError
            If a patch does not lie in its series.
        """

    def read(
        self, located: Sequence[LocatedPatches], random: CounterRandom, indices: NDArray[np.int64], allocate: Allocate
    ) -> Patch | PatchPair:
        """Read a batch.

        Parameters
        ----------
        located : sequence of LocatedPatches
            The patches in each series.
        random : CounterRandom
            Draws the weights of the channels, by the patches' indices.
        indices : array of int64
            The patches' indices, `(B,)`.
        allocate : callable
            Makes the tensors.

        Returns
        -------
        Patch or PatchPair
            `(B, L, (Z), Y, X)` and `(B, C, (Z), Y, X)`; without specifications.

        Raises
        ------
        SourceError
            If pixels cannot be read, or an image has changed on disk.
        """


class InputsAndTargets:
    """Reads inputs of one channel at several scales, and targets at one.

    Parameters
    ----------
    inputs : SeriesReader
        The inputs, with lateral context.
    targets : SeriesReader, optional
        The targets, without.

    Raises
    ------
    GeometryError
        If inputs have several channels, or targets differ from them in number, samples or size.
    """

    def __init__(self, inputs: SeriesReader, targets: SeriesReader | None = None) -> None:
        if inputs.n_channels != 1:
            raise GeometryError(
                f"the inputs have {inputs.n_channels} channels, and their scales take the place of channels: choose one, such as "
                "channels=[0]"
            )
        if targets is not None:
            check_pairs(inputs.image_stacks, targets.image_stacks)
        self._series = [inputs] if targets is None else [inputs, targets]

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The inputs."""
        return self._series[0].image_stacks

    @property
    def series_facts(self) -> list[SeriesFacts]:
        """What the inputs and the targets were created from."""
        return [series.facts for series in self._series]

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch."""
        return any(series.may_hold_nan for series in self._series)

    def locate(self, table: SpecTable) -> list[LocatedPatches]:
        """Locate patches; see `MicroSplitSource.locate`."""
        return [series.locate(table) for series in self._series]

    def read(
        self,
        located: Sequence[LocatedPatches],
        random: CounterRandom,  # noqa: ARG002  # nothing is drawn
        indices: NDArray[np.int64],  # noqa: ARG002
        allocate: Allocate,
    ) -> Patch | PatchPair:
        """Read a batch; see `MicroSplitSource.read`."""
        mixed, *apart = [series.read(own, allocate) for series, own in zip(self._series, located, strict=True)]
        scales = mixed[:, 0]
        return PatchPair(scales, apart[0], {}) if apart else Patch(scales, {})


class ChannelMixture:
    """Reads channels once, for inputs that are their sums and for targets.

    Parameters
    ----------
    series : sequence of SeriesReader
        One of all channels; or one of a single channel for each. With lateral context.
    alpha_ranges : sequence of (float, float), optional
        Lowest and highest weight of each channel. If None, 1 / number of channels.
    normalization : ScaleAndOffset, optional
        Of the sums: one scale and one offset.

    Raises
    ------
    GeometryError
        If there are fewer than two channels, or ranges or normalization do not fit.
    """

    def __init__(
        self,
        series: Sequence[SeriesReader],
        alpha_ranges: AlphaRanges | None = None,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
    ) -> None:
        self._series = list(series)
        self._n_scales = series[0].n_scales
        self.n_channels = sum(one.n_channels for one in series)
        if self.n_channels < 2:
            raise GeometryError("the targets have 1 channel: give at least 2, or inputs")
        self._alpha_ranges = checked_alpha_ranges(alpha_ranges, self.n_channels)
        self._rescaling = None if normalization is None else _of_sums(normalization)
        mixed = SeriesFacts(self.image_stacks, None, 1, normalization)
        self.series_facts = [mixed, *(one.facts for one in self._series if len(self._series) == 1)]
        is_coarse = self._rescaling is not None and cancels(self._rescaling.offset)
        own = np.float64 if is_coarse else np.float32
        self._dtype = np.result_type(own, *(one.working_dtype for one in series))

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
        """Whether the weights of the channels differ between patches."""
        return bool((self._alpha_ranges[:, 0] != self._alpha_ranges[:, 1]).any())

    def alphas(self, random: CounterRandom, indices: NDArray[np.int64]) -> NDArray[np.float64]:
        """Draw the weights of the channels, `(B, C)`."""
        return draw_alphas(random, self._alpha_ranges, indices)

    def locate(self, table: SpecTable) -> list[LocatedPatches]:
        """Locate patches; see `MicroSplitSource.locate`."""
        if len(self._series) == 1:
            return [self._series[0].locate(table)]
        return [one.locate(specs_of_channel(table, channel)) for channel, one in enumerate(self._series)]

    def read(
        self, located: Sequence[LocatedPatches], random: CounterRandom, indices: NDArray[np.int64], allocate: Allocate
    ) -> PatchPair:
        """Read a batch; see `MicroSplitSource.read`."""
        size = located[0].patch_size
        channels = np.empty((len(indices), self.n_channels, self._n_scales, *size), self._dtype)
        for series, patches, own in self._parts(located, channels):
            series.read_gray_values(patches, own)
        mixed = allocate((len(indices), self._n_scales, *size), torch.float32)
        sums = mixed.numpy() if self._dtype == np.float32 else np.empty(mixed.shape, self._dtype)
        mix_channels(channels, self.alphas(random, indices), sums)
        _rescaled(sums[:, np.newaxis], mixed.numpy()[:, np.newaxis], self._rescaling)
        apart = allocate((len(indices), self.n_channels, *size), torch.float32)
        targets = apart.numpy()
        for (_, patches, own), (_, _, target) in zip(
            self._parts(located, channels), self._parts(located, targets), strict=True
        ):
            _rescaled(own[:, :, 0], target, patches.rescaling)
        return PatchPair(mixed, apart, {})

    def _parts(
        self, located: Sequence[LocatedPatches], batch: NDArray[np.floating]
    ) -> list[tuple[SeriesReader, LocatedPatches, NDArray[np.floating]]]:
        """Return each series with its patches and its channels of a batch."""
        if len(self._series) == 1:
            return [(self._series[0], located[0], batch)]
        return [
            (series, own, batch[:, channel : channel + 1])
            for channel, (series, own) in enumerate(zip(self._series, located, strict=True))
        ]


def _rescaled(pixels: NDArray[np.floating], out: NDArray[np.floating], rescaling: Rescaling | None) -> None:
    if rescaling is not None:
        rescale(pixels, out, rescaling)
    elif out.base is not pixels.base or out.dtype != pixels.dtype:
        out[...] = pixels


def _of_sums(normalization: ScaleAndOffset | Sequence[ScaleAndOffset]) -> Rescaling:
    """Return the scale and offset of sums."""
    values = []
    if not (hasattr(normalization, "scale") and hasattr(normalization, "offset")):
        raise GeometryError(f"normalization is {shown(normalization)}: it must have one scale and one offset")
    for name in ("scale", "offset"):
        numbers = np.asarray(getattr(normalization, name, ()), np.float64)
        if numbers.size != 1 or not np.isfinite(numbers).all():
            raise GeometryError(
                f"normalization has the {name} {numbers.tolist()}: inputs that are sums of channels have one finite number"
            )
        values.append(numbers.reshape(1))
    return Rescaling.of(*values)
