"""Regions of a prediction that are predicted once more, in tiles that are larger or lie at other places: a function of seed and plan.

A region lies around a seam, a corner where seams meet, or a border of the image. Its tile is as large as allowed, with the seam in
its middle, and of its prediction the borders are cropped, except where the tile ends where the tiles of the run end::

    image                  0                                                               A
    tiles of the run       [            |         seam         |            ]
    tile of the region             [....(kept           kept)....]
    of a region at 0       (kept                        kept)....]
                                                        `.... reach, or a quarter of the tile
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import lcm, prod
from typing import Any, NamedTuple, get_args

from patchloom.geometry.tile_rule import TileRule
from patchloom.patching.counter_random import CounterRandom, Stream
from patchloom.prediction.certificate.certificate import CertifiedRegion, RegionKind
from patchloom.prediction.models.model import ModelDescription, size_rule
from patchloom.prediction.models.rescaling.rescaled_model import PixelGrid
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.tile_layout import TileLayout

Context = Sequence[tuple[int, int]]
"""Voxels of the image on which an output voxel depends, before and after the voxels under it, `(z,) y, x`."""

DEFAULT_REGIONS = 8

MOST_OF_RUN = 0.05
"""Share of the voxels of a run that is predicted once more, if that allows tiles of twice the size along each axis."""

_MODEL_BYTES = 1024
"""Bytes that a network is assumed to take for a voxel of its tile: four maps of 64 channels of float32."""

_DRAWS = 16
"""Random numbers for each region."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of an image with the tiles that cover what is predicted."""

    rule: TileRule
    size: int
    window: tuple[int, int]
    """What is predicted of the image."""

    @property
    def count(self) -> int:
        return int(self.rule.count(self.size))

    @property
    def end(self) -> int:
        """Where the last tile of the whole image ends."""
        return int(self.rule.window(self.count - 1, self.size, self.count).start) + self.rule.patch_size

    @property
    def seams(self) -> range:
        """Tiles that begin at a seam inside of what is predicted."""
        tiles = self.rule.touching(*self.window, self.size)
        return range(tiles.start + 1, tiles.stop)

    def seam(self, tile: int) -> int:
        return int(self.rule.window(tile, self.size, self.count).keep_start)


def axes_of(layout: TileLayout, data_idx: int) -> list[_Axis]:
    """Return the axes of an image, with the tiles along them."""
    origin, shape = layout.predicted_origin(data_idx), layout.predicted_shape(data_idx)[2:]
    windows = [(start, start + size) for start, size in zip(origin, shape, strict=True)]
    return [
        _Axis(rule, size, window)
        for rule, size, window in zip(
            layout.tiling.rules, layout.tiling.data_shapes[data_idx][2:], windows, strict=True
        )
    ]


def steps_of_outputs(layout: TileLayout) -> tuple[int, ...]:
    """Return the smallest number of voxels of the input that is a whole number of voxels of every output, along each axis."""
    outputs = [spec for data_idx in range(len(layout.stacks)) for spec in layout.outputs(data_idx)]
    return tuple(lcm(*(spec.scale[axis].denominator for spec in outputs)) for axis in range(len(layout.margin)))


@dataclass(frozen=True)
class TileSize:
    """The size of the tile of a region."""

    of_network: tuple[int, ...]
    """What the network gets, in its own pixels."""

    of_tiling: tuple[int, ...]
    """The same in voxels of the image, without the margin that the output lacks."""


def region_tile(layout: TileLayout, data_idx: int, most_voxels: int) -> TileSize:
    """Return the largest tile that the model accepts, which lies inside the tiles of an image and has at most a number of voxels.

    Along an axis that one tile of the run covers, it has the size of this tile.

    Parameters
    ----------
    layout : TileLayout
        The tiles of the run.
    data_idx : int
        Index of the image.
    most_voxels : int
        Number of voxels that the network may get; the tile of the run is allowed in any case.
    """
    steps = _size_steps(layout.survey.model, layout.network_size)
    axes = axes_of(layout, data_idx)
    size = _tile_size(layout, layout.network_size)
    while True:
        grown = [
            (*size.of_network[:axis], size.of_network[axis] + step, *size.of_network[axis + 1 :])
            for axis, step in enumerate(steps)
            if step and axes[axis].count > 1
        ]
        fitting = [
            larger
            for larger in (_tile_size(layout, candidate) for candidate in grown)
            if prod(larger.of_network) <= most_voxels
            and all(
                side <= max(axis.end, axis.rule.patch_size) for side, axis in zip(larger.of_tiling, axes, strict=True)
            )
        ]
        if not fitting:
            return size
        # The axis along which the tile has grown least comes first.
        size = min(
            fitting, key=lambda tile: max(a / b for a, b in zip(tile.of_network, layout.network_size, strict=True))
        )


