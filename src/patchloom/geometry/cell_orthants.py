"""Which positions in a grid cell a patch may take where neighboring cells must not be touched.

Cells have the size of the patch. A patch that starts in cell `g` with an offset of 0 along an axis lies in `g` alone along
that axis; with any other offset it reaches into `g + 1` as well. So the offsets of a cell fall apart into `2ⁿ` *orthants*,
each of which touches one set of cells, and a set of forbidden cells rules out whole orthants. In 2D, of a cell with
offsets from 0 to 3::

                0   1   2   3
              ┌───┬───────────┐
            0 │ 0 │  2: and → │     orthant 0 touches g alone, 1 the cell below too, 2 the one to the right,
              ├───┼───────────┤     3 both of these and the one across
            1 │ 1:│           │
            2 │and│     3     │     bit a of an orthant's number: the offset along axis a is not 0
            3 │ ↓ │           │
              └───┴───────────┘

`free_orthants` takes whole grids. The other functions hold for one `int` and for arrays of `int64` alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.patch_positions import unravel


def free_orthants(allowed: NDArray[np.bool_], grid_shape: Sequence[int]) -> NDArray[np.uint8]:
    """Find the orthants of each cell that touch no forbidden cell.

    Parameters
    ----------
    allowed : array of bool
        Whether patches may touch a cell, for every cell of an image, including the cells cut by the end of the image.
    grid_shape : sequence of int
        Number of cells along each axis, from the first, in which a patch may start.

    Returns
    -------
    array of uint8
        The set of free orthants of each cell of the grid: bit `o` for orthant `o`.

    Examples
    --------
    >>> free_orthants(np.array([[True, True, False]]), (1, 3)).tolist()
    [[15, 3, 0]]
    """
    # Cells past the image are never forbidden: a patch does not reach them.
    free = [np.pad(allowed, [(0, 1)] * allowed.ndim, constant_values=True)]
    for axis in range(allowed.ndim):
        free += [mask & np.roll(mask, -1, axis) for mask in free]
    cells = tuple(map(slice, grid_shape))
    orthants = np.zeros(tuple(grid_shape), dtype=np.uint8)
    for orthant, mask in enumerate(free):
        orthants |= mask[cells].astype(np.uint8) << np.uint8(orthant)
    return orthants


def count_positions(orthants: Any, widths: Sequence[Any]) -> Any:
    """Count the offsets in a set of orthants of a cell.

    Parameters
    ----------
    orthants : int or array of int64
        The set, as returned by `free_orthants`.
    widths : sequence of int or array of int64
        Number of offsets in the cell along each axis.

    Examples
    --------
    >>> count_positions(0b0011, widths=(4, 4))
    4
    """
    return sum(_sizes(orthants, widths))


def unravel_orthants(number: Any, n_numbers: Any, orthants: Any, widths: Sequence[Any]) -> list[Any]:
    """Return the offsets of a position by its number, if every position in a set of orthants has equally many numbers.

    Parameters
    ----------
    number : int or array of int64
        At least 0 and less than `n_numbers`; not checked.
    n_numbers : int or array of int64
        A multiple of `count_positions`.
    orthants, widths
        As for `count_positions`.

    Examples
    --------
    >>> [unravel_orthants(number, 8, 0b0011, widths=(4, 4)) for number in (0, 1, 2, 7)]
    [[1, 0], [1, 0], [2, 0], [0, 0]]
    """
    sizes = _sizes(orthants, widths)
    rest, own, within = number // (n_numbers // sum(sizes)), 0, 0
    for orthant in reversed(range(len(sizes))):  # the largest comes first
        here = (rest >= 0) & (rest < sizes[orthant])
        own = own + here * orthant
        within = within + here * rest
        rest = rest - sizes[orthant]
        if isinstance(rest, int) and rest < 0:
            break  # one number has found its place
    bits = [own >> axis & 1 for axis in range(len(widths))]
    # Within an orthant, an axis has one offset, which is 0, or all the others.
    offsets = unravel(within, [1 + bit * (width - 2) for bit, width in zip(bits, widths, strict=True)])
    return [bit + offset for bit, offset in zip(bits, offsets, strict=True)]


def _sizes(orthants: Any, widths: Sequence[Any]) -> list[Any]:
    """Count the offsets of each orthant; 0 if it is not in the set."""
    sizes: list[Any] = [1]
    for width in widths:
        sizes += [size * (width - 1) for size in sizes]
    return [size * (orthants >> orthant & 1) for orthant, size in enumerate(sizes)]
