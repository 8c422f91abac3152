"""Draw the figures of docs/strategies.md: one for each patching strategy.

Left: the patches of one epoch. Right: the number of draws of each pixel per epoch, as a mean over many epochs. All figures have the
same color scale.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

import patchloom as pl
from patchloom.figures import BLUE, YELLOW, draw_scale_bar, draw_tiling, save_figure

SHAPE = (1, 1, 330, 460)
PATCH = (64, 64)
BRIGHT = 30
"""Gray value that separates nuclei from background."""

STEPS_PER_OCTAVE = 2
DRAWS = 2 ** (np.arange(-3 * STEPS_PER_OCTAVE, 3.5 * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE)
"""Draws per epoch that have a color each, from 1/8 to 8 and a bit: a step is a factor of √2."""

N_HELD_OUT = 4


def nuclei(seed: int = 5) -> NDArray[np.float32]:
    """Return a synthetic image with nuclei on its left side and background on its right side."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[2], : SHAPE[3]]
    image = np.zeros(SHAPE[2:])
    for _ in range(50):
        center_y, center_x = rng.uniform(0, SHAPE[2]), rng.triangular(0, 0, 0.55 * SHAPE[3])
        size, brightness = rng.uniform(6, 11), rng.uniform(40, 120)
        image = np.maximum(image, brightness * np.exp(-((((y - center_y) ** 2 + (x - center_x) ** 2) / size**2) ** 2)))
    return np.asarray(image + 8, dtype=np.float32)


def patchings(image: NDArray[np.float32]) -> dict[str, Any]:
    """Return one patching of each kind, by the name of its figure."""
    shapes = [SHAPE]
    stack = pl.ArrayStack(image, axes="YX")
    (brightness,) = pl.score_cells([stack], PATCH, [pl.PercentileFilter(98)])
    (fine,) = pl.score_cells([stack], (16, 16), [pl.MeanFilter()])
    excluded, downweighted = pl.StratifiedPatching(shapes, PATCH, seed=1), pl.StratifiedPatching(shapes, PATCH, seed=1)
    pl.exclude_below(excluded, brightness, BRIGHT)
    pl.downweight_below(downweighted, brightness, BRIGHT, probability=0.1)
    training, validation = pl.split_training_validation(
        pl.StratifiedPatching(shapes, PATCH, seed=1), N_HELD_OUT, seed=3
    )
    return {
        "random": pl.RandomPatching(shapes, PATCH, seed=1),
        "random-uniform": pl.RandomPatching(shapes, PATCH, seed=1, coverage="uniform"),
        "fixed-random": pl.FixedRandomPatching(shapes, PATCH, seed=1),
        "stratified": pl.StratifiedPatching(shapes, PATCH, seed=1),
        "stratified-excluded": excluded,
        "stratified-downweighted": downweighted,
        "weighted": pl.WeightedPatching(shapes, PATCH, fine.weights(above=12), fine.cell_size, seed=1),
        "sequential": pl.SequentialPatching(shapes, PATCH, overlaps=(16, 16)),
        "tiled": pl.TiledPatching(shapes, PATCH, overlaps=(16, 16)),
        "whole-sample": pl.WholeSamplePatching(shapes),
        "fixed": validation,
        "split": training,
        "uncorrelated": pl.UncorrelatedPatching(pl.RandomPatching(shapes, PATCH, seed=1, n_patches=9), n_channels=2),
    }


def mean_draws(patching: Any, n_epochs: int) -> NDArray[np.float64]:
    """Count the draws of each pixel per epoch, `YX`, as a mean over many epochs."""
    corners = np.zeros((SHAPE[2] + 1, SHAPE[3] + 1))
    for epoch in range(n_epochs):
        columns = patching.at_epoch(epoch).specs(range(patching.n_patches)).columns
        y, x = np.clip(columns["coords"], 0, SHAPE[2:]).T
        end_y, end_x = np.clip(columns["coords"] + columns["patch_size"], 0, SHAPE[2:]).T
        for rows, cells, sign in ((y, x, 1), (end_y, x, -1), (y, end_x, -1), (end_y, end_x, 1)):
            np.add.at(corners, (rows, cells), sign)
    draws: NDArray[np.float64] = corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] / n_epochs
    return draws


