"""The positions that patches may take in each sample, laid end to end on a line.

The cells of a sample follow each other on its line, the largest first, and so do the positions within a cell. A position
takes one unit of its line; if cells have probabilities, it takes more units the more probable its cell is. Drawing a patch
then means drawing a unit. A sample without restrictions needs no memory: its line is arithmetic. A restricted sample
stores, for each cell, its first unit and its free orthants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.geometry.cell_orthants import count_positions, free_orthants
from patchloom.geometry.grid_cells import cell_counts, cell_sides
from patchloom.patching.cell_lines import CellLines

_FINEST = 30
"""Bits of the resolution of a probability; fewer if the line would grow too long."""


@dataclass(frozen=True, eq=False, slots=True)
class Restriction:
    """The excluded cells and the probabilities of one sample."""

    allowed: NDArray[np.bool_]
    """Whether patches may touch a cell, for every cell of the image, including cut cells."""

    probabilities: NDArray[np.float64] | None = None
    """Probability that a patch starts in a cell, for every cell that a patch may start in. If None, 1."""

    def without(self, cells: NDArray[np.int64]) -> Restriction:
        """Return a restriction that excludes some more cells, one per row."""
        allowed = self.allowed.copy()
        allowed[tuple(cells.T)] = False
        return replace(self, allowed=allowed)

    def volume(self, shape: Sequence[int], cell_size: Sequence[int]) -> float:
        """Count the voxels that patches may touch, each weighted by the probability of its cell."""
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
    largest: NDArray[np.int64]
    """Number of units of the largest cells of each row."""
    restricted: NDArray[np.int64]
    """Index of each row in `cells`; -1 for rows without restrictions."""

    cells: CellLines
    """Lines of the restricted rows, in order."""
    number: NDArray[np.int64]
    """Number, in raster order, of each cell of the restricted rows."""
    orthants: NDArray[np.uint8]
    """Free orthants of each cell of the restricted rows."""

    @classmethod
    def build(
        cls,
        extents: Sequence[Sequence[int]],
        repeats: Sequence[int],
        restrictions: Mapping[int, tuple[int, Restriction]],
        cell_size: Sequence[int],
        most_draws: int,
    ) -> PositionLines:
        """Lay out the lines.

        Parameters
        ----------
        extents : sequence of sequence of int
            Number of positions along each axis, for each stack.
        repeats : sequence of int
            Number of rows of each stack.
        restrictions : mapping of int to tuple of int and Restriction
            Stack and restrictions of each restricted row.
        cell_size : sequence of int
            Size of a cell, which is that of a patch.
        most_draws : int
            Largest number of draws from one line.
        """
        units = np.repeat([prod(extent) for extent in extents], repeats)
        largest = np.repeat([prod(map(min, extent, cell_size)) for extent in extents], repeats)
        rows = list(restrictions)
        # The length of all lines together, and draws × cell, stay below 2**62 units.
        longest = max(int(units[rows].sum()), most_draws * prod(cell_size))
        finest = 2 ** max(0, min(_FINEST, 61 - longest.bit_length()))
        parts = [
            _cells_of(restriction, extents[stack], cell_size, finest) for stack, restriction in restrictions.values()
        ]
        cells = CellLines.of_lengths(
            _joined([part.units for part in parts]), np.cumsum([0, *(len(part.units) for part in parts)])
        )
        restricted = np.full(len(units), -1, dtype=np.int64)
        restricted[rows] = np.arange(len(rows))
        units[rows], largest[rows] = cells.n_units, [part.units[0] for part in parts]
        number, orthants = _joined([part.number for part in parts]), _joined([part.orthants for part in parts])
        return cls(units, largest, restricted, cells, number, orthants)


class _Cells(NamedTuple):
    number: NDArray[np.int64]
    orthants: NDArray[np.uint8]
    units: NDArray[np.int64]


def _cells_of(restriction: Restriction, extents: Sequence[int], cell_size: Sequence[int], finest: int) -> _Cells:
    """Lay out the cells of a sample, the largest first and otherwise in raster order."""
    orthants = free_orthants(restriction.allowed, cell_counts(extents, cell_size))
    units = count_positions(orthants.astype(np.int64), cell_sides(extents, cell_size))
    if restriction.probabilities is not None:
        shares = np.rint(restriction.probabilities * finest).astype(np.int64)
        units *= np.maximum(shares, restriction.probabilities > 0)  # a possible cell stays possible
    order = np.argsort(units.ravel() != units.max(), kind="stable")
    return _Cells(order, orthants.ravel()[order], units.ravel()[order])


def _joined(columns: list[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(columns) if columns else np.empty(0, dtype=np.int64)
