"""The cells of many samples laid end to end on lines, each with a length proportional to its probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class CellUnit(NamedTuple):
    """The cell of a unit of a line: whole numbers, or arrays of whole numbers."""

    entry: int
    """Number of the cell among those of all samples."""
    cell: int
    """Number of the cell within its sample."""
    unit: int
    """Number of the unit within the cell."""
    n_units: int
    """Number of units in the cell."""


@dataclass(frozen=True, eq=False, slots=True)
class CellLines:
    """For each sample, a line of whole units that is divided among its cells; eight bytes per cell.

    Parameters
    ----------
    edges : array of int64
        First unit of each cell, if the lines of all samples are laid end to end; and the end of the last cell.
    first_cell : array of int64
        First cell of each sample; and the number of cells.

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
        """Lay out cells of the given lengths."""
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
        """Find the cells of many units; equal to the results of `find`."""
        first = self.first_cell[samples]
        units = units + self.edges[first]
        entries = self.edges.searchsorted(units, side="right") - 1
        starts, stops = self.edges[entries], self.edges[entries + 1]
        return CellUnit(entries, entries - first, units - starts, stops - starts)  # type: ignore[arg-type]  # arrays in, arrays out
