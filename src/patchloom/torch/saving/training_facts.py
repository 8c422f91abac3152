"""What prediction has to know of a training: how images were normalized, their channels and their voxel size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from patchloom.argument_checks import shown
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentTypeError, GeometryError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.torch.datasets.microsplit_dataset import MicroSplitDataset
from patchloom.torch.datasets.patch_dataset import PatchDataset
from patchloom.torch.datasets.series_reader import SeriesFacts

_IN_MICROMETERS = {"nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3, "angstrom": 1e-4}
_MOST_DIFFERENCE = 1.01
"""Voxel sizes that differ by a larger factor are different ones."""


@dataclass(frozen=True, slots=True)
class HowNormalized:
    """How the images of a series were normalized: each by a method, all by the same numbers, or not at all.

    Parameters
    ----------
    method : str
        The method by which each image was measured, as text; empty if there is none.
    scale, offset : tuple of float
        Numbers that are the same for all images, one for each channel that is read; empty if each image has its own.
    """

    method: str = ""
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    @classmethod
    def of(cls, name: str, facts: SeriesFacts) -> HowNormalized:
        """Find out how a series was normalized.

        Parameters
        ----------
        name : str
            Name of the argument, for messages.
        facts : SeriesFacts
            The series.

        Raises
        ------
        GeometryError
            If each image has its own numbers, and they were not measured by one method.
        """
        given = facts.normalization
        if given is None:
            return cls()
        each = list(given) if isinstance(given, Sequence) else [given]
        methods = {str(one.method) if isinstance(one, Normalization) else "" for one in each}
        if len(each) == len(facts.stacks) and len(methods) == 1 and "" not in methods:
            (method,) = methods
            _check_measured_alike(name, each[0], facts)
            return cls(method)
        numbers = {(_row(one.scale, facts), _row(one.offset, facts)) for one in each}
        if len(numbers) > 1:
            raise GeometryError(
                f"{name} of the dataset has numbers for each image that were not measured by one method, so those of another image "
                "are not known: measure all with measure_normalization and the same method"
            )
        ((scale, offset),) = numbers
        return cls(scale=scale, offset=offset)


def _check_measured_alike(name: str, measured: Any, facts: SeriesFacts) -> None:
    n_channels = int(facts.stacks[0].data_shape[1])
    if facts.n_channels < n_channels and measured.method.per in ("source", "sample"):
        raise GeometryError(
            f"{name} of the dataset was measured over all {n_channels} channels, of which the network gets {facts.n_channels}, and in "
            "prediction these alone are measured: measure with per='channel'"
        )


def _row(numbers: Any, facts: SeriesFacts) -> tuple[float, ...]:
    """Return one number for each channel that is read; all samples must have the same.

    Raises
    ------
    GeometryError
        If samples have different numbers.
    """
    table = np.atleast_2d(np.asarray(numbers, np.float64))
    if (table != table[0]).any():
        raise GeometryError(
            "normalization of the dataset has other numbers for each sample that were not measured by a method, so those of another "
            "image are not known: measure with measure_normalization"
        )
    row = np.broadcast_to(table[0], int(facts.stacks[0].data_shape[1])) if table.shape[1] == 1 else table[0]
    chosen = row if facts.channels is None or len(row) == facts.n_channels else row[list(facts.channels)]
    return tuple(map(float, chosen[: facts.n_channels]))


@dataclass(frozen=True, slots=True)
class TrainingFacts:
    """What prediction has to know of the images that a network is trained on."""

    patch_size: tuple[int, ...]
    """`(z,) y, x`, in voxels."""

    in_channels: int
    n_scales: int
    """Number of scales of the input, with lateral context; 1 without."""

    inputs: HowNormalized
    targets: HowNormalized | None
    """None without targets."""

    voxel_size: tuple[float, ...] | None
    """`(z,) y, x`, in micrometers; None if the images declare none, or differ."""

    channels: tuple[int, ...] | None
    """The channels of the images that the network gets; None for all."""

    channel_names: tuple[str, ...]
    """Their names; empty if the images declare none."""

    @classmethod
    def of(cls, dataset: PatchDataset | MicroSplitDataset) -> TrainingFacts:
        """Collect the facts from a dataset.

        Raises
        ------
        ArgumentError
            If it is not a dataset of Patchloom, it has no patches, or its normalization cannot be applied to other images.
        """
        if not isinstance(dataset, (PatchDataset, MicroSplitDataset)):
            raise ArgumentTypeError(
                f"dataset is {shown(dataset)}: it must be a PatchDataset or a MicroSplitDataset, the one that the network was trained on"
            )
        if not len(dataset):
            raise GeometryError("dataset has no patches: give the one that the network was trained on")
        inputs, *targets = dataset.series_facts
        names = _metadata(inputs.stacks[0]).channel_names
        return cls(
            patch_size=tuple(dataset.patching[0]["patch_size"]),
            in_channels=inputs.n_channels,
            n_scales=dataset.n_scales if isinstance(dataset, MicroSplitDataset) else 1,
            inputs=HowNormalized.of("normalization", inputs),
            targets=HowNormalized.of("target_normalization", targets[0]) if targets else None,
            voxel_size=_voxel_size(inputs.stacks),
            channels=inputs.channels,
            channel_names=tuple(names[channel] for channel in inputs.channels or range(len(names))) if names else (),
        )


def _metadata(stack: ImageStack) -> ImageMetadata:
    return stack.metadata if isinstance(stack, HasMetadata) else ImageMetadata()


def _voxel_size(stacks: Sequence[ImageStack]) -> tuple[float, ...] | None:
    sizes = []
    for stack in stacks:
        axes, metadata = spatial_axes(len(stack.data_shape) - 2), _metadata(stack)
        factors = [_IN_MICROMETERS.get(metadata.units.get(axis, "")) for axis in axes]
        known = [metadata.voxel_size.get(axis) for axis in axes]
        if not all(factors) or not all(known):
            return None
        sizes.append([factor * size for factor, size in zip(factors, known, strict=True) if factor and size])
    first = sizes[0]
    for size in sizes:
        if any(max(a, b) > _MOST_DIFFERENCE * min(a, b) for a, b in zip(first, size, strict=True)):
            return None
    return tuple(first)
