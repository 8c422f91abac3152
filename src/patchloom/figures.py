"""Figures of tilings, scores and predictions, drawn with matplotlib (extra `plot`).

`draw_...` functions draw into axes that already show an image, in pixels. Their colors, yellow and blue on gray, can be distinguished by
color-blind readers too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.argument_checks import file_path, instance, real_number, shown, whole_number
from patchloom.errors import ArgumentError, GeometryError, SinkError
from patchloom.filters import ScoreMap
from patchloom.geometry.checks import check_window
from patchloom.patching import TiledPatching
from patchloom.patching.flat_index import check_data_idx, check_sample
from patchloom.prediction.planning.tile_choice import choose_tiles
from patchloom.prediction.probe.model_probe import ModelProbe
from patchloom.sinks.write_errors import explain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = ["draw_scale_bar", "draw_scores", "draw_tiling", "prediction_figure", "probe_figure", "save_figure"]

YELLOW = "#ffd43b"
BLUE = "#56b4e9"

_LARGE = 10**5
"""Voxels along each axis of an image that no tile covers."""

_WIDTH = 10.0
"""Width of a figure in inches."""

_MAX_BAR_SHARE = 0.25
"""Longest scale bar, as a share of the visible width."""


def draw_tiling(axes: Axes, tiling: TiledPatching, data_idx: int = 0) -> None:
    """Draw the tiles of a 2D image: a yellow frame around the kept part of each, and one whole tile in blue.

    Parameters
    ----------
    axes : matplotlib Axes
        Axes that show the image, in pixels.
    tiling : TiledPatching
        A 2D tiling.
    data_idx : int, default 0
        Index of the image stack. Its first sample is drawn.

    Raises
    ------
    GeometryError
        If the tiling is 3D.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().add_subplot()
    >>> _ = axes.imshow(np.zeros((100, 150)))
    >>> draw_tiling(axes, TiledPatching([(1, 1, 100, 150)], patch_size=(64, 64), overlaps=(16, 16)))
    >>> len(axes.patches)                       # 2 × 3 kept parts, one tile
    7
    """
    rectangle = require("matplotlib.patches", extra="plot").Rectangle
    if len(instance("tiling", tiling, TiledPatching).patch_size) != 2:
        raise GeometryError(f"tiling is {len(tiling.patch_size)}D: only 2D tilings are drawn: give a 2D tiling")
    height, width = tiling.data_shapes[check_data_idx(data_idx, len(tiling.data_shapes))][2:]
    table = tiling.specs(tiling.tiles_touching(data_idx, 0, (slice(0, height), slice(0, width))))
    for (y, x), (rows, columns) in zip(
        table.columns["stitch_coords"].tolist(), table.columns["crop_size"].tolist(), strict=True
    ):
        axes.add_patch(rectangle((x - 0.5, y - 0.5), columns, rows, fill=False, edgecolor=YELLOW, linewidth=1.2))
    y, x = table.columns["coords"][len(table) // 2].tolist()
    rows, columns = tiling.patch_size
    style = {"facecolor": (BLUE, 0.3), "edgecolor": BLUE, "linewidth": 1.8, "linestyle": "--"}
    axes.add_patch(rectangle((x - 0.5, y - 0.5), columns, rows, **style))


def draw_scores(
    axes: Axes,
    score_map: ScoreMap,
    data_idx: int = 0,
    sample_idx: int = 0,
    *,
    threshold: float | None = None,
    layer: int | None = None,
) -> QuadMesh:
    """Draw the scores of one sample over its image, each over the pixels of its cell.

    Parameters
    ----------
    axes : matplotlib Axes
        Axes that show the image, in pixels.
    score_map : ScoreMap
        Scores, as returned by `score_cells`.
    data_idx, sample_idx : int, default 0
        Index of the image stack and of the sample in it.
    threshold : float, optional
        Only cells with at least this score are drawn. If None, all cells that have a score are drawn.
    layer : int, optional
        Index of the layer of cells along Z, for a 3D image. If None, the middle layer.

    Returns
    -------
    matplotlib QuadMesh
        The drawn cells, for a color bar: `axes.figure.colorbar(mesh)`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from patchloom import ArrayStack, MaxFilter, score_cells
    >>> image = np.arange(100 * 150).reshape(100, 150)
    >>> (scores,) = score_cells([ArrayStack(image, axes="YX")], (50, 50), [MaxFilter()])
    >>> axes = Figure().add_subplot()
    >>> _ = axes.imshow(image, cmap="gray")
    >>> draw_scores(axes, scores).get_array().shape
    (2, 3)
    """
    require("matplotlib", extra="plot")
    instance("score_map", score_map, ScoreMap)
    data_idx, sample_idx = check_sample(data_idx, sample_idx, score_map.data_shapes)
    scores = score_map.scores[data_idx][sample_idx]
    layers = scores if scores.ndim == 3 else scores[np.newaxis]
    scores = layers[len(layers) // 2 if layer is None else whole_number("layer", layer, least=0, most=len(layers) - 1)]
    kept = ~np.isnan(scores) if threshold is None else scores >= real_number("threshold", threshold, finite=False)
    height, width = score_map.data_shapes[data_idx][-2:]
    # Pixels are drawn around their centers; the last cells end with the image.
    y, x = (
        np.minimum(np.arange(n_cells + 1) * side, size) - 0.5
        for n_cells, side, size in zip(scores.shape, score_map.cell_size[-2:], (height, width), strict=True)
    )
    return axes.pcolormesh(x, y, np.ma.masked_where(~kept, scores), cmap="magma", alpha=0.5)


def draw_scale_bar(axes: Axes, pixel_size: float | None = None, unit: str = "µm") -> None:
    """Draw a scale bar in the lower right corner of an image.

    Its length is 1, 2 or 5 times a power of ten: the longest that is at most a quarter of the visible width.

    Parameters
    ----------
    axes : matplotlib Axes
        Axes that show the image, in pixels. Set their limits before.
    pixel_size : float, optional
        Width of a pixel in `unit`. If None, the length of the bar is given in pixels.
    unit : str, default "µm"
        Unit of `pixel_size`.

    Raises
    ------
    ArgumentError
        If `pixel_size` is not positive.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().add_subplot()
    >>> _ = axes.imshow(np.zeros((300, 400)))
    >>> draw_scale_bar(axes, pixel_size=0.25)
    >>> axes.artists[0].txt_label.get_text()    # 80 of 400 pixels
    '20 µm'
    """
    size_bar = require("mpl_toolkits.axes_grid1.anchored_artists", extra="plot").AnchoredSizeBar
    instance("unit", unit, str)
    if pixel_size is not None and real_number("pixel_size", pixel_size) <= 0:
        raise ArgumentError(
            f"pixel_size is {shown(pixel_size)}: it must be positive: give the width of a pixel, or None"
        )
    size, label = (1.0, "px") if pixel_size is None else (float(pixel_size), unit)
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    longest = abs(right - left) * size * _MAX_BAR_SHARE
    power = 10.0 ** np.floor(np.log10(longest))
    length = max(step * power for step in (1, 2, 5) if step * power <= longest)
    bar = size_bar(
        axes.transData, length / size, f"{length:g} {label}", "lower right", size_vertical=abs(top - bottom) / 80,
        pad=0.3, borderpad=0.4, sep=3, color="white",
    )  # fmt: skip
    bar.patch.set(facecolor=("black", 0.6), edgecolor="none")
    axes.add_artist(bar)


def prediction_figure(
    image: NDArray[Any],
    predictions: Mapping[str, NDArray[Any]],
    tiling: TiledPatching,
    *,
    zoom: Sequence[slice],
    data_idx: int = 0,
    pixel_size: float | None = None,
    unit: str = "µm",
) -> Figure:
    """Show an image with its tiles beside its prediction, and below them a close-up of a seam.

    Parameters
    ----------
    image : array
        The image, `YX`.
    predictions : mapping of str to array
        Predictions by their titles, `YX` each. All are shown in the close-up, the last also as a whole.
    tiling : TiledPatching
        The 2D tiling of the last prediction.
    zoom : sequence of slice
        Region of the close-up, `y, x` in pixels, with start and stop.
    data_idx : int, default 0
        Index of the image stack in the tiling.
    pixel_size : float, optional
        Width of a pixel in `unit`, for the scale bars. If None, their length is given in pixels.
    unit : str, default "µm"
        Unit of `pixel_size`.

    Returns
    -------
    matplotlib Figure
        The figure, for `save_figure`.

    Raises
    ------
    GeometryError
        If the tiling is 3D, an array is not 2D, or the zoom lies outside the image.
    ArgumentError
        If there are no predictions, or `pixel_size` is not positive.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> image = np.random.default_rng(0).random((100, 150))
    >>> tiling = TiledPatching([(1, 1, 100, 150)], patch_size=(64, 64), overlaps=(16, 16))
    >>> figure = prediction_figure(image, {"inverted": 1 - image}, tiling, zoom=(slice(30, 80), slice(40, 90)))
    >>> [axes.get_title() for axes in figure.axes[:4]]
    ['image, 6 tiles', 'inverted', 'close-up: image', 'close-up: inverted']
    """
    _check_arrays(image, predictions)
    instance("tiling", tiling, TiledPatching)
    check_window("zoom", zoom, np.shape(image))
    title, whole = list(predictions.items())[-1]
    (low, high), (zoom_y, zoom_x) = np.percentile(image, [0.5, 99.5]), zoom
    gray, color = {"cmap": "gray", "vmin": low, "vmax": high}, {"cmap": "magma", "vmin": 0, "vmax": whole.max()}
    close_ups = {"image": (image, gray), **{name: (values, color) for name, values in predictions.items()}}

    n = len(close_ups)
    width = _WIDTH - 0.9  # the color bar takes the rest
    heights = [
        width / 2 * image.shape[0] / image.shape[1],
        width / n * (zoom_y.stop - zoom_y.start) / (zoom_x.stop - zoom_x.start),
    ]
    figure = require("matplotlib.figure", extra="plot").Figure((_WIDTH, sum(heights) + 0.8), layout="constrained")
    grid = figure.add_gridspec(2, 2 * n, height_ratios=heights)
    left, right = (figure.add_subplot(grid[0, columns]) for columns in (slice(0, n), slice(n, 2 * n)))
    _show(left, image, f"image, {tiling.n_patches} tiles", **gray)
    draw_tiling(left, tiling, data_idx)
    shown = _show(right, whole, title, **color)
    frame = require("matplotlib.patches", extra="plot").Rectangle
    for axes in (left, right):
        size = (zoom_x.stop - zoom_x.start, zoom_y.stop - zoom_y.start)
        axes.add_patch(
            frame((zoom_x.start - 0.5, zoom_y.start - 0.5), *size, fill=False, edgecolor="white", linewidth=2)
        )
    for column, (name, (values, style)) in enumerate(close_ups.items()):
        axes = figure.add_subplot(grid[1, 2 * column : 2 * column + 2])
        _show(axes, values[tuple(zoom)], f"close-up: {name}", **style)
    for axes in figure.axes:
        draw_scale_bar(axes, pixel_size, unit)
    figure.colorbar(shown, ax=figure.axes, label="prediction", aspect=40, pad=0.02)
    return figure  # type: ignore[no-any-return]  # matplotlib is imported by name


def probe_figure(probe: ModelProbe) -> Figure:
    """Draw a tile of a model that was probed: what is kept of it, its halo, its neighbor, and how far one output voxel looks.

    Parameters
    ----------
    probe : ModelProbe
        What `probe` found out. Of a 3D model, a plane `YX` is drawn.

    Returns
    -------
    matplotlib Figure
        The figure, for `save_figure`.

    Raises
    ------
    ArgumentError
        If the model refused every tile.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> import patchloom as pl
    >>> figure = probe_figure(pl.probe(lambda batch: batch, n_dims=2))
    >>> figure.axes[0].get_title().startswith("tile of")
    True
    """
    if not instance("probe", probe, ModelProbe).sizes:
        raise ArgumentError("probe is of a model that refused every tile, so there is nothing to draw: see its remarks")
    rectangle = require("matplotlib.patches", extra="plot").Rectangle
    choice = choose_tiles(probe, [_LARGE] * probe.n_dims, probe.bytes_per_tile or 2**30)
    height, width = choice.patch_size[-2:]
    shared_x, (halo_y, halo_x) = choice.overlaps[-1], (shared // 2 for shared in choice.overlaps[-2:])
    figure = require("matplotlib.figure", extra="plot").Figure((_WIDTH, 7.5), layout="constrained")
    axes = figure.add_subplot()
    step = width - shared_x
    boxes: list[tuple[str, tuple[float, float, float, float], dict[str, Any]]] = [
        (
            f"tile, {height} × {width}",
            (0, 0, width, height),
            {"edgecolor": BLUE, "facecolor": (BLUE, 0.25), "linewidth": 2},
        ),
        (
            f"next tile, {shared_x} voxels shared",
            (step, 0, width, height),
            {"edgecolor": "0.4", "linestyle": "--", "fill": False},
        ),
        (
            f"kept, {halo_y} × {halo_x} voxels inside the tile",
            (halo_x, halo_y, width - 2 * halo_x, height - 2 * halo_y),
            {"edgecolor": "#b08800", "facecolor": (YELLOW, 0.6), "linewidth": 2},
        ),
    ]
    if probe.reach is not None:
        (top, bottom), (left, right) = probe.reach.context[-2:]
        at_y, at_x = halo_y, halo_x
        boxes.append(
            (
                f"one output voxel looks at {top + bottom + 1} × {left + right + 1} voxels",
                (at_x - left, at_y - top, left + right + 1, top + bottom + 1),
                {"edgecolor": "#d55e00", "facecolor": ("#d55e00", 0.25), "linewidth": 1.5},
            )
        )
        axes.plot(at_x + 0.5, at_y + 0.5, "s", color="#d55e00", markersize=5)
    for label, (x, y, columns, rows), style in boxes:
        axes.add_patch(rectangle((x, y), columns, rows, label=label, **style))
    stride_y, stride_x = choice.origin_multiple[-2:]
    axes.set(xlim=(-0.05 * width, step + 1.05 * width), ylim=(1.05 * height, -0.05 * height), aspect="equal")
    axes.set(
        xlabel="x in voxels",
        ylabel="y in voxels",
        title=f"tile of {height} × {width}, starts on multiples of {stride_y} × {stride_x}",
    )
    if max(stride_x, stride_y) > 1:
        axes.vlines(
            np.arange(0, width + 1, stride_x),
            -0.02 * height,
            0,
            color="0.2",
            linewidth=0.8,
            label=f"stride, {stride_y} × {stride_x}",
        )
        axes.hlines(np.arange(0, height + 1, stride_y), -0.02 * width, 0, color="0.2", linewidth=0.8)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2, frameon=False)
    return figure  # type: ignore[no-any-return]  # matplotlib is imported by name


def save_figure(figure: Figure, path: str | Path, dpi: int = 100) -> None:
    """Write a figure as a PNG in true color, without palette and transparency.

    The same figure gives the same bytes: neither time nor program is stored.

    Parameters
    ----------
    figure : matplotlib Figure
        The figure.
    path : str or Path
        PNG file to write. An existing file is replaced.
    dpi : int, default 100
        Pixels per inch of the figure's size, from 1 to 1200.

    Raises
    ------
    ArgumentError
        If `path` does not end in `.png`, or `dpi` is out of range.
    SinkError
        If the file cannot be written.
    MissingExtraError
        If matplotlib is not installed.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> from matplotlib.image import imread
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_figure(Figure(figsize=(3, 2)), Path(folder, "empty.png"))
    ...     imread(Path(folder, "empty.png")).shape
    (200, 300, 3)
    """
    if not str(file_path("path", path)).lower().endswith(".png"):
        raise ArgumentError(f"path is {shown(str(path))}: a figure is written as PNG: give a name that ends in .png")
    canvas = require("matplotlib.backends.backend_agg", extra="plot").FigureCanvasAgg(figure)
    figure.set_dpi(whole_number("dpi", dpi, least=1, most=1200))
    canvas.draw()
    picture = require("PIL.Image", extra="plot").fromarray(np.asarray(canvas.buffer_rgba())[..., :3])
    try:
        picture.save(path, format="PNG", compress_level=9, compress_type=0)
    except OSError as error:
        raise SinkError(f"{path}: the figure cannot be written: {explain(error)}") from error


def _check_arrays(image: Any, predictions: Mapping[str, Any]) -> None:
    if not instance("predictions", predictions, Mapping):
        raise ArgumentError("predictions is empty: give at least one prediction by its title")
    for title in predictions:
        instance("title of predictions", title, str)
    for name, values in (
        ("image", image),
        *((f"predictions[{title!r}]", values) for title, values in predictions.items()),
    ):
        if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "biuf":
            raise GeometryError(f"{name} is {shown(values)}: it must be an array YX of real numbers")


def _show(axes: Axes, values: NDArray[Any], title: str, **style: Any) -> AxesImage:
    axes.set_title(title)
    axes.set_axis_off()
    return axes.imshow(values, **style)
