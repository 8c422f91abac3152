"""A small U-Net in plain PyTorch: its layers and its training."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

STRIDE = 4
"""Stride of the coarsest scale, in pixels. Tiles must start on multiples of it: otherwise the output depends on their position."""

REACH = 24
"""Reach of the network: radius of its receptive field, in pixels. Tiles that overlap by twice the reach have no seam."""


class UNet(nn.Module):
    """A U-Net of three scales with skip connections. It predicts a residual that is added to the first input channel.

    Before training, the residual is 0.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Number of input and output channels.
    width : int, default 16
        Number of channels of the finest scale. It doubles with each coarser scale.
    """

    def __init__(self, n_inputs: int, n_outputs: int, width: int = 16) -> None:
        super().__init__()
        fine, middle, coarse = width, 2 * width, 4 * width
        self.down = nn.ModuleList(convolutions(*sizes) for sizes in pairwise((n_inputs, fine, middle, coarse)))
        self.up = nn.ModuleList([convolutions(coarse + middle, middle), convolutions(middle + fine, fine)])
        self.last = nn.Conv2d(fine, n_outputs, kernel_size=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Map `(B, n_inputs, Y, X)` to `(B, n_outputs, Y, X)`; Y and X are multiples of `STRIDE`."""
        fine = self.down[0](image)
        middle = self.down[1](nn.functional.avg_pool2d(fine, 2))
        coarse = self.down[2](nn.functional.avg_pool2d(middle, 2))
        return image[:, :1] + self.decode(fine, middle, coarse)

    def decode(self, fine: torch.Tensor, middle: torch.Tensor, coarse: torch.Tensor) -> torch.Tensor:
        """Map the features of the three scales to the residual."""
        values = coarse
        for convolve, shortcut in zip(self.up, (middle, fine), strict=True):
            values = convolve(torch.cat([nn.functional.interpolate(values, scale_factor=2), shortcut], dim=1))
        return self.last(values)


def convolutions(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """Return two convolutions with batch normalization, which uses fixed statistics in prediction: tiles do not differ in it."""
    layers = [
        layer
        for size in (n_inputs, n_outputs)
        for layer in (nn.Conv2d(size, n_outputs, 3, padding=1, bias=False), nn.BatchNorm2d(n_outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def fit(network: nn.Module, batches: Iterable[Any], n_epochs: int, loss_of: Callable[[Any], torch.Tensor]) -> None:
    """Train a network with a one-cycle learning rate, and print the loss."""
    optimizer = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, n_epochs * len(batches))  # type: ignore[arg-type]
    network.train()
    for epoch in range(1, n_epochs + 1):
        losses = []
        for batch in batches:
            optimizer.zero_grad()
            loss = loss_of(batch)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        if epoch in (1, n_epochs) or epoch % math.ceil(n_epochs / 5) == 0:
            print(f"  epoch {epoch:3}: mean loss {np.mean(losses):.5f}", flush=True)
    recompute_statistics(network, batches, loss_of)


@torch.no_grad()
def recompute_statistics(network: nn.Module, batches: Iterable[Any], loss_of: Callable[[Any], torch.Tensor]) -> None:
    """Recompute the statistics of batch normalization over a whole epoch: running means over few small batches vary."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    network.train()
    for batch in batches:
        loss_of(batch)
    network.eval()
