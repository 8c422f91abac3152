"""Scores of the cells of a series."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import real_number
from patchloom.errors import ArgumentError
from patchloom.geometry.grid_cells import cell_sides


@dataclass(frozen=True, eq=False)
class ScoreMap:
    """The score of every cell of a series of image stacks; see `score_cells`.

    Cell `g` of a sample begins at voxel `g * cell_size`. The last cells are cut by the end of the image if its size is not a
    multiple of the cell size. NaN marks a cell without a score.

    Examples
    --------
    >>> from patchloom import ArrayStack, MaxFilter, score_cells
    >>> stack = ArrayStack(np.arange(40).reshape(4, 10), axes="YX")
    >>> (brightness,) = score_cells([stack], cell_size=(4, 4), filters=[MaxFilter()])
    >>> brightness.scores[0].tolist(), brightness.quantile(0.5)
    ([[[33.0, 37.0, 39.0]]], 37.0)
    >>> brightness.below(37)[0].tolist()
    [[[True, False, False]]]
    """

    scores: tuple[NDArray[np.float64], ...]
    """One array for each image stack, `(S, *grid)`; read-only."""

    cell_size: tuple[int, ...]
    """Size of a cell in voxels, `(z,) y, x`."""

    data_shapes: tuple[tuple[int, ...], ...]
    """Shape of each image stack, `SC(Z)YX`."""

    name: str
    """Name of the filter."""

    def quantile(self, share: float) -> float:
        """Return the score that a share of the cells of the whole series do not reach; a threshold for `below`.

        Parameters
        ----------
        share : float
            Share of the cells, from 0 to 1.

        Raises
        ------
        ArgumentError
            If `share` is not from 0 to 1, or no cell has a score.
        """
        real_number("share", share, least=0, most=1)
        known = np.concatenate([scores[~np.isnan(scores)] for scores in self.scores])
        if not len(known):
            raise ArgumentError(
                f"no cell of the series has a score of {self.name}, all are NaN: check the filter and the images"
            )
        return float(np.quantile(known, share))

    def below(self, threshold: float) -> tuple[NDArray[np.bool_], ...]:
        """Return which cells do not reach a threshold, the same for the whole series; NaN reaches none.

        Parameters
        ----------
        threshold : float
            Lowest score that is not below.

        Returns
        -------
        tuple of array of bool
            One for each image stack, `(S, *grid)`.
        """
        real_number("threshold", threshold, finite=False)
        return tuple(~(scores >= threshold) for scores in self.scores)

    def weights(self, above: float = 0.0) -> tuple[NDArray[np.float64], ...]:
        """Weigh each cell by its score and its number of voxels, for a `WeightedPatching`.

        Parameters
        ----------
        above : float
            Highest score with weight 0; NaN has weight 0 as well.

        Returns
        -------
        tuple of array of float64
            One for each image stack, `(S, *grid)`; at least 0.
        """
        real_number("above", above)
        return tuple(
            np.nan_to_num(np.maximum(scores - above, 0)) * prod(cell_sides(shape[2:], self.cell_size))
            for scores, shape in zip(self.scores, self.data_shapes, strict=True)
        )

    def __repr__(self) -> str:
        cells = sum(scores.size for scores in self.scores)
        return f"ScoreMap({self.name!r}, {cells} cells of {self.cell_size} in {len(self.scores)} image stacks)"
