"""Lateral context: a network that sees the surroundings of a patch at half the resolution."""

from __future__ import annotations

import torch
from torch import nn
from unet import UNet, convolutions


class ContextUNet(UNet):
    """A U-Net whose coarser scales see the patch and its surroundings, as in μSplit (doi:10.48550/arXiv.2211.12872).

    The features of the surroundings, at half the resolution, are added to those of the patch where both show the same place. From
    there on, the network computes features of the surroundings too. The decoder gets the part that shows the patch.

    Parameters
    ----------
    n_outputs : int
        Number of output channels.
    width : int, default 16
        Number of channels of the finest scale; see `UNet`.
    """

    def __init__(self, n_outputs: int, width: int = 16) -> None:
        super().__init__(1, n_outputs, width)
        self.context = nn.Sequential(convolutions(1, width), nn.Conv2d(width, 2 * width, kernel_size=1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `(B, 2, Y, X)`, patches and their context, to `(B, n_outputs, Y, X)`; Y and X are multiples of 8."""
        patch, surroundings = image[:, :1], image[:, 1:]
        height, width = image.shape[2:]
        fine = self.down[0](patch)
        middle = self.down[1](nn.functional.avg_pool2d(fine, 2))
        margin = (width // 4, width // 4, height // 4, height // 4)
        around = self.context(surroundings) + nn.functional.pad(middle, margin)
        coarse = self.down[2](nn.functional.avg_pool2d(around, 2))
        return patch + self.decode(fine, middle_half(around), middle_half(coarse))


def middle_half(features: torch.Tensor) -> torch.Tensor:
    """Return the half of features `(B, C, Y, X)` that lies in the middle, along both axes."""
    height, width = features.shape[2:]
    return features[..., height // 4 : height - height // 4, width // 4 : width - width // 4]
