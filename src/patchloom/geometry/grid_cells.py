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
    """Count the cells along each axis, including those cut by the end of the box.

    Examples
    --------
    >>> cell_counts((10, 8), (4, 4))
    (3, 2)
    """
    return tuple(-(-extent // cell) for extent, cell in zip(extents, cell_size, strict=True))


def cell_sides(extents: Sequence[int], cell_size: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Return the sides of all cells as an open mesh: one array per axis, whose product is the size of each cell.

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
    """Return the first element of a cell and the lengths of its sides.

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
    """Return the coordinates of an element of a box by its number, if all elements of a cell are numbered before the next cell's.

    Whole cells come first, then cells that are cut along one axis or more. Apart from this, cells are in raster order, and so
    are the elements within each.

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
    >>> [unravel_by_cells(number, extents=(4, 5), cell_size=(2, 3)) for number in (5, 6, 12, 13)]
    [[1, 2], [2, 0], [0, 3], [0, 4]]
    """
    cuts = [extent % cell for extent, cell in zip(extents, cell_size, strict=True)]
    rest, own, within = number, 0, 0
    for cut_axes in range(1 << len(cuts)):
        size = 1
        for axis, (extent, cut) in enumerate(zip(extents, cuts, strict=True)):
            size = size * (cut if cut_axes >> axis & 1 else extent - cut)
        here = (rest >= 0) & (rest < size)
        own = own + here * cut_axes
        within = within + here * rest
        rest = rest - size
        if isinstance(rest, int) and rest < 0:
            break  # one number has found its place, which mostly is among the whole cells
    starts, sides = [], []
    for axis, (extent, cut) in enumerate(zip(extents, cuts, strict=True)):
        is_cut = own >> axis & 1
        starts.append(is_cut * (extent - cut))
        sides.append(extent - cut + is_cut * (2 * cut - extent))
    return [start + coord for start, coord in zip(starts, _unravel_raster(within, sides, cell_size), strict=True)]


def _unravel_raster(number: Any, extents: Sequence[Any], cell_size: Sequence[int]) -> list[Any]:
    """Unravel as `unravel_by_cells` does, where no axis is longer than a cell unless it is divided without a cut."""
    corner = []
    outer, inner = 1, 1
    for extent in extents:
        inner = inner * extent
    for extent, cell in zip(extents, cell_size, strict=True):
        side = _cut(extent, cell)
        inner = inner // extent
        step = number // (outer * side * inner) * side
        number = number - step * (outer * inner)
        outer = outer * side
        corner.append(step)
    sides = [_cut(extent, cell) for extent, cell in zip(extents, cell_size, strict=True)]
    return [start + offset for start, offset in zip(corner, unravel(number, sides), strict=True)]


def _cut(left: Any, cell: int) -> Any:
    """Return the side of a cell, given the length of the box from its start on: the smaller of the two numbers."""
    return left - (left - cell) * (left > cell)
