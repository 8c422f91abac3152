"""Overlapping tiles that cover every image, and of which each voxel is kept exactly once."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.geometry.checks import series_shapes, spatial_tuple
from patchloom.geometry.tile_rule import Seams, TileRule
from patchloom.patch_specs import TileSpecs
from patchloom.patching.flat_index import FlatIndex, Place, Places
from patchloom.patching.patching import IndexedPatching


class TiledPatching(IndexedPatching[TileSpecs]):
    """Tiles of one size for images of any size; what is kept of each partitions the image.

    Tiles are numbered in raster order within a sample, X fastest. Nothing is stored a tile: a plan of 10¹² tiles is made
    at once and any of its specifications takes microseconds.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`.
    patch_size : sequence of int
        Size of a tile, `(z,) y, x`. An axis of an image that is shorter is covered by one tile that passes its end.
    overlaps : sequence of int
        Voxels that neighbouring tiles share, `(z,) y, x`; at least 0 and less than the patch size.
    seams : {"centered", "grid"}
        `"centered"`: the fewest tiles, seams in the middle of the overlap. `"grid"`: seams on multiples of
        `patch_size - overlaps`, so that kept windows coincide with the chunks of an output.
    origin_multiple : int or sequence of int
        Every tile starts on a multiple of this (a network's stride).

    Raises
    ------
    GeometryError
        If a size or overlap makes no sense, or an image has other dimensions than the patch size.

    Examples
    --------
    >>> tiling = TiledPatching([(1, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))
    >>> len(tiling)
    4
    >>> tiling[1]["coords"], tiling[1]["crop_coords"], tiling[1]["crop_size"], tiling[1]["stitch_coords"]
    ((0, 16), (0, 40), (56, 24), (0, 56))

    Notes
    -----
    On one axis of size `A`, with tiles of size `P`, overlap `O` and core `K = P - O`, there are `max(1, ⌈(A - O) / K⌉)`
    tiles; see `patchloom.geometry.tile_rule` for where they lie.
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        patch_size: Sequence[int],
        overlaps: Sequence[int],
        *,
        seams: Seams = "centered",
        origin_multiple: int | Sequence[int] = 1,
    ) -> None:
        self.patch_size = spatial_tuple("patch_size", patch_size, least=1)
        n_dims = len(self.patch_size)
        self.overlaps = spatial_tuple("overlaps", overlaps, n_dims, least=0)
        self.seams: Seams = seams
        multiples = (origin_multiple,) * n_dims if isinstance(origin_multiple, int) else origin_multiple
        self.origin_multiple = spatial_tuple("origin_multiple", multiples, n_dims, least=1)
        self.data_shapes = series_shapes(data_shapes, n_dims)
        self.rules = tuple(
            TileRule(patch, overlap, seams, multiple, axis)
            for patch, overlap, multiple, axis in zip(
                self.patch_size, self.overlaps, self.origin_multiple, spatial_axes(n_dims), strict=True
            )
        )
        grids = [
            tuple(rule.count(size) for rule, size in zip(self.rules, shape[2:], strict=True))
            for shape in self.data_shapes
        ]
        self._grids = grids
        super().__init__(FlatIndex([shape[0] for shape in self.data_shapes], [prod(grid) for grid in grids]))

    @property
    def tile_specs(self) -> TiledPatching:
        """All specifications as a lazy sequence: the plan itself."""
        return self

    def grid_shape(self, data_idx: int) -> tuple[int, ...]:
        """How many tiles cover each spatial axis of one sample of an image stack.

        Raises
        ------
        PatchIndexError
            If there is no such stack.
        """
        self._index.of_stack(data_idx)
        return self._grids[data_idx]

    def _spec(self, place: Place) -> TileSpecs:
        shape, grid = self.data_shapes[place.data_idx], self._grids[place.data_idx]
        remainder = place.local
        coords, crop_coords, crop_size, stitch_coords = [], [], [], []
        for axis in range(len(grid) - 1, -1, -1):
            remainder, tile = divmod(remainder, grid[axis])
            start, keep_start, keep_stop = self.rules[axis].window(tile, shape[2 + axis], grid[axis])
            coords.append(start)
            crop_coords.append(keep_start - start)
            crop_size.append(keep_stop - keep_start)
            stitch_coords.append(keep_start)
        return {
            "data_idx": place.data_idx,
            "sample_idx": place.sample_idx,
            "coords": tuple(coords[::-1]),
            "patch_size": self.patch_size,
            "crop_coords": tuple(crop_coords[::-1]),
            "crop_size": tuple(crop_size[::-1]),
            "stitch_coords": tuple(stitch_coords[::-1]),
            "total_tiles": shape[0] * prod(grid),
        }

    def _columns(self, places: Places) -> dict[str, NDArray[np.int64]]:
        # Sizes of one stack broadcast against all tiles, which spares most of the work of a plan of one large image.
        stacks = places.data_idx[:1] if places.one_stack else places.data_idx
        remainder = places.local
        columns = np.empty((4, len(remainder), len(self.rules)), dtype=np.int64)
        coords, crop_coords, crop_size, stitch_coords = columns
        for axis in reversed(range(len(self.rules))):
            sizes = np.asarray([shape[2 + axis] for shape in self.data_shapes], dtype=np.int64)[stacks]
            counts = np.asarray([grid[axis] for grid in self._grids], dtype=np.int64)[stacks]
            tile, remainder = remainder, remainder // counts
            tile = tile - remainder * counts
            start, keep_start, keep_stop = self.rules[axis].window(tile, sizes, counts)
            coords[:, axis] = start
            crop_coords[:, axis] = keep_start - start
            crop_size[:, axis] = keep_stop - keep_start
            stitch_coords[:, axis] = keep_start
        totals = np.asarray([shape[0] * prod(grid) for shape, grid in zip(self.data_shapes, self._grids, strict=True)])
        return {
            "coords": coords,
            "patch_size": np.broadcast_to(np.asarray(self.patch_size, dtype=np.int64), coords.shape),
            "crop_coords": crop_coords,
            "crop_size": crop_size,
            "stitch_coords": stitch_coords,
            "total_tiles": totals[places.data_idx],
        }

    def tiles_touching(self, data_idx: int, sample_idx: int, window: Sequence[slice]) -> NDArray[np.int64]:
        """Find the tiles of one sample whose kept part meets a window of the image.

        Parameters
        ----------
        data_idx, sample_idx : int
            Which sample.
        window : sequence of slice
            One slice for each spatial axis, inside the image and not empty; start and stop given.

        Returns
        -------
        array of int64
            Flat indices in raster order.

        Raises
        ------
        GeometryError
            If the window is empty or not inside the image.

        Examples
        --------
        >>> tiling = TiledPatching([(2, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))
        >>> tiling.tiles_touching(0, 1, (slice(0, 56), slice(50, 80))).tolist()
        [4, 5]
        """
        shape = self.data_shapes[data_idx]
        for part, size, axis in zip(window, shape[2:], spatial_axes(len(self.rules)), strict=True):
            if not 0 <= part.start < part.stop <= size:
                raise GeometryError(f"window is {part.start}:{part.stop} along {axis}, which is not inside 0:{size}")
        grid = self._grids[data_idx]
        first = self._index.edges[data_idx] + sample_idx * prod(grid)
        tiles = np.ix_(
            *(
                np.asarray(rule.touching(part.start, part.stop, size), dtype=np.int64)
                for rule, part, size in zip(self.rules, window, shape[2:], strict=True)
            )
        )
        return np.asarray(first + np.ravel_multi_index(tiles, grid), dtype=np.int64).ravel()