def _tile_size(layout: TileLayout, of_network: tuple[int, ...]) -> TileSize:
    steps = layout.survey.pixel_steps
    in_voxels = of_network if steps is None else PixelGrid(steps).tile_size(of_network)
    return TileSize(of_network, tuple(side - 2 * margin for side, margin in zip(in_voxels, layout.margin, strict=True)))


def _size_steps(model: ModelDescription, size: Sequence[int]) -> Sequence[int]:
    """Return by how much tiles may be larger along each axis; 0 if the model accepts one size."""
    rule = size_rule(model)
    if model.patch_size is not None:
        return [0] * len(size)
    # Where no rule is known, a model that accepts a tile is assumed to accept one of twice the size.
    return list(size) if rule is None else [step for _, step in rule]


def voxels_allowed(plan: Plan, n_regions: int) -> tuple[int, int]:
    """Return the largest number of voxels of all tiles of regions together, and of one of them.

    Together, they are 5 % of the tiles of the run, or as many regions of twice the tile size along each axis. One has the memory
    that the run may use, without that of the model, which is assumed to take as much as a network of 64 channels.
    """
    layout = plan.layout
    of_tile = prod(layout.network_size)
    together = max(int(MOST_OF_RUN * voxels_of_run(plan)), n_regions * of_tile * 2 ** len(layout.margin))
    outputs = layout.outputs(0)
    of_voxel = layout.stacks[0].data_shape[1] * layout.batch_dtype(0).itemsize + sum(
        spec.n_channels * spec.dtype.itemsize * float(prod(spec.scale)) * 3 for spec in outputs
    )
    return together, max(of_tile, int(layout.survey.memory_limit / (of_voxel + _MODEL_BYTES)))


def voxels_of_run(plan: Plan) -> int:
    """Return the number of voxels that go through the model in a run, in pixels of the network."""
    return int(plan.n_tiles_computed) * prod(plan.layout.network_size)


def choose_regions(
    plan: Plan, seed: int, n_regions: int, context: Context | None = None, images: Sequence[int] | None = None
) -> Iterator[tuple[CertifiedRegion, TileSize]]:
    """Choose regions, with the tile of each.

    Parameters
    ----------
    plan : Plan
        The plan, with known outputs.
    seed : int
        Other seeds choose other regions.
    n_regions : int
        Largest number of regions. Regions that would compare the same voxels are left out.
    context : sequence of (int, int), optional
        How far an output voxel looks. If None, the middle half of each tile is compared.
    images : sequence of int, optional
        Indices of images that may be chosen. If None, all.

    Returns
    -------
    iterator of (CertifiedRegion, TileSize)
        The regions; fewer if no tiles meet, or if their tiles cover whole images.
    """
    layout = plan.layout
    candidates = range(len(layout.stacks)) if images is None else images
    with_seams = [idx for idx in candidates if any(axis.seams for axis in axes_of(layout, idx))]
    together, of_one = voxels_allowed(plan, n_regions)
    seen: set[Any] = set()
    used = 0
    draws = CounterRandom(seed, stream=Stream.REGION)
    for number in range(n_regions if with_seams else 0):
        chosen = number if len(with_seams) <= n_regions else draws.below(len(with_seams), _DRAWS * number)
        data_idx = with_seams[chosen % len(with_seams)]
        tile = _tile_within(layout, data_idx, together, min(of_one, together), n_regions)
        kind = get_args(RegionKind)[number % len(get_args(RegionKind))]
        region = _region(layout, data_idx, kind, tile, context=context, draws=_Draws(draws, _DRAWS * number + 1))
        if region is None or (key := (data_idx, region.sample_idx, region.start, region.stop)) in seen:
            continue
        used += prod(tile.of_network)
        if seen and used > together:
            return
        seen.add(key)
        yield region, tile


