"""A model for `patchloom.predict` that sees each patch and, at half the resolution, its surroundings (lateral context)."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from torch import nn
from unet import model_of

import patchloom as pl


def context_around(patch: Sequence[int]) -> tuple[int, ...]:
    """Return the width of the context around a patch, to each side, with two scales."""
    return tuple(size // 2 for size in patch)


class ContextModel:
    """A model that maps tiles with a patch and its context to predictions of the patch; `predict` adds the margin to the tiles.

    Parameters
    ----------
    network : Module
        Network with inputs `(B, 2, Y, X)`, as `MicroSplitDataset` returns them with `n_scales=2`.
    patch : sequence of int
        Size of the patches in training, in pixels.
    overlaps : sequence of int
        Overlap of the patches in prediction, in pixels.
    """

    def __init__(self, network: nn.Module, patch: Sequence[int], overlaps: Sequence[int]) -> None:
        self.run = model_of(network)
        self.middle = tuple(slice(lost, -lost) for lost in context_around(patch))
        self.description = pl.ModelDescription(
            patch_size=tuple(2 * size for size in patch),
            overlaps=tuple(overlap + size for overlap, size in zip(overlaps, patch, strict=True)),
            scale=(Fraction(1), Fraction(1)),  # the output is smaller by a margin, not by a scale
        )

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map tiles `(B, 1, 2Y, 2X)` to predictions `(B, C, Y, X)`."""
        n_tiles, _, height, width = tiles.shape
        shrunk = tiles.reshape(n_tiles, 1, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
        return self.run(np.concatenate([tiles[:, :, *self.middle], shrunk], axis=1))
