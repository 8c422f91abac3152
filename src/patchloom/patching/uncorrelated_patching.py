"""Patches whose channels are drawn from different positions, for training MicroSplit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instances, real_number
from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number
from patchloom.patching.counter_random import CounterRandom, Stream, checked_epoch, checked_seed
from patchloom.patching.flat_index import check_indices
from patchloom.patching.patching import Patching, SpecSequence
from patchloom.specs.patch_specs import PatchSpecs, UncorrelatedPatchSpecs
from patchloom.specs.spec_table import SpecTable

_MOST_CHANNELS = 2**16 - Stream.CHANNEL


class UncorrelatedPatching(SpecSequence[UncorrelatedPatchSpecs]):
    """Patches whose channels come from different patches of another patching.

    The principal channel of patch `i` comes from patch `i` of the base. Every other channel comes from a patch of the base
    that is drawn by (seed, epoch, `i`, channel).

    Parameters
    ----------
    base : Patching or sequence of Patching
        The positions of the patches, which must all have one size. With a sequence, one patching for each channel: each
        channel then has its own series, and its `data_idx` counts the image stacks of this series.
    n_channels : int
        Number of channels.
    principal_channel : int
        The channel that comes from patch `i` of its base; its base determines the number of patches.
    probability : float
        Probability that the channels of a patch are drawn independently. Otherwise all of them come from the position of the
        principal channel; the specification is of the same kind, so that a batch can mix both.
    seed : int, optional
        Patchings with the same seed and base are the same. If None, a seed is drawn; see the attribute `seed`.

    Raises
    ------
    GeometryError
        If there is no such channel, the number of bases is not that of the channels, patches differ in size, the
        probability is not from 0 to 1, or patches are to be correlated across series of different shapes.

    Examples
    --------
    >>> from patchloom.patching.random_patching import RandomPatching
    >>> base = RandomPatching([(1, 2, 512, 512)], patch_size=(64, 64), seed=7)
    >>> patching = UncorrelatedPatching(base, n_channels=2)
    >>> spec = patching[5]
    >>> spec["coords"] == spec["all_coords"][0] == base[5]["coords"] != spec["all_coords"][1]
    True
    """

    def __init__(
        self,
        base: Patching[PatchSpecs] | Sequence[Patching[PatchSpecs]],
        n_channels: int,
        *,
        principal_channel: int = 0,
        probability: float = 1.0,
        seed: int | None = 0,
    ) -> None:
        self.n_channels = whole_number("n_channels", n_channels)
        if not 1 <= self.n_channels <= _MOST_CHANNELS:
            raise GeometryError(f"n_channels is {self.n_channels}: it must be from 1 to {_MOST_CHANNELS}")
        self.principal_channel = whole_number("principal_channel", principal_channel)
        if not 0 <= self.principal_channel < self.n_channels:
            raise GeometryError(
                f"principal_channel is {self.principal_channel}, but there are {self.n_channels} channels"
            )
        self.probability = real_number("probability", probability, least=0, most=1)
        self.seed = checked_seed(seed)
        self.bases = _bases(base, self.n_channels)
        _check_sizes(self.bases)
        if self.probability < 1:
            _check_same_series(self.bases)
        self._begin_epoch(getattr(self.bases[self.principal_channel], "epoch", 0))

    @property
    def epoch(self) -> int:
        """The epoch of this patching."""
        return self._correlation.epoch

    def at_epoch(self, epoch: int) -> Self:
        """Return the patching and its bases at another epoch; see `Patching.at_epoch`."""
        patching = copy.copy(self)
        moved = {id(base): base.at_epoch(epoch) for base in self.bases}
        patching.bases = tuple(moved[id(base)] for base in self.bases)
        patching._begin_epoch(checked_epoch(epoch))  # noqa: SLF001  # of the same class
        return patching

    def _begin_epoch(self, epoch: int) -> None:
        self._correlation = CounterRandom(self.seed, epoch, Stream.UNCORRELATED)
        streams = range(Stream.CHANNEL, Stream.CHANNEL + self.n_channels)
        self._channel_draws = tuple(CounterRandom(self.seed, epoch, stream) for stream in streams)

    def __len__(self) -> int:
        return len(self.bases[self.principal_channel])

    def get_patch_indices(self, data_idx: int) -> Sequence[int]:
        """Return the indices of all patches whose principal channel lies in one image stack; see `Patching.get_patch_indices`."""
        return self.bases[self.principal_channel].get_patch_indices(data_idx)

    def _spec_at(self, index: int) -> UncorrelatedPatchSpecs:
        own = self.bases[self.principal_channel].get_patch_spec(index)
        drawn = [own] * self.n_channels
        if self._correlation.chance(self.probability, index):
            for channel, (base, draws) in enumerate(zip(self.bases, self._channel_draws, strict=True)):
                if channel != self.principal_channel:
                    drawn[channel] = base.get_patch_spec(draws.below(len(base), index))
        return {
            "data_idx": own["data_idx"],
            "sample_idx": own["sample_idx"],
            "coords": own["coords"],
            "patch_size": own["patch_size"],
            "principal_channel": self.principal_channel,
            "all_data_idx": tuple(spec["data_idx"] for spec in drawn),
            "all_sample_idx": tuple(spec["sample_idx"] for spec in drawn),
            "all_coords": tuple(tuple(spec["coords"]) for spec in drawn),
        }

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications; see `Patching.specs`."""
        numbers = check_indices(indices, len(self))
        own = self.bases[self.principal_channel].specs(numbers).columns
        uncorrelated = np.flatnonzero(self._correlation.chances(self.probability, numbers))
        drawn = {name: [own[name]] * self.n_channels for name in ("data_idx", "sample_idx", "coords")}
        for channel, (base, draws) in enumerate(zip(self.bases, self._channel_draws, strict=True)):
            if channel != self.principal_channel:
                other = base.specs(draws.below_many(len(base), numbers[uncorrelated])).columns
                for name, channels in drawn.items():
                    channels[channel] = own[name].copy()
                    channels[channel][uncorrelated] = other[name]
        return SpecTable(
            {
                **{name: own[name] for name in ("data_idx", "sample_idx", "coords", "patch_size")},
                "principal_channel": np.full(len(numbers), self.principal_channel),
                **{f"all_{name}": np.stack(channels, axis=1) for name, channels in drawn.items()},
            }
        )


