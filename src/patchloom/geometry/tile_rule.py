"""The rule by which tiles cover one axis, and the part of each tile that is kept.

Given an axis of size `A` and tiles of size `P` that share `O` voxels and so advance by the step `K = P - O`, the rule gives the
number of tiles, the start of tile `j`, and the voxels that are kept of it. Each answer is arithmetic on `A` and `j`, so a
plan of a billion tiles costs what a plan of ten costs. The kept windows partition `[0, A)` for every `A`, `P` and `O`.

`seams="centered"` takes the fewest tiles possible. The seam between `j` and `j + 1` lies at `(j + 1) K + O // 2`, so
that both neighbors see at least `O // 2` voxels past it; the last tile is moved back inside the image::

    A = 20, P = 8, O = 3      0       4       8      12      16      20
    tile 0   start 0          [keep  .  . ]. |
    tile 1   start 5                    [ |keep  .  . ]. |
    tile 2   start 10                             [ |keep  . . ]. |
    tile 3   start 12 (moved)                           [ . .  .  |keep ]

`seams="grid"` puts every seam on a multiple of `K`, so that kept windows coincide with the chunks of an output. Seams
then have `O // 2` voxels of context or all that the image has, whichever is less.

The formulas are written so that they hold for one `int` and for arrays of `int64` alike: a comparison is a 0 or 1 that
multiplies. One tile in plain `int` and a million in NumPy take the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import one_of
from patchloom.errors import GeometryError

Seams = Literal["centered", "grid"]
Whole = TypeVar("Whole", int, NDArray[np.int64])


class TileWindow(NamedTuple):
    """Where tiles lie along one axis, in image coordinates: numbers, or arrays of numbers."""

    start: int
    """First voxel of the tile."""

    keep_start: int
    """First voxel kept."""

    keep_stop: int
    """One past the last voxel kept."""


@dataclass(frozen=True, slots=True)
class TileRule:
    """The rule by which tiles cover one axis, whatever its size.

    Parameters
    ----------
    patch_size : int
        Size of a tile, in voxels.
    overlap : int
        Voxels that neighbors share, at least 0 and less than `patch_size`.
    seams : {"centered", "grid"}
        Where kept windows meet; see the module's own text.
    origin_multiple : int
        Every start is a multiple of this (a network's stride). The step is rounded down to a multiple of it, which
        makes the overlap larger, never smaller; a last tile that would start off the grid starts at the next multiple
        and reaches past the image's end.
    axis : str
        Name of the axis, for messages.
    halo : int
        Voxels at both ends of a tile that are not used where tiles are blended, except at the ends of the image; at most half the
        overlap, so that the rest of the tiles covers the axis. Where tiles are cropped, the seams keep this distance anyway.
    seam_multiple : int
        Every seam is a multiple of this (voxels of the image for one of a smaller output); a divisor of `origin_multiple`.

    Raises
    ------
    GeometryError
        If a number makes no sense, or no step is left.

    Examples
    --------
    >>> rule = TileRule(patch_size=8, overlap=3)
    >>> [tuple(rule.window(j, 20, count=4)) for j in range(rule.count(20))]
    [(0, 0, 6), (5, 6, 11), (10, 11, 16), (12, 16, 20)]
    >>> grid = TileRule(patch_size=8, overlap=3, seams="grid")
    >>> [tuple(grid.window(j, 20, count=4)) for j in range(grid.count(20))]
    [(0, 0, 5), (4, 5, 10), (9, 10, 15), (12, 15, 20)]
    """

    patch_size: int
    overlap: int
    seams: Seams = "centered"
    origin_multiple: int = 1
    axis: str = "X"
    halo: int = 0
    seam_multiple: int = 1
    step: int = field(init=False)
    """Distance from one start to the next, in voxels."""
    margin: int = field(init=False)
    """Distance from a tile's start to the seam before it, where the tile was not moved."""

    def __post_init__(self) -> None:
        one_of("seams", self.seams, get_args(Seams))
        if self.patch_size < 1:
            raise GeometryError(f"patch_size is {self.patch_size} along {self.axis}: it must be at least 1")
        if not 0 <= self.overlap < self.patch_size:
            raise GeometryError(
                f"overlaps is {self.overlap} along {self.axis} and patch_size is {self.patch_size}: an overlap must be at "
                "least 0 and less than the patch size"
            )
        if not 0 <= 2 * self.halo <= self.overlap:
            raise GeometryError(
                f"halo is {self.halo} along {self.axis} and overlaps is {self.overlap}: tiles have to share twice the halo at least; "
                f"take overlaps of {2 * self.halo} or more, or a smaller halo"
            )
        if self.origin_multiple < 1:
            raise GeometryError(f"origin_multiple is {self.origin_multiple} along {self.axis}: it must be at least 1")
        context = self.overlap // 2
        step = self.patch_size - self.overlap
        self._check_seam_multiple()
        if self.seams == "grid":
            # A start is a seam less the margin: both must be multiples, and both sides still need their context.
            margin = context + -context % self.origin_multiple
            step = min(step, self.patch_size - margin - context)
        elif self.seam_multiple > 1:
            step = min(step, self.patch_size - (context + -context % self.seam_multiple) - context)
        step -= step % self.origin_multiple
        if step < 1:
            raise GeometryError(
                f"patch_size {self.patch_size} with overlap {self.overlap} along {self.axis} leaves no step that is a "
                f"multiple of origin_multiple {self.origin_multiple}: take a larger patch or a smaller overlap"
            )
        if self.seams == "centered":
            margin = (self.patch_size - step) // 2
            margin -= margin % self.seam_multiple
            margin += -(-(context - margin) // self.seam_multiple) * self.seam_multiple * (margin < context)
        object.__setattr__(self, "step", step)
        object.__setattr__(self, "margin", margin)

    def _check_seam_multiple(self) -> None:
        if self.seam_multiple < 1 or self.origin_multiple % self.seam_multiple:
            raise GeometryError(
                f"seam_multiple is {self.seam_multiple} along {self.axis}: it must be a divisor of origin_multiple {self.origin_multiple}"
            )

    @property
    def _offset(self) -> int:
        """How far a seam lies behind the multiple of the step it belongs to."""
        return self.margin if self.seams == "centered" else 0

    def unmoved_start(self, tile: int) -> int:
        """Return where a tile would start on an endless axis; at the image's ends tiles are moved inside.

        Examples
        --------
        >>> TileRule(patch_size=8, overlap=3, seams="grid").unmoved_start(0)
        -1
        """
        return tile * self.step + self._offset - self.margin

    def count(self, size: Whole) -> Whole:
        """Count the tiles that cover an axis.

        Parameters
        ----------
        size : int or array of int64
            Size of the axis, at least 1.
        """
        if self.seams == "centered":
            tiles = -((self.patch_size - self.step - size) // self.step)
            return tiles + (1 - tiles) * (tiles < 1)
        tiles = -(-size // self.step)
        return tiles + (1 - tiles) * (size <= self.patch_size)

    def window(self, tile: Whole, size: Whole, count: Whole) -> TileWindow:
        """Where a tile starts, and which part of it is kept.

        Parameters
        ----------
        tile : int or array of int64
            Number of the tile along the axis, from 0 to `count - 1`; not checked.
        size : int or array of int64
            Size of the axis.
        count : int or array of int64
            Number of tiles along the axis: `count(size)`, which a tiling computes once.
        """
        first_seam = tile * self.step + self._offset
        start = first_seam - self.margin
        start -= start * (start < 0)
        last_start = size - self.patch_size
        last_start = last_start - last_start * (last_start < 0)
        if self.origin_multiple > 1:
            last_start = last_start + -last_start % self.origin_multiple
        start -= (start - last_start) * (start > last_start)
        keep_start = first_seam * (tile > 0)
        keep_stop = first_seam + self.step
        keep_stop += (size - keep_stop) * (tile + 1 == count)
        return TileWindow(start, keep_start, keep_stop)  # type: ignore[arg-type]  # arrays in, arrays out

    def blended_part(self, start: Whole, size: Whole) -> tuple[Whole, Whole]:
        """Return the part of a tile that is used where tiles are blended: all but the halo, which is used at the ends of the image.

        Parameters
        ----------
        start : int or array of int64
            First voxel of the tile.
        size : int or array of int64
            Size of the axis.

        Returns
        -------
        start, stop : int or array of int64
            First voxel that is used, and one past the last; it may be past the end of the image.

        Examples
        --------
        >>> rule = TileRule(patch_size=8, overlap=4, halo=2)
        >>> [rule.blended_part(start, size=16) for start in (0, 4, 8)]
        [(0, 6), (6, 10), (10, 16)]
        """
        stop = start + self.patch_size
        return start + self.halo * (start > 0), stop - self.halo * (stop < size)

    def tile_at(self, voxel: Whole, count: Whole) -> Whole:
        """Return the tile that keeps a voxel.

        Parameters
        ----------
        voxel : int or array of int64
            Position on the axis.
        count : int or array of int64
            Number of tiles along the axis.

        Examples
        --------
        >>> [TileRule(patch_size=8, overlap=3).tile_at(voxel, count=4) for voxel in (0, 5, 6, 19)]
        [0, 0, 1, 3]
        """
        tile = (voxel - self._offset) // self.step
        tile -= tile * (tile < 0)
        tile -= (tile - (count - 1)) * (tile > count - 1)
        return tile

    def touching(self, start: int, stop: int, size: int) -> range:
        """Tiles whose kept windows meet `[start, stop)` of an axis.

        Parameters
        ----------
        start, stop : int
            A window of the image, not empty and inside `[0, size)`.
        size : int
            Size of the axis.

        Examples
        --------
        >>> TileRule(patch_size=8, overlap=3).touching(6, 12, size=20)
        range(1, 3)
        """
        count = self.count(size)
        return range(self.tile_at(start, count), self.tile_at(stop - 1, count) + 1)
