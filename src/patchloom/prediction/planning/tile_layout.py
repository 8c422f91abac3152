"""The tiles of a run, with the input and the outputs of the model for each: all that is known before blocks are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import lcm
from typing import Any, NamedTuple

import numpy as np

from patchloom.argument_checks import instance, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.geometry.checks import PerAxis, one_per_axis
from patchloom.geometry.tile_rule import Seams
from patchloom.patching import TiledPatching
from patchloom.patching.flat_index import check_data_idx
from patchloom.patching.region_tiling import RegionTiling, TileRegion
from patchloom.prediction.models.model import ModelDescription, size_rule
from patchloom.prediction.models.monte_carlo_model import MEAN, STD
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.models.rescaling.rescaled_model import PixelGrid
from patchloom.prediction.planning.blocks import choose_seams
from patchloom.prediction.planning.context import fitting_halo, shrunk_to_image, wanted_halo
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.stack_facts import StackFacts
from patchloom.prediction.survey import Survey
from patchloom.stitching.blend import blend_dtype

MAX_TILES_ALONG = 2**22
"""Most tiles along one axis: a plan has a few numbers for each of them."""


@dataclass(frozen=True)
class TileLayout:
    """The tiles of a run, with the input and the outputs of the model for each; made by `lay_out_tiles`."""

    request: PredictionRequest
    """What was asked for."""

    survey: Survey
    """What was found out before."""

    tiling: TiledPatching = field(repr=False, compare=False)
    """The tiles of the whole series, without the margin that the model's output does not cover."""

    network_size: tuple[int, ...]
    """Size of the tiles that the network gets, in its own pixels; that of the tiles if they are not resampled for it."""

    margin: tuple[int, ...]
    """Voxels that are read around each tile, because the model's output lacks them."""

    batch_size: int
    """Number of tiles that go through the model together."""

    blend_dtype: np.dtype[Any] | None
    """The smallest dtype in which overlapping tiles are added up; None where each voxel is cropped from one tile."""

    @property
    def stacks(self) -> tuple[StackFacts, ...]:
        """Facts about the series as the model is run on it."""
        return self.survey.stacks

    def region(self, data_idx: int) -> TileRegion | None:
        """Return the region of an image that is predicted; None for the whole image."""
        return self.tiling.regions[data_idx] if isinstance(self.tiling, RegionTiling) else None

    def sample_in_stack(self, data_idx: int, sample_idx: int) -> int:
        """Return the `sample_idx` in the stack of a sample of what is predicted of an image."""
        region = self.region(data_idx)
        return sample_idx if region is None else int(region.sample_in_stack(sample_idx))

    def predicted_shape(self, data_idx: int) -> tuple[int, ...]:
        """Return the shape of what is predicted of an image, `SC(Z)YX` in voxels of the input."""
        region, shape = self.region(data_idx), self.tiling.data_shapes[data_idx]
        return shape if region is None else (region.n_samples, shape[1], *region.shape)

    def predicted_origin(self, data_idx: int) -> tuple[int, ...]:
        """Return the first voxel of what is predicted of an image, `(z,) y, x`."""
        region = self.region(data_idx)
        return (0,) * len(self.margin) if region is None else tuple(start for start, _ in region.window)

    @property
    def patch_size(self) -> tuple[int, ...]:
        """Size of the tiles that the model gets, margin included."""
        return tuple(size + 2 * margin for size, margin in zip(self.tiling.patch_size, self.margin, strict=True))

    @property
    def outputs_known(self) -> bool:
        """Whether channels and dtype of the output are known, or one channel of float32 is assumed."""
        model = self.survey.model
        return bool(self.survey.outputs) or (model.out_channels is not None and model.out_dtype is not None)

    def outputs(self, data_idx: int) -> tuple[OutputSpec, ...]:
        """Return the outputs of one image; while they are not known, one channel of float32 is assumed, of each output of draws.

        Raises
        ------
        PatchIndexError
            If there is no such image.
        """
        data_idx = check_data_idx(data_idx, len(self.stacks))
        if self.survey.outputs:
            return self.survey.outputs[data_idx]
        model, n_dims = self.survey.model, len(self.margin)
        dtype = np.dtype(model.out_dtype) if model.out_dtype else self.request.dtype or np.dtype(np.float32)
        same, names = OutputSpec(model.out_channels or 1, dtype, (Fraction(1),) * n_dims, (0,) * n_dims), (MEAN, STD)
        return tuple(replace(same, name=name) for name in names) if self.request.n_draws else (same,)

    def output_channels_and_dtype(self, spec: OutputSpec) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype in which an output is written; one that is only assumed is not postprocessed."""
        instance("spec", spec, OutputSpec, "outputs gives them")
        if self.request.block_postprocess is not None and self.outputs_known:
            return self.request.block_postprocess.output(spec.n_channels, self.accumulator(spec))
        return spec.n_channels, self.request.dtype or spec.dtype

    def accumulator(self, spec: OutputSpec) -> np.dtype[Any]:
        """Return the dtype in which a block is put together: for blending, a float that holds the model's own exactly enough."""
        instance("spec", spec, OutputSpec, "outputs gives them")
        if self.blend_dtype is not None:
            return self.blend_dtype if spec.dtype == bool else np.result_type(spec.dtype, self.blend_dtype)
        return spec.dtype if self.request.block_postprocess is not None else self.request.dtype or spec.dtype

    @property
    def is_normalized(self) -> bool:
        """Whether the model gets normalized tiles, in float32."""
        return self.request.normalize is not None

    def batch_dtype(self, data_idx: int) -> np.dtype[Any]:
        """Return the dtype in which the model gets tiles of an image."""
        return np.dtype(np.float32) if self.is_normalized else self.stacks[data_idx].data_dtype


