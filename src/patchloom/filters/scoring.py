"""Scores of all cells of a series by any number of filters, in one pass over the pixels."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, function, listed, shown
from patchloom.errors import ArgumentTypeError, GeometryError, SinkError
from patchloom.filters.cell_filters import CellFilter, HasIdentity, ScoresMany
from patchloom.filters.score_files import ScoreFile, prepare_folder, score_files
from patchloom.filters.score_map import ScoreMap
from patchloom.geometry.checks import series_shapes, size_in_series, whole_number
from patchloom.geometry.grid_cells import cell_counts
from patchloom.image_stacks import ImageStack, listed_stacks, scan_stack
from patchloom.local_paths import normalize_path

MAX_BYTES = 128 << 20
"""Bytes of pixels that are held at once."""


def score_cells(
    image_stacks: Sequence[ImageStack],
    cell_size: int | Sequence[int],
    filters: Sequence[CellFilter],
    *,
    channels: Sequence[int] | None = None,
    cache: bool | str | Path = True,
    max_bytes: int = MAX_BYTES,
) -> tuple[ScoreMap, ...]:
    """Score the cells of a series: their brightness, texture, share of a mask, or the result of any function.

    Every sample is divided into cells from its first voxel on, as in `StratifiedPatching`. Pixels are read once for all
    filters, block by block. A cell that is cut by the end of the image is scored on its voxels inside the image.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The series. A `MaskFilter` needs the series of masks.
    cell_size : int or sequence of int
        Size of a cell in voxels, `(z,) y, x`, or one number for all axes. Use the patch size to exclude cells from a `StratifiedPatching`.
    filters : sequence of callable
        Each takes the pixels of a cell, `C(Z)YX`, and returns a number.
    channels : sequence of int, optional
        Indices of the channels that the filters get, in this order. If None, all channels.
    cache : bool, str or Path
        Folder in which scores are kept, to be used again until the files of the image change. True is a folder
        `.patchloom-scores` beside the data, if it can be written. Only scores of local files are kept, by filters with an
        identity, such as `CustomFilter`.
    max_bytes : int
        Bytes of pixels that are held at once; a single cell may need more.

    Returns
    -------
    tuple of ScoreMap
        One for each filter.

    Raises
    ------
    GeometryError
        If the cell size does not fit the series, or a channel does not exist.
    SourceError
        If pixels cannot be read. An error of a filter is passed on, with a note that names the cell.
    SinkError
        If the folder given as `cache` cannot be written.

    Examples
    --------
    >>> from patchloom import ArrayStack, MaxFilter, CustomFilter, score_cells
    >>> stack = ArrayStack(np.arange(40).reshape(4, 10), axes="YX")
    >>> contrast = CustomFilter("contrast", lambda cell: np.ptp(cell))
    >>> for score_map in score_cells([stack], (4, 4), [MaxFilter(), contrast]):
    ...     print(score_map.name, score_map.scores[0].tolist())
    MaxFilter() [[[33.0, 37.0, 39.0]]]
    contrast [[[33.0, 33.0, 31.0]]]
    """
    image_stacks = listed_stacks("image_stacks", image_stacks)
    filters = [
        function(f"filters[{number}]", cell_filter)
        for number, cell_filter in enumerate(listed("filters", filters, "a sequence of filters, such as [MaxFilter()]"))
    ]
    data_shapes = [stack.data_shape for stack in image_stacks]
    cells = size_in_series("cell_size", cell_size, data_shapes, least=1)
    shapes = series_shapes(data_shapes, len(cells))
    wanted = None if channels is None else _checked_channels(channels, image_stacks)
    whole_number("max_bytes", max_bytes, least=1)
    folder = None
    if isinstance(cache, (str, Path)) and str(cache):
        folder = prepare_folder(Path(normalize_path(file_path("cache", cache, error=SinkError))))
    elif not isinstance(cache, bool):
        raise ArgumentTypeError(f"cache is {shown(cache)}: it must be True, False or the name of a folder")
    scan = _Scan(cells, wanted, max_bytes)
    by_stack = []
    for stack in image_stacks:
        files = [None] * len(filters) if cache is False else score_files(stack, cells, wanted, filters, folder)
        by_stack.append(_kept_or_fresh(stack, filters, files, scan))
    return tuple(
        ScoreMap(tuple(scores), cells, shapes, _name(cell_filter))
        for cell_filter, *scores in zip(filters, *by_stack, strict=True)
    )


@dataclass(frozen=True, slots=True)
class _Scan:
    """Arguments that all passes of one call share."""

    cell_size: tuple[int, ...]
    channels: tuple[int, ...] | None
    max_bytes: int


def _kept_or_fresh(
    stack: ImageStack, filters: Sequence[CellFilter], files: Sequence[ScoreFile | None], scan: _Scan
) -> list[NDArray[np.float64]]:
    """Return the scores of one stack by each filter: from files, and missing ones in one pass over the pixels."""
    kept = [None if file is None else file.read() for file in files]
    missing = [cell_filter for cell_filter, scores in zip(filters, kept, strict=True) if scores is None]
    fresh = iter(_pass_over(stack, missing, scan) if missing else ())
    by_filter = []
    for file, known in zip(files, kept, strict=True):
        scores = next(fresh) if known is None else known
        if file is not None and known is None:
            with contextlib.suppress(OSError):  # without the file, they are computed again the next time
                file.write(scores)
        scores.flags.writeable = False
        by_filter.append(scores)
    return by_filter


def _pass_over(stack: ImageStack, filters: Sequence[CellFilter], scan: _Scan) -> list[NDArray[np.float64]]:
    n_samples, n_channels, *spatial_shape = stack.data_shape
    scores = np.full((len(filters), n_samples, *cell_counts(spatial_shape, scan.cell_size)), np.nan)
    channels = range(n_channels) if scan.channels is None else scan.channels
    span = range(min(channels), max(channels) + 1)
    blocks = scan_stack(stack, cell_size=scan.cell_size, channels=span, max_bytes=scan.max_bytes)
    for block, pixels in blocks:
        seen = pixels if scan.channels is None else pixels[[channel - span.start for channel in channels]]
        seen.flags.writeable = False
        scored = scores[:, block.sample_idx][(slice(None), *block.cells(scan.cell_size))]
        _score_block(seen, scan.cell_size, filters, scored, f"sample {block.sample_idx} of {stack.source}")
    return list(scores)


def _score_block(
    pixels: NDArray[Any],
    cell_size: tuple[int, ...],
    filters: Sequence[CellFilter],
    scores: NDArray[np.float64],
    where: str,
) -> None:
    for cells, row in cell_rows(pixels, cell_size):
        for cell_filter, scored in zip(filters, scores, strict=True):
            try:
                scored[cells] = _score_row(cell_filter, row)
            except Exception as error:
                error.add_note(f"while {_name(cell_filter)} scored cells of size {cell_size} in {where}")
                raise


def cell_rows(pixels: NDArray[Any], cell_size: Sequence[int]) -> Iterator[tuple[tuple[int | slice, ...], NDArray[Any]]]:
    """Divide a block into cells, one row of cells of one shape at a time, without a copy.

    Parameters
    ----------
    pixels : array
        `C(Z)YX`.
    cell_size : int or sequence of int
        Size of a cell in voxels, `(z,) y, x`, or one number for all axes.

    Yields
    ------
    cells : tuple of int and slice
        Indices of the cells in the block, a slice along the last axis.
    row : array
        `(N, C, (Z), Y, X)`, their pixels. A cell that is cut by the end of the block is smaller.

    Examples
    --------
    >>> [(cells, row.shape) for cells, row in cell_rows(np.zeros((1, 4, 10)), (4, 4))]
    [((0, slice(0, 2, None)), (2, 1, 4, 4)), ((0, slice(2, 3, None)), (1, 1, 4, 2))]
    """
    *leading, width = pixels.shape[1:]
    counts = [-(-extent // cell) for extent, cell in zip(leading, cell_size, strict=False)]
    cell_width = cell_size[-1]
    n_whole = width // cell_width
    for cell in itertools.product(*map(range, counts)):
        lines = pixels[
            (slice(None), *(slice(at * size, (at + 1) * size) for at, size in zip(cell, cell_size, strict=False)))
        ]
        if n_whole:
            whole = lines[..., : n_whole * cell_width]
            split = whole.reshape(*whole.shape[:-1], n_whole, cell_width)
            yield (*cell, slice(0, n_whole)), split.transpose(split.ndim - 2, *range(split.ndim - 2), split.ndim - 1)
        if n_whole * cell_width < width:
            yield (*cell, slice(n_whole, n_whole + 1)), lines[None, ..., n_whole * cell_width :]


def _score_row(cell_filter: CellFilter, row: NDArray[Any]) -> NDArray[Any] | list[float]:
    if isinstance(cell_filter, ScoresMany):
        return cell_filter.score_many(row)
    return [float(cell_filter(cell)) for cell in row]


def _checked_channels(channels: Sequence[int], image_stacks: Sequence[ImageStack]) -> tuple[int, ...]:
    given = listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
    numbers = tuple(whole_number("channels", channel) for channel in given)
    if not numbers:
        raise GeometryError("channels is empty: give at least one, or None for all")
    for stack in image_stacks:
        for number in numbers:
            if not 0 <= number < stack.data_shape[1]:
                raise GeometryError(
                    f"channels has {number}, but {stack.source} has {stack.data_shape[1]} channels, counted from 0"
                )
    return numbers


def _name(cell_filter: CellFilter) -> str:
    return (
        cell_filter.identity if isinstance(cell_filter, HasIdentity) else getattr(cell_filter, "__name__", "function")
    )
