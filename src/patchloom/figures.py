"""Pictures of plans, scores and predictions, drawn with matplotlib (extra `plot`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.errors import GeometryError
from patchloom.filters import ScoreMap
from patchloom.patching import TiledPatching

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

_SEAM_COLOR = "#ffd43b"
_TILE_COLOR = "#4dabf7"


def draw_tiling(axes: Axes, tiling: TiledPatching, data_idx: int = 0) -> None:
    """Draw the tiles of a 2D image stack over its picture: kept parts framed, one whole tile shaded.

    Parameters
    ----------
    axes : matplotlib Axes
        Where the picture is shown, in voxels.
    tiling : TiledPatching
        The plan; 2D.
    data_idx : int
        Which image stack of the plan.

    Raises
    ------
    GeometryError
        If the plan is 3D.
    MissingExtraError
        If matplotlib is not installed.
    """
    rectangle = require("matplotlib.patches", extra="plot").Rectangle
    if len(tiling.patch_size) != 2:
        raise GeometryError(f"the plan is {len(tiling.patch_size)}D: only 2D plans are drawn")
    height, width = tiling.data_shapes[data_idx][2:]
    table = tiling.specs(tiling.tiles_touching(data_idx, 0, (slice(0, height), slice(0, width))))
    for (y, x), (rows, columns) in zip(
        table.columns["stitch_coords"].tolist(), table.columns["crop_size"].tolist(), strict=True
    ):
        axes.add_patch(rectangle((x - 0.5, y - 0.5), columns, rows, fill=False, edgecolor=_SEAM_COLOR, linewidth=1.2))
    y, x = table.columns["coords"][len(table) // 2].tolist()
    rows, columns = tiling.patch_size
    axes.add_patch(rectangle((x - 0.5, y - 0.5), columns, rows, color=_TILE_COLOR, alpha=0.3, linewidth=0))
    axes.add_patch(
        rectangle((x - 0.5, y - 0.5), columns, rows, fill=False, edgecolor=_TILE_COLOR, linewidth=1.6, linestyle="--")
    )


def draw_scores(
    axes: Axes,
    score_map: ScoreMap,
    data_idx: int = 0,
    sample_idx: int = 0,
    *,
    threshold: float | None = None,
    layer: int | None = None,
) -> QuadMesh:
    """Lay the scores of one sample over its picture, each over its own voxels.

    Parameters
    ----------
    axes : matplotlib Axes
        Where the picture is shown, in voxels.
    score_map : ScoreMap
        What `score_cells` found.
    data_idx, sample_idx : int
        Which sample.
    threshold : float, optional
        Cells that do not reach it are left out: there the picture alone is seen.
    layer : int, optional
        Which layer of cells of a 3D image; the middle one by default.

    Returns
    -------
    matplotlib QuadMesh
        For a color bar: `axes.figure.colorbar(mesh)`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.
    """
    require("matplotlib", extra="plot")
    scores = score_map.scores[data_idx][sample_idx]
    if scores.ndim == 3:
        scores = scores[len(scores) // 2 if layer is None else layer]
    kept = ~np.isnan(scores) if threshold is None else scores >= threshold
    height, width = score_map.data_shapes[data_idx][-2:]
    # Pixels are drawn around their centers; the last cells end where the image does.
    y, x = (
        np.minimum(np.arange(n_cells + 1) * side, size) - 0.5
        for n_cells, side, size in zip(scores.shape, score_map.cell_size[-2:], (height, width), strict=True)
    )
    return axes.pcolormesh(x, y, np.ma.masked_where(~kept, scores), cmap="magma", alpha=0.5)


def prediction_figure(
    image: NDArray[Any],
    predictions: Mapping[str, NDArray[Any]],
    tiling: TiledPatching,
    *,
    zoom: Sequence[slice],
    data_idx: int = 0,
) -> Figure:
    """Show an image, its tiles and its prediction side by side, and below them a seam close up.

    Parameters
    ----------
    image : array
        `YX`.
    predictions : mapping of str to array
        `YX` each, by the title to show; the last is shown whole, and all are shown close up.
    tiling : TiledPatching
        The plan of the last prediction; 2D.
    zoom : sequence of slice
        The part shown close up, `y, x`; start and stop given.
    data_idx : int
        Which image stack of the plan.

    Returns
    -------
    matplotlib Figure
        To be saved with `figure.savefig`, or shown.

    Raises
    ------
    GeometryError
        If the plan is 3D.
    MissingExtraError
        If matplotlib is not installed.
    """
    figure = require("matplotlib.figure", extra="plot").Figure(figsize=(15, 10.2), layout="constrained")
    low, high = np.percentile(image, [0.5, 99.5])
    gray = {"cmap": "gray", "vmin": low, "vmax": high}
    title, whole = list(predictions.items())[-1]
    grid = figure.add_gridspec(2, 6)
    top = [figure.add_subplot(grid[0, 2 * column : 2 * column + 2]) for column in range(3)]
    _show(top[0], image, "image", **gray)
    _show(top[1], image, f"{tiling.n_patches} tiles: kept parts, and one whole tile", **gray)
    draw_tiling(top[1], tiling, data_idx)
    _show(top[2], whole, title, cmap="magma", vmin=0)
    for axes in (top[0], top[2]):
        _frame(axes, zoom)
    close_ups = {"image, close up": image, **{f"{name}, close up": values for name, values in predictions.items()}}
    columns = np.array_split(np.arange(6), len(close_ups))
    for (name, values), span in zip(close_ups.items(), columns, strict=True):
        axes = figure.add_subplot(grid[1, int(span[0]) : int(span[-1]) + 1])
        style = gray if values is image else {"cmap": "magma", "vmin": 0, "vmax": whole.max()}
        _show(axes, values[tuple(zoom)], name, **style)
    return figure  # type: ignore[no-any-return]  # matplotlib is imported by name


def _show(axes: Axes, values: NDArray[Any], title: str, **style: Any) -> None:
    axes.imshow(values, interpolation="nearest", **style)
    axes.set_title(title)
    axes.set_axis_off()


def _frame(axes: Axes, zoom: Sequence[slice]) -> None:
    rectangle = require("matplotlib.patches", extra="plot").Rectangle
    y, x = zoom
    axes.add_patch(
        rectangle((x.start, y.start), x.stop - x.start, y.stop - y.start, fill=False, edgecolor="white", linewidth=1.5)
    )