def lay_out_tiles(request: PredictionRequest, survey: Survey) -> TileLayout:
    """Compute the places of the tiles; the margin that they are read with depends on the outputs, as far as these are known.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    survey : Survey
        What was found out.

    Raises
    ------
    GeometryError
        If sizes make no sense, do not fit the images, or contradict the model.
    """
    model, n_dims = survey.model, len(survey.stacks[0].data_shape) - 2
    margin, coarsest = _margin_and_coarsest(survey.outputs, n_dims)
    network_size, (size, shared, multiples, halo) = _sizes(request, survey, margin, coarsest)
    data_shapes = [facts.data_shape for facts in survey.stacks]
    tiling = _tiling(
        request,
        _regions(survey, coarsest),
        data_shapes,
        patch_size=[side - 2 * lost for side, lost in zip(size, margin, strict=True)],
        overlaps=[max(0, voxels - 2 * lost) for voxels, lost in zip(shared, margin, strict=True)],
        seams=_seams(request, data_shapes, makes_smaller=max(coarsest) > 1),
        origin_multiple=[lcm(own, step) for own, step in zip(multiples, coarsest, strict=True)],
        halo=halo,
        seam_multiple=coarsest,
    )
    _check_counts(tiling)
    return TileLayout(
        request,
        survey,
        tiling,
        network_size,
        margin,
        batch_size=whole_number("batch_size", _batch_size(request, model), least=1),
        blend_dtype=None if request.blend is None else blend_dtype(tiling.rules, [shape[2:] for shape in data_shapes]),
    )


class _Sizes(NamedTuple):
    """What tiles are placed by, `(z,) y, x`."""

    size: tuple[int, ...]
    shared: tuple[int, ...]
    multiples: tuple[int, ...]
    halo: tuple[int, ...]


def _sizes(
    request: PredictionRequest, survey: Survey, margin: Sequence[int], coarsest: Sequence[int]
) -> tuple[tuple[int, ...], _Sizes]:
    """Return the size of the tiles that the network gets, in its pixels, and the sizes of tiles in voxels of the images."""
    model, n_dims = survey.model, len(margin)
    largest = [max(facts.data_shape[2 + axis] for facts in survey.stacks) for axis in range(n_dims)]
    grid = PixelGrid(survey.pixel_steps or (Fraction(1),) * n_dims)
    covered = grid.pixels_of(largest)
    size = shrunk_to_image(tile_size(request.patch_size, model, covered), model, covered)
    multiples = one_per_axis("origin_multiple", request.origin_multiple or model.origin_multiple or 1, n_dims, least=1)
    halo = wanted_halo(request, model, margin if survey.pixel_steps is None else (0,) * n_dims)
    if survey.pixel_steps is None:
        whole = [lcm(own, step) for own, step in zip(multiples, coarsest, strict=True)]
        halo = fitting_halo(request, model, halo, size=size, margin=margin, multiples=whole)
        halo = _used_halo(halo, size, margin, largest, coarsest)
        shared = _shared(request, model, _Sizes(size, tuple(margin), multiples, halo), covered)
        return size, _Sizes(size, shared, multiples, halo)
    shared = _shared(request, model, _Sizes(size, (0,) * n_dims, multiples, halo), None)
    in_voxels = _Sizes(grid.tile_size(size), grid.overlaps(shared), grid.origin_multiples(multiples), grid.halos(halo))
    in_voxels = in_voxels._replace(halo=_used_halo(in_voxels.halo, in_voxels.size, margin, largest, coarsest))
    unused = [2 * (lost + voxels) for lost, voxels in zip(margin, in_voxels.halo, strict=True)]
    in_voxels = in_voxels._replace(shared=tuple(map(max, in_voxels.shared, unused)))
    in_voxels = in_voxels._replace(shared=_fitting(in_voxels, largest))
    for axis, side, voxels, multiple, _ in zip(spatial_axes(n_dims), *in_voxels, strict=True):
        if voxels > side - multiple:
            raise GeometryError(
                f"tiles of {as_text(size)} pixels of the network are {as_text(in_voxels.size)} voxels of the image, and share "
                f"{voxels} along {axis}, for the overlap and for interpolation, which leaves no step of {multiple}: take a larger "
                "patch_size or smaller overlaps"
            )
    return size, in_voxels


