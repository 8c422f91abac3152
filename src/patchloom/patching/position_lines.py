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

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.cell_orthants import count_positions, free_orthants
from patchloom.geometry.grid_cells import cell_counts, cell_sides
from patchloom.patching.cell_lines import CellLines

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
        volume = float((prod(cell_sides(shape, cell_size)) * self.allowed).sum())
        if self.probabilities is None:
            return volume
        whole = self.allowed[tuple(map(slice, self.probabilities.shape))]
        return volume - prod(cell_size) * float((1 - self.probabilities)[whole].sum())


@dataclass(frozen=True, eq=False, slots=True)
class PositionLines:
    """The lines of many samples; a row is a sample, or a stack whose samples all have the same line."""

    units: NDArray[np.int64]
    """Length of the line of each row."""
    restricted: NDArray[np.int64]
    """For each row, its number in `cells`; -1 where it has no restrictions."""

    cells: CellLines
    """Of the restricted rows, in order."""
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
        positions = sum(int(units[row]) for row in restrictions)
        scale = 2 ** max(0, min(_FINEST, _LONGEST - positions.bit_length()))
        parts = [_cells_of(restriction, extents[row], cell_size, scale) for row, restriction in restrictions.items()]
        orthants = np.concatenate([np.empty(0, dtype=np.uint8), *(orthants for orthants, _ in parts)])
        lengths = np.concatenate([np.empty(0, dtype=np.int64), *(lengths for _, lengths in parts)])
        cells = CellLines.of_lengths(lengths, np.cumsum([0, *(len(part[0]) for part in parts)]))
        rows = list(restrictions)
        units, restricted = units.copy(), np.full(len(units), -1, dtype=np.int64)
        units[rows], restricted[rows] = cells.n_units, np.arange(len(rows))
        return cls(units, restricted, cells, orthants)


def _cells_of(
    restriction: Restriction, extents: Sequence[int], cell_size: Sequence[int], scale: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Free orthants and units of the cells of a sample, in raster order."""
    orthants = free_orthants(restriction.allowed, cell_counts(extents, cell_size))
    units = count_positions(orthants.astype(np.int64), cell_sides(extents, cell_size))
    if restriction.probabilities is not None:
        shares = np.rint(restriction.probabilities * scale).astype(np.int64)
        units *= np.maximum(shares, restriction.probabilities > 0)  # what is possible at all stays possible
    return orthants.ravel(), units.ravel()
