"""The positions that patches may take in each sample, laid end to end on a line.

The cells of a sample follow each other on its line, and so do the positions within a cell. A position takes up one unit
of its line; where cells have probabilities, it takes up more units the more probable its cell is. To draw a patch is then
to draw a unit. A sample without restrictions needs no memory for this: all about its line is arithmetic. A restricted
one keeps, for each cell, where on the line it begins and which of its orthants are free.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.cell_orthants import count_positions, free_orthants

_FINEST = 30
"""A probability is met to one part in 2**30, or less finely where the line would grow too long."""

_LONGEST = 60
"""All lines together have fewer than 2**60 units."""


@dataclass(frozen=True, eq=False, slots=True)
class Restriction:
    """What may not be drawn, or seldom, in one sample."""

    allowed: NDArray[np.bool_]
    """Whether patches may touch a cell, for every cell of the image, cut ones too."""

    probabilities: NDArray[np.float64] | None = None
    """How probable a start in a cell is, for every cell that a patch may start in; 1 where not given."""

    def without(self, cells: NDArray[np.int64]) -> Restriction:
        """Forbid some cells, one a row."""
        allowed = self.allowed.copy()
        allowed[tuple(cells.T)] = False
        return replace(self, allowed=allowed)

    def volume(self, shape: Sequence[int], cell_size: Sequence[int]) -> float:
        """Voxels that patches may touch, each counted with its cell's probability."""
        sizes = [
            np.minimum(cell, size - cell * np.arange(count))
            for size, cell, count in zip(shape, cell_size, self.allowed.shape, strict=True)
        ]
        volume = float((prod(np.ix_(*sizes)) * self.allowed).sum())
        if self.probabilities is None:
            return volume
        whole = self.allowed[tuple(map(slice, self.probabilities.shape))]
        return volume - prod(cell_size) * float((1 - self.probabilities)[whole].sum())


class Found(NamedTuple):
    """Where on the line of a restricted sample a unit lies: numbers, or arrays of numbers."""

    cell: int
    """Number of the cell in raster order."""
    unit: int
    """Number of the unit within the cell."""
    n_units: int
    """Units of the cell."""
    orthants: int
    """The free ones of the cell."""


@dataclass(frozen=True, eq=False, slots=True)
class PositionLines:
    """The lines of many samples; a row is a sample, or a stack whose samples all have the same line."""

    units: NDArray[np.int64]
    """Length of the line of each row."""
    restricted: NDArray[np.bool_]
    """Whether the row has restrictions."""

    first_cell: NDArray[np.int64]
    """For each row, the first of its cells in the arrays below."""
    edges: NDArray[np.int64]
    """For each cell of the restricted rows, where it begins, if their lines are laid end to end; and the end of the last."""
    orthants: NDArray[np.uint8]
    """For each cell of the restricted rows, its free orthants."""

    @classmethod
    def build(
        cls,
        units: NDArray[np.int64],
        extents: Mapping[int, Sequence[int]],
        restrictions: Mapping[int, Restriction],
        cell_size: Sequence[int],
    ) -> PositionLines:
        """Lay out the lines.

        Parameters
        ----------
        units : array of int64
            Number of positions of each row, as if it had no restrictions.
        extents : mapping of int to sequence of int
            For each restricted row, the number of positions along each axis.
        restrictions : mapping of int to Restriction
            For each restricted row, its restrictions.
        cell_size : sequence of int
            Size of a cell, which is that of a patch.
        """
        units, first_cell = units.copy(), np.zeros(len(units), dtype=np.int64)
        restricted = np.zeros(len(units), dtype=np.bool_)
        lengths, orthants = [np.zeros(1, dtype=np.int64)], [np.empty(0, dtype=np.uint8)]
        positions = sum(int(units[row]) for row in restrictions)
        scale = 2 ** max(0, min(_FINEST, _LONGEST - positions.bit_length()))
        n_cells = 0
        for row, restriction in restrictions.items():
            free, length = _cells_of(restriction, extents[row], cell_size, scale)
            units[row], restricted[row], first_cell[row] = length.sum(), True, n_cells
            lengths.append(length)
            orthants.append(free)
            n_cells += len(free)
        edges = np.cumsum(np.concatenate(lengths))
        return cls(units, restricted, first_cell, edges, np.concatenate(orthants))

    def find(self, row: int, unit: int) -> Found:
        """Find the cell of a unit of the line of a restricted row."""
        first = self.first_cell.item(row)
        unit += self.edges.item(first)
        cell = int(self.edges.searchsorted(unit, side="right")) - 1
        start, stop = self.edges.item(cell), self.edges.item(cell + 1)
        return Found(cell - first, unit - start, stop - start, self.orthants.item(cell))

    def find_many(self, rows: NDArray[np.int64], units: NDArray[np.int64]) -> Found:
        """Find the cells of many units; the same as `find` finds."""
        first = self.first_cell[rows]
        units = units + self.edges[first]
        cells = self.edges.searchsorted(units, side="right") - 1
        starts, stops = self.edges[cells], self.edges[cells + 1]
        found = (cells - first, units - starts, stops - starts, self.orthants[cells].astype(np.int64))
        return Found(*found)  # type: ignore[arg-type]  # arrays in, arrays out


def _cells_of(
    restriction: Restriction, extents: Sequence[int], cell_size: Sequence[int], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Free orthants and units of the cells of a sample, in raster order."""
    counts = tuple(-(-extent // cell) for extent, cell in zip(extents, cell_size, strict=True))
    orthants = free_orthants(restriction.allowed, counts)
    widths = np.ix_(
        *(
            np.minimum(cell, extent - cell * np.arange(count))
            for extent, cell, count in zip(extents, cell_size, counts, strict=True)
        )
    )
    units = count_positions(orthants.astype(np.int64), widths)
    if restriction.probabilities is not None:
        shares = np.rint(restriction.probabilities * scale).astype(np.int64)
        units *= np.maximum(shares, restriction.probabilities > 0)  # what is possible at all stays possible
    return orthants.ravel(), units.ravel()