def _used_halo(
    halo: Sequence[int], size: Sequence[int], margin: Sequence[int], largest: Sequence[int], coarsest: Sequence[int]
) -> tuple[int, ...]:
    """Return the halo in whole voxels of all outputs; along an axis that one tile covers, all of the tile is used."""
    return tuple(
        0 if side - 2 * lost >= longest else voxels + -voxels % step
        for voxels, side, lost, longest, step in zip(halo, size, margin, largest, coarsest, strict=True)
    )


def _shared(
    request: PredictionRequest, model: ModelDescription, sizes: _Sizes, covered: Sequence[int] | None
) -> tuple[int, ...]:
    """Return the overlap that is given or declared, or a default; of `sizes`, `shared` is the margin that outputs lack.

    Along an axis that a tile covers, a declared overlap may be larger than the tile.
    """
    size, margin, _, halo = sizes
    unused = [lost + voxels for lost, voxels in zip(margin, halo, strict=True)]
    if request.overlaps is not None:
        shared = one_per_axis("overlaps", request.overlaps, len(size), least=0)
    elif model.overlaps is not None:
        least = [2 * lost if any(halo) else 0 for lost in unused]
        shared = tuple(map(max, model.overlaps, least))
        shared = shared if covered is None else _fitting(sizes._replace(shared=shared), covered)
    elif any(halo) and request.blend is not None:
        shared = tuple(2 * lost + (side - 2 * lost) // 4 for side, lost in zip(size, unused, strict=True))
    else:
        shared = tuple(max(side // 4, 2 * lost) for side, lost in zip(size, unused, strict=True))
    _check_halo(size, shared, margin, halo)
    return shared


def _fitting(sizes: _Sizes, covered: Sequence[int]) -> tuple[int, ...]:
    """Return overlaps, except along an axis that one tile covers: there are no neighbors, and the overlap may be larger than the tile."""
    return tuple(
        voxels if side < size else min(voxels, max(0, side - multiple))
        for side, voxels, multiple, _, size in zip(*sizes, covered, strict=True)
    )


def as_text(sizes: Sequence[int]) -> str:
    """Write sizes for a message.

    Examples
    --------
    >>> as_text((64, 48))
    '64 × 48'
    """
    return " × ".join(map(str, sizes))


def _check_halo(size: Sequence[int], shared: Sequence[int], margin: Sequence[int], halo: Sequence[int]) -> None:
    """Check that tiles are larger than their halo, and share it."""
    for side, overlap, lost, voxels, axis in zip(size, shared, margin, halo, spatial_axes(len(size)), strict=True):
        least = 2 * (lost + voxels)
        of_model = f", and the output of the model lacks {lost} on each side" if lost else ""
        if voxels and least >= side:
            raise GeometryError(
                f"halo is {voxels} along {axis}, and patch_size is {side}{of_model}: nothing would be left of a tile; take a larger "
                "patch_size or a smaller halo"
            )
        if voxels and least > overlap:
            raise GeometryError(
                f"halo is {voxels} along {axis}, and overlaps is {overlap}{of_model}: tiles have to share both halos; take overlaps of "
                f"{least} or more, or a smaller halo"
            )


def _batch_size(request: PredictionRequest, model: ModelDescription) -> int:
    return request.batch_size or model.batch_size or model.preferred_batch_size or 1


def _tiling(
    request: PredictionRequest, regions: Sequence[TileRegion], data_shapes: Sequence[tuple[int, ...]], **rule: Any
) -> TiledPatching:
    """Return the tiles of whole images, or of a region of each."""
    if not regions:
        return TiledPatching(data_shapes, **rule)
    return RegionTiling(data_shapes, regions, whole_tiles=request.blend is not None, **rule)


def _regions(survey: Survey, coarsest: Sequence[int]) -> list[TileRegion]:
    """Return the region of each image, widened to whole voxels of the coarsest output; empty if whole images are predicted."""
    return [
        replace(region, window=tuple(map(_widened, region.window, coarsest, facts.data_shape[2:])))
        for facts in survey.stacks
        if (region := facts.tile_region) is not None
    ]


def _widened(part: tuple[int, int], step: int, size: int) -> tuple[int, int]:
    start, stop = part
    return start - start % step, min(stop + -stop % step, size)


def _check_counts(tiling: TiledPatching) -> None:
    for data_idx in range(len(tiling.data_shapes)):
        counts = tiling.grid_shape(data_idx)
        for count, axis in zip(counts, spatial_axes(len(counts)), strict=True):
            if count > MAX_TILES_ALONG:
                raise GeometryError(
                    f"image stack {data_idx} has {count} tiles along {axis}: a plan has at most {MAX_TILES_ALONG}; take a larger "
                    "patch_size"
                )


def _seams(request: PredictionRequest, data_shapes: Sequence[Sequence[int]], *, makes_smaller: bool) -> Seams:
    if makes_smaller:
        return request.seams or "grid"
    return request.seams or ("centered" if request.blend is not None else choose_seams(data_shapes))


def _margin_and_coarsest(
    outputs: Sequence[Sequence[OutputSpec]], n_dims: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the largest margin of all outputs, and the number of voxels of the input for one of the coarsest output."""
    every = {spec for of_image in outputs for spec in of_image}
    steps = tuple(lcm(*(spec.scale[axis].denominator for spec in every)) for axis in range(n_dims))
    margin = tuple(
        _shared_margin([(spec.margin[axis], spec.scale[axis].denominator) for spec in every]) for axis in range(n_dims)
    )
    return margin, steps


def _shared_margin(of_outputs: Sequence[tuple[int, int]]) -> int:
    """Find the smallest margin that all outputs have, cut by whole voxels of each: its own margin, and its step in voxels."""
    margin = max((own for own, _ in of_outputs), default=0)
    while any((margin - own) % step for own, step in of_outputs):
        margin += 1
    return margin


def tile_size(given: PerAxis | None, description: ModelDescription, image_size: Sequence[int]) -> tuple[int, ...]:
    """Return the tile size that is given, that the model declares, or a default by its rule for sizes.

    Parameters
    ----------
    given : int or tuple of int, optional
        As in `predict`.
    description : ModelDescription
        What the model declares.
    image_size : sequence of int
        Size of the largest image, `(z,) y, x` in voxels.

    Raises
    ------
    GeometryError
        If there is none, it is not what the model declares, or it has other dimensions than the images.

    Examples
    --------
    >>> tile_size(None, ModelDescription(patch_size=(64, 64)), (500, 500)), tile_size(32, ModelDescription(), (80, 500, 500))
    ((64, 64), (32, 32, 32))
    >>> tile_size(None, ModelDescription(size_step=(16, 16)), (100, 2000))
    (112, 512)
    """
    n_dims = len(image_size)
    rule = size_rule(description)
    if given is None and description.patch_size is None and description.preferred_patch_size is not None:
        given = description.preferred_patch_size
    if given is None and rule is not None:
        usual = 512 if n_dims == 2 else 96
        shared = description.overlaps or [2 * max(sides) for sides in description.context or ((0, 0),) * n_dims]
        return tuple(
            least + -(-max(0, min(max(usual, 2 * voxels), side) - least) // step) * step
            for side, voxels, (least, step) in zip(image_size, shared, rule, strict=True)
        )
    size = _given_size(given, description, n_dims)
    for axis, side, (least, step) in zip(spatial_axes(n_dims), size, rule or (), strict=False):
        if side < least or (side - least) % step:
            near = least + max(0, side - least) // step * step
            raise GeometryError(
                f"patch_size is {side} along {axis}, but the model takes {least} and more in steps of {step}: take {near} or "
                f"{near + step}"
            )
    return size


def _given_size(given: PerAxis | None, description: ModelDescription, n_dims: int) -> tuple[int, ...]:
    """Return the tile size that is given or that the model declares; both must be the same."""
    declared = description.patch_size
    if given is None and declared is None:
        example = ",".join(["256"] * 2 if n_dims == 2 else ["32", "128", "128"])
        raise GeometryError(
            f"patch_size is not given, and no model declares it: give it (--patch-size) in voxels, one number for each of "
            f"{', '.join(spatial_axes(n_dims))}, such as {example}, or one number for all"
        )
    size = one_per_axis("patch_size", declared if given is None else given, n_dims, least=1)  # type: ignore[arg-type]  # one is there
    if declared not in (None, size):
        raise GeometryError(f"patch_size is {size}, but the model takes {declared} only: leave patch_size out")
    return size
