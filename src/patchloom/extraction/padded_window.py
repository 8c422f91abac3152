"""A window of a padded image, picked from voxels that are in memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.extraction.gather import normalize
from patchloom.geometry.padding import source_runs

_MANY_RUNS = 8
"""An axis of more runs than this is picked voxel by voxel."""


class Normalization(NamedTuple):
    """What becomes of the voxels of a batch: `voxel * scale + offset`, one number a channel, in the batch's dtype."""

    scale: NDArray[Any]
    offset: NDArray[Any]


class AxisPick(NamedTuple):
    """Which voxels make up a window along one axis."""

    inside: slice
    """The part of the window that has a source; the rest is 0."""

    positions: NDArray[np.intp]
    """For each voxel of that part, where its source is."""


class PaddedWindow(NamedTuple):
    """A window, and what it is made of."""

    pixels: NDArray[Any]
    """The voxels that it needs, `C(Z)YX`, and others perhaps."""

    picks: Sequence[AxisPick]
    """For each spatial axis, which of them go where."""

    target: NDArray[Any]
    """The window, `C(Z)YX`."""

    first_channel: int
    """Which channel of the batch its first one is."""

    def fill(self, normalization: Normalization | None) -> None:
        """Pick the window's voxels; runs of them are copied as boxes, forwards or backwards."""
        pixels = self.pixels
        runs = []
        for axis, (_, positions) in enumerate(self.picks, start=1):
            of_axis = source_runs(positions)
            if len(of_axis) > _MANY_RUNS:  # a window many times the size of the image
                pixels = pixels.take(positions, axis)
                of_axis = [(slice(0, len(positions)),) * 2]
            runs.append(of_axis)
        inside = self.target[(slice(None), *(pick.inside for pick in self.picks))]
        if inside.shape != self.target.shape:
            self.target[...] = 0
        for box in itertools.product(*runs):
            to, of = zip(*box, strict=True)
            inside[(slice(None), *to)] = pixels[(slice(None), *of)]
        if normalization is not None:
            channels = slice(self.first_channel, self.first_channel + len(self.target))
            scale, offset = normalization
            normalize(self.target, self.target.ndim, scale[channels], offset[channels])
