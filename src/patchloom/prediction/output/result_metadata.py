"""The metadata of an output: where its voxels lie in the image that it was predicted from, and its channels."""

from __future__ import annotations

from dataclasses import replace

from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import ImageStack
from patchloom.prediction.image_selection import metadata_of
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.planning.plan import Plan


def result_metadata(stack: ImageStack, plan: Plan, data_idx: int, output_spec: OutputSpec) -> ImageMetadata:
    """Return the metadata of an output: voxel sizes and place of its source, channels of the model or of a source with as many.

    Parameters
    ----------
    stack : ImageStack
        The image as the model is run on it.
    plan : Plan
        The plan.
    data_idx : int
        Index of the image.
    output_spec : OutputSpec
        The output.
    """
    source = metadata_of(stack, plan.request.voxel_size)
    names, colors = plan.survey.model.out_channel_names, plan.survey.model.out_channel_colors
    n_channels, _ = plan.layout.output_channels_and_dtype(output_spec)
    keeps_channels = not names and n_channels == stack.data_shape[1]
    if keeps_channels:
        names, colors = source.channel_names, source.channel_colors
    factors = dict(zip("ZYX"[-len(output_spec.scale) :], output_spec.scale, strict=True))
    sizes = {axis: size / float(factors.get(axis, 1)) for axis, size in source.voxel_size.items()}
    # Scaling moves the center of the first voxel, because its outer border stays where it is.
    moved = {axis: (sizes[axis] - size) / 2 for axis, size in source.voxel_size.items()}
    for axis, start in _first_voxels(plan, data_idx).items():
        # Where no voxel size is known, the voxels of the output count as 1.
        size = source.voxel_size.get(axis, float(factors.get(axis, 1)))
        moved[axis] = moved.get(axis, 0.0) + start * size
    origin = {axis: source.origin.get(axis, 0.0) + shift for axis, shift in moved.items()}
    return replace(
        source,
        voxel_size=sizes,
        origin={axis: place for axis, place in origin.items() if place or axis in source.origin},
        channel_names=names if len(names) == n_channels else (),
        channel_colors=colors if len(colors) == n_channels else (),
        is_rgb=source.is_rgb and keeps_channels,
    )


def _first_voxels(plan: Plan, data_idx: int) -> dict[str, int]:
    """Return the first voxel of what is predicted of an image along T, Z, Y and X, as far as it is not 0."""
    ranges, origin = plan.survey.stacks[data_idx].output_ranges, plan.layout.predicted_origin(data_idx)
    starts = {axis: start for axis, (start, _) in ranges.items() if axis != "S"}
    starts |= dict(zip("ZYX"[-len(origin) :], origin, strict=True))
    return {axis: start for axis, start in starts.items() if start}
