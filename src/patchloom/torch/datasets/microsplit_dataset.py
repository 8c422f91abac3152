"""The dataset for MicroSplit: mixed inputs with lateral context, and the channels that the network splits them into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, SupportsIndex, cast

import numpy as np
import torch
from numpy.typing import NDArray

from patchloom.argument_checks import flag, instance, instances, listed, one_of, real_number
from patchloom.errors import GeometryError, SourceError
from patchloom.extraction import ChunkCache
from patchloom.extraction.downscaling import Downscale
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ImageStack, listed_stacks
from patchloom.patching import Patching, UncorrelatedPatching
from patchloom.patching.counter_random import Stream
from patchloom.patching.flat_index import check_indices
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.augmentation import FlipRot90
from patchloom.torch.datasets.channel_mixing import AlphaRanges
from patchloom.torch.datasets.microsplit_sources import ChannelMixture, InputsAndTargets, MicroSplitSource
from patchloom.torch.datasets.nan_search import rows_with_nan
from patchloom.torch.datasets.pairing import check_plan
from patchloom.torch.datasets.planned_dataset import PlannedDataset, PlannedRun, Transform
from patchloom.torch.datasets.series_normalization import ScaleAndOffset
from patchloom.torch.datasets.series_reader import LateralContext, LocatedPatches, SeriesFacts, SeriesReader
from patchloom.torch.loading.patch_keys import PatchKey, PatchKeys
from patchloom.torch.patches import PatchBatch
from patchloom.torch.tensor_memory import Allocate

Series = Sequence[ImageStack]


class MicroSplitDataset(PlannedDataset):
    """A dataset to train MicroSplit [1]_ in its three ways, or to predict with it.

    ::

        MicroSplitDataset(plan, targets=stacks)                     channels acquired together; the input is their sum
        MicroSplitDataset([plan_a, plan_b], targets=[a, b])         channels of different images; the input is their sum
        MicroSplitDataset(plan, inputs=mixed, targets=stacks)       the input was acquired too
        MicroSplitDataset(tiling, inputs=mixed)                     prediction, without a target

    An item is a `PatchPair`, or a `Patch` in prediction. Its `input` is `L(Z)YX`: the patch, then its surroundings at coarser and
    coarser scales. Its `target` is `C(Z)YX`: the separate channels. Its `specs` contains the place of each channel. A channel is
    read once for all scales. All random choices are pure functions of (seed, epoch, index).

    Parameters
    ----------
    patching : Patching or sequence of Patching
        The places of the patches. With channels of different images, one plan for each channel; the longest plan determines the
        number of patches.
    targets : sequence of ImageStack, or sequence of such sequences, optional
        The separate channels: one series of several channels, or one series for each channel.
    inputs : sequence of ImageStack, optional
        Images of all channels together, as the microscope records them, in one channel. If None, inputs are sums of the targets.
    channels : sequence of int, optional
        The channel of the inputs, such as `[0]`. If None, the only one.
    target_channels : sequence of int, optional
        The channels of the targets, in this order; with one series for each channel, one number for each series. If None, all.
    n_scales : int, default 1
        Number of scales of the input, the patch itself among them; each scale covers twice as much as the one before.
    downscale : {"mean", "resize"}, default "mean"
        How coarser scales are computed: by the mean of blocks, or as CAREamics does, for models trained with it.
    scale_z : bool, default True
        Whether coarser scales cover more along Z too.
    padding : {"constant", "reflect", "edge", "wrap"}, default "reflect"
        How pixels outside the images are filled, as by `numpy.pad`; `"constant"` is 0.
    alpha_ranges : sequence of (float, float), optional
        Lowest and highest weight of each target channel in the sum; weights are drawn for each patch. If None, each weight is
        1 / number of channels.
    uncorrelated_channel_prob : float, optional
        Probability that the channels of a patch are drawn at different places, from 0 to 1. If None, 0. Channels of different
        images always are.
    normalization : ScaleAndOffset or sequence of them, optional
        Of the inputs, for `pixel * scale + offset`: one for the series, or one for each image. Sums have one scale and one offset,
        which are applied after the channels are added in their own gray values.
    target_normalization : ScaleAndOffset, or sequence of them, optional
        Of the targets: one for the series, or one for each image; with one series for each channel, one for each series.
    cache : ChunkCache, optional
        Keeps decoded chunks; see `PatchDataset`. If None, a `ChunkCache()` of at most 1 GiB.
    nan : {"raise", "keep"}, default "raise"
        Treatment of a patch with a NaN in it or in its context.
    augmentation : FlipRot90, optional
        Random flips and turns of each patch, with its context.
    transform : callable, optional
        Changes each patch after the augmentation; see `PatchDataset`.
    seed : int, default 0
        Seed of augmentation, transform, weights, and the places of uncorrelated channels.

    Raises
    ------
    GeometryError
        If an argument has no effect on this way of training, or images, plans, channels, ranges or scales do not fit.
    ArgumentTypeError
        If an argument has another type.

    References
    ----------
    .. [1] A. Ashesh et al., "MicroSplit: semantic unmixing of fluorescent microscopy data", bioRxiv (2025),
       doi:10.1101/2025.02.10.637323

    Examples
    --------
    >>> import patchloom as pl
    >>> from patchloom.torch import MicroSplitDataset
    >>> stacks = pl.open_stacks(np.random.default_rng(0).integers(0, 255, (2, 300, 400), np.uint8), axes="CYX")
    >>> plan = pl.RandomPatching([stack.data_shape for stack in stacks], patch_size=(32, 32), seed=7)
    >>> dataset = MicroSplitDataset(plan, targets=stacks, n_scales=3, uncorrelated_channel_prob=0.5)
    >>> patch = dataset[5]
    >>> patch.input.shape, patch.target.shape, patch.specs["all_coords"][0] == plan[5]["coords"]
    (torch.Size([3, 32, 32]), torch.Size([2, 32, 32]), True)
    """

    def __init__(
        self,
        patching: Patching[PatchSpecs] | Sequence[Patching[PatchSpecs]],
        *,
        targets: Series | Sequence[Series] | None = None,
        inputs: Series | None = None,
        channels: Sequence[int] | None = None,
        target_channels: Sequence[int] | None = None,
        n_scales: int = 1,
        downscale: Downscale = "mean",
        scale_z: bool = True,
        padding: Padding = "reflect",
        alpha_ranges: AlphaRanges | None = None,
        uncorrelated_channel_prob: float | None = None,
        normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        target_normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None = None,
        cache: ChunkCache | None = None,
        nan: Literal["raise", "keep"] = "raise",
        augmentation: FlipRot90 | None = None,
        transform: Transform | None = None,
        seed: int = 0,
    ) -> None:
        one_of("nan", nan, ("raise", "keep"))
        flag("scale_z", scale_z)
        if cache is not None:
            instance("cache", cache, ChunkCache)
        self.nan = nan
        self._context = context = LateralContext(n_scales, downscale, scale_z)
        read = partial(SeriesReader, padding=padding, cache=ChunkCache() if cache is None else cache)
        self._source: MicroSplitSource
        plan: Patching[Any]
        if inputs is None:
            _refuse("the inputs are sums of the targets", channels=channels)
            bases = [patching] if isinstance(patching, Patching) else _plans(patching)
            series = _channel_series(
                bases, targets, target_channels, target_normalization, partial(read, context=context)
            )
            self._source = mixture = ChannelMixture(series, alpha_ranges, normalization)
            plan = _mixed_plan(bases, mixture.n_channels, uncorrelated_channel_prob, seed)
        else:
            _refuse(
                "there are inputs, so nothing is mixed",
                alpha_ranges=alpha_ranges,
                uncorrelated_channel_prob=uncorrelated_channel_prob,
            )
            inputs = listed_stacks("inputs", inputs)
            if not isinstance(patching, Patching):
                _plans(patching)
                raise GeometryError("there are several plans for one series of inputs: give one")
            plan = patching
            check_plan(plan, inputs)
            mixed = read(inputs, context=context, channels=channels, normalization=normalization)
            apart = None
            if targets is not None:
                apart = read(cast("Series", targets), channels=target_channels, normalization=target_normalization)
            self._source = InputsAndTargets(mixed, apart)
        if len(plan):
            context.check_fits(self._source.image_stacks, plan[0]["patch_size"])
        super().__init__(plan, augmentation=augmentation, transform=transform, seed=seed)

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The images that patches lie in, with the chosen channels; several series follow each other."""
        return self._source.image_stacks

    @property
    def series_facts(self) -> list[SeriesFacts]:
        """What the inputs, and the targets if there are any, were created from; sums have the images of their channels."""
        return self._source.series_facts

    @property
    def n_scales(self) -> int:
        """Number of scales of the input, the patch itself among them."""
        return self._context.n_scales

    def alphas(self, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> NDArray[np.float64]:
        """Return the weights of the channels in the sums of patches.

        Parameters
        ----------
        keys : iterable of PatchKey or int
            The patches, as in `dataset[key]`.

        Returns
        -------
        array of float64
            `(B, C)`.

        Raises
        ------
        GeometryError
            If the inputs are not sums.
        PatchIndexError
            If the plan has no such patch.
        """
        if not isinstance(self._source, ChannelMixture):
            raise GeometryError(
                "the inputs of this dataset are not sums, so channels have no weights: leave out inputs="
            )
        wanted = PatchKeys.of(keys)
        wanted = wanted._replace(indices=check_indices(wanted.indices, len(self)))
        random = self._random(Stream.MIXTURE, self.epoch if wanted.epoch is None else wanted.epoch)
        return self._source.alphas(random, wanted.indices)

    def _epochs_differ(self, indices: NDArray[np.int64]) -> bool:
        weights_vary = isinstance(self._source, ChannelMixture) and self._source.weights_vary
        return weights_vary or super()._epochs_differ(indices)

    def _locate(self, table: SpecTable) -> list[LocatedPatches]:
        return self._source.locate(table)

    def _read(self, run: PlannedRun, rows: slice, allocate: Allocate) -> PatchBatch:
        table = run.table[rows]
        located = [series.of_rows(rows) for series in run.located]
        pixels = self._source.read(located, self._random(Stream.MIXTURE, run.epoch), run.indices[rows], allocate)
        if self.nan == "raise" and self._source.may_hold_nan:
            for name, batch in zip(pixels._fields, pixels[:-1], strict=False):
                with_nan = rows_with_nan(cast("torch.Tensor", batch).numpy())
                if len(with_nan):
                    raise SourceError(
                        f"there is a NaN in the {name} of the patch {table[int(with_nan[0])]}, or in its context: fix the image, or "
                        "choose nan='keep'"
                    )
        return PatchBatch(pixels, table)


def _plans(patching: Any) -> list[Patching[PatchSpecs]]:
    return instances("patching", patching, Patching, "a plan of patches, or one for each channel")


def _refuse(because: str, **arguments: object) -> None:
    """Refuse arguments that would have no effect."""
    for name, value in arguments.items():
        if value is not None:
            raise GeometryError(f"{name} is {value}, but {because}: leave it out")


def _channel_series(
    bases: Sequence[Patching[PatchSpecs]],
    targets: Series | Sequence[Series] | None,
    channels: Sequence[int] | None,
    normalization: ScaleAndOffset | Sequence[ScaleAndOffset] | None,
    read: Callable[..., SeriesReader],
) -> list[SeriesReader]:
    """Return a reader of all channels, or one for each channel, according to the number of plans."""
    targets = [] if targets is None else listed("targets", targets, "a series of image stacks, or one for each channel")
    if not targets:
        raise GeometryError("targets and inputs are None: give targets, inputs, or both")
    if channels is not None:
        channels = listed("target_channels", channels, "a sequence of whole numbers, such as [0, 2]")
    if (len(bases) == 1) != isinstance(targets[0], ImageStack):
        raise GeometryError(
            f"there {'is one plan' if len(bases) == 1 else f'are {len(bases)} plans'}, and targets is "
            f"{'one series' if isinstance(targets[0], ImageStack) else 'a series for each channel'}: give one plan and one "
            "series, or one of each for each channel"
        )
    if len(bases) == 1:
        stacks = listed_stacks("targets", targets)
        check_plan(bases[0], stacks)
        return [read(stacks, channels=channels, normalization=normalization)]
    of_channels: list[Any] = [None] * len(bases) if channels is None else [[channel] for channel in channels]
    values = list(normalization) if isinstance(normalization, Sequence) else [normalization] * len(bases)
    given = {"targets": targets, "target_channels": of_channels, "target_normalization": values}
    for name, of_each in given.items():
        if len(of_each) != len(bases):
            raise GeometryError(
                f"{name} has {len(of_each)} entries for {len(bases)} plans: there is one for each channel"
            )
    series = []
    for number, (base, of_channel, own, value) in enumerate(zip(bases, targets, of_channels, values, strict=True)):
        stacks = listed_stacks(f"targets[{number}]", of_channel)
        check_plan(base, stacks)
        series.append(read(stacks, channels=own, normalization=value))
        if series[-1].n_channels != 1:
            raise GeometryError(
                f"targets {number} have {series[-1].n_channels} channels: choose one of each series by target_channels"
            )
    return series


def _mixed_plan(
    bases: Sequence[Patching[PatchSpecs]], n_channels: int, probability: float | None, seed: int
) -> UncorrelatedPatching:
    if probability is not None:
        real_number("uncorrelated_channel_prob", probability, least=0, most=1)
    if len(bases) == 1:
        return UncorrelatedPatching(bases[0], n_channels, probability=probability or 0.0, seed=seed)
    if probability not in (None, 1):
        raise GeometryError(
            f"uncorrelated_channel_prob is {probability}, but each channel has images of its own, and no place in common with "
            "the others: leave it out"
        )
    longest = max(range(n_channels), key=lambda channel: len(bases[channel]))
    return UncorrelatedPatching(bases, n_channels, principal_channel=longest, seed=seed)
