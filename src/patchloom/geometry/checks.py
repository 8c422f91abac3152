"""Checks of sizes, overlaps and shapes: arguments become plain tuples of `int`, or an error names the fault."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from patchloom.argument_checks import MAX_SIZE, listed, shown, whole_number
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError

__all__ = [
    "PerAxis",
    "check_window",
    "listed_shapes",
    "one_per_axis",
    "per_axis",
    "series_shapes",
    "spatial_tuple",
    "whole_number",
]


def spatial_tuple(name: str, values: Sequence[int], n_dims: int | None = None, *, least: int) -> tuple[int, ...]:
    """Check one number for each spatial axis, and return a plain tuple.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    values : sequence of int
        `(z,) y, x`.
    n_dims : int, optional
        Number of spatial axes. If None, 2 or 3 are allowed.
    least : int
        The smallest value allowed.

    Raises
    ------
    GeometryError
        If there are too few or too many numbers, or one is not an integer or too small.

    Examples
    --------
    >>> spatial_tuple("patch_size", [64, 0], least=1)
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: patch_size is 0 along X: it must be at least 1; patch_size is (64, 0)
    """
    if not _is_sequence(values):
        raise GeometryError(
            f"{name} is {shown(values)}: it must be one whole number for each spatial axis, such as (256, 256)"
        )
    if len(values) not in ((2, 3) if n_dims is None else (n_dims,)):
        wanted = "2 or 3" if n_dims is None else f"{n_dims} ({', '.join(spatial_axes(n_dims))})"
        raise GeometryError(f"{name} is {shown(values)}: it has {len(values)} numbers and must have {wanted}")
    numbers = tuple(whole_number(f"{name}[{axis}]", value) for axis, value in enumerate(values))
    for axis, number in zip(spatial_axes(len(numbers)), numbers, strict=True):
        if number < least:
            raise GeometryError(f"{name} is {number} along {axis}: it must be at least {least}; {name} is {numbers}")
        if number > MAX_SIZE:
            raise GeometryError(f"{name} is {shown(number)} along {axis}: it must be at most 2**62")
    return numbers


PerAxis = int | tuple[int, ...]
"""One number for all spatial axes, or one for each, `(z,) y, x`."""


def per_axis(name: str, value: int | Sequence[int] | None, *, least: int) -> PerAxis | None:
    """Parse one number for all spatial axes, or one for each; None stays None.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : int or sequence of int, optional
        What was given.
    least : int
        The smallest value allowed.

    Raises
    ------
    GeometryError, NotIntegerError
        If it is something else, or too small.

    Examples
    --------
    >>> per_axis("overlaps", 32, least=0), per_axis("overlaps", [8, 32, 32], least=0)
    (32, (8, 32, 32))
    """
    if value is None:
        return None
    if hasattr(value, "__index__") and not getattr(value, "ndim", 0):
        return whole_number(name, value, least=least, most=2**62)
    return spatial_tuple(name, value, least=least)  # type: ignore[arg-type]  # refuses anything else


def size_in_series(
    name: str, value: int | Sequence[int], data_shapes: Sequence[Sequence[int]], *, least: int
) -> tuple[int, ...]:
    """Check a size for a series: one number for each spatial axis, or one for all, and return a plain tuple.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : int or sequence of int
        `(z,) y, x`, or one number.
    data_shapes : sequence of sequence of int
        Shape of each image stack, `SC(Z)YX`. The first one decides on the number of axes of one number.
    least : int
        The smallest value allowed.

    Raises
    ------
    GeometryError, NotIntegerError
        As `spatial_tuple` does.

    Examples
    --------
    >>> size_in_series("patch_size", 64, [(1, 1, 20, 256, 256)], least=1)
    (64, 64, 64)
    """
    given = per_axis(name, value, least=least)
    if isinstance(given, int):
        shapes = listed_shapes("data_shapes", data_shapes)
        return (given,) * (3 if shapes and len(shapes[0]) == len("SCZYX") else 2)
    return spatial_tuple(name, value, least=least) if given is None else given  # type: ignore[arg-type]  # refuses None


def one_per_axis(name: str, value: int | Sequence[int], n_dims: int, *, least: int) -> tuple[int, ...]:
    """Check one number for each spatial axis, or one number for all of them, and return a plain tuple.

    Raises
    ------
    GeometryError, NotIntegerError
        As `spatial_tuple` does.

    Examples
    --------
    >>> one_per_axis("margin", 8, 3, least=0)
    (8, 8, 8)
    """
    values = value if _is_sequence(value) else (whole_number(name, value),) * n_dims
    return spatial_tuple(name, values, n_dims, least=least)  # type: ignore[arg-type]  # a sequence by now


def _is_sequence(values: Any) -> bool:
    """Return whether values have an order and a length. An array without axes has the method, but no length."""
    ordered = hasattr(values, "__getitem__") and hasattr(values, "__len__")
    return ordered and not isinstance(values, (str, bytes, dict, type)) and getattr(values, "ndim", 1) > 0


def check_window(name: str, window: Sequence[slice], sizes: Sequence[int]) -> None:
    """Check that a window of an image is one slice for each axis, not empty and inside the image.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    window : sequence of slice
        One slice for each spatial axis, with a start and a stop and without a step.
    sizes : sequence of int
        Size of the image along each spatial axis.

    Raises
    ------
    GeometryError
        If it is not; the message names the axis.

    Examples
    --------
    >>> check_window("window", (slice(0, 8), slice(60, 70)), (64, 64))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: window is 60:70 along X, which is not inside 0:64
    """
    if not _is_sequence(window) or len(window) != len(sizes) or not all(isinstance(part, slice) for part in window):
        axes = ", ".join(spatial_axes(len(sizes)))
        raise GeometryError(f"{name} is {shown(window)}: it must be one slice for each of {axes}")
    for part, size, axis in zip(window, sizes, spatial_axes(len(sizes)), strict=True):
        start, stop = (whole_number(f"{name} along {axis}", end) for end in (part.start, part.stop))
        if part.step not in (None, 1):
            raise GeometryError(f"{name} is {shown(part)} along {axis}: it must not have a step")
        if not 0 <= start < stop <= size:
            raise GeometryError(f"{name} is {shown(start)}:{shown(stop)} along {axis}, which is not inside 0:{size}")


def series_shapes(data_shapes: Sequence[Sequence[int]], n_dims: int) -> tuple[tuple[int, ...], ...]:
    """Check the shapes of a series of image stacks, and return plain tuples.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        `SC(Z)YX` each.
    n_dims : int
        Number of spatial axes of the patch size.

    Raises
    ------
    GeometryError
        If the series is empty, or a shape has another number of dimensions or a size below 1.

    Examples
    --------
    >>> series_shapes([(1, 1, 10, 256, 256)], n_dims=2)
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: image stack 0 is 3D with shape (1, 1, 10, 256, 256) and the patch size is 2D: give a
    patch size with one number for each of Z, Y, X
    """
    shapes = listed_shapes("data_shapes", data_shapes)
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
        if min(shape) < 1 or max(shape) > MAX_SIZE:
            raise GeometryError(f"image stack {data_idx} has shape {shape}: every size must be from 1 to 2**62")
    return shapes


def listed_shapes(name: str, shapes: Iterable[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Check that the argument is a sequence of shapes, and return plain tuples; the number of sizes is not checked.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    shapes : sequence of sequence of int
        `SC(Z)YX` each.

    Raises
    ------
    GeometryError, NotIntegerError
        If these are not shapes, one has more than five sizes, or a size is not a whole number.

    Examples
    --------
    >>> listed_shapes("data_shapes", (1, 1, 64, 64))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: data_shapes[0] is 1: it must be a shape SCYX or SCZYX, such as (1, 1, 256, 256); data_shapes
    has one for each image stack
    """
    given = listed(name, shapes, "a sequence of shapes SCYX or SCZYX, such as [(1, 1, 256, 256)]")
    return tuple(_shape(f"{name}[{data_idx}]", shape, name) for data_idx, shape in enumerate(given))


def _shape(place: str, shape: Any, name: str) -> tuple[int, ...]:
    if not _is_sequence(shape) or len(shape) > len("SCZYX"):
        raise GeometryError(
            f"{place} is {shown(shape)}: it must be a shape SCYX or SCZYX, such as (1, 1, 256, 256); {name} has one for "
            "each image stack"
        )
    return tuple(whole_number(place, size) for size in shape)
