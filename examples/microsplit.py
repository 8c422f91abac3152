"""MicroSplit: split one channel that shows two structures into one image of each.

The images (three fields of Drosophila Kc167 cells, with a stain of DNA and one of actin) are files of the PyPI package CellProfiler
(BSD-3), which `make examples` installs for these files only. The two channels of a field are summed, as if acquired together. A
small U-Net is trained on two fields to split the sum, and evaluated on the third, which is held out. Each field is held out once.
Networks are trained with and without uncorrelated channels, and with and without lateral context. Methods: A. Ashesh et al.,
doi:10.1101/2025.02.10.637323 (MicroSplit) and doi:10.48550/arXiv.2211.12872 (lateral context).
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from context_unet import ContextUNet
from matplotlib.figure import Figure
from numpy.typing import NDArray
from unet import UNet, fit

import patchloom as pl
from patchloom.figures import save_figure
from patchloom.torch import EpochSampler, FlipRot90, MicroSplitDataset, PatchLoader, save_model

CHANNELS = {"DNA": "D", "actin": "F"}
"""Structures, and the letter of each in the names of the files."""

FIELDS = ("POS002", "POS076", "POS218")
N_PATCHES, N_EPOCHS = 480, 10
PATCH = (64, 64)
OVERLAPS = (32, 32)
"""Overlap of patches in prediction. They are blended: pixels near the border of a patch have less context and less weight."""


class Way(NamedTuple):
    """A way to train."""

    uncorrelated: float
    """Probability that the channels of a patch come from different places."""

    has_context: bool
    """Whether the network sees the surroundings of a patch."""

    def __str__(self) -> str:
        return f"{'un' if self.uncorrelated else ''}correlated, {'with' if self.has_context else 'no'} context"


WAYS = [Way(*way) for way in product((0, 0.5), (False, True))]


class Result(NamedTuple):
    """The result of one training: the PSNR of each channel in the field that was held out, in dB."""

    held_out: str
    way: str
    seed: int
    psnr: list[float]


def read_fields() -> dict[str, NDArray[np.float32]]:
    """Read the fields, `CYX`, normalized so that the percentiles 1 and 99.8 of each channel are 0 and 1."""
    files = {file.name: Path(str(file.locate())) for file in importlib.metadata.files("cellprofiler") or []}
    fields = {}
    for field in FIELDS:
        stacks = pl.open_stacks([files[f"01_{field}_{letter}.TIF"] for letter in CHANNELS.values()])
        channels = []
        for stack in stacks:
            measured = pl.measure_normalization(stack, pl.Percentiles())
            whole = pl.WholeSamplePatching([stack.data_shape])
            channels.append(
                pl.PatchExtractor([stack]).extract_batch(whole, scale=measured.scale[0], offset=measured.offset[0])
            )
        fields[field] = np.concatenate(channels, axis=1)[0]
    return fields


def sums(
    fields: Mapping[str, NDArray[np.float32]], held_out: str, way: Way, n_patches: int, seed: int
) -> MicroSplitDataset:
    """Return a dataset of summed channels and their targets, without the held-out field, and with few patches of background."""
    stacks = pl.open_stacks([image for name, image in fields.items() if name != held_out], axes="CYX")
    patching = pl.StratifiedPatching([stack.data_shape for stack in stacks], PATCH, seed=seed, n_patches=n_patches)
    (brightness,) = pl.score_cells(stacks, PATCH, [pl.PercentileFilter(98)])
    pl.downweight_below(patching, brightness, 0.2, probability=0.05)
    return MicroSplitDataset(
        patching,
        targets=stacks,
        n_scales=2 if way.has_context else 1,
        alpha_ranges=[(0.45, 0.55)] * len(CHANNELS),
        uncorrelated_channel_prob=way.uncorrelated,
        augmentation=FlipRot90(),
        seed=seed,
    )


def train(dataset: MicroSplitDataset, way: Way, n_epochs: int, seed: int) -> UNet:
    """Train a network to split the sum into its channels."""
    torch.manual_seed(seed)
    network = ContextUNet(len(CHANNELS)) if way.has_context else UNet(1, len(CHANNELS))
    with PatchLoader(dataset, batch_size=8, sampler=EpochSampler(dataset, seed=seed)) as loader:
        fit(network, loader, n_epochs, lambda batch: torch.nn.functional.mse_loss(network(batch.input), batch.target))
    return network


def split(network: UNet, dataset: MicroSplitDataset, image: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """Save the network, and split an image `1YX` with it into its channels, `CYX`."""
    save_model(path, network, dataset, patch_size=PATCH, overlaps=OVERLAPS, out_channel_names=list(CHANNELS))
    model = pl.load_model(path, device="cpu")
    prediction: NDArray[np.float32] = pl.predict(model, image, axes="CYX", blend="hann", batch_size=16, progress=False)
    return prediction


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> list[float]:
    """Return the peak signal-to-noise ratio of each channel in dB, for a peak of 1."""
    return [float(value) for value in -10 * np.log10(np.mean((image - truth) ** 2, axis=(1, 2)))]


def table(results: Sequence[Result]) -> str:
    """Return a table of PSNR, the mean of both channels: over the seeds, with their standard deviation if there are several."""
    folds = list(dict.fromkeys(result.held_out for result in results))
    lines = [f"| held out | {' | '.join(folds)} |", "| --- " * (len(folds) + 1) + "|"]
    for way in dict.fromkeys(result.way for result in results):
        cells = []
        for fold in folds:
            values = [np.mean(result.psnr) for result in results if (result.held_out, result.way) == (fold, way)]
            cells.append(f"{np.mean(values):.2f}" + (f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""))
        lines.append(f"| {way} | {' | '.join(cells)} |")
    return "\n".join(lines)


def microsplit_figure(images: Mapping[str, NDArray[np.float32]]) -> Figure:
    """Draw a part of each channel, one column per image."""
    figure = Figure(figsize=(2.6 * len(images), 5.7), layout="constrained")
    middle = next(iter(images.values())).shape[-1] // 2
    for row, (index, name) in zip(figure.subplots(len(CHANNELS), len(images)), enumerate(CHANNELS), strict=True):
        for axes, (title, image) in zip(row, images.items(), strict=True):
            axes.imshow(image[index], cmap="gray", vmin=0, vmax=1)
            axes.set(xlim=(middle - 110, middle + 110), ylim=(middle + 110, middle - 110))
            axes.set_title(f"{name}: {title}", fontsize=11)
            axes.set_axis_off()
    return figure


def run(output: Path, *, held_out: Sequence[str], seeds: Sequence[int], quick: bool) -> None:
    """Train in each way, with each field held out and each seed, and compare the results with half the sum."""
    torch.set_num_threads(1)  # results do not depend on the number of cores
    output.mkdir(parents=True, exist_ok=True)
    fields = read_fields()
    if quick:
        fields = {name: image[:, :256, :256] for name, image in fields.items()}
    results = []
    for field in held_out:
        truth = fields[field]
        half = truth.mean(axis=0, keepdims=True)
        tiling = pl.TiledPatching([(1, *truth.shape)], PATCH, OVERLAPS)
        images = {"truth": truth, "half the sum": np.repeat(half, len(truth), axis=0)}
        results.append(Result(field, "half the sum", 0, psnr(images["half the sum"], truth)))
        for seed, way in product(seeds, WAYS):
            print(f"{field} held out, {way}, seed {seed}:")
            dataset = sums(fields, field, way, 32 if quick else N_PATCHES, seed)
            network = train(dataset, way, 3 if quick else N_EPOCHS, seed)
            image = split(network, dataset, half, output / "microsplit.pt2")
            results.append(Result(field, str(way), seed, psnr(image, truth)))
            print("  PSNR: " + ", ".join(f"{value:.2f}" for value in results[-1].psnr))
            print(f"  {pl.seam_visibility(image[np.newaxis], tiling)}", flush=True)
            if seed == seeds[0] and not way.has_context:
                images[str(way)] = image
        save_figure(microsplit_figure(images), output / f"microsplit-{field}.png")
    with (output / "microsplit.csv").open("w", newline="") as file:
        csv.writer(file).writerows([*row[:3], *row.psnr] for row in results)
    print(f"PSNR in the field that was held out, in dB:\n{table(results)}\nsee {output}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples-output"), help="folder to write to")
    parser.add_argument(
        "--held-out", nargs="+", choices=FIELDS, default=FIELDS, help="fields to hold out, one after the other"
    )
    parser.add_argument(
        "--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of the weights, the patches and their order"
    )
    parser.add_argument("--quick", action="store_true", help="run all steps in seconds, without a useful result")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.held_out, arguments.seeds = arguments.held_out[:1], arguments.seeds[:1]
    run(arguments.output, held_out=arguments.held_out, seeds=arguments.seeds, quick=arguments.quick)
