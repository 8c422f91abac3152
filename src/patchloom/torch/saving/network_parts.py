"""Parts around a network that make it take images as they are: fixed normalization, and lateral context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from patchloom.torch.saving.training_facts import HowNormalized


def with_fixed_normalization(
    network: nn.Module, inputs: HowNormalized, undone: HowNormalized, n_dims: int
) -> nn.Module:
    """Return a network that normalizes its input by fixed numbers, and undoes a normalization of its output.

    The parts are convolutions of one voxel, so the network is stored like any other.

    Parameters
    ----------
    network : Module
        The network.
    inputs : HowNormalized
        How its input is normalized; ignored without fixed numbers.
    undone : HowNormalized
        How its output is normalized, to be undone; ignored without fixed numbers.
    n_dims : int
        Number of spatial axes.
    """
    parts: list[nn.Module] = [network]
    if inputs.scale:
        # Subtracted first, as the product loses the differences of pixels that are large beside them.
        zero = [-offset / scale for scale, offset in zip(inputs.scale, inputs.offset, strict=True)]
        ones = [1.0] * len(zero)
        parts = [
            _affine(ones, [-value for value in zero], n_dims),
            _affine(inputs.scale, [0.0] * len(zero), n_dims),
            *parts,
        ]
    if undone.scale:
        factors = [1 / scale for scale in undone.scale]
        shifts = [-offset / scale for scale, offset in zip(undone.scale, undone.offset, strict=True)]
        parts.append(_affine(factors, shifts, n_dims))
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _affine(factors: Sequence[float], shifts: Sequence[float], n_dims: int) -> nn.Module:
    """Return a layer that computes `value * factor + shift` for each channel."""
    n_channels = len(factors)
    kind: type[Any] = nn.Conv2d if n_dims == 2 else nn.Conv3d
    layer: nn.Module = kind(n_channels, n_channels, 1, groups=n_channels)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(factors).reshape(layer.weight.shape))
        layer.bias.copy_(torch.tensor(shifts))
    return layer.requires_grad_(requires_grad=False)


class LateralContextTiles(nn.Module):
    """A network with lateral context, as one that maps larger tiles to predictions of their middle.

    Parameters
    ----------
    network : Module
        Network with inputs `(B, L, (Z), Y, X)`: a patch, and its surroundings at coarser scales.
    n_scales : int
        Number of scales L.
    patch_size : sequence of int
        Size of the patch, `(z,) y, x`, in voxels. A tile is 2^(L - 1) times as large.
    """

    def __init__(self, network: nn.Module, n_scales: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.network = network
        self.n_scales = n_scales
        self.patch_size = tuple(patch_size)

    def forward(self, tile: torch.Tensor) -> torch.Tensor:
        """Map tiles `(B, 1, (Z), Y, X)` to predictions of the patches in their middle."""
        pool = nn.functional.avg_pool2d if tile.ndim == 4 else nn.functional.avg_pool3d
        scales = []
        for scale in range(self.n_scales):
            seen = tile
            for axis, size in enumerate(self.patch_size, start=2):
                width = size * 2**scale
                seen = seen.narrow(axis, (tile.shape[axis] - width) // 2, width)
            scales.append(pool(seen, 2**scale) if scale else seen)
        return self.network(torch.cat(scales, dim=1))
