"""The cells of many samples laid end to end on lines, each as long as it is likely to be drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class CellUnit(NamedTuple):
    """The cell that a unit of a line belongs to: numbers, or arrays of numbers."""

    entry: int
    """Number of the cell among those of all samples."""
    cell: int
    """Number of the cell within its sample."""
    unit: int
    """Number of the unit within the cell."""
    n_units: int
    """Units of the cell."""


@dataclass(frozen=True, eq=False, slots=True)
class CellLines:
    """For each sample a line of whole units, divided among its cells; eight bytes a cell.

    Parameters
    ----------
    edges : array of int64
        For each cell, where it begins, if the lines of all samples are laid end to end; and the end of the last.
    first_cell : array of int64
        For each sample, its first cell; and the number of cells.

    Examples
    --------
    >>> lines = CellLines.of_lengths(np.array([3, 0, 2, 5]), first_cell=np.array([0, 3, 4]))
    >>> lines.find(sample=0, unit=4)
    CellUnit(entry=2, cell=2, unit=1, n_units=2)
    """

    edges: NDArray[np.int64]
    first_cell: NDArray[np.int64]

    @classmethod
    def of_lengths(cls, lengths: NDArray[np.int64], first_cell: NDArray[np.int64]) -> CellLines:
        """Lay out cells of some lengths."""
        edges = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=edges[1:])
        return cls(edges, first_cell)

    @property
    def n_units(self) -> NDArray[np.int64]:
        """Length of the line of each sample."""
        return np.diff(self.edges[self.first_cell])

    def find(self, sample: int, unit: int) -> CellUnit:
        """Find the cell of a unit of a sample's line."""
        first = self.first_cell.item(sample)
        unit += self.edges.item(first)
        entry = int(self.edges.searchsorted(unit, side="right")) - 1
        start, stop = self.edges.item(entry), self.edges.item(entry + 1)
        return CellUnit(entry, entry - first, unit - start, stop - start)

    def find_many(self, samples: NDArray[np.int64], units: NDArray[np.int64]) -> CellUnit:
        """Find the cells of many units; the same as `find` finds."""
        first = self.first_cell[samples]
        units = units + self.edges[first]
        entries = self.edges.searchsorted(units, side="right") - 1
        starts, stops = self.edges[entries], self.edges[entries + 1]
        return CellUnit(entries, entries - first, units - starts, stops - starts)  # type: ignore[arg-type]  # arrays in, arrays out
