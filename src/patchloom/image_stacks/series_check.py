"""Checks of the image stacks of a series."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patchloom.argument_checks import instance, listed
from patchloom.axes import spatial_axes
from patchloom.errors import ArgumentError, GeometryError
from patchloom.image_stacks.protocols import ImageStack


def listed_stacks(name: str, stacks: Any) -> list[ImageStack]:
    """Return image stacks as a list, and refuse anything else.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    stacks : sequence of ImageStack
        The argument.

    Raises
    ------
    ArgumentTypeError
        If it is not a sequence of image stacks.

    Examples
    --------
    >>> listed_stacks("image_stacks", ["cells.tif"])
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentTypeError: image_stacks[0] is 'cells.tif' of type str: it must be an ImageStack; open_stacks makes
    them
    """
    what = "a sequence of image stacks; open_stacks makes them"
    given = listed(name, stacks, what)
    return [
        instance(f"{name}[{data_idx}]", stack, ImageStack, "open_stacks makes them")
        for data_idx, stack in enumerate(given)
    ]


def check_series(stacks: Sequence[ImageStack]) -> None:
    """Check that one model can process all stacks of a series.

    Parameters
    ----------
    stacks : sequence of ImageStack
        The series. Sizes and dtypes may differ.

    Raises
    ------
    ArgumentError
        If the series is empty, or two stacks differ in their number of dimensions or channels.

    Examples
    --------
    >>> from patchloom.image_stacks import ArrayStack
    >>> import numpy as np
    >>> check_series([ArrayStack(np.zeros((4, 9, 9)), axes) for axes in ("ZYX", "CYX")])
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: the stacks of a series differ: array (stack 0) is 3D with shape SCZYX (1, 1, 4, 9, 9)
    and array (stack 1) is 2D with shape SCYX (1, 4, 9, 9): give images with the same number of spatial axes
    """
    if not stacks:
        raise ArgumentError("the series is empty: give at least one image stack")
    first = stacks[0]
    for data_idx, stack in enumerate(stacks):
        if len(stack.data_shape) != len(first.data_shape):
            raise GeometryError(
                f"the stacks of a series differ: {_dimensions(0, first)} and {_dimensions(data_idx, stack)}: "
                "give images with the same number of spatial axes"
            )
        if stack.data_shape[1] != first.data_shape[1]:
            raise GeometryError(
                f"the stacks of a series differ: {first.source} (stack 0) has {first.data_shape[1]} channels and "
                f"{stack.source} (stack {data_idx}) has {stack.data_shape[1]}: give images with the same number of channels"
            )


def _dimensions(data_idx: int, stack: ImageStack) -> str:
    n_dims = len(stack.data_shape) - 2
    axes = "SC" + spatial_axes(n_dims)
    return f"{stack.source} (stack {data_idx}) is {n_dims}D with shape {axes} {tuple(stack.data_shape)}"
