"""MicroSplit: from a microscope that saw two structures in one channel back to one image of each.

The image (a neuron, four channels acquired one after the other) is that of the PyPI package ndev-sampledata (BSD-3), which
`make examples` installs for its files. Two of its channels are summed, as if they had been seen together. A small U-Net learns on
the left half of the image to take sums apart, and is judged on the right half, which is kept from it. The method: A. Ashesh et
al., doi:10.1101/2025.02.10.637323.
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
from patchloom.torch import EpochSampler, FlipRot90, MicroSplitDataset, PatchLoader

CHANNELS = {"actin": 2, "nucleus": 3}
PATCH = (64, 64)
OVERLAPS = (32, 32)
"""Of patches in prediction, where they are blended: their outermost pixels know least, and weigh least."""


def read_channels() -> NDArray[np.float32]:
    """Read the channels, `CYX`, so that 0 and 1 are the percentiles 1 and 99.8 of each: neither outshines the other."""
    files = importlib.metadata.files("ndev-sampledata") or []
    (stack,) = pl.open_stacks(next(Path(str(file.locate())) for file in files if file.name == "neuron-4Ch.tiff"))
    measured = pl.measure_normalization(stack, "percentiles", per="channel")
    whole = pl.WholeSamplePatching([stack.data_shape])
    (image,) = pl.PatchExtractor([stack]).extract_batch(whole, scale=measured.scale[0], offset=measured.offset[0])
    return image[list(CHANNELS.values())]


def halves(image: NDArray[np.float32], hold_out: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cut an image into the half that is trained on and the one that is held out, `"left"` or `"right"`."""
    left, right = image[..., : image.shape[-1] // 2], image[..., image.shape[-1] // 2 :]
    return (left, right) if hold_out == "right" else (right, left)


def sums(image: NDArray[np.float32], n_patches: int, probability: float, seed: int) -> MicroSplitDataset:
    """Sum the channels of patches, each of which comes from another place with a probability; few are of background."""
    stacks = pl.open_stacks(image, axes="CYX")
    plan = pl.StratifiedPatching([stack.data_shape for stack in stacks], PATCH, seed=seed, n_patches=n_patches)
    (brightness,) = pl.score_cells(stacks, PATCH, [pl.PercentileFilter(98)])
    pl.downweight_below(plan, brightness, 0.2, probability=0.05)
    return MicroSplitDataset(
        plan,
        targets=stacks,
        multiscale_count=2,
        alpha_ranges=[(0.45, 0.55)] * len(CHANNELS),
        uncorrelated_channel_prob=probability,
        augmentation=FlipRot90(),
        seed=seed,
    )


def train(dataset: MicroSplitDataset, n_epochs: int, seed: int) -> UNet:
    """Train to give the channels back."""
    torch.manual_seed(seed)
    network = UNet(n_inputs=2, n_outputs=len(CHANNELS))
    with PatchLoader(dataset, batch_size=4, sampler=EpochSampler(dataset, seed=seed)) as loader:
        fit(network, loader, n_epochs, lambda batch: torch.nn.functional.mse_loss(network(batch.input), batch.target))
    return network


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> list[float]:
    """Measure each channel, in dB; a difference of 1 is 0 dB."""
    return [float(value) for value in -10 * np.log10(np.mean((image - truth) ** 2, axis=(1, 2)))]


def picture(images: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Show each channel around the cell: as it is, as it was guessed and as it was split; a line divides the halves."""
    figure = Figure(figsize=(3.4 * len(images), 7.4), layout="constrained")
    for row, name in zip(figure.subplots(len(CHANNELS), len(images)), CHANNELS, strict=True):
        for axes, (title, image) in zip(row, images.items(), strict=True):
            axes.imshow(image[list(CHANNELS).index(name)], cmap="gray", vmin=0, vmax=1.2)
            axes.axvline(image.shape[-1] // 2 - 0.5, color="#ffd43b", linewidth=1)
            axes.set(title=f"{name}: {title}", xlim=(60, 450), ylim=(610, 190))
            axes.set_axis_off()
    return figure


def run(output: Path, *, hold_out: str, seed: int, quick: bool) -> None:
    """Train with correlated and with uncorrelated channels; compare both with the trivial guess."""
    torch.set_num_threads(1)  # the sums come out the same with any number of processors; batches are prepared beside it
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
        images[f"split, uncorrelated {probability}"] = split
    print(f"PSNR in the half that was held out, in dB:\n{'':30}{''.join(f'{name:>10}' for name in CHANNELS)}")
    for name, image in list(images.items())[1:]:
        print(f"{name:30}{''.join(f'{value:10.2f}' for value in psnr(halves(image, hold_out)[1], held_out))}")
    picture(images).savefig(output / "microsplit.png", dpi=50)
    print(f"look at {output / 'microsplit.png'}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples-output"), help="folder to write to")
    parser.add_argument("--hold-out", choices=("left", "right"), default="right", help="half that is not trained on")
    parser.add_argument("--seed", type=int, default=1, help="of the weights, the patches and their order")
    parser.add_argument(
        "--quick", action="store_true", help="train for seconds only: all steps, but no result to speak of"
    )
    arguments = parser.parse_args()
    run(arguments.output, hold_out=arguments.hold_out, seed=arguments.seed, quick=arguments.quick)
