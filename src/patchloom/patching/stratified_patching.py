"""Random patches that are spread evenly over every image and avoid excluded cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import ceil, prod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import real_number, shown
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError, PatchIndexError
from patchloom.geometry.cell_orthants import unravel_orthants
from patchloom.geometry.grid_cells import cell_box, cell_counts, unravel_by_cells
from patchloom.geometry.patch_positions import position_counts
from patchloom.geometry.strata import stratum_of
from patchloom.patching.careamics_names import LazySequence, SamplePart
from patchloom.patching.cell_lines import CellUnit
from patchloom.patching.counter_random import CounterRandom, Stream
from patchloom.patching.flat_index import FlatIndex, PatchNumbering, Place, Places, UnevenIndex, check_sample
from patchloom.patching.position_lines import PositionLines, Restriction
from patchloom.patching.randomized_patching import RandomizedPatching

_ROUNDING = 1e-9
"""Tolerance of a number of patches that is a sum of probabilities: 10 times 0.1 is one patch, not two."""

_EXCLUDED = -1.0
"""Stands for the probability of an excluded cell."""

_MOST_PATCHES = 3_037_000_499
"""Largest number of patches of one sample: the square of the number of strata has to fit into 63 bits."""


class StratifiedPatching(RandomizedPatching):
    """Patches at random positions, different in every epoch, evenly spread in each; cells can be excluded.

    Every image is divided into cells of the patch size, from its first voxel on. The positions that a patch may take in a
    sample are numbered cell by cell and cut into strata, and patch `i` of an epoch is drawn from stratum `i`. So each position
    is equally likely, but no epoch omits a region or crowds another: if there are enough patches, one starts in every cell
    that has all its positions, and patch `i` starts in the same cell in every epoch.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : int or sequence of int
        `(z,) y, x`, or one number for all axes, in voxels.
    seed : int, optional
        Patchings with the same seed are the same. If None, a seed is drawn; see the attribute `seed`.
    n_patches : int, optional
        Number of patches in an epoch, distributed over samples in proportion to the voxels that patches may touch; patch `i`
        may then come from another sample in another epoch. If None, the patches of a sample have as many voxels as the
        sample, rounded up: `⌈∏ (A / P)⌉` patches.

    Raises
    ------
    GeometryError
        If a size is not valid, or a patch is larger than an image.

    Examples
    --------
    >>> patching = StratifiedPatching([(1, 1, 96, 64)], patch_size=(32, 32), seed=7)
    >>> len(patching), patching.grid_shape(0)
    (6, (3, 2))
    >>> patching.exclude_patches(0, 0, [(0, 0), (0, 1)])
    >>> len(patching), min(spec["coords"][0] for spec in patching) >= 32
    (4, True)

    Notes
    -----
    In an epoch, a voxel that patches may touch is in one patch on average over a sample (in slightly more if the number of
    patches was rounded up): in fewer near borders and excluded cells, in more away from them. A sample takes no memory per
    cell until cells are excluded or given a probability; from then on, about 30 bytes. The algorithm is described in
    `geometry.strata` and `geometry.cell_orthants`.
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        seed: int | None = 0,
        *,
        n_patches: int | None = None,
    ) -> None:
        super().__init__(data_shapes, patch_size, seed, n_patches)
        self._extents = position_counts(self.data_shapes, self.patch_size)
        self._extent_table = np.array(self._extents, dtype=np.int64)
        self._restrictions: dict[tuple[int, int], Restriction] = {}

    def at_epoch(self, epoch: int) -> Self:
        """Return the patching at another epoch; see `Patching.at_epoch`. Cells that are excluded later are excluded from one patching only."""
        patching = super().at_epoch(epoch)
        patching._restrictions = dict(self._restrictions)  # noqa: SLF001  # of the same class
        return patching

    def grid_shape(self, data_idx: int) -> tuple[int, ...]:
        """Return the number of whole cells along each spatial axis of an image stack: `⌊A / P⌋`.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """
        shape = self.data_shapes[self._checked_sample(data_idx, 0)[0]]
        return tuple(size // patch for size, patch in zip(shape[2:], self.patch_size, strict=True))

    def exclude_patches(
        self, data_idx: int, sample_idx: int, grid_coords: Sequence[tuple[int, ...]] | NDArray[Any]
    ) -> None:
        """Exclude cells of one sample: from now on, no patch touches a voxel of them.

        The number of patches decreases in proportion.

        Parameters
        ----------
        data_idx, sample_idx : int
            The sample.
        grid_coords : sequence of tuple of int, or array
            Cells, one per row: cell `g` begins at voxel `g * patch_size`. Cells cut by the end of the image can be excluded
            too.

        Raises
        ------
        PatchIndexError
            If there is no such sample or cell.
        GeometryError
            If a cell does not have one whole number for each spatial axis.
        """
        key = self._checked_sample(data_idx, sample_idx)
        cells = _cell_rows(grid_coords, len(self.patch_size))
        restriction = self._restriction(key)
        _check_cells(cells, restriction.allowed.shape, f"sample {key[1]} of image stack {key[0]}")
        if len(cells):
            self._restrict(key, restriction.without(cells))

    def set_region_probs(
        self, data_idx: int, sample_idx: int, probs: Mapping[tuple[int, ...], float] | NDArray[Any]
    ) -> None:
        """Set the probability that a patch starts in a cell, relative to a cell of probability 1.

        The number of patches decreases in proportion: a cell of probability 0.1 counts as a tenth of a cell. If all cells of a
        sample have probability 0, it has no patches.

        Parameters
        ----------
        data_idx, sample_idx : int
            The sample.
        probs : mapping of tuple of int to float, or array of float
            The probability of some cells (others keep theirs), or of all cells in an array of shape `grid_shape`.

        Raises
        ------
        PatchIndexError
            If there is no such sample, or no patch can start in such a cell.
        GeometryError
            If a probability is not from 0 to 1.
        """
        key = self._checked_sample(data_idx, sample_idx)
        where = f"sample {key[1]} of image stack {key[0]}"
        grid = self.grid_shape(key[0])
        restriction = self._restriction(key)
        known = restriction.probabilities
        probabilities = np.ones(grid) if known is None else known.copy()
        if isinstance(probs, Mapping):
            cells = _cell_rows(list(probs), len(self.patch_size))
            _check_cells(cells, grid, where)
            probabilities[tuple(cells.T)] = [
                real_number(f"probs[{cell}]", prob, nan=True, finite=False) for cell, prob in probs.items()
            ]
        else:
            probabilities[...] = _probability_map(probs, grid, where)
        _check_probabilities(probabilities, where)
        self._restrict(key, Restriction(restriction.allowed, probabilities))

    def get_all_grid_coords(self) -> dict[tuple[int, int], list[tuple[int, ...]]]:
        """List the whole cells of every sample, by `(data_idx, sample_idx)`."""
        return {
            (data_idx, sample_idx): list(itertools.product(*map(range, self.grid_shape(data_idx))))
            for data_idx, shape in enumerate(self.data_shapes)
            for sample_idx in range(shape[0])
        }

    def get_included_grid_coords(self) -> dict[tuple[int, int], list[tuple[int, ...]]]:
        """List the whole cells of every sample that are not excluded, by `(data_idx, sample_idx)`."""
        included = self.get_all_grid_coords()
        for (data_idx, sample_idx), restriction in self._restrictions.items():
            cells = np.argwhere(self._whole(data_idx, restriction)).tolist()
            included[data_idx, sample_idx] = list(map(tuple, cells))
        return included

    @property
    def image_patching(self) -> Sequence[Sequence[SamplePart]]:
        """The part of each sample, `image_patching[data_idx][sample_idx]`; computed when an item is asked for."""
        return LazySequence(
            len(self.data_shapes),
            lambda data_idx: LazySequence(
                self.data_shapes[data_idx][0],
                lambda sample_idx: SamplePart(self._index.of_sample(data_idx, sample_idx), self.grid_shape(data_idx)),
            ),
        )

    def included_cells(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the whole cells of the series that are not excluded, and the probability of each.

        Returns
        -------
        cells : array of int64
            One row per cell: `data_idx`, `sample_idx` and its grid coordinates.
        probabilities : array of float64
            As set by `set_region_probs`; 1 by default.
        """
        maps = [np.ones((n_samples, *self.grid_shape(stack))) for stack, n_samples in enumerate(self._n_samples)]
        for (data_idx, sample_idx), restriction in self._restrictions.items():
            known = 1.0 if restriction.probabilities is None else restriction.probabilities
            maps[data_idx][sample_idx] = np.where(self._whole(data_idx, restriction), known, _EXCLUDED)
        cells = [
            np.insert(np.argwhere(of_stack != _EXCLUDED), 0, data_idx, axis=1) for data_idx, of_stack in enumerate(maps)
        ]
        return np.concatenate(cells), np.concatenate([of_stack[of_stack != _EXCLUDED] for of_stack in maps])

    def _begin_epoch(self, epoch: int) -> None:
        super()._begin_epoch(epoch)
        self._redraws = CounterRandom(self.seed, epoch, Stream.REDRAW)

    def _checked_sample(self, data_idx: int, sample_idx: int) -> tuple[int, int]:
        return check_sample(data_idx, sample_idx, self.data_shapes)

    def _restriction(self, key: tuple[int, int]) -> Restriction:
        if key in self._restrictions:
            return self._restrictions[key]
        shape = self.data_shapes[key[0]][2:]
        return Restriction(np.ones(cell_counts(shape, self.patch_size), dtype=np.bool_))

    def _whole(self, data_idx: int, restriction: Restriction) -> NDArray[np.bool_]:
        """Return whether patches may touch each whole cell of a sample."""
        return restriction.allowed[tuple(map(slice, self.grid_shape(data_idx)))]

    def _restrict(self, key: tuple[int, int], restriction: Restriction) -> None:
        self._restrictions[key] = restriction
        self.__dict__.pop("_lines", None)
        self._forget_numbering()

    @property
    def _n_samples(self) -> list[int]:
        return [shape[0] for shape in self.data_shapes]

    @property
    def _row_is_sample(self) -> bool:
        """Whether a row is a sample, as samples of one stack may differ in their number of patches; else it is a stack."""
        return bool(self._restrictions) or self._requested is not None

    def _by_row(self, of_stacks: list[int]) -> NDArray[np.int64]:
        numbers = np.array(of_stacks, dtype=np.int64)
        return np.repeat(numbers, self._n_samples) if self._row_is_sample else numbers

    def _restricted_rows(self) -> dict[int, tuple[int, Restriction]]:
        """Return the stack and the restriction of each restricted row."""
        samples = FlatIndex(self._n_samples, [1] * len(self.data_shapes))
        return {samples.of_stack(key[0])[key[1]]: (key[0], value) for key, value in self._restrictions.items()}

    @cached_property
    def _lines(self) -> PositionLines:
        repeats = self._n_samples if self._row_is_sample else [1] * len(self._extents)
        most = max(prod(shape[2:]) for shape in self.data_shapes) // prod(self.patch_size) + 1
        return PositionLines.build(
            self._extents, repeats, self._restricted_rows(), self.patch_size, max(most, self._requested or 0)
        )

    def _numbering(self) -> PatchNumbering:
        patch_volume = prod(self.patch_size)
        volumes = self._by_row([prod(shape[2:]) for shape in self.data_shapes])
        counts = -(-volumes // patch_volume)
        weights = volumes.astype(np.float64)
        for row, (data_idx, restriction) in self._restricted_rows().items():
            weights[row] = restriction.volume(self.data_shapes[data_idx][2:], self.patch_size)
            counts[row] = max(1, ceil(weights[row] / patch_volume - _ROUNDING))
        drawable = self._lines.units > 0
        counts, weights = counts * drawable, weights * drawable
        if self._requested is not None:
            numbering: PatchNumbering = self._spread(weights, self._requested if drawable.any() else 0)
        else:
            numbering = (UnevenIndex if self._row_is_sample else FlatIndex)(self._n_samples, counts.tolist())
        most = max(numbering.n_local)
        if most > _MOST_PATCHES or most * int(self._lines.largest.max()) >= 2**62:
            raise GeometryError(
                f"a sample has {most} patches of size {self.patch_size}, which is more than can be stratified "
                f"({_MOST_PATCHES}, and fewer of very large ones): take larger ones, or give n_patches"
            )
        return numbering

    def _coords(self, place: Place) -> list[int]:
        lines, row = self._lines, place.row
        n_units = lines.units.item(row)
        stratum = stratum_of(place.local, self._index.n_local[row], n_units, lines.largest.item(row))
        unit = stratum.unit(self._draws.below(stratum.n_parts, place.flat))
        if unit >= n_units:
            unit = self._redraws.below(n_units, place.flat)
        extents, restricted = self._extents[place.data_idx], lines.restricted.item(row)
        if restricted < 0:
            return unravel_by_cells(unit, extents, self.patch_size)
        found = lines.cells.find(restricted, unit)
        number, orthants = lines.number.item(found.entry), lines.orthants.item(found.entry)
        return _free_position(found, number, orthants, extents, self.patch_size)

    def _many_coords(self, places: Places) -> list[NDArray[np.int64]]:
        lines, rows = self._lines, places.row
        n_units = lines.units[rows]
        n_draws = np.frombuffer(self._index.n_local, dtype=np.int64)[rows]
        stratum = stratum_of(places.local, n_draws, n_units, lines.largest[rows])
        units = stratum.unit(self._draws.below_many(stratum.n_parts, places.flat))
        past_end = np.flatnonzero(units >= n_units)
        units[past_end] = self._redraws.below_many(n_units[past_end], places.flat[past_end])
        restricted = lines.restricted[rows]
        if (restricted < 0).all():
            return unravel_by_cells(units, places.of_stacks(self._extent_table), self.patch_size)
        bound, free = restricted >= 0, restricted < 0
        extents = self._extent_table[places.data_idx].T
        coords = np.empty_like(extents)
        coords[:, free] = unravel_by_cells(units[free], list(extents[:, free]), self.patch_size)
        found = lines.cells.find_many(restricted[bound], units[bound])
        number, orthants = lines.number[found.entry], lines.orthants[found.entry].astype(np.int64)
        coords[:, bound] = _free_position(found, number, orthants, list(extents[:, bound]), self.patch_size)
        return list(coords)


def _free_position(
    found: CellUnit, number: Any, orthants: Any, extents: Sequence[Any], cell_size: Sequence[int]
) -> list[Any]:
    """Return the coordinates of a unit of the line of a restricted sample; holds for one `int` and for arrays alike."""
    corner, sides = cell_box(number, extents, cell_size)
    offsets = unravel_orthants(found.unit, found.n_units, orthants, sides)
    return [start + offset for start, offset in zip(corner, offsets, strict=True)]


def _cell_rows(grid_coords: Sequence[Sequence[int]] | NDArray[Any], n_dims: int) -> NDArray[np.int64]:
    """Check cells, and return them as an array, one per row."""
    try:
        cells = np.asarray(grid_coords)
    except ValueError:
        cells = np.empty(1)  # of different lengths: refused below
    if not cells.size and not isinstance(grid_coords, (str, bytes, Mapping)):
        return np.empty((0, n_dims), dtype=np.int64)
    if cells.ndim != 2 or cells.shape[1] != n_dims or not np.issubdtype(cells.dtype, np.integer):
        raise GeometryError(
            f"grid_coords is {shown(grid_coords)}: it must be a list of cells with one whole number for each of "
            f"{', '.join(spatial_axes(n_dims))}, such as [{(0,) * n_dims}]"
        )
    return cells.astype(np.int64)


def _check_cells(cells: NDArray[np.int64], grid: Sequence[int], where: str) -> None:
    outside = np.flatnonzero(((cells < 0) | (cells >= np.array(grid))).any(axis=1))
    if len(outside):
        raise PatchIndexError(
            f"cell {tuple(cells[outside[0]].tolist())} does not exist: {where} has {tuple(grid)} cells"
        )


def _probability_map(probs: Any, grid: tuple[int, ...], where: str) -> NDArray[Any]:
    """Check the probabilities of all cells, given as an array."""
    try:
        values = np.asarray(probs)
    except ValueError:  # lists of different lengths
        values = np.empty(0)
    if values.dtype.kind not in "biuf" or not values.ndim:
        raise GeometryError(
            f"probs is {shown(probs)}: it must be a mapping from cells to numbers, or an array of numbers, one for each cell"
        )
    if values.shape != grid:
        raise GeometryError(f"probs has shape {values.shape}, but {where} has {grid} whole cells")
    return values


def _check_probabilities(probabilities: NDArray[np.float64], where: str) -> None:
    wrong = ~((probabilities >= 0) & (probabilities <= 1))  # NaN is wrong too
    if wrong.any():
        cell = tuple(np.argwhere(wrong)[0].tolist())
        raise GeometryError(f"probability is {probabilities[cell]} for cell {cell} of {where}: it must be from 0 to 1")
