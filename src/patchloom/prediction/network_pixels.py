"""The number of voxels of the images for one pixel of the network, which is run at the pixel size of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.image_stacks import ImageStack
from patchloom.prediction.image_region import voxel_length
from patchloom.prediction.image_selection import metadata_of
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.models.rescaling.rescaled_model import pixel_ratio
from patchloom.prediction.request import PredictionRequest


def network_pixels(
    stacks: Sequence[ImageStack], request: PredictionRequest, model: ModelDescription
) -> tuple[Fraction, ...] | None:
    """Return the number of voxels of the images for one pixel of the network, along each axis; None if it is 1, or was not asked for.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series as the model is run on it.
    request : PredictionRequest
        What was asked for.
    model : ModelDescription
        What the model declares.

    Raises
    ------
    GeometryError
        If a size is not known, does not have one number for each axis, or differs between the images.
    """
    if request.pixel_size is None:
        return None
    axes = spatial_axes(len(stacks[0].data_shape) - 2)
    wanted = model.pixel_size if request.pixel_size == "model" else request.pixel_size
    if wanted is None or isinstance(wanted, str):
        raise GeometryError(
            "pixel_size is 'model', and the model declares none: give the size of a pixel of its training in micrometers, such as 0.5"
        )
    sizes = wanted if isinstance(wanted, tuple) else (wanted,) * len(axes)
    if len(sizes) != len(axes):
        raise GeometryError(
            f"pixel_size is {sizes}, and the model is {len(axes)}D: give one number for each of {', '.join(axes)}"
        )
    ratios = [_ratios(stack, request, dict(zip(axes, sizes, strict=True))) for stack in stacks]
    for stack, of_stack in zip(stacks, ratios, strict=True):
        if of_stack != ratios[0]:
            raise GeometryError(
                f"{stacks[0].source} and {stack.source} have different voxel sizes, and one pixel_size needs tiles of different "
                "sizes in them: predict them one by one, or give voxel_size= (--voxel-size) for all"
            )
    return None if set(ratios[0]) == {Fraction(1)} else ratios[0]


def _ratios(stack: ImageStack, request: PredictionRequest, sizes: Mapping[str, float]) -> tuple[Fraction, ...]:
    metadata = metadata_of(stack, request.voxel_size)
    lengths = {axis: voxel_length(metadata, axis) for axis in sizes}
    unknown = ", ".join(axis for axis, length in lengths.items() if length is None)
    if unknown:
        raise GeometryError(
            f"pixel_size is {request.pixel_size}, but {stack.source} contains no voxel size along {unknown}: give voxel_size= (--voxel-size) in "
            "micrometers"
        )
    return tuple(pixel_ratio(sizes[axis] * 1e-6 / length) for axis, length in lengths.items() if length is not None)
