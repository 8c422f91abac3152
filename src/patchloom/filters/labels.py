"""Weights of cells, computed from label images."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of, real_number
from patchloom.errors import ArgumentError
from patchloom.geometry.checks import series_shapes, size_in_series, whole_number
from patchloom.geometry.grid_cells import cell_counts, cell_sides
from patchloom.image_stacks import ImageStack, ScanBlock, listed_stacks, scan_stack

Balance = Literal["foreground", "classes"]

MAX_BYTES = 4 << 20
"""Bytes of labels that are held at once; counting them takes several times as much."""


class _LabelCounts(NamedTuple):
    """Number of voxels of each label in each cell, one row for each cell and label that occur together."""

    grid: tuple[int, ...]
    """Number of samples and cells, `S(Z)YX`."""
    cell: NDArray[np.int64]
    """Index of the cell among those of all samples of the stack, in raster order."""
    label: NDArray[Any]
    voxels: NDArray[np.int64]


def label_weights(
    labels: Sequence[ImageStack],
    cell_size: int | Sequence[int],
    *,
    balance: Balance = "foreground",
    share: float = 1.0,
    max_bytes: int = MAX_BYTES,
) -> list[NDArray[np.float64]]:
    """Weigh the cells of label images by their labels, for a `WeightedPatching`.

    Labels are read once, block by block.

    Parameters
    ----------
    labels : sequence of ImageStack
        For each image stack, labels of the same samples and size, in one channel; 0 is background.
    cell_size : int or sequence of int
        Size of a cell in voxels, `(z,) y, x`, or one number for all axes, within which labels are not distinguished. Half a patch is a good choice.
    balance : {"foreground", "classes"}
        `"foreground"`: every voxel that is not background weighs the same. `"classes"`: every label but the background
        weighs the same in total, whether its voxels are few or many.
    share : float
        This share of the weight, from 0 to 1, is given by labels; the rest is given to all voxels alike.
    max_bytes : int
        Bytes of labels that are held at once; a single cell may have more. The weights do not depend on it.

    Returns
    -------
    list of array of float64
        For each stack, one weight for each cell, `S(Z)YX`; the sum over all stacks is 1.

    Raises
    ------
    ArgumentError
        If a label image has several channels, the cells do not have the dimensions of the images, or all labels are 0.
    SourceError
        If labels cannot be read.

    Examples
    --------
    >>> from patchloom import ArrayStack, WeightedPatching
    >>> labels = np.zeros((1, 1, 256, 256), dtype=np.uint8)
    >>> labels[0, 0, 100:110, 200:210] = 1
    >>> weights = label_weights([ArrayStack(labels, axes="SCYX")], cell_size=(8, 8))
    >>> patching = WeightedPatching([labels.shape], (64, 64), weights, cell_size=(8, 8), seed=7)
    >>> all(labels[0, 0][y : y + 64, x : x + 64].any() for y, x in (spec["coords"] for spec in patching))
    True
    """
    labels = listed_stacks("labels", labels)
    one_of("balance", balance, get_args(Balance))
    share = real_number("share", share, least=0, most=1)
    whole_number("max_bytes", max_bytes, least=1)
    data_shapes = [stack.data_shape for stack in labels]
    cell_size = size_in_series("cell_size", cell_size, data_shapes, least=1)
    shapes = series_shapes(data_shapes, len(cell_size))
    for data_idx, shape in enumerate(shapes):
        if shape[1] != 1:
            raise ArgumentError(f"labels[{data_idx}] has {shape[1]} channels (shape {shape}): it must have one")
    by_label = _balanced([_count_labels(stack, cell_size, max_bytes) for stack in labels], balance)
    if share and not any(map(np.any, by_label)):
        raise ArgumentError("labels are 0 everywhere: give labels with foreground, or share=0")
    anywhere = 1 / sum(shape[0] * prod(shape[2:]) for shape in shapes)
    return [
        share * weights + (1 - share) * anywhere * prod(cell_sides(shape[2:], cell_size))
        for weights, shape in zip(by_label, shapes, strict=True)
    ]


def _balanced(counts: Sequence[_LabelCounts], balance: Balance) -> list[NDArray[np.float64]]:
    """Return a weight for each cell of each stack; all together make 1, or are 0 if there is only background."""
    shares = [np.where(part.label != 0, part.voxels, 0) / 1.0 for part in counts]
    if balance == "classes":
        names, number = np.unique(np.concatenate([part.label for part in counts]), return_inverse=True)
        totals = np.bincount(number, np.concatenate([part.voxels for part in counts]), minlength=len(names))[number]
        starts = np.cumsum([len(part.label) for part in counts])[:-1]
        shares = [share / total for share, total in zip(shares, np.split(totals, starts), strict=True)]
    whole = sum(float(share.sum()) for share in shares) or 1.0
    return [
        (np.bincount(part.cell, share, minlength=prod(part.grid)) / whole).reshape(part.grid)
        for part, share in zip(counts, shares, strict=True)
    ]


def _count_labels(stack: ImageStack, cell_size: tuple[int, ...], max_bytes: int) -> _LabelCounts:
    grid = (stack.data_shape[0], *cell_counts(stack.data_shape[2:], cell_size))
    blocks = scan_stack(stack, cell_size=cell_size, max_bytes=max_bytes)
    parts = [_count_block(block, pixels[0], cell_size, grid) for block, pixels in blocks]
    cell, label, voxels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((label, cell))  # so that sums do not depend on the blocks
    return _LabelCounts(grid, cell[order], label[order], voxels[order])


def _count_block(
    block: ScanBlock, labels: NDArray[Any], cell_size: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.int64]]:
    """Return the columns of `_LabelCounts` for a block."""
    labels = labels.ravel()
    cells = [np.arange(part.start, part.stop) // cell for part, cell in zip(block.window, cell_size, strict=True)]
    cell = np.ravel_multi_index((np.array(block.sample_idx), *np.ix_(*cells)), grid).ravel()
    # Labels come in runs: only where one begins is there anything to sort.
    begins = np.append(True, (labels[1:] != labels[:-1]) | (cell[1:] != cell[:-1]))
    first = np.flatnonzero(begins)
    names, number = np.unique(labels[first], return_inverse=True)
    pairs, pair = np.unique(cell[first] * len(names) + number, return_inverse=True)
    voxels = np.bincount(pair, np.diff(first, append=len(labels))).astype(np.int64)
    return pairs // len(names), names[pairs % len(names)], voxels
