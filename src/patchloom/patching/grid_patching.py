"""The base of patchings whose patches lie on a regular grid, with overlap."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import whole_number
from patchloom.axes import spatial_axes
from patchloom.geometry.checks import one_per_axis, series_shapes, size_in_series
from patchloom.geometry.patch_positions import unravel
from patchloom.geometry.tile_rule import Seams, TileRule, TileWindow
from patchloom.patching.flat_index import FlatIndex, Place, Places, check_data_idx
from patchloom.patching.patching import IndexedPatching, Spec_co


class GridPatching(IndexedPatching[Spec_co]):
    """The base of patchings on a grid: patches in raster order within a sample, X fastest, placed by one rule per axis."""

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: int | Sequence[int],
        overlaps: int | Sequence[int],
        *,
        seams: Seams = "centered",
        origin_multiple: int | Sequence[int] = 1,
        halo: int | Sequence[int] = 0,
        seam_multiple: int | Sequence[int] = 1,
    ) -> None:
        self.patch_size = size_in_series("patch_size", patch_size, data_shapes, least=1)
        n_dims = len(self.patch_size)
        self.overlaps = one_per_axis("overlaps", overlaps, n_dims, least=0)
        self.seams: Seams = seams
        self.origin_multiple = one_per_axis("origin_multiple", origin_multiple, n_dims, least=1)
        self.halo = one_per_axis("halo", halo, n_dims, least=0)
        self.seam_multiple = one_per_axis("seam_multiple", seam_multiple, n_dims, least=1)
        self.data_shapes = series_shapes(data_shapes, n_dims)
        sizes = (
            self.patch_size,
            self.overlaps,
            self.origin_multiple,
            spatial_axes(n_dims),
            self.halo,
            self.seam_multiple,
        )
        self.rules = tuple(
            TileRule(patch, overlap, seams, multiple, axis, halo, of_seams)
            for patch, overlap, multiple, axis, halo, of_seams in zip(*sizes, strict=True)
        )
        stacks = range(len(self.data_shapes))
        self._grids = [self._grid_of(data_idx) for data_idx in stacks]
        self._grid_table = np.array(self._grids, dtype=np.int64)
        self._size_table = np.array([shape[2:] for shape in self.data_shapes], dtype=np.int64)
        super().__init__(FlatIndex([self._n_samples_of(data_idx) for data_idx in stacks], map(prod, self._grids)))

    def _grid_of(self, data_idx: int) -> tuple[int, ...]:
        """Count the patches along each spatial axis of one sample."""
        return tuple(rule.count(size) for rule, size in zip(self.rules, self.data_shapes[data_idx][2:], strict=True))

    def _n_samples_of(self, data_idx: int) -> int:
        """Count the samples of a stack that have patches."""
        return self.data_shapes[data_idx][0]

    def grid_shape(self, data_idx: int) -> tuple[int, ...]:
        """Return the number of patches along each spatial axis of one sample of an image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """
        return self._grids[check_data_idx(data_idx, len(self._grids))]

    def _windows(self, place: Place) -> list[TileWindow]:
        """Return the window of one patch along each axis."""
        return self._windows_on(place.local, self.data_shapes[place.data_idx][2:], self._grids[place.data_idx])

    def _many_windows(self, places: Places) -> list[TileWindow]:
        """Return the windows of many patches along each axis."""
        return self._windows_on(places.local, places.of_stacks(self._size_table), places.of_stacks(self._grid_table))

    def windows_along(self, data_idx: int, axis: int) -> TileWindow:
        """Return the windows of all patches along one axis of an image stack, as arrays.

        Parameters
        ----------
        data_idx : int
            Index of the image stack.
        axis : int
            Index of the spatial axis, counted from the outermost.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        GeometryError
            If there is no such axis.

        Examples
        --------
        >>> from patchloom import TiledPatching
        >>> TiledPatching([(1, 1, 64, 20)], (64, 8), (0, 3)).windows_along(0, axis=1).start.tolist()
        [0, 5, 10, 12]
        """
        count = self.grid_shape(data_idx)[whole_number("axis", axis, least=0, most=len(self.rules) - 1)]
        return self._windows_of(np.arange(count, dtype=np.int64), data_idx, axis, count)

    def _windows_of(self, tiles: NDArray[np.int64], data_idx: int, axis: int, count: int) -> TileWindow:
        size = np.full_like(tiles, self.data_shapes[data_idx][2 + axis])
        window: TileWindow = self.rules[axis].window(tiles, size, np.full_like(tiles, count))
        return window

    def _windows_on(self, local: Any, sizes: Sequence[Any], counts: Sequence[Any]) -> list[TileWindow]:
        return [
            rule.window(tile, size, count)
            for rule, tile, size, count in zip(self.rules, unravel(local, counts), sizes, counts, strict=True)
        ]
