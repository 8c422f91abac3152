"""The cost of `predict(network, …)` beside wrappers written by hand: `make bench`, or run this file.

One network predicts one image in five ways, in turn in one process, so that other work on the machine slows all of them:

* `module`: `predict(network, image)`;
* `usual wrapper`: `predict(wrapper, image)` with the wrapper of three lines that most people write;
* `best wrapper`: `predict(wrapper, image)` with all that a careful author does for this network: no copy of the batch, and channels side
  by side in memory, of the weights too, where this is faster;
* `loop`: no `predict`: a loop that cuts tiles with the usual wrapper and pastes them;
* `network`: the network alone, on batches that are ready; a lower bound for one order in memory.

The first ratio is the aim: `module` is as fast as the best wrapper.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import patchloom as pl

OVERLAP, BATCH = 32, 2


class Network(torch.nn.Module):
    """A U-Net with one level below the first."""

    def __init__(self, norm: str, width: int) -> None:
        super().__init__()
        normed = getattr(torch.nn, f"{norm}Norm2d")

        def block(n_in: int, n_out: int) -> torch.nn.Module:
            layers = [(torch.nn.Conv2d(n, n_out, 3, padding=1), normed(n_out), torch.nn.ReLU()) for n in (n_in, n_out)]
            return torch.nn.Sequential(*(layer for of_step in layers for layer in of_step))

        self.first, self.pool, self.below = block(1, width), torch.nn.MaxPool2d(2), block(width, 2 * width)
        self.up, self.second = torch.nn.ConvTranspose2d(2 * width, width, 2, 2), block(2 * width, width)
        self.last = torch.nn.Conv2d(width, 2, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the network."""
        first = self.first(batch)
        return self.last(self.second(torch.cat([first, self.up(self.below(self.pool(first)))], 1)))


def usual_wrapper(network: torch.nn.Module, device: str) -> Callable[[Any], Any]:
    """Return the wrapper that most people write."""

    def model(batch: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(batch.astype("float32")).to(device))

    return model


def best_wrapper(network: torch.nn.Module, device: str, order: torch.memory_format) -> Callable[[Any], Any]:
    """Return the fastest wrapper that is known; `network` is its own."""
    network = network.to(memory_format=order)

    def model(batch: Any) -> Any:
        with torch.inference_mode():
            tensor = torch.from_numpy(batch).to(device, non_blocking=True).float()
            return network(tensor.to(memory_format=order)).contiguous()

    return model


def loop(model: Callable[[Any], Any], image: Any, patch: int) -> Any:
    """Predict tile by tile without `predict`."""
    step, margin = patch - OVERLAP, OVERLAP // 2
    padded = np.pad(image, [(margin, margin + step)] * 2, mode="reflect")
    output = np.empty((2, *(size + step for size in image.shape)), np.float32)
    starts = [(y, x) for y in range(0, image.shape[0], step) for x in range(0, image.shape[1], step)]
    for index in range(0, len(starts), BATCH):
        some = starts[index : index + BATCH]
        batch = np.stack([padded[y : y + patch, x : x + patch][None] for y, x in some])
        for (y, x), tile in zip(some, model(batch).cpu().numpy(), strict=True):
            output[:, y : y + step, x : x + step] = tile[:, margin : margin + step, margin : margin + step]
    return output[:, : image.shape[0], : image.shape[1]]


def network_alone(network: torch.nn.Module, device: str, n_batches: int, patch: int) -> None:
    """Run the network on batches that are ready."""
    batch = torch.rand(BATCH, 1, patch, patch, device=device)
    with torch.inference_mode():
        for _ in range(n_batches):
            network(batch).cpu()


def measure(norm: str, width: int, side: int, patch: int, device: str, repeats: int) -> None:
    """Print medians in seconds of all ways, and their ratios to the best wrapper."""
    image = np.random.default_rng(0).integers(0, 4000, (side, side), np.uint16)
    order = torch.contiguous_format if norm == "Instance" else torch.channels_last
    torch.manual_seed(0)
    network = Network(norm, width).eval().to(device)
    own = Network(norm, width).eval().to(device)
    own.load_state_dict(network.state_dict())
    settings = {"axes": "YX", "patch_size": patch, "overlaps": OVERLAP, "batch_size": BATCH, "progress": False}
    usual, best = usual_wrapper(network, device), best_wrapper(own, device, order)
    n_batches = -(-pl.plan(image, **{name: settings[name] for name in settings if name != "progress"}).n_tiles // BATCH)
    ways: dict[str, Callable[[], Any]] = {
        "best wrapper": lambda: pl.predict(best, image, **settings),
        "module": lambda: pl.predict(network, image, **settings),
        "usual wrapper": lambda: pl.predict(usual, image, **settings),
        "loop": lambda: loop(usual, image, patch),
        "network": lambda: network_alone(network, device, n_batches, patch),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):  # the first is for warming up
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            seconds[name] += [time.perf_counter() - started] * (repeat > 0)
    medians = {name: statistics.median(of_way) for name, of_way in seconds.items()}
    print(
        f"{norm} norm, {width} channels, {side} × {side}, tiles of {patch}, {BATCH} at once, {device}, {repeats} repeats"
    )
    for name, median in medians.items():
        print(f"  {name:14s} {median:7.3f} s   {median / medians['best wrapper']:5.2f} × best wrapper")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", type=int, default=768, help="pixels of the image along an axis")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for norm in ("Batch", "Instance"):
        measure(norm, 16, options.side, 256, options.device, options.repeats)