def _tile_within(layout: TileLayout, data_idx: int, together: int, of_one: int, n_regions: int) -> TileSize:
    """Return the tile of a region: one that covers the whole image if all regions together may have as many voxels, else a share."""
    largest = region_tile(layout, data_idx, of_one)
    more = region_tile(layout, data_idx, 2 * prod(largest.of_network) + 1)
    if more == largest and prod(largest.of_network) <= together:
        return largest
    return region_tile(layout, data_idx, min(of_one, together // n_regions))


class _Draws:
    """Random numbers of one region, one after the other."""

    def __init__(self, draws: CounterRandom, index: int) -> None:
        self._draws, self._index = draws, index

    def below(self, bound: int) -> int:
        self._index += 1
        return self._draws.below(bound, self._index)


def _region(
    layout: TileLayout, data_idx: int, kind: RegionKind, tile: TileSize, *, context: Context | None, draws: _Draws
) -> CertifiedRegion | None:
    """Place a tile around a random point of a kind; None if nothing of it lies in what is predicted."""
    points = _point(axes_of(layout, data_idx), kind, draws)
    sample = layout.sample_in_stack(data_idx, draws.below(layout.predicted_shape(data_idx)[0]))
    placed = _placed(layout, data_idx, points, tile, context)
    if any(place.stop <= place.start for place in placed):
        return None
    return CertifiedRegion(
        kind=kind, data_idx=data_idx, sample_idx=sample, middle=tuple(points), **_fields(placed, tile)
    )


def replaced(layout: TileLayout, region: CertifiedRegion, tile: TileSize, context: Context | None) -> CertifiedRegion:
    """Return a region around the same point with a tile of another size.

    Parameters
    ----------
    layout : TileLayout
        The tiles of the run.
    region : CertifiedRegion
        The region.
    tile : TileSize
        The size of its tile.
    context : sequence of (int, int), optional
        As in `choose_regions`.
    """
    if tile.of_tiling == region.tile_size:
        return region
    placed = _placed(layout, region.data_idx, region.middle, tile, context)
    return replace(region, **_fields(placed, tile))


def _fields(placed: Sequence[_Place], tile: TileSize) -> dict[str, Any]:
    """Return the fields of a region that depend on its tile."""
    return {
        "tile_start": tuple(place.tile_start for place in placed),
        "tile_size": tile.of_tiling,
        "start": tuple(place.start for place in placed),
        "stop": tuple(place.stop for place in placed),
        "is_exact": all(place.is_exact for place in placed),
    }


def _placed(
    layout: TileLayout, data_idx: int, points: Sequence[int], tile: TileSize, context: Context | None
) -> list[_Place]:
    """Place a tile around a point."""
    return [
        _place(axis, point, size, step, of_axis)
        for axis, point, size, step, of_axis in zip(
            axes_of(layout, data_idx),
            points,
            tile.of_tiling,
            steps_of_outputs(layout),
            _beyond_margin(layout, context),
            strict=True,
        )
    ]


def _beyond_margin(layout: TileLayout, context: Context | None) -> list[tuple[int, int] | None]:
    """Return how far an output voxel looks beyond the margin, with which tiles are read anyway; None if that is not known."""
    if context is None:
        return [None] * len(layout.margin)
    return [
        (max(0, before - margin), max(0, after - margin))
        for (before, after), margin in zip(context, layout.margin, strict=True)
    ]


def _point(axes: Sequence[_Axis], kind: RegionKind, draws: _Draws) -> list[int]:
    """Draw a point: along each axis a seam, a border of what is predicted, or any voxel."""
    with_seams = [number for number, axis in enumerate(axes) if axis.seams]
    chosen = with_seams[draws.below(len(with_seams))]
    points = []
    for number, axis in enumerate(axes):
        start, stop = axis.window
        at_seam = axis.seam(axis.seams[draws.below(len(axis.seams))]) if axis.seams else None
        at_border, anywhere = (start, stop)[draws.below(2)], start + draws.below(stop - start)
        if kind == "image corner":
            point = at_border
        elif at_seam is not None and (kind == "corner" or number == chosen):
            point = at_seam
        else:
            point = at_border if kind == "border" else anywhere
        points.append(point)
    return points


class _Place(NamedTuple):
    """Where the tile of a region lies along one axis, and which part of it is compared."""

    tile_start: int
    start: int
    stop: int
    is_exact: bool


def _place(axis: _Axis, point: int, size: int, step: int, context: tuple[int, int] | None) -> _Place:
    multiple = axis.rule.origin_multiple
    if axis.count == 1:
        return _Place(0, *axis.window, is_exact=True)
    start = min(max(0, point - size // 2), axis.end - size)
    start -= start % multiple
    quarter = size // 4
    before, after = (quarter, quarter) if context is None else context
    is_exact = context is not None
    if context is not None and before + after > size - 2 * quarter:
        before, after, is_exact = min(before, quarter), min(after, quarter), False
    at_start, at_end = start == 0, start + size == axis.end
    kept_start = 0 if at_start else start + before
    kept_stop = axis.size if at_end else min(axis.size, start + size - after)
    low, high = axis.window
    kept_start += -kept_start % step
    kept_stop -= kept_stop % step if kept_stop < axis.size else 0
    return _Place(start, max(kept_start, low), min(kept_stop, high), is_exact or (at_start and at_end))
