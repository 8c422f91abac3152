"""A network that sees a patch and, at half the resolution, what lies around it: run by `patchloom.predict`."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from torch import nn
from unet import model_of

import patchloom as pl


def context_around(patch: Sequence[int]) -> tuple[int, ...]:
    """Say how far two scales look past a patch, to each side; so far training has to keep off what is held out."""
    return tuple(size // 2 for size in patch)


class ContextModel:
    """Takes tiles that hold a patch and its context, and gives the patch back: `predict` sees to the margin.

    Parameters
    ----------
    network : Module
        Takes `(B, 2, Y, X)`, as `MicroSplitDataset` gives it with `n_scales=2`.
    patch : sequence of int
        Size of the patches that it was trained with.
    overlaps : sequence of int
        By how much the patches overlap.
    """

    def __init__(self, network: nn.Module, patch: Sequence[int], overlaps: Sequence[int]) -> None:
        self.run = model_of(network)
        self.middle = tuple(slice(lost, -lost) for lost in context_around(patch))
        self.description = pl.ModelDescription(
            patch_size=tuple(2 * size for size in patch),
            overlaps=tuple(overlap + size for overlap, size in zip(overlaps, patch, strict=True)),
            scale=(Fraction(1), Fraction(1)),  # half the size is a margin here, not a smaller image
        )

    def __call__(self, tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map tiles `(B, 1, 2Y, 2X)` to predictions `(B, C, Y, X)`."""
        n_tiles, _, height, width = tiles.shape
        shrunk = tiles.reshape(n_tiles, 1, height // 2, 2, width // 2, 2).mean(axis=(3, 5))
        return self.run(np.concatenate([tiles[:, :, *self.middle], shrunk], axis=1))
