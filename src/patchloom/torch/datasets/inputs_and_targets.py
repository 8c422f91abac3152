"""Inputs with lateral context, and the targets that lie on them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from patchloom.errors import GeometryError
from patchloom.image_stacks import ImageStack
from patchloom.patching.counter_random import CounterRandom
from patchloom.specs.spec_table import SpecTable
from patchloom.torch.datasets.context_series import ContextSeries
from patchloom.torch.datasets.pairing import check_pairs
from patchloom.torch.patches import Allocate, Patch, PatchPair


class InputsAndTargets:
    """Reads inputs of one channel at several scales, and targets at one.

    Parameters
    ----------
    inputs : ContextSeries
        The inputs.
    targets : ContextSeries, optional
        Of a single scale.

    Raises
    ------
    GeometryError
        If inputs have several channels, or targets do not lie on them.
    """

    def __init__(self, inputs: ContextSeries, targets: ContextSeries | None = None) -> None:
        if inputs.n_channels != 1:
            raise GeometryError(
                f"the inputs have {inputs.n_channels} channels, and their scales take the place of channels: choose one, such as "
                "channels=[0]"
            )
        if targets is not None:
            check_pairs(inputs.image_stacks, targets.image_stacks)
        self._inputs = inputs
        self._targets = targets

    @property
    def image_stacks(self) -> list[ImageStack]:
        """The inputs."""
        return self._inputs.image_stacks

    @property
    def may_hold_nan(self) -> bool:
        """Whether there can be a NaN in a batch."""
        return any(series.may_hold_nan for series in (self._inputs, self._targets) if series is not None)

    def read(
        self,
        table: SpecTable,
        random: CounterRandom,  # noqa: ARG002  # what is read is not drawn
        indices: NDArray[np.int64],  # noqa: ARG002
        allocate: Allocate,
    ) -> Patch | PatchPair:
        """Read a batch; see `ReadsPixels.read`."""
        size = table.columns["patch_size"][0].tolist()
        mixed = allocate((len(table), self._inputs.n_scales, *size), torch.float32)
        self._inputs.read_normalized(table, mixed.numpy()[:, np.newaxis])
        if self._targets is None:
            return Patch(mixed, {})
        apart = allocate((len(table), self._targets.n_channels, *size), torch.float32)
        self._targets.read_normalized(table, apart.numpy()[:, :, np.newaxis])
        return PatchPair(mixed, apart, {})
