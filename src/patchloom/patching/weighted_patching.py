"""Random patches drawn in proportion to a weight map."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from patchloom.argument_checks import listed, shown
from patchloom.errors import GeometryError
from patchloom.geometry.checks import one_per_axis
from patchloom.geometry.grid_cells import cell_box, cell_counts
from patchloom.geometry.patch_positions import position_counts, unravel
from patchloom.patching.cell_lines import CellLines
from patchloom.patching.counter_random import CounterRandom, Stream
from patchloom.patching.flat_index import PatchNumbering, Place, Places
from patchloom.patching.random_patching import covering_patches
from patchloom.patching.randomized_patching import RandomizedPatching

_UNITS = 2**52
"""Resolution of a weight, as a part of the sum of all weights."""


class WeightedPatching(RandomizedPatching):
    """Patches at random positions, different in every epoch, drawn in proportion to a coarse weight map.

    A cell of the map is drawn in proportion to its weight, then a voxel of the cell. The patch is centered on this voxel and,
    if it would reach past the border, moved inside the image. So cells near the border are drawn as often as their weight
    demands.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : int or sequence of int
        `(z,) y, x`, or one number for all axes, in voxels.
    weights : sequence of array
        Weight of every cell, an array `S(Z)YX` for each stack; at least 0. `label_weights` computes them from label images,
        `ScoreMap.weights` from scores. The last cell along an axis may be cut by the end of the image; its weight is not
        scaled by its size.
    cell_size : int or sequence of int
        Size of a cell in voxels, `(z,) y, x`, or one number for all axes.
    seed : int, optional
        Patchings with the same seed are the same. If None, a seed is drawn; see the attribute `seed`.
    n_patches : int, optional
        Number of patches in an epoch, distributed over samples in proportion to their weights; patch `i` may come from
        another sample in another epoch. If None, as many as cover all images without overlap.

    Raises
    ------
    GeometryError
        If a size or weight is not valid, a patch is larger than an image, or all weights are 0.

    Examples
    --------
    >>> weights = np.zeros((1, 8, 8))
    >>> weights[0, 0, 7] = 1
    >>> patching = WeightedPatching([(1, 1, 256, 256)], (64, 64), [weights], cell_size=(32, 32), seed=7)
    >>> len(patching), {spec["coords"] for spec in patching}
    (16, {(0, 192)})
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        weights: Sequence[ArrayLike],
        cell_size: int | Sequence[int],
        seed: int | None = 0,
        *,
        n_patches: int | None = None,
    ) -> None:
        super().__init__(data_shapes, patch_size, seed, n_patches)
        self.cell_size = one_per_axis("cell_size", cell_size, len(self.patch_size), least=1)
        position_counts(self.data_shapes, self.patch_size)  # refuses patches that are larger than an image
        self._size_table = np.array([shape[2:] for shape in self.data_shapes], dtype=np.int64)
        grids = [(shape[0], *cell_counts(shape[2:], self.cell_size)) for shape in self.data_shapes]
        cells_of_rows = np.repeat([prod(grid[1:]) for grid in grids], [grid[0] for grid in grids])
        self._cells = CellLines.of_lengths(
            _units(_checked_weights(weights, grids, self.cell_size)), np.cumsum(np.append(0, cells_of_rows))
        )
        self._row_units = self._cells.n_units

    def _begin_epoch(self, epoch: int) -> None:
        super()._begin_epoch(epoch)
        self._cell_draws = CounterRandom(self.seed, epoch, Stream.CELL)
        self._forget_numbering()

    def _numbering(self) -> PatchNumbering:
        covering = sum(shape[0] * covering_patches(shape, self.patch_size) for shape in self.data_shapes)
        return self._spread(self._row_units.astype(np.float64), self._requested or covering)

    def _coords(self, place: Place) -> list[int]:
        unit = self._cell_draws.below(self._row_units.item(place.row), place.flat)
        found = self._cells.find(place.row, unit)
        sizes = self.data_shapes[place.data_idx][2:]
        corner, sides = cell_box(found.cell, sizes, self.cell_size)
        voxel = unravel(self._draws.below(prod(sides), place.flat), sides)
        return self._centered(corner, voxel, sizes)

    def _many_coords(self, places: Places) -> list[NDArray[np.int64]]:
        units = self._cell_draws.below_many(self._row_units[places.row], places.flat)
        found = self._cells.find_many(places.row, units)
        sizes = places.of_stacks(self._size_table)
        corner, sides = cell_box(found.cell, sizes, self.cell_size)
        voxel = unravel(self._draws.below_many(prod(sides), places.flat), sides)
        return self._centered(corner, voxel, sizes)

    def _centered(self, corner: Sequence[Any], voxel: Sequence[Any], sizes: Sequence[Any]) -> list[Any]:
        """Center a patch on a voxel of a cell, as far as the borders allow; holds for one `int` and for arrays alike."""
        coords = []
        for start, offset, patch, size in zip(corner, voxel, self.patch_size, sizes, strict=True):
            coord = start + offset - patch // 2
            coord = coord * (coord > 0)
            coords.append(coord - (coord - (size - patch)) * (coord > size - patch))
        return coords


def _checked_weights(
    weights: Sequence[ArrayLike], grids: Sequence[tuple[int, ...]], cell_size: tuple[int, ...]
) -> NDArray[np.float64]:
    """Check the weights, and return them in one row, stack by stack."""
    what = "one array of numbers for each image stack"
    maps = [_weight_map(data_idx, of_stack) for data_idx, of_stack in enumerate(listed("weights", weights, what))]
    if len(maps) != len(grids):
        raise GeometryError(f"there are {len(maps)} weight maps for {len(grids)} image stacks: give one for each")
    for data_idx, (of_stack, grid) in enumerate(zip(maps, grids, strict=True)):
        if of_stack.shape != grid:
            raise GeometryError(
                f"the weights of image stack {data_idx} have shape {of_stack.shape}, but it has {grid} samples and cells "
                f"of {cell_size}: give one weight for each"
            )
        if not (np.isfinite(of_stack).all() and (of_stack >= 0).all()):
            raise GeometryError(f"a weight of image stack {data_idx} is negative or not finite: it must be at least 0")
    row = np.concatenate([of_stack.ravel() for of_stack in maps])
    if not row.any():
        raise GeometryError("all weights are 0: there is nothing to draw patches from")
    return row


def _weight_map(data_idx: int, weights: Any) -> NDArray[np.float64]:
    try:
        values = np.asarray(weights)
    except ValueError:  # lists of different lengths
        values = np.empty(0, dtype=object)
    if values.dtype.kind not in "biuf":
        raise GeometryError(f"weights[{data_idx}] is {shown(weights)}: it must be an array of numbers")
    return values.astype(np.float64, copy=False)


def _units(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    units: NDArray[np.int64] = np.rint(weights * (_UNITS / weights.sum())).astype(np.int64)
    units[(units == 0) & (weights > 0)] = 1  # a possible cell stays possible
    return units
