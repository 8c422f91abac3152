"""Boxes divided into cells of one size, from their first element on; the last cell along an axis may be cut.

A box is an image, counted in voxels, or the positions that a patch may take in one, counted in positions. Functions that
take numbers take arrays of `int64` as well, as in `tile_rule`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.patch_positions import unravel


def cell_counts(extents: Sequence[int], cell_size: Sequence[int]) -> tuple[int, ...]:
    """Count the cells along each axis, the cut ones too.

    Examples
    --------
    >>> cell_counts((10, 8), (4, 4))
    (3, 2)
    """
    return tuple(-(-extent // cell) for extent, cell in zip(extents, cell_size, strict=True))


def cell_sides(extents: Sequence[int], cell_size: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Give the sides of all cells as an open mesh: one array an axis, whose product is what each cell holds.

    Examples
    --------
    >>> [sides.tolist() for sides in cell_sides((10, 8), (4, 4))]
    [[[4], [4], [2]], [[4, 4]]]
    """
    counts = cell_counts(extents, cell_size)
    return np.ix_(
        *(
            np.minimum(cell, extent - cell * np.arange(count))
            for extent, cell, count in zip(extents, cell_size, counts, strict=True)
        )
    )


def cell_box(number: Any, extents: Sequence[Any], cell_size: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Find where a cell begins and how long its sides are.

    Parameters
    ----------
    number : int or array of int64
        Number of the cell in raster order; not checked.
    extents : sequence of int or array of int64
        Of the box, along each axis.
    cell_size : sequence of int
        Along each axis.

    Examples
    --------
    >>> cell_box(5, extents=(10, 8), cell_size=(4, 4))
    ([8, 4], [2, 4])
    """
    counts = [-(-extent // cell) for extent, cell in zip(extents, cell_size, strict=True)]
    corner = [index * cell for index, cell in zip(unravel(number, counts), cell_size, strict=True)]
    return corner, [_cut(extent - start, cell) for extent, start, cell in zip(extents, corner, cell_size, strict=True)]


def unravel_by_cells(number: Any, extents: Sequence[Any], cell_size: Sequence[int]) -> list[Any]:
    """Coordinates of an element of a box by its number, where all elements of a cell are numbered before the next cell's.

    Cells are in raster order, and so are the elements within each.

    Parameters
    ----------
    number : int or array of int64
        At least 0 and less than the product of the extents; not checked.
    extents : sequence of int or array of int64
        Of the box, along each axis.
    cell_size : sequence of int
        Along each axis.

    Examples
    --------
    >>> [unravel_by_cells(number, extents=(2, 5), cell_size=(2, 3)) for number in (4, 5, 6)]
    [[1, 1], [1, 2], [0, 3]]
    """
    corner, sides = [], []
    outer, inner = 1, 1
    for extent in extents:
        inner = inner * extent
    for extent, cell in zip(extents, cell_size, strict=True):
        inner = inner // extent
        slab = outer * cell * inner  # elements of one cell along this axis, and of all cells along the axes after it
        start = number // slab * cell
        number = number - start * (outer * inner)
        side = _cut(extent - start, cell)
        outer = outer * side
        corner.append(start)
        sides.append(side)
    return [start + offset for start, offset in zip(corner, unravel(number, sides), strict=True)]


def _cut(left: Any, cell: int) -> Any:
    """Side of a cell from whose start on this much of the box is left: the lesser of the two."""
    return left - (left - cell) * (left > cell)
