"""The tiles of images that are needed for a region of each: those of the whole images, at the same places.

A tile is needed if a voxel of the region is kept from it or, for blending, if it covers one. So the prediction of a region is
that part of the prediction of the whole image, for any model and overlap::

    tiles of the image     0 [keep   |
                           1       | keep   |
                           2              | keep   |
                           3                     | keep   ]
    region                           [          )
    tiles of the region    1       | keep   |
                           2              | keep   |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import GeometryError
from patchloom.geometry.patch_positions import unravel
from patchloom.geometry.tile_rule import Seams, TileRule, TileWindow
from patchloom.patching.flat_index import Place, Places, check_sample
from patchloom.patching.tiled_patching import TiledPatching
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable

Range = tuple[int, int]
"""Start and stop on one axis."""


@dataclass(frozen=True, slots=True)
class TileRegion:
    """A region of one image stack.

    Parameters
    ----------
    sample_shape : tuple of int
        Sizes of the axes along which samples are numbered, outermost first, such as `(S, T)`.
    sample_ranges : tuple of (int, int)
        Start and stop along each of these axes.
    window : tuple of (int, int)
        Start and stop along each spatial axis, `(z,) y, x`, in voxels.

    Raises
    ------
    GeometryError
        If a range is empty or not inside its axis.

    Examples
    --------
    >>> region = TileRegion((2, 5), ((1, 2), (2, 4)), ((10, 20), (0, 8)))
    >>> region.n_samples, [region.sample_in_stack(number) for number in range(2)]
    (2, [7, 8])
    """

    sample_shape: tuple[int, ...]
    sample_ranges: tuple[Range, ...]
    window: tuple[Range, ...]

    def __post_init__(self) -> None:
        for size, (start, stop) in zip(self.sample_shape, self.sample_ranges, strict=True):
            if not 0 <= start < stop <= size:
                raise GeometryError(f"the samples {start}:{stop} are not inside 0:{size}")

    @property
    def n_samples(self) -> int:
        """Number of samples of the region."""
        return prod(stop - start for start, stop in self.sample_ranges)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each spatial axis, `(z,) y, x`."""
        return tuple(stop - start for start, stop in self.window)

    def sample_in_stack(self, number: Any) -> Any:
        """Return the `sample_idx` of a sample of the region in its stack; of many, if `number` is an array."""
        places = unravel(number, [stop - start for start, stop in self.sample_ranges])
        sample = number * 0
        for place, size, (start, _) in zip(places, self.sample_shape, self.sample_ranges, strict=True):
            sample = sample * size + (place + start)
        return sample

    def sample_in_region(self, sample_idx: Any) -> Any:
        """Return the number of a sample of the stack in the region; of one outside, that of another sample."""
        number = sample_idx * 0
        for place, (start, stop) in zip(unravel(sample_idx, self.sample_shape), self.sample_ranges, strict=True):
            number = number * (stop - start) + np.clip(place, start, stop - 1) - start
        return number


