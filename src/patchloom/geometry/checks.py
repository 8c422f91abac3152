"""Turn what a caller gave as a size, overlap or shape into plain tuples of `int`, or say what is wrong with it."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError, NotWholeError


def whole_number(name: str, value: object, *, least: int | None = None) -> int:
    """Make a plain `int` of an integer of any make; a `bool` or a `float` is refused.

    Raises
    ------
    NotWholeError
        If `value` is no integer.
    GeometryError
        If it is less than the least.

    Examples
    --------
    >>> whole_number("index", 3.0)
    Traceback (most recent call last):
        ...
    patchloom.errors.NotWholeError: index is 3.0: it must be a whole number
    """
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # what is no integer raises TypeError
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise NotWholeError(f"{name} is {value!r}: it must be a whole number")
    if least is not None and number < least:
        raise GeometryError(f"{name} is {number}: it must be at least {least}")
    return number


def spatial_tuple(name: str, values: Sequence[int], n_dims: int | None = None, *, least: int) -> tuple[int, ...]:
    """Make a plain tuple of one number a spatial axis.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    values : sequence of int
        `(z,) y, x`.
    n_dims : int, optional
        How many numbers there must be; 2 or 3 where not given.
    least : int
        The smallest value allowed.

    Raises
    ------
    GeometryError
        If there are too few or too many numbers, or one is no integer or too small.

    Examples
    --------
    >>> spatial_tuple("patch_size", [64, 0], least=1)
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: patch_size is 0 along X: it must be at least 1; patch_size is (64, 0)
    """
    if isinstance(values, (str, bytes)) or not hasattr(values, "__len__"):
        raise GeometryError(
            f"{name} is {values!r}: it must be one whole number for each spatial axis, such as (256, 256)"
        )
    numbers = tuple(whole_number(f"{name}[{axis}]", value) for axis, value in enumerate(values))
    if len(numbers) not in ((2, 3) if n_dims is None else (n_dims,)):
        wanted = "2 or 3" if n_dims is None else f"{n_dims} ({', '.join(spatial_axes(n_dims))})"
        raise GeometryError(f"{name} is {numbers}: it has {len(numbers)} numbers and must have {wanted}")
    for axis, number in zip(spatial_axes(len(numbers)), numbers, strict=True):
        if number < least:
            raise GeometryError(f"{name} is {number} along {axis}: it must be at least {least}; {name} is {numbers}")
    return numbers


def series_shapes(data_shapes: Sequence[Sequence[int]], n_dims: int) -> tuple[tuple[int, ...], ...]:
    """Make plain tuples of the shapes of a series of image stacks.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        `SC(Z)YX` each.
    n_dims : int
        Number of spatial axes that the patch size has.

    Raises
    ------
    GeometryError
        If the series is empty, or a shape has other dimensions or a size below 1.

    Examples
    --------
    >>> series_shapes([(1, 1, 10, 256, 256)], n_dims=2)
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: image stack 0 is 3D with shape (1, 1, 10, 256, 256) and the patch size is 2D: give a
    patch size with one number for each of Z, Y, X
    """
    shapes = tuple(tuple(whole_number("data_shapes", size) for size in shape) for shape in data_shapes)
    if not shapes:
        raise GeometryError("data_shapes is empty: a series has at least one image stack")
    for data_idx, shape in enumerate(shapes):
        stack_dims = len(shape) - 2
        if stack_dims not in (2, 3):
            raise GeometryError(f"image stack {data_idx} has shape {shape}: it must be SCYX or SCZYX")
        if stack_dims != n_dims:
            raise GeometryError(
                f"image stack {data_idx} is {stack_dims}D with shape {shape} and the patch size is {n_dims}D: "
                f"give a patch size with one number for each of {', '.join(spatial_axes(stack_dims))}"
            )
        if min(shape) < 1:
            raise GeometryError(f"image stack {data_idx} has shape {shape}: every size must be at least 1")
    return shapes
