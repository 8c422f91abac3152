"""MicroSplit: split one channel that shows two structures into one image of each.

The image (a neuron, four channels acquired one after the other) is a file of the PyPI package ndev-sampledata (BSD-3), which
`make examples` installs for this file only. Two of its channels are summed, as if acquired together. A small U-Net is trained on
the left half of the image to split the sum, and evaluated on the right half, which is held out. Method: A. Ashesh et al.,
doi:10.1101/2025.02.10.637323.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from context_model import ContextModel
from matplotlib.figure import Figure
from numpy.typing import NDArray
from unet import UNet, fit

import patchloom as pl
from patchloom.figures import BLUE, YELLOW, draw_scale_bar, save_figure
from patchloom.torch import EpochSampler, FlipRot90, MicroSplitDataset, PatchLoader

CHANNELS = {"actin": 2, "nucleus": 3}
PATCH = (64, 64)
PIXEL_SIZE = 0.1241
"""Width of a pixel in micrometers."""

OVERLAPS = (32, 32)
"""Overlap of patches in prediction. They are blended: pixels near the border of a patch have less context and less weight."""


def read_channels() -> NDArray[np.float32]:
    """Read the channels, `CYX`, normalized so that the percentiles 1 and 99.8 of each channel are 0 and 1."""
    files = importlib.metadata.files("ndev-sampledata") or []
    (stack,) = pl.open_stacks(next(Path(str(file.locate())) for file in files if file.name == "neuron-4Ch.tiff"))
    measured = pl.measure_normalization(stack, pl.Percentiles(per="channel"))
    whole = pl.WholeSamplePatching([stack.data_shape])
    (image,) = pl.PatchExtractor([stack]).extract_batch(whole, scale=measured.scale[0], offset=measured.offset[0])
    return image[list(CHANNELS.values())]


def halves(image: NDArray[np.float32], hold_out: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut an image into the half to train on and the half to hold out, `"left"` or `"right"`."""
    left, right = image[..., : image.shape[-1] // 2], image[..., image.shape[-1] // 2 :]
    return (left, right) if hold_out == "right" else (right, left)


def sums(image: NDArray[np.float32], n_patches: int, probability: float, seed: int) -> MicroSplitDataset:
    """Return a dataset of summed channels and their targets, with few patches of background.

    With the given probability, the channels of a patch come from different places.
    """
    stacks = pl.open_stacks(image, axes="CYX")
    patching = pl.StratifiedPatching([stack.data_shape for stack in stacks], PATCH, seed=seed, n_patches=n_patches)
    (brightness,) = pl.score_cells(stacks, PATCH, [pl.PercentileFilter(98)])
    pl.downweight_below(patching, brightness, 0.2, probability=0.05)
    return MicroSplitDataset(
        patching,
        targets=stacks,
        n_scales=2,
        alpha_ranges=[(0.45, 0.55)] * len(CHANNELS),
        uncorrelated_channel_prob=probability,
        augmentation=FlipRot90(),
        seed=seed,
    )


def train(dataset: MicroSplitDataset, n_epochs: int, seed: int) -> UNet:
    """Train a network to split the sum into its channels."""
    torch.manual_seed(seed)
    network = UNet(n_inputs=2, n_outputs=len(CHANNELS))
    with PatchLoader(dataset, batch_size=4, sampler=EpochSampler(dataset, seed=seed)) as loader:
        fit(network, loader, n_epochs, lambda batch: torch.nn.functional.mse_loss(network(batch.input), batch.target))
    return network


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> list[float]:
    """Return the peak signal-to-noise ratio of each channel in dB, for a peak of 1."""
    return [float(value) for value in -10 * np.log10(np.mean((image - truth) ** 2, axis=(1, 2)))]


def microsplit_figure(images: Mapping[str, NDArray[np.float32]], hold_out: str) -> Figure:
    """Draw each channel around the cell, one column per image. A line separates the halves; blue is the held-out half."""
    figure = Figure(figsize=(2.6 * len(images), 6.1), layout="constrained")
    for row, name in zip(figure.subplots(len(CHANNELS), len(images)), CHANNELS, strict=True):
        for axes, (title, image) in zip(row, images.items(), strict=True):
            axes.imshow(image[list(CHANNELS).index(name)], cmap="gray", vmin=0, vmax=1.2)
            middle = image.shape[-1] // 2 - 0.5
            axes.axvline(middle, color="white", linewidth=1, linestyle="--")
            axes.set_title(f"{name}: {title}", fontsize=11)
            axes.set(xlim=(60, 450), ylim=(610, 190))
            axes.set_axis_off()
            draw_scale_bar(axes, PIXEL_SIZE)
            for half, place, align in (("left", middle - 6, "right"), ("right", middle + 6, "left")):
                words, color = ("held out", BLUE) if half == hold_out else ("trained on", YELLOW)
                axes.text(place, 206, words, color=color, ha=align, va="center", fontsize=10)
    return figure


def run(output: Path, *, hold_out: str, seed: int, quick: bool) -> None:
    """Train with correlated and with uncorrelated channels, and compare both with half the sum."""
    torch.set_num_threads(1)  # results do not depend on the number of cores
    output.mkdir(parents=True, exist_ok=True)
    truth = read_channels()
    trained_on, held_out = halves(truth, hold_out)
    half = truth.mean(axis=0, keepdims=True)
    tiling = pl.TiledPatching([(1, *truth.shape)], PATCH, OVERLAPS)
    images = {"truth": truth, "half the sum": np.repeat(half, len(truth), axis=0)}
    for probability in (0, 1):
        print(f"uncorrelated_channel_prob {probability}:")
        dataset = sums(trained_on, 32 if quick else 256, probability, seed)
        network = train(dataset, 3 if quick else 60, seed)
        model = ContextModel(network, PATCH, OVERLAPS)
        split = pl.predict(model, half, axes="CYX", blend="hann", batch_size=16, progress=False)
        seams = pl.seam_jump_ratio(split[np.newaxis], tiling)
        print(f"  seams: {seams:.2f} (mean jump across them / mean jump elsewhere; 1 is invisible)")
        images[f"split, {'un' * probability}correlated"] = split
    print(f"PSNR in the held-out half, in dB:\n{'':30}{''.join(f'{name:>10}' for name in CHANNELS)}")
    for name, image in list(images.items())[1:]:
        print(f"{name:30}{''.join(f'{value:10.2f}' for value in psnr(halves(image, hold_out)[1], held_out))}")
    save_figure(microsplit_figure(images, hold_out), output / "microsplit.png")
    print(f"see {output / 'microsplit.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples-output"), help="folder to write to")
    parser.add_argument("--hold-out", choices=("left", "right"), default="right", help="half of the image to hold out")
    parser.add_argument("--seed", type=int, default=1, help="seed of the weights, the patches and their order")
    parser.add_argument("--quick", action="store_true", help="run all steps in seconds, without a useful result")
    arguments = parser.parse_args()
    run(arguments.output, hold_out=arguments.hold_out, seed=arguments.seed, quick=arguments.quick)
