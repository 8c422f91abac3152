"""A small U-Net in plain PyTorch: made, trained, and run tile by tile. The examples of training share it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

STRIDE = 4
"""Two halvings: what comes out depends on where a tile starts, unless it starts on a multiple of this."""

REACH = 24
"""How far a pixel of the output looks, to each side. Tiles that share twice as much have no seam, exactly."""


class UNet(nn.Module):
    """Three scales, with shortcuts between them; says what is to be added to the first channel, untrained nothing.

    Parameters
    ----------
    n_inputs, n_outputs : int
        Channels that go in, and that come out.
    width : int
        Channels of the finest scale; each coarser one has twice as many.
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
        """Map `(B, n_inputs, Y, X)` to `(B, n_outputs, Y, X)`; Y and X are multiples of the stride."""
        fine = self.down[0](image)
        middle = self.down[1](nn.functional.avg_pool2d(fine, 2))
        values = self.down[2](nn.functional.avg_pool2d(middle, 2))
        for convolve, shortcut in zip(self.up, (middle, fine), strict=True):
            values = convolve(torch.cat([nn.functional.interpolate(values, scale_factor=2), shortcut], dim=1))
        return image[:, :1] + self.last(values)


def convolutions(n_inputs: int, n_outputs: int) -> nn.Sequential:
    """Convolve twice. Batch statistics are of training only: in prediction a tile is not normalized by what it holds."""
    layers = [
        layer
        for size in (n_inputs, n_outputs)
        for layer in (nn.Conv2d(size, n_outputs, 3, padding=1, bias=False), nn.BatchNorm2d(n_outputs), nn.ReLU())
    ]
    return nn.Sequential(*layers)


def fit(network: nn.Module, batches: Iterable[Any], n_epochs: int, loss_of: Callable[[Any], torch.Tensor]) -> None:
    """Train, and say how the loss falls; a learning rate that rises and falls makes the most of few steps."""
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
    settle_statistics(network, batches, loss_of)


@torch.no_grad()
def settle_statistics(network: nn.Module, batches: Iterable[Any], loss_of: Callable[[Any], torch.Tensor]) -> None:
    """Take the statistics that prediction normalizes by from a whole epoch; those of the last few small batches vary."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
    network.train()
    for batch in batches:
        loss_of(batch)
    network.eval()


def model_of(
    network: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Make a network what `patchloom.predict` runs: a function of arrays."""

    @torch.inference_mode()
    def predict_batch(tiles: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(network(torch.from_numpy(tiles)).numpy())

    return predict_batch