class RegionTiling(TiledPatching):
    """The tiles of a series that are needed for a region of each image, with the specifications that they have in the whole images.

    Parameters
    ----------
    data_shapes, patch_size, overlaps, seams, origin_multiple, halo, seam_multiple
        As for `TiledPatching`: of the whole images.
    regions : sequence of TileRegion
        The region of each image.
    whole_tiles : bool
        Whether all tiles that cover a voxel of the region are needed (to blend), or only those from which one is kept (to crop).

    Raises
    ------
    GeometryError
        As for `TiledPatching`, or if a region is not inside its image.

    Examples
    --------
    >>> whole = TiledPatching([(1, 1, 100, 200)], 64, 16)
    >>> region = TileRegion((1,), ((0, 1),), ((0, 10), (60, 100)))
    >>> tiling = RegionTiling([(1, 1, 100, 200)], [region], 64, 16, whole_tiles=False)
    >>> [spec["coords"] for spec in tiling], [spec["coords"] for spec in whole[:4]]
    ([(0, 48)], [(0, 0), (0, 48), (0, 96), (0, 136)])
    """

    def __init__(
        self,
        data_shapes: Sequence[Sequence[int]],
        regions: Sequence[TileRegion],
        patch_size: int | Sequence[int],
        overlaps: int | Sequence[int],
        *,
        seams: Seams = "centered",
        origin_multiple: int | Sequence[int] = 1,
        halo: int | Sequence[int] = 0,
        seam_multiple: int | Sequence[int] = 1,
        whole_tiles: bool,
    ) -> None:
        self.regions = tuple(regions)
        self._whole_tiles = whole_tiles
        super().__init__(
            data_shapes,
            patch_size,
            overlaps,
            seams=seams,
            origin_multiple=origin_multiple,
            halo=halo,
            seam_multiple=seam_multiple,
        )
        stacks = range(len(self.regions))
        # One row for each stack, one column for each spatial axis.
        self._first_table = np.array([[first for first, _ in self._tiles(data_idx)] for data_idx in stacks], np.int64)
        self._count_table = np.array([super(RegionTiling, self)._grid_of(data_idx) for data_idx in stacks], np.int64)

    def _tiles(self, data_idx: int) -> list[Range]:
        """Return the first of the tiles that are needed and one past the last, along each axis of the whole image."""
        sizes, window = self.data_shapes[data_idx][2:], self.regions[data_idx].window
        for size, (start, stop) in zip(sizes, window, strict=True):
            if not 0 <= start < stop <= size:
                raise GeometryError(f"the region {start}:{stop} is not inside 0:{size}")
        return [
            _tiles_along(rule, size, part, whole_tiles=self._whole_tiles)
            for rule, size, part in zip(self.rules, sizes, window, strict=True)
        ]

    def _grid_of(self, data_idx: int) -> tuple[int, ...]:
        return tuple(stop - first for first, stop in self._tiles(data_idx))

    def _n_samples_of(self, data_idx: int) -> int:
        return self.regions[data_idx].n_samples

    def _windows(self, place: Place) -> list[TileWindow]:
        return self._windows_in_images(place.local, lambda table: table[place.data_idx].tolist())

    def _many_windows(self, places: Places) -> list[TileWindow]:
        return self._windows_in_images(places.local, places.of_stacks)

    def _windows_in_images(
        self, local: Any, of_stacks: Callable[[NDArray[np.int64]], Sequence[Any]]
    ) -> list[TileWindow]:
        tables = map(of_stacks, (self._first_table, self._size_table, self._count_table))
        return [
            rule.window(tile + first, size, count)
            for rule, tile, first, size, count in zip(
                self.rules, unravel(local, of_stacks(self._grid_table)), *tables, strict=True
            )
        ]

    def windows_along(self, data_idx: int, axis: int) -> TileWindow:
        """Return the windows of all tiles along one axis; see `TiledPatching.windows_along`."""
        tiles = np.arange(self.grid_shape(data_idx)[axis], dtype=np.int64) + self._first_table[data_idx, axis]
        return self._windows_of(tiles, data_idx, axis, int(self._count_table[data_idx, axis]))

    def _spec(self, place: Place) -> TileSpecs:
        spec = super()._spec(place)
        return {**spec, "sample_idx": self.regions[place.data_idx].sample_in_stack(place.sample_idx)}

    def specs(self, indices: Sequence[int] | NDArray[Any]) -> SpecTable:
        """Return many specifications; see `Patching.specs`."""
        columns = dict(super().specs(indices).columns)
        samples = self._of_regions(TileRegion.sample_in_stack, columns["data_idx"], columns["sample_idx"])
        return SpecTable({**columns, "sample_idx": samples})

    def tiles_touching(self, data_idx: int, sample_idx: int, window: Sequence[slice]) -> NDArray[np.int64]:
        """Find the tiles of one sample whose kept part meets a window; see `TiledPatching.tiles_touching`."""
        data_idx, sample_idx = check_sample(data_idx, sample_idx, self.data_shapes)
        region = self.regions[data_idx]
        number = int(region.sample_in_region(sample_idx))
        if region.sample_in_stack(number) != sample_idx:
            return np.empty(0, np.int64)
        return super().tiles_touching(data_idx, number, window)

    def _touching(self, data_idx: int, axis: int, part: slice) -> range:
        tiles, first = super()._touching(data_idx, axis, part), int(self._first_table[data_idx, axis])
        return range(max(tiles.start - first, 0), min(tiles.stop - first, self._grids[data_idx][axis]))

    def _sample_numbers(self, data_idx: NDArray[np.int64], sample_idx: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._of_regions(TileRegion.sample_in_region, data_idx, sample_idx)

    def _tiles_at(self, data_idx: Any, axis: int, voxels: Any) -> Any:
        tiles = self.rules[axis].tile_at(voxels, self._count_table[data_idx, axis])
        return np.clip(tiles - self._first_table[data_idx, axis], 0, self._grid_table[data_idx, axis] - 1)

    def _of_regions(
        self, convert: Callable[[TileRegion, Any], Any], data_idx: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Convert the samples of each stack by its region."""
        converted = samples.copy()
        for stack in np.unique(data_idx).tolist():
            rows = data_idx == stack
            converted[rows] = convert(self.regions[stack], samples[rows])
        return converted


def _tiles_along(rule: TileRule, size: int, part: Range, *, whole_tiles: bool) -> Range:
    """Return the first tile that a part of an axis needs, and one past the last."""
    count, kept = rule.count(size), rule.touching(*part, size)
    first, last = kept.start, kept.stop - 1
    if whole_tiles:
        while first > 0 and rule.blended_part(rule.window(first - 1, size, count).start, size)[1] > part[0]:
            first -= 1
        while last < count - 1 and rule.blended_part(rule.window(last + 1, size, count).start, size)[0] < part[1]:
            last += 1
    return first, last + 1