def _bases(
    base: Patching[PatchSpecs] | Sequence[Patching[PatchSpecs]], n_channels: int
) -> tuple[Patching[PatchSpecs], ...]:
    if isinstance(base, Patching) and not isinstance(base, type):
        return (base,) * n_channels
    bases = tuple(instances("base", base, Patching, "a patching, or one for each channel"))
    if len(bases) != n_channels:
        raise GeometryError(
            f"there are {len(bases)} bases for {n_channels} channels: give one, or one for each channel"
        )
    return bases


def _check_sizes(bases: Sequence[Patching[PatchSpecs]]) -> None:
    """Check that the bases have patches of one size, and that no channel lacks patches."""
    sizes = {size for base in {id(base): base for base in bases}.values() for size in _patch_sizes(base)}
    if len(sizes) > 1:
        raise GeometryError(f"the bases have patches of sizes {sorted(sizes)}: all channels of a patch have one size")
    lengths = [len(base) for base in bases]
    if any(lengths) and not all(lengths):
        raise GeometryError(f"the bases have {lengths} patches: a channel without patches cannot be drawn")


def _patch_sizes(base: Patching[PatchSpecs]) -> set[tuple[int, ...]]:
    if hasattr(base, "patch_size"):
        return {tuple(base.patch_size)}
    sizes = base.specs(range(len(base))).columns["patch_size"]  # whole samples or listed patches: few
    return set(map(tuple, np.unique(sizes, axis=0).tolist()))


def _check_same_series(bases: Sequence[Patching[PatchSpecs]]) -> None:
    """Check that the series of all bases have the same shapes, so that every position exists in each."""
    shapes = {getattr(base, "data_shapes", None) for base in bases}
    if len(set(map(id, bases))) > 1 and (len(shapes) > 1 or None in shapes):
        raise GeometryError(
            "probability is less than 1 and the bases have different data_shapes: a correlated patch has one place, which "
            "has to exist in the series of every channel"
        )
