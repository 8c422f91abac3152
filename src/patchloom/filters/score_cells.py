"""One pass over a series that scores all its cells with any number of filters."""

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
from patchloom.geometry.checks import series_shapes, spatial_tuple, whole_number
from patchloom.geometry.grid_cells import cell_counts
from patchloom.image_stacks import ImageStack, listed_stacks, scan_stack
from patchloom.local_paths import normalize_path

MAX_BYTES = 128 << 20
"""Pixels held at once."""


def score_cells(
    image_stacks: Sequence[ImageStack],
    cell_size: Sequence[int],
    filters: Sequence[CellFilter],
    *,
    channels: Sequence[int] | None = None,
    cache: bool | str | Path = True,
    max_bytes: int = MAX_BYTES,
) -> tuple[ScoreMap, ...]:
    """Score the cells of a series: how bright, how textured, how much of a mask, or whatever a function says.

    Every sample is divided into cells from its first voxel on, as `StratifiedPatching` does. Pixels are read once for all
    filters, block by block and whole batches of blocks together; a cell that the image's end cuts is scored on the voxels
    that it has.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The series; for a `MaskFilter` that of the masks.
    cell_size : sequence of int
        `(z,) y, x`; the patch size, if cells are to be excluded from a `StratifiedPatching`.
    filters : sequence of callable
        Each takes the pixels of a cell, `C(Z)YX`, and returns a number.
    channels : sequence of int, optional
        Which channels the filters see, in this order; all by default.
    cache : bool, str or Path
        Where scores are kept, to be found again as long as the image's files do not change: beside the data, in a folder
        `.patchloom-scores` (`True`; if nothing can be written there, they are not kept), or in a folder of your choice.
        Only scores of local files are kept, and only those of filters that have an identity, such as a `CustomFilter`.
    max_bytes : int
        How many bytes of pixels are held at once; a single cell may need more.

    Returns
    -------
    tuple of ScoreMap
        One for each filter.

    Raises
    ------
    GeometryError
        If the cell size does not fit the series, or a channel does not exist.
    SourceError
        If pixels cannot be read. What a filter raises comes through, with a note that says on which cell.
    SinkError
        If nothing can be written to the folder given as `cache`.

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
    cells = spatial_tuple("cell_size", cell_size, least=1)
    shapes = series_shapes([stack.data_shape for stack in image_stacks], len(cells))
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
    """What all passes of one call have in common."""

    cell_size: tuple[int, ...]
    channels: tuple[int, ...] | None
    max_bytes: int


def _kept_or_fresh(
    stack: ImageStack, filters: Sequence[CellFilter], files: Sequence[ScoreFile | None], scan: _Scan
) -> list[NDArray[np.float64]]:
    """Scores of one stack by each filter: from their files, and what is missing in one pass over the pixels."""
    kept = [None if file is None else file.read() for file in files]
    missing = [cell_filter for cell_filter, scores in zip(filters, kept, strict=True) if scores is None]
    fresh = iter(_pass_over(stack, missing, scan) if missing else ())
    by_filter = []
    for file, known in zip(files, kept, strict=True):
        scores = next(fresh) if known is None else known
        if file is not None and known is None:
            with contextlib.suppress(OSError):  # without the file they are worked out again the next time
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
    """Cut a block into cells, a row of cells of one shape at a time; nothing is copied.

    Parameters
    ----------
    pixels : array
        `C(Z)YX`.
    cell_size : sequence of int
        `(z,) y, x`.

    Yields
    ------
    cells : tuple of int and slice
        Which cells of the block, the last axis as a slice.
    row : array
        `(N, C, (Z), Y, X)`, their pixels. Where the block ends within a cell, this has the voxels that exist.

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
        raise GeometryError("channels is empty: name at least one, or leave it out for all")
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
