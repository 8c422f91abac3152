"""Overlapping tiles that cover every image; each voxel is kept from exactly one tile."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from operator import sub
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SpecError
from patchloom.geometry.checks import check_window
from patchloom.patching.flat_index import Place, Places, check_sample
from patchloom.patching.grid_patching import GridPatching
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable


class TiledPatching(GridPatching[TileSpecs]):
    """Tiles of one size for images of any size; the kept parts of the tiles partition the image.

    Tiles are numbered in raster order within a sample, X fastest. No memory is needed per tile: a tiling of 10¹² tiles is made
    at once, and computing any of its specifications takes microseconds.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : int or sequence of int
        Size of a tile in voxels, `(z,) y, x`, or one number for all axes. A shorter axis of an image is covered by one tile that reaches past its end.
    overlaps : int or sequence of int
        Voxels that neighboring tiles share, `(z,) y, x`, or one number for all axes; at least 0 and less than the patch size.
    seams : {"centered", "grid"}
        `"centered"`: the fewest tiles, seams in the middle of the overlap. `"grid"`: seams on multiples of
        `patch_size - overlaps`, so that kept windows coincide with the chunks of an output.
    origin_multiple : int or sequence of int
        Every tile starts on a multiple of this (a network's stride).
    halo : int or sequence of int
        Voxels at the borders of each tile that are not used where tiles are blended, `(z,) y, x`, except at the ends of the image;
        at most half the overlap. Cropped tiles keep this distance to their seams in any case.
    seam_multiple : int or sequence of int
        Every seam is a multiple of this, `(z,) y, x`, a divisor of `origin_multiple`: the voxels of the image for one voxel of an
        output that is smaller.

    Raises
    ------
    GeometryError
        If a size or overlap is not valid, or an image has another number of dimensions than the patch size.

    Examples
    --------
    >>> tiling = TiledPatching([(1, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))
    >>> len(tiling)
    4
    >>> tiling[1]["coords"], tiling[1]["crop_coords"], tiling[1]["crop_size"], tiling[1]["stitch_coords"]
    ((0, 16), (0, 40), (56, 24), (0, 56))

    Notes
    -----
    On one axis of size `A`, with tiles of size `P`, overlap `O` and step `K = P - O`, there are `max(1, ⌈(A - O) / K⌉)`
    tiles; see `patchloom.geometry.tile_rule` for where they lie.
    """

    def _spec(self, place: Place) -> TileSpecs:
        starts, keep_starts, keep_stops = zip(*self._windows(place), strict=True)
        return {
            "data_idx": place.data_idx,
            "sample_idx": place.sample_idx,
            "coords": starts,
            "patch_size": self.patch_size,
            "crop_coords": tuple(map(sub, keep_starts, starts)),
            "crop_size": tuple(map(sub, keep_stops, keep_starts)),
            "stitch_coords": keep_starts,
            "total_tiles": len(self._index.of_stack(place.data_idx)),
        }

    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        columns = np.empty((4, len(places.local), len(self.rules)), dtype=np.int64)
        coords, crop_coords, crop_size, stitch_coords = columns
        for axis, (start, keep_start, keep_stop) in enumerate(self._many_windows(places)):
            coords[:, axis] = start
            crop_coords[:, axis] = keep_start - start
            crop_size[:, axis] = keep_stop - keep_start
            stitch_coords[:, axis] = keep_start
        edges = np.frombuffer(self._index.edges, dtype=np.int64)
        return {
            "coords": coords,
            "patch_size": np.broadcast_to(np.asarray(self.patch_size, dtype=np.int64), coords.shape),
            "crop_coords": crop_coords,
            "crop_size": crop_size,
            "stitch_coords": stitch_coords,
            "total_tiles": (edges[1:] - edges[:-1])[places.data_idx],
        }

    def tiles_touching(self, data_idx: int, sample_idx: int, window: Sequence[slice]) -> NDArray[np.int64]:
        """Find the tiles of one sample whose kept part meets a window of the image.

        Parameters
        ----------
        data_idx, sample_idx : int
            The sample.
        window : sequence of slice
            One slice for each spatial axis, with a start and a stop, inside the image and not empty.

        Returns
        -------
        array of int64
            Flat indices in raster order.

        Raises
        ------
        PatchIndexError
            If there is no such sample.
        GeometryError
            If the window is empty or not inside the image.

        Examples
        --------
        >>> tiling = TiledPatching([(2, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))
        >>> tiling.tiles_touching(0, 1, (slice(0, 56), slice(50, 80))).tolist()
        [4, 5]
        """
        data_idx, sample_idx = check_sample(data_idx, sample_idx, self.data_shapes)
        shape = self.data_shapes[data_idx]
        check_window("window", window, shape[2:])
        grid = self._grids[data_idx]
        first = self._index.edges[data_idx] + sample_idx * prod(grid)
        along = [self._touching(data_idx, axis, part) for axis, part in enumerate(window)]
        tiles = np.ix_(*(np.asarray(of_axis, dtype=np.int64) for of_axis in along))
        return np.asarray(first + np.ravel_multi_index(tiles, grid), dtype=np.int64).ravel()

    def index_of(self, spec: TileSpecs) -> int:
        """Return the flat index of a tile.

        Parameters
        ----------
        spec : TileSpecs
            A tile of this plan.

        Raises
        ------
        SpecError
            If it is not a tile of this plan.

        Examples
        --------
        >>> tiling = TiledPatching([(2, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))
        >>> tiling.index_of(tiling[5])
        5
        """
        return int(self.indices_of([spec])[0])

    def indices_of(self, specs: SpecTable | Iterable[TileSpecs]) -> NDArray[np.int64]:
        """Return the flat indices of many tiles at once; see `index_of`.

        Parameters
        ----------
        specs : SpecTable or iterable of TileSpecs
            Tiles of this plan, at least one.

        Raises
        ------
        SpecError
            If one of them is not a tile of this plan.
        """
        table = SpecTable.from_specs(specs)
        columns = table.columns
        for position in np.flatnonzero(~self._has_samples(columns)).tolist():
            raise _not_a_tile(table[position])
        data_idx = columns["data_idx"]
        index = self._sample_numbers(data_idx, columns["sample_idx"])
        for axis in range(len(self.rules)):
            tiles = self._tiles_at(data_idx, axis, columns["stitch_coords"][:, axis])
            index = index * self._grid_table[data_idx, axis] + tiles
        indices = index + np.frombuffer(self._index.edges, dtype=np.int64)[data_idx]
        planned = self.specs(indices).columns
        same = np.logical_and.reduce(
            [(planned[name] == columns[name]).reshape(len(table), -1).all(1) for name in planned]
        )
        for position in np.flatnonzero(~same).tolist():
            raise _not_a_tile(table[position])
        return indices

    def _sample_numbers(self, data_idx: NDArray[np.int64], sample_idx: NDArray[np.int64]) -> NDArray[np.int64]:  # noqa: ARG002  # all samples have tiles
        """Return for each sample its number among the samples of its stack that have tiles."""
        return sample_idx

    def _touching(self, data_idx: int, axis: int, part: slice) -> range:
        """Return the tiles along one axis whose kept part meets a part of it."""
        return self.rules[axis].touching(part.start, part.stop, self.data_shapes[data_idx][2 + axis])

    def _tiles_at(self, data_idx: Any, axis: int, voxels: Any) -> Any:
        """Return the tiles that keep voxels of an axis."""
        return self.rules[axis].tile_at(voxels, self._grid_table[data_idx, axis])

    def _has_samples(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """Return, for each specification, whether it is that of a tile, of these dimensions and of a sample of the series."""
        data_idx, sample_idx = columns["data_idx"], columns["sample_idx"]
        if "stitch_coords" not in columns or columns["stitch_coords"].shape[1] != len(self.rules):
            return np.zeros(len(data_idx), np.bool_)
        n_samples = np.array([shape[0] for shape in self.data_shapes], np.int64)
        is_stack = (data_idx >= 0) & (data_idx < len(n_samples))
        return is_stack & (sample_idx >= 0) & (sample_idx < n_samples[np.where(is_stack, data_idx, 0)])


def _not_a_tile(spec: object) -> SpecError:
    return SpecError(f"the specification {spec} is not a tile of this tiling: give one that the tiling returned")
