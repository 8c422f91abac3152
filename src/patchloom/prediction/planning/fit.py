"""From a request and a survey to a plan: blocks that fit into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from patchloom.errors import GeometryError
from patchloom.prediction.planning.blocks import largest_block
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.planning.tile_layout import TileLayout, lay_out_tiles
from patchloom.prediction.postprocessing.denormalization import check_denormalizable
from patchloom.prediction.postprocessing.labels import check_blend_of_labels
from patchloom.prediction.request import PredictionRequest
from patchloom.prediction.skip_rules import check_fill_fits
from patchloom.prediction.survey import Survey
from patchloom.stitching.block_grid import choose_blocks

BLOCK_SIZES = [2**power for power in range(25, 19, -1)]
"""Voxels of a block, in one channel, that are tried: from 128 MiB of float32 to 4 MiB, below which files get too small."""

SMALL_BLOCK_SIZES = [2**power for power in range(19, 9, -1)]
"""Sizes that are tried if memory is too short for those."""


def make_plan(request: PredictionRequest, survey: Survey) -> Plan:
    """Make the plan of a request; nothing is read.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    survey : Survey
        What was found out. If it lacks the outputs of the model, one channel of float32 is assumed.

    Raises
    ------
    GeometryError
        If sizes make no sense, or do not fit the images, the model or the memory.
    ModelOutputError
        If labels would be blended.
    """
    return fit_into_memory(checked_layout(request, survey))


def checked_layout(request: PredictionRequest, survey: Survey) -> TileLayout:
    """Lay out the tiles, and check what is known of the outputs.

    Parameters
    ----------
    request : PredictionRequest
        What was asked for.
    survey : Survey
        What was found out.

    Raises
    ------
    GeometryError, ModelOutputError
        As `make_plan`, except for memory.
    """
    layout = lay_out_tiles(request, survey)
    _check_outputs(layout)
    return layout


def fit_into_memory(layout: TileLayout) -> Plan:
    """Choose the blocks: the fewest tiles computed again that fit into memory, then the largest blocks.

    Parameters
    ----------
    layout : TileLayout
        The tiles.

    Raises
    ------
    GeometryError
        If no blocks fit.
    """
    needed: list[int] = []
    limit, n_tiles = layout.survey.memory_limit, len(layout.tiling)
    for sizes in (BLOCK_SIZES, SMALL_BLOCK_SIZES):
        fitting = []
        for candidate in _candidates(layout, sizes):
            if candidate.memory.total > limit:
                needed.append(candidate.memory.least_limit)
                continue
            if candidate.n_tiles_computed == n_tiles:
                return candidate
            fitting.append(candidate)
        if fitting:
            # A tile in a hundred does not count: of equals, min takes the first, which has the largest blocks.
            return min(fitting, key=lambda candidate: round(candidate.n_tiles_computed / n_tiles, 2))
    raise GeometryError(
        f"memory_limit is {limit} bytes, and this plan needs {min(needed)} at least: allow more, or take a smaller patch_size "
        "or batch_size"
    )


def check_fits(layout: TileLayout) -> None:
    """Check that the smallest blocks fit into memory, before pixels are measured, which may take long.

    Parameters
    ----------
    layout : TileLayout
        The tiles; outputs that are not known yet are assumed.

    Raises
    ------
    GeometryError
        If they do not.
    """
    smallest = next(_candidates(layout, SMALL_BLOCK_SIZES[-1:]))
    if smallest.memory.total > smallest.survey.memory_limit:
        fit_into_memory(layout)  # raises, unless larger blocks happen to take less


def _candidates(layout: TileLayout, block_sizes: Sequence[int]) -> Iterator[Plan]:
    steps, images = [rule.step for rule in layout.tiling.rules], range(len(layout.stacks))
    shapes = [layout.predicted_shape(data_idx) for data_idx in images]
    origins = [layout.predicted_origin(data_idx) for data_idx in images]
    largest = largest_block(shapes, layout.patch_size, steps)
    for voxels in sorted({min(size, largest) for size in block_sizes}, reverse=True):
        blocks = tuple(
            replace(
                choose_blocks(shape, steps, layout.tiling.seams, voxels, multiples=layout.tiling.seam_multiple),
                origin=origin,
            )
            for shape, origin in zip(shapes, origins, strict=True)
        )
        for n_shared_axes in range(len(steps) + 1):
            yield Plan(layout, blocks, n_shared_axes)


def _check_outputs(layout: TileLayout) -> None:
    """Check that outputs can store the fill value, and that no labels are blended; outputs that are not known are skipped."""
    request = layout.request
    if not layout.outputs_known or (request.skip is None and request.blend is None and not request.denormalize):
        return
    for data_idx in range(len(layout.stacks)):
        for spec in layout.outputs(data_idx):
            if request.denormalize and layout.survey.normalizations:
                measured = layout.survey.normalizations[data_idx]
                check_denormalizable(measured.scale, measured.offset, spec.n_channels)
            _, stored_dtype = layout.output_channels_and_dtype(spec)
            if request.skip is not None:
                check_fill_fits(request.skip.fill, stored_dtype)
            if request.blend is not None and request.block_postprocess is None:
                batch_dtype = layout.batch_dtype(data_idx)
                check_blend_of_labels(spec.dtype, batch_dtype, stored_dtype=stored_dtype, blend=request.blend)