def draw_patches(axes: Axes, specs: Iterable[Any], color: str = YELLOW, style: str = "-") -> None:
    """Outline patches."""
    outlines = [
        Rectangle((spec["coords"][1] - 0.5, spec["coords"][0] - 0.5), *spec["patch_size"][::-1]) for spec in specs
    ]
    axes.add_collection(PatchCollection(outlines, facecolor="none", edgecolor=color, linewidth=1.8, linestyle=style))


def draw_channels(axes: Axes, patching: Any) -> None:
    """Outline the two channels of each patch in two colors, and join them by a line."""
    for channel, (color, style) in enumerate([(YELLOW, "-"), (BLUE, "--")]):
        places = [{"coords": spec["all_coords"][channel], "patch_size": spec["patch_size"]} for spec in patching]
        draw_patches(axes, places, color, style)
    lines = [[(x + PATCH[1] / 2, y + PATCH[0] / 2) for y, x in spec["all_coords"]] for spec in patching]
    axes.add_collection(LineCollection(lines, colors="white", linewidths=1.2, linestyles=":"))


def draw_epoch(axes: Axes, name: str, patching: Any, held_out: Iterable[Any]) -> str:
    """Draw the patches of one epoch and return what is drawn, for the title."""
    if name == "tiled":
        draw_tiling(axes, patching)
        return f"{patching.n_patches} tiles"
    if name == "uncorrelated":
        draw_channels(axes, patching)
        return f"{patching.n_patches} patches of 2 channels"
    draw_patches(axes, patching)
    if name == "split":
        draw_patches(axes, held_out, BLUE)
        return f"{patching.n_patches} patches, {N_HELD_OUT} held out"
    return f"{patching.n_patches} patch{'es' * (patching.n_patches > 1)}"


def strategy_figure(
    name: str, patching: Any, image: NDArray[np.float32], held_out: Iterable[Any], n_epochs: int
) -> Figure:
    """Draw the patches of one epoch beside the number of draws of each pixel."""
    figure = Figure(figsize=(10.4, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image, cmap="gray", vmin=0, vmax=100)
    drawn = draw_epoch(left, name, patching, held_out)
    left.set_title(f"one epoch: {drawn}")

    draws = mean_draws(patching, n_epochs)
    half_step = 2 ** (0.5 / STEPS_PER_OCTAVE)
    edges = [*DRAWS / half_step, DRAWS[-1] * half_step]
    colors = mpl.colormaps["viridis"].resampled(len(DRAWS)).with_extremes(under="black")
    shown = right.imshow(draws, cmap=colors, norm=BoundaryNorm(edges, len(DRAWS)))
    bar = figure.colorbar(shown, ax=right, extend="min", pad=0.01, label="draws per pixel and epoch")
    bar.set_ticks([2.0**power for power in range(-3, 4)], labels=["1/8", "1/4", "1/2", "1", "2", "4", "8"])
    bar.minorticks_off()
    right.set_title(f"draws: {draws.min():.1f} to {draws.max():.1f}, mean {draws.mean():.2f}")
    for axes in (left, right):
        axes.set(xlim=(-24, SHAPE[3] + 23), ylim=(SHAPE[2] + 44, -24), xticks=[], yticks=[], facecolor="0.4")
        axes.spines[:].set_visible(False)
    draw_scale_bar(left)
    return figure


def main(output: Path, n_epochs: int) -> None:
    """Write all figures to a folder."""
    output.mkdir(parents=True, exist_ok=True)
    image = nuclei()
    by_name = patchings(image)
    with mpl.rc_context({"font.size": 14}):
        for name, patching in by_name.items():
            save_figure(strategy_figure(name, patching, image, by_name["fixed"], n_epochs), output / f"{name}.png")
            print(output / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="folder to write to")
    parser.add_argument("--epochs", type=int, default=4000, help="number of epochs to count draws in")
    arguments = parser.parse_args()
    main(arguments.output, arguments.epochs)
