"""What a result inherits from its source and its model: voxel sizes and channels."""

from __future__ import annotations

from dataclasses import replace

from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.planning.plan import PredictionPlan


def result_metadata(stack: ImageStack, plan: PredictionPlan, form: OutputSpec) -> ImageMetadata:
    """Give an output the voxel sizes of its source, and the channels of the model or of a source that has as many."""
    source = stack.metadata if isinstance(stack, HasMetadata) else ImageMetadata()
    names, colors = plan.survey.model.out_channel_names, plan.survey.model.out_channel_colors
    n_channels, _ = plan.layout.output_channels_and_dtype(form)
    keeps_channels = not names and n_channels == stack.data_shape[1]
    if keeps_channels:
        names, colors = source.channel_names, source.channel_colors
    factors = dict(zip("ZYX"[-len(form.scale) :], form.scale, strict=True))
    sizes = {axis: size / float(factors.get(axis, 1)) for axis, size in source.voxel_size.items()}
    # The first voxel of a scaled image begins where that of its source does, and so its center lies elsewhere.
    moved = {axis: (sizes[axis] - size) / 2 for axis, size in source.voxel_size.items()}
    origin = {axis: source.origin.get(axis, 0.0) + shift for axis, shift in moved.items()}
    return replace(
        source,
        voxel_size=sizes,
        origin={axis: place for axis, place in origin.items() if place or axis in source.origin},
        channel_names=names if len(names) == n_channels else (),
        channel_colors=colors if len(colors) == n_channels else (),
        is_rgb=source.is_rgb and keeps_channels,
    )
