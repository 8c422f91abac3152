"""From sources and settings to a plan: what is not given is chosen here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from math import lcm
from typing import Any, get_args

from patchloom.argument_checks import function, instance, instances, listed, one_of
from patchloom.errors import GeometryError
from patchloom.geometry.blend_weights import BlendWindow, check_blend
from patchloom.geometry.checks import spatial_tuple
from patchloom.geometry.padding import Padding, check_padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_stacks import ImageStack, Source, check_series, fingerprint, open_stacks
from patchloom.patching import TiledPatching
from patchloom.pixel_arrays import pixel_dtype
from patchloom.prediction.fill_value import check_fill, check_fill_fits
from patchloom.prediction.models.model import Model, ModelDescription, describe
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.normalization.normalization import Method, Normalization, Per
from patchloom.prediction.normalization.request import given_normalizations, normalization_request
from patchloom.prediction.planning.blocks import choose_seams, largest_block
from patchloom.prediction.planning.label_outputs import check_blend_of_labels
from patchloom.prediction.planning.memory import check_memory_limit
from patchloom.prediction.planning.model_input import (
    check_channels,
    origin_multiples,
    stacks_for_network,
    tile_size,
    tiles_together,
)
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.prediction.postprocessing import Postprocessing
from patchloom.prediction.postprocessing_text import parse_postprocessing
from patchloom.prediction.skip_rules import SkipRule, check_skip_rule
from patchloom.stitching.block_grid import choose_blocks

_BLOCK_SIZES = [2**power for power in range(25, 19, -1)]
"""Voxels of a block, in one channel, that are tried: from 128 MiB of float32 to 4 MiB, below which files get too small."""

_SMALL_BLOCK_SIZES = [2**power for power in range(19, 9, -1)]
"""What is tried where memory is too short for those."""


def plan(
    sources: Source | Sequence[Source],
    *,
    model: Model | None = None,
    axes: str | Sequence[str | None] | None = None,
    patch_size: Sequence[int] | None = None,
    overlaps: Sequence[int] | None = None,
    blend: BlendWindow | None = None,
    seams: Seams | None = None,
    origin_multiple: int | Sequence[int] | None = None,
    padding: Padding = "reflect",
    batch_size: int | None = None,
    dtype: Any = None,
    postprocess: str | Postprocessing | None = None,
    normalize: Method | Sequence[Normalization] | None = None,
    percentiles: Sequence[float] | None = None,
    per: Per | None = None,
    skip: SkipRule | None = None,
    fill: float = 0,
    memory_limit: int | None = None,
    forms: Sequence[Sequence[OutputSpec]] = (),
) -> PredictionPlan:
    """Work out a prediction without running it.

    Parameters
    ----------
    sources : path, URL, array, ImageStack or sequence of these
        The images, as `open_stacks` takes them.
    model : callable, optional
        Asked only for what it says of itself: its tile size, overlap and channels.
    axes : str or sequence of str, optional
        Axes of the sources, where their metadata do not say.
    patch_size : sequence of int, optional
        Size of a tile, `(z,) y, x`, in voxels; needed where the model takes any. With two numbers, or with a model that
        declares two dimensions, images with a Z axis are predicted slice by slice: Z stays Z in the output.
    overlaps : sequence of int, optional
        Voxels that neighboring tiles share; what the model declares, else a quarter of the patch size.
    blend : {"hann", "gaussian", "linear", "mean"}, optional
        Blend overlapping tiles with this window. By default each voxel is cropped from one tile. Integers that are labels,
        most likely, are refused: written as integers, and of another dtype than what the model is given.
    seams : {"centered", "grid"}, optional
        Where kept windows meet, see `TiledPatching`; chosen by the size of the images where not given. Blending has no
        seams, and takes the tiles of `"centered"`, which are fewest.
    origin_multiple : int or sequence of int, optional
        Every tile starts on a multiple of this: the stride of a network whose output depends on it. By default what the
        model declares, else 1. A model that makes images smaller by a factor gets multiples of this factor in any case.
    padding : {"reflect", "edge", "wrap", "constant"}
        What stands outside an image, where a tile passes its end.
    batch_size : int, optional
        Tiles that go through the model together; by default as many as the model declares, else one.
    dtype : dtype, optional
        Of the output. Floats turn into integers by rounding, and stop at the ends of the range.
    postprocess : str or Postprocessing, optional
        What finished blocks are reduced to before they are written, such as `"argmax"`; see `parse_postprocessing`.
    normalize : {"mean_std", "percentiles"} or sequence of Normalization, optional
        Bring the gray values of each image to mean 0 and standard deviation 1, or two of its percentiles to 0 and 1: by
        statistics of the whole image, for which it is read beforehand; see `measure_normalization`. Or one
        `Normalization` for each image. By default the model gets what the source has.
    percentiles : (float, float), optional
        The lower and the upper one for `normalize="percentiles"`; 1 and 99.8 where not given.
    per : {"source", "channel", "sample", "sample_channel"}, optional
        What of an image is normalized by statistics of its own: all of it together, which is the default, each channel,
        each sample (a time point is one), or each channel of each sample.
    skip : SkipRule, optional
        Decides which tiles the model does not run on, such as `SkipDark(threshold=100)`: by the tile and the images only,
        so that memory, blocks, batches and resuming change nothing. A skipped tile counts as one for which the model
        returned `fill` everywhere, cropped or blended. By default no tile is skipped.
    fill : float
        Value of the output where tiles are skipped. `postprocess` does not change it: with `postprocess`, it is written wherever all
        tiles are skipped, and elsewhere skipped tiles count as 0 in a blend.
    memory_limit : int, optional
        Bytes that the run may take, measuring for `normalize` included, the model's own needs not counted. Half of what is
        free by default. It decides on the blocks, and with them on the order in which blended tiles are added up: a sum may differ
        by its rounding.
    forms : sequence of sequence of OutputSpec, optional
        For each image, what the model makes of a tile, where that is known beforehand.

    Returns
    -------
    PredictionPlan
        The plan.

    Raises
    ------
    GeometryError
        If sizes make no sense, do not fit the images or the memory, or contradict the model.
    AxesError
        If the axes of a source are not known, or not legal.
    SourceError
        If a source cannot be opened.

    Examples
    --------
    >>> import numpy as np
    >>> plan(np.zeros((3, 100, 80)), axes="CYX", patch_size=(64, 64)).tiling.overlaps
    (16, 16)
    """
    request = normalization_request(normalize, percentiles, per)
    stacks = open_stacks(sources, axes)
    description = (
        ModelDescription() if model is None else describe(function("model", model, "load_model makes one from a file"))
    )
    images, stacks = stacks, stacks_for_network(stacks, patch_size, description)
    check_series(stacks)
    n_dims = len(stacks[0].data_shape) - 2
    size = tile_size(patch_size, description, n_dims)
    check_channels(stacks, description)
    if postprocess is not None and dtype is not None:
        raise GeometryError(
            f"dtype is {dtype} and postprocess is {postprocess!r}: end the postprocessing with the dtype instead"
        )
    fill = check_fill(fill)
    postprocessing = parse_postprocessing(postprocess) if isinstance(postprocess, str) else postprocess
    if postprocessing is not None:
        instance("postprocess", postprocessing, Postprocessing, "parse_postprocessing reads one from a text")
    check_skip_rule(skip)
    if skip is not None:
        skip.check(images)
    if seams is not None:
        one_of("seams", seams, get_args(Seams))
    forms = _checked_forms(forms)
    margin, coarsest = _margin_and_coarsest(forms, n_dims)
    tiling = _tiling(
        stacks,
        size,
        overlaps=overlaps,
        description=description,
        seams=seams,
        multiples=origin_multiples(origin_multiple, description, n_dims),
        margin=margin,
        coarsest=coarsest,
        blended=blend is not None,
    )
    limit = check_memory_limit(memory_limit)
    unbound = PredictionPlan(
        stacks=tuple(stacks),
        tiling=tiling,
        margin=margin,
        blocks=(),
        n_shared_axes=0,
        blend=None if blend is None else check_blend(blend),
        batch_size=tiles_together(batch_size, description),
        padding=check_padding(padding),
        model=description,
        dtype=None if dtype is None else pixel_dtype("dtype", dtype),
        forms=forms,
        postprocessing=postprocessing,
        normalizations=given_normalizations(normalize, images) if request is None else request.unmeasured(images),
        skip=skip,
        fill=fill,
        memory_limit=limit,
        source_identities=tuple(map(source_identity, stacks)),
        source_states=tuple(fingerprint(image, level="quick").digest for image in images),
    )
    fitted = _fit_into_memory(unbound)  # before anything is measured, which may take long
    _check_fill_fits(fitted)
    check_blend_of_labels(fitted)
    return fitted if request is None else replace(fitted, normalizations=request.measure(images, limit))


def _check_fill_fits(plan: PredictionPlan) -> None:
    """Check that all outputs can hold what fills blocks that need no model, if any do and the outputs are known."""
    if plan.skip is not None and plan.output_known:
        for data_idx in range(len(plan.stacks)):
            for form in plan.output_forms(data_idx):
                check_fill_fits(plan.fill, plan.stored(form)[1])


def _fit_into_memory(unbound: PredictionPlan) -> PredictionPlan:
    """Choose blocks and handing over: the fewest tiles computed again that fit into memory, then the largest blocks."""
    needed: list[int] = []
    cores = [rule.core for rule in unbound.tiling.rules]
    largest = largest_block(unbound.tiling.data_shapes, unbound.patch_size, cores)
    for sizes in (_BLOCK_SIZES, _SMALL_BLOCK_SIZES):
        fitting = []
        for candidate in _candidates(unbound, cores, sorted({min(size, largest) for size in sizes}, reverse=True)):
            if candidate.memory.total > unbound.memory_limit:
                needed.append(candidate.least_memory_limit)
                continue
            if candidate.n_tiles_computed == candidate.n_tiles:
                return candidate
            fitting.append(candidate)
        if fitting:
            # A tile in a hundred does not count: of equals, min takes the first, which has the largest blocks.
            return min(fitting, key=lambda candidate: round(candidate.n_tiles_computed / candidate.n_tiles, 2))
    raise GeometryError(
        f"memory_limit is {unbound.memory_limit} bytes, and this plan needs {min(needed)} at least: allow more, or take a smaller "
        "patch_size or batch_size"
    )


def _candidates(unbound: PredictionPlan, cores: Sequence[int], block_sizes: Sequence[int]) -> Iterator[PredictionPlan]:
    for voxels in block_sizes:
        blocks = tuple(
            choose_blocks(shape, cores, unbound.tiling.seams, voxels) for shape in unbound.tiling.data_shapes
        )
        for n_shared_axes in range(len(cores) + 1):
            yield replace(unbound, blocks=blocks, n_shared_axes=n_shared_axes)


def _tiling(
    stacks: Sequence[ImageStack],
    size: tuple[int, ...],
    *,
    overlaps: Sequence[int] | None,
    description: ModelDescription,
    seams: Seams | None,
    multiples: tuple[int, ...],
    margin: tuple[int, ...],
    coarsest: tuple[int, ...],
    blended: bool,
) -> TiledPatching:
    n_dims = len(size)
    shared = description.overlaps if overlaps is None else spatial_tuple("overlaps", overlaps, n_dims, least=0)
    if shared is None:
        shared = tuple(max(side // 4, 2 * lost) for side, lost in zip(size, margin, strict=True))
    data_shapes = [stack.data_shape for stack in stacks]
    if max(coarsest) > 1:
        if seams == "centered":
            raise GeometryError("seams is 'centered', but the model makes images smaller: use seams='grid'")
        seams = "grid"
    return TiledPatching(
        data_shapes,
        [side - 2 * lost for side, lost in zip(size, margin, strict=True)],
        [max(0, voxels - 2 * lost) for voxels, lost in zip(shared, margin, strict=True)],
        seams=seams or ("centered" if blended else choose_seams(data_shapes)),
        origin_multiple=[lcm(own, step) for own, step in zip(multiples, coarsest, strict=True)],
    )


def _checked_forms(forms: Any) -> tuple[tuple[OutputSpec, ...], ...]:
    what = "for each image, a sequence of the outputs of the model"
    return tuple(
        tuple(instances(f"forms[{data_idx}]", of_image, OutputSpec, what))
        for data_idx, of_image in enumerate(listed("forms", forms, what))
    )


def _margin_and_coarsest(forms: Sequence[Sequence[OutputSpec]], n_dims: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Largest margin of all outputs, and how many voxels of the input the coarsest output makes one of."""
    every = [form for of_image in forms for form in of_image]
    steps = tuple(lcm(*(Fraction(form.scale[axis]).denominator for form in every)) for axis in range(n_dims))
    margin = tuple(
        _shared_margin([(form.margin[axis], Fraction(form.scale[axis]).denominator) for form in every])
        for axis in range(n_dims)
    )
    return margin, steps


def _shared_margin(of_outputs: Sequence[tuple[int, int]]) -> int:
    """Find the smallest margin that all outputs have, cut by whole voxels of each: its own margin, and its step in voxels."""
    margin = max((own for own, _ in of_outputs), default=0)
    while any((margin - own) % step for own, step in of_outputs):
        margin += 1
    return margin


def source_identity(stack: ImageStack) -> tuple[Any, ...]:
    """Return what a source is to a plan: name, axes, shape, dtype.

    Parameters
    ----------
    stack : ImageStack
        The source.
    """
    return str(stack.source), stack.original_axes, tuple(stack.original_data_shape), str(stack.data_dtype)
