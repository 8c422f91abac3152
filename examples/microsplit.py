"""MicroSplit: from a microscope that saw two structures in one channel back to one image of each.

The image (a neuron, four channels acquired one after the other) is that of the PyPI package ndev-sampledata (BSD-3), which
`make examples` installs for its files. Two of its channels are summed, as if they had been seen together; a small U-Net
learns to take the sum apart, and is judged where it was not trained. The method: A. Ashesh et al., doi:10.1101/2025.02.10.637323.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from context_model import ContextModel, context_around
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from unet import UNet, fit

import patchloom as pl
from patchloom.torch import EpochSampler, FlipsAndTurns, MicroSplitDataset, PatchLoader

CHANNELS = {"actin": 2, "nucleus": 3}
PATCH = (32, 32)
OVERLAPS = (16, 16)
"""Of patches in prediction, where they are blended: their outermost pixels know least, and weigh least."""

HELD_OUT_SEED = 3924
"""One of few that set cells aside in which there is something of both channels: there is but one neuron.
What others gave is said in docs/training.md."""


def read_channels() -> pl.ArrayStack:
    """Read the channels, so that 0 and 1 are the percentiles 1 and 99.8 of each: neither outshines the other."""
    files = importlib.metadata.files("ndev-sampledata") or []
    (stack,) = pl.open_stacks(next(Path(str(file.locate())) for file in files if file.name == "neuron-4Ch.tiff"))
    measured = pl.measure_normalisation(stack, "percentiles", per="channel")
    whole = pl.WholeSamplePatching([stack.data_shape])
    (image,) = pl.PatchExtractor([stack]).extract_batch(whole, scale=measured.scale[0], offset=measured.offset[0])
    return pl.ArrayStack(image[list(CHANNELS.values())], axes="CYX")


def set_aside(stack: pl.ArrayStack, n_patches: int) -> tuple[pl.StratifiedPatching, pl.FixedPatching]:
    """Plan an epoch with few patches of background, and keep it off what is held out and off the cells around that."""
    plan = pl.StratifiedPatching([stack.data_shape], PATCH, seed=1, n_patches=n_patches)
    (brightness,) = pl.score_cells([stack], PATCH, [pl.PercentileFilter(98)])
    pl.thin_out_below(plan, brightness, 0.2, probability=0.05)
    return pl.split_training_validation(plan, 5, seed=HELD_OUT_SEED, margin=context_around(PATCH))


def sums(stack: pl.ArrayStack, plan: pl.StratifiedPatching, probability: float) -> MicroSplitDataset:
    """Sum the channels of patches, each of which comes from another place with a probability."""
    return MicroSplitDataset(
        plan,
        targets=[stack],
        multiscale_count=2,
        alpha_ranges=[(0.45, 0.55)] * len(CHANNELS),
        uncorrelated_channel_prob=probability,
        augmentation=FlipsAndTurns(),
        seed=1,
    )


def train(dataset: MicroSplitDataset, n_epochs: int) -> UNet:
    """Train to give the channels back."""
    torch.manual_seed(1)
    network = UNet(n_inputs=2, n_outputs=len(CHANNELS))
    with PatchLoader(dataset, batch_size=32, sampler=EpochSampler(dataset, seed=1)) as loader:
        fit(network, loader, n_epochs, lambda batch: torch.nn.functional.mse_loss(network(batch.input), batch.target))
    return network


def psnr(image: NDArray[Any], truth: NDArray[Any], held_out: pl.FixedPatching) -> list[float]:
    """Measure each channel in the held-out region, in dB; a difference of 1 is 0 dB."""
    error = pl.PatchExtractor(pl.open_stacks(image - truth, axes="CYX")).extract_batch(held_out)
    return [float(-10 * np.log10(np.mean(error[:, channel] ** 2))) for channel in range(len(truth))]


def picture(images: Mapping[str, NDArray[Any]], held_out: pl.FixedPatching) -> Figure:
    """Show each channel around the cell, as it is, as it was guessed and as it was split; what was held out is framed."""
    figure = Figure(figsize=(3 * len(images), 7.2), layout="constrained")
    for row, name in zip(figure.subplots(len(CHANNELS), len(images)), CHANNELS, strict=True):
        for axes, (title, image) in zip(row, images.items(), strict=True):
            axes.imshow(image[list(CHANNELS).index(name)], cmap="gray", vmin=0, vmax=1.2)
            axes.set(title=f"{name}: {title}", xlim=(100, 400), ylim=(550, 190))
            axes.set_axis_off()
            for y, x in held_out.fixed_patch_specs.columns["coords"].tolist():
                axes.add_patch(Rectangle((x - 0.5, y - 0.5), *PATCH[::-1], fill=False, edgecolor="#ffd43b"))
    return figure


def run(output: Path, *, quick: bool) -> None:
    """Train with correlated and with uncorrelated channels; compare both with the trivial guess."""
    torch.set_num_threads(1)  # the sums come out the same on every computer, and batches are prepared beside it
    output.mkdir(parents=True, exist_ok=True)
    stack = read_channels()
    training, held_out = set_aside(stack, n_patches=64 if quick else 512)
    truth = pl.PatchExtractor([stack]).extract(pl.WholeSamplePatching([stack.data_shape])[0])
    half = truth.mean(axis=0, keepdims=True)
    tiling = pl.TiledPatching([stack.data_shape], PATCH, OVERLAPS)
    images = {"truth": truth, "half the sum": np.repeat(half, len(truth), axis=0)}
    for probability in (0, 1):
        print(f"uncorrelated_channel_prob {probability}:")
        network = train(sums(stack, training, probability), n_epochs=3 if quick else 50)
        model = ContextModel(network, PATCH, OVERLAPS)
        split = pl.predict(model, half, axes="CYX", blend="hann", batch_size=32, progress=False)
        seams = pl.seam_jump_ratio(split[np.newaxis], tiling)
        print(f"  seams: {seams:.2f} (mean jump across them / mean jump elsewhere; 1 is invisible)")
        images[f"split, uncorrelated {probability}"] = split
    print(f"PSNR in the held-out region, in dB:\n{'':30}{''.join(f'{name:>10}' for name in CHANNELS)}")
    for name, image in list(images.items())[1:]:
        print(f"{name:30}{''.join(f'{value:10.2f}' for value in psnr(image, truth, held_out))}")
    picture(images, held_out).savefig(output / "microsplit.png", dpi=60)
    print(f"look at {output / 'microsplit.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples-output"), help="folder to write to")
    parser.add_argument(
        "--quick", action="store_true", help="train for seconds only: all steps, but no result to speak of"
    )
    arguments = parser.parse_args()
    run(arguments.output, quick=arguments.quick)
