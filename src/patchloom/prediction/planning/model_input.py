"""What a network is run on: its dimensions, the size of its tiles, how many at a time, and the images that fit."""

from __future__ import annotations

from collections.abc import Sequence

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError
from patchloom.geometry.checks import one_per_axis, spatial_tuple, whole_number
from patchloom.image_stacks import ImageStack, as_planes
from patchloom.prediction.models.model import ModelDescription


def stacks_for_network(
    stacks: Sequence[ImageStack], patch_size: Sequence[int] | None, description: ModelDescription
) -> list[ImageStack]:
    """Return the stacks that a network is run on: 3D images slice by slice, if it is 2D.

    A network is 2D where it declares that, or where `patch_size` has two numbers.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The images, 2D and 3D mixed.
    patch_size : sequence of int, optional
        As in `plan`.
    description : ModelDescription
        What the model declares.

    Raises
    ------
    GeometryError
        If `patch_size` and the model contradict each other, or a network is 3D and an image is not.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom.image_stacks import ArrayStack
    >>> image = ArrayStack(np.zeros((9, 64, 48)), axes="ZYX")
    >>> [stack.data_shape for stack in stacks_for_network([image], (32, 32), ModelDescription())]
    [(9, 1, 64, 48)]
    """
    n_dims = _network_dims(patch_size, description)
    if n_dims == 2:
        return [as_planes(stack) for stack in stacks]
    for stack in stacks:
        if n_dims is not None and len(stack.data_shape) - 2 != n_dims:
            wanted = (
                "the model is 3D" if patch_size is None else f"patch_size is {tuple(patch_size)}, so the model is 3D"
            )
            raise GeometryError(
                f"{wanted}, but {stack.source} has axes {stack.original_axes} without Z: take an image stack, or a 2D model "
                "with two numbers in patch_size"
            )
    return list(stacks)


def _network_dims(patch_size: Sequence[int] | None, description: ModelDescription) -> int | None:
    """Tell whether a network is 2D or 3D; None if nothing tells."""
    declared = description.n_dims or (None if description.patch_size is None else len(description.patch_size))
    if patch_size is None:
        return declared
    given = len(spatial_tuple("patch_size", patch_size, least=1))
    if declared not in (None, given):
        raise GeometryError(
            f"patch_size is {tuple(patch_size)}, which has {given} numbers, but the model is {declared}D: give one number for "
            f"each of {', '.join(spatial_axes(declared))}"
        )
    return given


def tile_size(given: Sequence[int] | None, description: ModelDescription, n_dims: int) -> tuple[int, ...]:
    """Return the tile size that is given or that the model declares; both must be the same.

    Raises
    ------
    GeometryError
        If neither is there, they differ, or one has other dimensions than the images.

    Examples
    --------
    >>> tile_size(None, ModelDescription(patch_size=(64, 64)), n_dims=2)
    (64, 64)
    """
    declared = description.patch_size
    size = declared if given is None else spatial_tuple("patch_size", given, least=1)
    if size is None:
        example = ",".join(["256"] * 2 if n_dims == 2 else ["32", "128", "128"])
        raise GeometryError(
            f"patch_size is not given and the model takes any: give one number for each of "
            f"{', '.join(spatial_axes(n_dims))}, such as {example}"
        )
    if declared is not None and size != declared:
        raise GeometryError(f"patch_size is {size}, but the model takes {declared} only: leave patch_size out")
    return spatial_tuple("patch_size", size, n_dims, least=1)


def tiles_together(given: int | None, description: ModelDescription) -> int:
    """Return how many tiles go through the model together: as given, else as the model declares, else one.

    Raises
    ------
    GeometryError
        If it is less than 1.

    Examples
    --------
    >>> tiles_together(None, ModelDescription(batch_size=4)), tiles_together(2, ModelDescription(batch_size=4))
    (4, 2)
    """
    wanted = given if given is not None else (description.batch_size or 1)
    return whole_number("batch_size", wanted, least=1, most=2**31)


def origin_multiples(given: int | Sequence[int] | None, description: ModelDescription, n_dims: int) -> tuple[int, ...]:
    """Return the multiples on which tiles start: as given, else as the model declares, else 1.

    Raises
    ------
    GeometryError
        If there are not as many as spatial axes, or one is less than 1.

    Examples
    --------
    >>> origin_multiples(None, ModelDescription(origin_multiple=(1, 16, 16)), 3), origin_multiples(8, ModelDescription(), 2)
    ((1, 16, 16), (8, 8))
    """
    wanted = given if given is not None else (description.origin_multiple or 1)
    return one_per_axis("origin_multiple", wanted, n_dims, least=1)


def check_channels(stacks: Sequence[ImageStack], description: ModelDescription) -> None:
    """Check that the images have as many channels as the model takes.

    Raises
    ------
    GeometryError
        If they do not.
    """
    channels = int(stacks[0].data_shape[1])
    if description.in_channels not in (None, channels):
        raise GeometryError(
            f"the model takes {description.in_channels} channels, but {stacks[0].source} has {channels}"
        )
