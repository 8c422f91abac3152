"""What belongs together in a dataset: inputs and targets, images and the plan of their patches."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from patchloom.errors import GeometryError
from patchloom.image_stacks import ImageStack
from patchloom.patching import Patching
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.torch.datasets.paired_names import misplaced_pair


def check_pairs(inputs: Sequence[ImageStack], targets: Sequence[ImageStack]) -> None:
    """Refuse targets that do not lie on the inputs, and warn of those whose names are in another order.

    Raises
    ------
    GeometryError
        If there are more of one than of the other, or two differ in samples or size.
    """
    if len(inputs) != len(targets):
        raise GeometryError(f"there are {len(targets)} targets for {len(inputs)} inputs: give one for each")
    for data_idx, (one, other) in enumerate(zip(inputs, targets, strict=True)):
        shape, target_shape = tuple(one.data_shape), tuple(other.data_shape)
        if (shape[0], *shape[2:]) != (target_shape[0], *target_shape[2:]):
            raise GeometryError(
                f"input {data_idx}, {one.source}, has shape SC(Z)YX {shape} and its target, {other.source}, has "
                f"{target_shape}: they must have the same samples and size, and may differ in channels"
            )
    _warn_of_order([str(stack.source) for stack in inputs], [str(stack.source) for stack in targets])


def _warn_of_order(inputs: Sequence[str], targets: Sequence[str]) -> None:
    pair = misplaced_pair(inputs, targets)
    if pair is not None:
        warnings.warn(
            f"inputs and targets are paired by their order, and the names of pair {pair} differ: the input is {inputs[pair]}, the "
            f"target {targets[pair]}; sort both in the same way",
            UserWarning,
            stacklevel=4,
        )


def check_plan(patching: Patching[PatchSpecs], inputs: Sequence[ImageStack]) -> None:
    """Refuse a plan that says it was made for other images.

    Raises
    ------
    GeometryError
        If the shapes differ in more than channels.
    """
    planned = getattr(patching, "data_shapes", None)
    if planned is None:
        return
    shapes = [tuple(stack.data_shape) for stack in inputs]
    if [(shape[0], *shape[2:]) for shape in planned] != [(shape[0], *shape[2:]) for shape in shapes]:
        raise GeometryError(f"the patching is for images of shapes {list(planned)}, but the inputs have {shapes}")
