"""The tile size and the overlap of a model that was probed: the fewest computed voxels for each voxel that is kept.

Along an axis of `A` voxels, tiles of `P` voxels that share `O` advance by `P - O`, so about ``A * P / (P - O)`` voxels are computed.
Larger tiles compute fewer voxels, and need more memory. A tile that covers the axis needs no overlap at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil, lcm, prod

from patchloom.prediction.probe.model_probe import ModelProbe
from patchloom.prediction.probe.size_search import SizeRule

_USUAL_VOXELS = {2: 1024**2, 3: 128**3}
"""Voxels of the largest tile that is chosen, unless the reach needs more."""

_USUAL_OVERLAP = {2: 128, 3: 24}
"""Overlap that is chosen at least where the reach is not certain."""

_TIMES_UNCERTAIN = 1.5
"""A reach that is a lower bound is multiplied by this."""

_WORTH_LARGER = 0.97
"""A larger tile is chosen if it needs less than this share of the voxels of a smaller one."""

_NEIGHBORING = 32
"""Sizes of tiles that are compared differ by this number of voxels or more."""


@dataclass(frozen=True, slots=True)
class TileChoice:
    """Tile size and overlap, `(z,) y, x` in voxels.

    Parameters
    ----------
    patch_size, overlaps, halo, origin_multiple : tuple of int
        As in `predict`.
    computed : float
        Voxels that are computed for each voxel that is kept.
    is_enough : bool
        Whether the overlap is as large as the probe found necessary.
    """

    patch_size: tuple[int, ...]
    overlaps: tuple[int, ...]
    halo: tuple[int, ...]
    origin_multiple: tuple[int, ...]
    computed: float
    is_enough: bool


def choose_tiles(probe: ModelProbe, image_size: Sequence[int], n_bytes: int, *, is_blended: bool = False) -> TileChoice:
    """Choose tile size and overlap for a model.

    Parameters
    ----------
    probe : ModelProbe
        What was found out about the model.
    image_size : sequence of int
        Size of the largest image, `(z,) y, x` in voxels.
    n_bytes : int
        Memory that the model may take for a tile, in bytes.
    is_blended : bool
        Whether tiles are blended, which needs voxels beyond the halo of both tiles.
    """
    needed = needed_overlaps(probe)
    axes = [
        _Axis(rule, size, overlap, stride, margin)
        for rule, size, overlap, stride, margin in zip(
            probe.sizes, image_size, needed, probe.stride, probe.margin, strict=True
        )
    ]
    most = _most_voxels(probe, n_bytes)
    usual = most if probe.is_global else min(most, _USUAL_VOXELS[probe.n_dims])
    chosen = _cheapest(axes, usual) or _cheapest(axes, most)
    is_enough = chosen is not None
    if chosen is None:
        chosen = tuple(axis.largest(int(most ** (1 / probe.n_dims))) for axis in axes)
    overlaps, halo = [], []
    for axis, side in zip(axes, chosen, strict=True):
        shared = axis.shared(side)
        inner = max(0, shared // 2 - axis.margin)
        if is_blended and not axis.covers(side):
            shared = min(shared + min(64, (side - shared) // 4), side - axis.stride)
        overlaps.append(shared)
        halo.append(inner)
    return TileChoice(
        chosen,
        tuple(overlaps),
        tuple(halo),
        probe.stride,
        prod(axis.computed(side, shared) for axis, side, shared in zip(axes, chosen, overlaps, strict=True))
        / prod(image_size),
        is_enough,
    )


def needed_overlaps(probe: ModelProbe) -> tuple[int, ...]:
    """Return the overlap that makes tiles equal the whole image; more than was measured where that is a lower bound."""
    if probe.is_certain:
        return tuple(2 * (halo + margin) for halo, margin in zip(probe.halo, probe.margin, strict=True))
    return tuple(
        max(2 * ceil(_TIMES_UNCERTAIN * halo), _USUAL_OVERLAP[probe.n_dims]) + 2 * margin
        for halo, margin in zip(probe.halo, probe.margin, strict=True)
    )


def _most_voxels(probe: ModelProbe, n_bytes: int) -> int:
    if not probe.bytes_per_tile:
        return _USUAL_VOXELS[probe.n_dims]
    return int(n_bytes * prod(probe.largest_size) / probe.bytes_per_tile)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis: the sizes that the model accepts, the size of the image, and what tiles have to share."""

    rule: SizeRule
    size: int
    overlap: int
    stride: int
    margin: int

    def covers(self, side: int) -> bool:
        return side - 2 * self.margin >= self.size

    def shared(self, side: int) -> int:
        """Return the overlap: what is needed, or half a tile if that is more than a tile can share."""
        if self.covers(side) or side - self.overlap >= self.stride:
            return self.overlap
        return max(2 * self.margin, side // 2)

    def computed(self, side: int, overlap: int) -> int:
        """Return the number of voxels that tiles compute along the axis."""
        if self.covers(side):
            return side
        step = max(1, (side - overlap) // self.stride) * self.stride
        return side * (1 + ceil((self.size + 2 * self.margin - side) / step))

    def sizes(self) -> Iterator[int]:
        """Yield sizes of tiles that are large enough, up to the one that covers the axis: multiples of the stride if there are any."""
        if self.rule.is_fixed:
            yield self.rule.least
            return
        step = lcm(self.rule.modulus, self.stride)
        offset = next(
            (
                side
                for side in range(self.rule.least, self.rule.least + step, self.rule.modulus)
                if side % self.stride == 0
            ),
            self.rule.least,
        )
        rule, side = SizeRule(offset, step), 0
        covering = rule.at_least(max(self.size + 2 * self.margin, self.stride))
        side = rule.at_least(self.overlap + self.stride)
        while side < covering:
            yield side
            side = rule.at_least(side + max(step, _NEIGHBORING))
        yield covering

    def largest(self, most: int) -> int:
        """Return the largest size up to a number of voxels, or the least that the model accepts."""
        return max(self.rule.least, self.rule.at_least(most + 1) - self.rule.modulus)


def _cheapest(axes: Sequence[_Axis], most: int) -> tuple[int, ...] | None:
    """Return the tile with the fewest computed voxels that has at most so many voxels; None if none has."""
    best: tuple[int, ...] | None = None
    lowest = float("inf")
    candidates = [list(axis.sizes()) for axis in axes]
    for limit in sorted({side for sides in candidates for side in sides}):
        # Along each axis the best size up to a limit: tiles are cubes, except along axes where the image ends.
        size = tuple(
            min(
                (side for side in sides if side <= max(limit, sides[0])),
                key=lambda side: (axis.computed(side, axis.overlap), side),
            )
            for axis, sides in zip(axes, candidates, strict=True)
        )
        cost = prod(axis.computed(side, axis.overlap) for axis, side in zip(axes, size, strict=True))
        if prod(size) <= most and cost < lowest * (_WORTH_LARGER if best else 1):
            best, lowest = size, cost
    return best
