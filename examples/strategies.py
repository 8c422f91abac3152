"""Pictures of what each way to choose patches does to an image, for docs/strategies.md.

On the left the patches of one epoch, on the right how often each voxel is drawn: counted over many epochs, per epoch.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

import patchloom as pl
from patchloom.figures import draw_tiling

SHAPE = (1, 1, 330, 460)
PATCH = (64, 64)
BRIGHT = 30
"""Gray value that separates nuclei from background."""

COLORS = ("#ffd43b", "#ff6b6b")
DARK = {"axes.edgecolor": "0.6", "font.size": 9}


def nuclei(seed: int = 5) -> NDArray[np.float32]:
    """Make up an image whose nuclei lie on one side; on the other there is background only."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SHAPE[2], : SHAPE[3]]
    image = np.zeros(SHAPE[2:])
    for _ in range(50):
        center_y, center_x = rng.uniform(0, SHAPE[2]), rng.triangular(0, 0, 0.55 * SHAPE[3])
        size, brightness = rng.uniform(6, 11), rng.uniform(40, 120)
        image = np.maximum(image, brightness * np.exp(-((((y - center_y) ** 2 + (x - center_x) ** 2) / size**2) ** 2)))
    return np.asarray(image + 8, dtype=np.float32)


def plans(image: NDArray[np.float32]) -> dict[str, Any]:
    """One plan of each kind, by the name of its picture."""
    shapes = [SHAPE]
    stack = pl.ArrayStack(image, axes="YX")
    (brightness,) = pl.score_cells([stack], PATCH, [pl.PercentileFilter(98)])
    (fine,) = pl.score_cells([stack], (16, 16), [pl.MeanFilter()])
    excluded, thinned = pl.StratifiedPatching(shapes, PATCH, seed=1), pl.StratifiedPatching(shapes, PATCH, seed=1)
    pl.exclude_below(excluded, brightness, BRIGHT)
    pl.downweight_below(thinned, brightness, BRIGHT, probability=0.1)
    training, validation = pl.split_training_validation(pl.StratifiedPatching(shapes, PATCH, seed=1), 4, seed=3)
    return {
        "random": pl.RandomPatching(shapes, PATCH, seed=1),
        "random-uniform": pl.RandomPatching(shapes, PATCH, seed=1, coverage="uniform"),
        "fixed-random": pl.FixedRandomPatching(shapes, PATCH, seed=1),
        "stratified": pl.StratifiedPatching(shapes, PATCH, seed=1),
        "stratified-excluded": excluded,
        "stratified-thinned-out": thinned,
        "weighted": pl.WeightedPatching(shapes, PATCH, fine.weights(above=12), fine.cell_size, seed=1),
        "sequential": pl.SequentialPatching(shapes, PATCH, overlaps=(16, 16)),
        "tiled": pl.TiledPatching(shapes, PATCH, overlaps=(16, 16)),
        "whole-sample": pl.WholeSamplePatching(shapes),
        "fixed": validation,
        "split": training,
        "uncorrelated": pl.UncorrelatedPatching(pl.RandomPatching(shapes, PATCH, seed=1, n_patches=8), n_channels=2),
    }


def density(plan: Any, n_epochs: int) -> NDArray[np.float64]:
    """Count how often each voxel is drawn in an epoch, on average."""
    corners = np.zeros((SHAPE[2] + 1, SHAPE[3] + 1))
    for epoch in range(n_epochs):
        columns = plan.at_epoch(epoch).specs(range(plan.n_patches)).columns
        y, x = np.clip(columns["coords"], 0, SHAPE[2:]).T
        end_y, end_x = np.clip(columns["coords"] + columns["patch_size"], 0, SHAPE[2:]).T
        for rows, cells, sign in ((y, x, 1), (end_y, x, -1), (y, end_x, -1), (end_y, end_x, 1)):
            np.add.at(corners, (rows, cells), sign)
    counts: NDArray[np.float64] = corners.cumsum(axis=0).cumsum(axis=1)[:-1, :-1] / n_epochs
    return counts


def draw_patches(axes: Axes, specs: Iterable[Any], color: str = COLORS[0]) -> None:
    """Outline patches."""
    outlines = [
        Rectangle((spec["coords"][1] - 0.5, spec["coords"][0] - 0.5), *spec["patch_size"][::-1]) for spec in specs
    ]
    axes.add_collection(PatchCollection(outlines, facecolor="none", edgecolor=color, linewidth=1.1, alpha=0.9))


def draw_channels(axes: Axes, plan: Any) -> None:
    """Outline where each channel of a patch lies, and join what belongs to one patch."""
    for channel, color in enumerate(COLORS):
        places = [{"coords": spec["all_coords"][channel], "patch_size": spec["patch_size"]} for spec in plan]
        draw_patches(axes, places, color)
    joined = [[(x + PATCH[1] / 2, y + PATCH[0] / 2) for y, x in spec["all_coords"]] for spec in plan]
    axes.add_collection(LineCollection(joined, colors="white", linewidths=0.8, linestyles=":"))


def draw_epoch(axes: Axes, name: str, plan: Any, held_out: Iterable[Any]) -> None:
    """Draw the patches of one epoch in the way that shows what is particular about them."""
    special: dict[str, Callable[[], None]] = {
        "tiled": lambda: draw_tiling(axes, plan),
        "uncorrelated": lambda: draw_channels(axes, plan),
        "split": lambda: draw_patches(axes, held_out, COLORS[1]),
    }
    if name not in ("tiled", "uncorrelated"):
        draw_patches(axes, plan)
    special.get(name, lambda: None)()


def picture(name: str, plan: Any, image: NDArray[np.float32], held_out: Iterable[Any], n_epochs: int) -> Figure:
    """Show one plan: its patches beside how often each voxel is drawn."""
    figure = Figure(figsize=(6.6, 2.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(image, cmap="gray", vmax=100)
    draw_epoch(left, name, plan, held_out)
    counts = density(plan, n_epochs)
    shown = right.imshow(counts, cmap=mpl.colormaps["viridis"].resampled(12), vmin=0)
    figure.colorbar(shown, ax=right, shrink=0.85)
    left.set_title(f"{plan.n_patches} to train on, 4 held out" if name == "split" else f"{plan.n_patches} in an epoch")
    right.set_title(f"a voxel: {counts.min():.2g} to {counts.max():.2g} times, mean {counts.mean():.2f}")
    for axes in (left, right):
        axes.set(xlim=(-24, SHAPE[3] + 23), ylim=(SHAPE[2] + 23, -24))
        axes.set_axis_off()
    return figure


def main(output: Path, n_epochs: int) -> None:
    """Write all pictures to a folder."""
    output.mkdir(parents=True, exist_ok=True)
    image = nuclei()
    by_name = plans(image)
    with mpl.rc_context(DARK):
        for name, plan in by_name.items():
            figure = picture(name, plan, image, by_name["fixed"], n_epochs)
            figure.savefig(output / f"{name}.png", dpi=80, metadata={"Software": None}, pil_kwargs={"optimize": True})
            print(output / f"{name}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/pictures"), help="folder to write to")
    parser.add_argument("--epochs", type=int, default=4000, help="how many epochs are counted")
    arguments = parser.parse_args()
    main(arguments.output, arguments.epochs)
