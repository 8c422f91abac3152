"""Patches for MicroSplit: mixed inputs with what lies around them, and the channels that they are to be split into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Literal, SupportsIndex, cast

import numpy as np
import torch
from numpy.typing import NDArray

from patchloom.argument_checks import flag, instance, instances, listed, real_number, shown
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
from patchloom.torch.datasets.series_reader import LateralContext, LocatedPatches, SeriesReader
from patchloom.torch.loading.patch_keys import PatchKey, PatchKeys
from patchloom.torch.patches import PatchBatch
from patchloom.torch.tensor_memory import Allocate

Series = Sequence[ImageStack]


class MicroSplitDataset(PlannedDataset):
    """Patches to train MicroSplit on, in any of its three ways, or to predict with it [1]_.

    ::

        MicroSplitDataset(plan, targets=stacks)                     channels acquired together; the input is their sum
        MicroSplitDataset([plan_a, plan_b], targets=[a, b])         channels of different images; the input is a sum
        MicroSplitDataset(plan, inputs=mixed, targets=stacks)       the input was acquired too
        MicroSplitDataset(tiling, inputs=mixed)                     prediction: there is no target

    An item is a `PatchPair` (a `Patch` in prediction): `input` is `L(Z)YX`, the patch and then what lies around it at coarser
    and coarser scales; `target` is `C(Z)YX`, the channels apart; `specs` says where each channel was drawn. A channel is read
    once for all scales. Everything random is a pure function of (seed, epoch, index).

    Parameters
    ----------
    patching : Patching or sequence of Patching
        Where patches lie. With channels of different images one for each channel; the longest counts the patches.
    targets : sequence of ImageStack, or sequence of such sequences, optional
        The images that are split into: a series of several channels, or for each channel a series of its own.
    inputs : sequence of ImageStack, optional
        Images of all channels at once, as the microscope sees them; of one channel.
    channels, target_channels : sequence of int, optional
        Which channel of the inputs, and which of the targets, in this order; with a series for each channel, one of each.
    n_scales : int
        How many scales the input has, the patch itself among them; each covers twice as much as the one before.
    downscale : {"mean", "resize"}
        How the coarser scales are made: by the mean of blocks, or as CAREamics does, for models trained with it.
    scale_z : bool
        Whether coarser scales cover more along Z too.
    padding : {"constant", "reflect", "edge", "wrap"}
        How pixels outside the images are filled; `"constant"` is 0.
    alpha_ranges : sequence of (float, float), optional
        Lowest and highest weight of each target channel in the sum; drawn anew for each patch. Without it each weighs
        1 / number of channels.
    uncorrelated_channel_prob : float, optional
        How probable it is that the channels of a patch come from different places; 0 where not given. Channels of different
        images always do.
    normalization : ScaleAndOffset or sequence of them, optional
        Of the inputs, `pixel * scale + offset`: for the series, or one for each image. A sum is normalized by one scale and one
        offset, after the channels were added in their own gray values.
    target_normalization : ScaleAndOffset, or sequence of them, optional
        Of the targets: for the series, or one for each image; with a series for each channel, one for each channel.
    cache : ChunkCache, optional
        Keeps decoded chunks; `ChunkCache()` where not given, as of `PatchDataset`.
    nan : {"raise", "keep"}
        What becomes of a patch with a NaN in it or around it.
    augmentation, transform, seed
        As of `PlannedDataset`. The seed is also that of the weights, and of where channels are drawn.

    Raises
    ------
    GeometryError
        If an argument has no meaning for the way of training, or the images, plans, channels, ranges or scales do not fit.

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
        _check_nan(nan)
        flag("scale_z", scale_z)
        if cache is not None:
            instance("cache", cache, ChunkCache)
        self.nan = nan
        context = LateralContext(n_scales, downscale, scale_z)
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
        """The images that patches lie in, with the channels chosen; with a series for each channel, one after the other."""
        return self._source.image_stacks

    def alphas(self, keys: PatchKeys | Iterable[PatchKey | SupportsIndex]) -> NDArray[np.float64]:
        """Give the weights that the channels of patches have in their sum.

        Parameters
        ----------
        keys : iterable of PatchKey or int
            Which patches, as in `dataset[key]`.

        Returns
        -------
        array
            `(B, C)`.

        Raises
        ------
        GeometryError
            If the inputs are no sums.
        """
        if not isinstance(self._source, ChannelMixture):
            raise GeometryError("the inputs of this dataset are not mixed, so there are no weights")
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
                spoilt = rows_with_nan(cast("torch.Tensor", batch).numpy())
                if len(spoilt):
                    raise SourceError(
                        f"there is a NaN in the {name} of the patch {table[int(spoilt[0])]}, or in what lies around it: mend the "
                        "image, or choose nan='keep'"
                    )
        return PatchBatch(pixels, table)


def _check_nan(nan: Any) -> None:
    if not isinstance(nan, str) or nan not in {"raise", "keep"}:
        raise GeometryError(f"nan is {shown(nan)}: it must be 'raise' or 'keep'")


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
    """Open the series of all channels, or one for each channel, as there are plans."""
    targets = [] if targets is None else listed("targets", targets, "a series of image stacks, or one for each channel")
    if not targets:
        raise GeometryError("there are no images: give targets, inputs, or both")
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
