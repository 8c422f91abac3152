"""How likely cells of an image are to be drawn, worked out from label images block by block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any, Literal, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of
from patchloom.errors import GeometryError
from patchloom.geometry.checks import series_shapes, spatial_tuple
from patchloom.geometry.grid_cells import cell_counts

Balance = Literal["foreground", "classes"]

_BLOCK_VOXELS = 2**22
"""Voxels read at a time; more where a single cell has more."""


@runtime_checkable
class LabelStack(Protocol):
    """What is needed of an image stack of labels; every `ImageStack` has it."""

    @property
    def data_shape(self) -> Sequence[int]:
        """Shape as `SCYX` or `SCZYX`; one channel."""

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch, `C(Z)YX`."""


class LabelCounts(NamedTuple):
    """How many voxels of a label lie in a cell, one row for each cell and label that occur together."""

    cell: NDArray[np.int64]
    """Number of the cell among those of all samples of the stack, in raster order."""
    label: NDArray[Any]
    voxels: NDArray[np.int64]


def label_weights(
    labels: Sequence[LabelStack], cell_size: Sequence[int], balance: Balance
) -> list[NDArray[np.float64]]:
    """Weigh the cells of label images by what lies in them.

    Labels are read once, block by block; what is kept is one number a cell and one for each label that occurs in it.

    Parameters
    ----------
    labels : sequence of LabelStack
        Label images of one channel; 0 is background.
    cell_size : sequence of int
        Voxels of a cell, `(z,) y, x`.
    balance : {"foreground", "classes"}
        `"foreground"`: a cell weighs as much as it has voxels that are not background. `"classes"`: every label but the
        background has the same weight in total, whether its voxels are few or many.

    Returns
    -------
    list of array of float64
        For each stack, one weight a cell, `S(Z)YX`; all together make 1, or are all 0 where there is only background.

    Raises
    ------
    GeometryError
        If there are several channels, or the cells do not have the dimensions of the images.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> labels = np.array([[[[0, 0, 1, 2], [0, 0, 1, 1]]]])
    >>> label_weights([ArrayStack(labels, axes="SCYX")], cell_size=(1, 2), balance="classes")[0].tolist()
    [[[0.0, 0.6666666666666666], [0.0, 0.3333333333333333]]]
    """
    one_of("balance", balance, get_args(Balance))
    cell_size = spatial_tuple("cell_size", cell_size, least=1)
    shapes = series_shapes([stack.data_shape for stack in labels], len(cell_size))
    for data_idx, shape in enumerate(shapes):
        if shape[1] != 1:
            raise GeometryError(f"label stack {data_idx} has {shape[1]} channels (shape {shape}): it must have one")
    grids = [(shape[0], *cell_counts(shape[2:], cell_size)) for shape in shapes]
    counts = [_count_labels(stack, cell_size, grid) for stack, grid in zip(labels, grids, strict=True)]
    shares = [np.where(part.label != 0, part.voxels, 0) / 1.0 for part in counts]
    if balance == "classes":
        names, number = np.unique(np.concatenate([part.label for part in counts]), return_inverse=True)
        totals = np.bincount(number, np.concatenate([part.voxels for part in counts]), minlength=len(names))[number]
        starts = np.cumsum([len(part.label) for part in counts])[:-1]
        shares = [share / total for share, total in zip(shares, np.split(totals, starts), strict=True)]
    whole = sum(float(share.sum()) for share in shares) or 1.0
    return [
        (np.bincount(part.cell, share, minlength=prod(grid)) / whole).reshape(grid)
        for part, share, grid in zip(counts, shares, grids, strict=True)
    ]


def _count_labels(stack: LabelStack, cell_size: Sequence[int], grid: Sequence[int]) -> LabelCounts:
    parts = [
        _count_block(stack, sample_idx, cells, cell_size, grid)
        for sample_idx in range(grid[0])
        for cells in _blocks(grid[1:], cell_size)
    ]
    return LabelCounts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _blocks(grid: Sequence[int], cell_size: Sequence[int]) -> Iterator[tuple[range, ...]]:
    """Boxes of whole cells that are not too large to be read at once."""
    sides = list(grid)
    while max(sides) > 1 and prod(sides) * prod(cell_size) > _BLOCK_VOXELS:
        longest = sides.index(max(sides))
        sides[longest] = -(-sides[longest] // 2)
    starts = [range(0, count, side) for count, side in zip(grid, sides, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(
            range(start, min(start + side, count)) for start, side, count in zip(corner, sides, grid, strict=True)
        )


def _count_block(
    stack: LabelStack, sample_idx: int, cells: Sequence[range], cell_size: Sequence[int], grid: Sequence[int]
) -> LabelCounts:
    windows = [
        range(part.start * cell, min(part.stop * cell, size))
        for part, cell, size in zip(cells, cell_size, stack.data_shape[2:], strict=True)
    ]
    coords, extent = [window.start for window in windows], [len(window) for window in windows]
    labels = stack.extract_patch(sample_idx, None, coords, extent)[0].ravel()
    places = np.ix_(
        *(np.arange(window.start, window.stop) // cell for window, cell in zip(windows, cell_size, strict=True))
    )
    cell = np.ravel_multi_index((np.array(sample_idx), *places), tuple(grid)).ravel()
    # Labels come in runs: only where one begins is there anything to sort.
    begins = np.append(True, (labels[1:] != labels[:-1]) | (cell[1:] != cell[:-1]))
    first = np.flatnonzero(begins)
    names, number = np.unique(labels[first], return_inverse=True)
    pairs, pair = np.unique(cell[first] * len(names) + number, return_inverse=True)
    voxels = np.bincount(pair, np.diff(first, append=len(labels))).astype(np.int64)
    return LabelCounts(pairs // len(names), names[pairs % len(names)], voxels)
