"""The levels of a pyramid: their number, their shapes, and their values.

A level has half as many voxels along each spatial axis as the one above it, rounded up. A value is the mean of 2 neighbors
along each axis, their mode, or the first of them. TensorStore computes it:

- Means of integers are exact, also of 64 bits, and rounded half to even.
- Means of floating-point numbers are computed in their own type (`float16` in `float32`). NaN propagates, and a sum that is
  larger than the type can hold gives infinity.
- A mode is one of the neighbors, as labels need it: the smallest of equally common ones. Floating-point numbers are compared
  by their bits, as NaN is not equal to itself.
- Booleans have no mean: their mode is taken instead.

The last voxel of an odd axis has fewer neighbors, and only these count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast, get_args

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import ArgumentError

PyramidMethod = Literal["mean", "mode", "nearest"]
Pyramid = Literal["auto", "mean", "mode", "nearest"]
"""Choices of a user: `"auto"` selects the mode or the mean by the dtype."""

SMALL_ENOUGH = 256
"""An image whose spatial sizes are not larger needs no further level."""


def check_pyramid(pyramid: object) -> Pyramid | None:
    """Check a choice of a user: a method, or None for no lower levels.

    Raises
    ------
    ArgumentError
        If it is not one of these.
    """
    if pyramid is not None and not (isinstance(pyramid, str) and pyramid in get_args(Pyramid)):
        raise ArgumentError(
            f"pyramid is {shown(pyramid)}: it must be {', '.join(map(repr, get_args(Pyramid)))}, or None for no lower levels"
        )
    return cast("Pyramid | None", pyramid)


def pyramid_method(method: str, dtype: np.dtype[Any]) -> PyramidMethod:
    """Return the method that computes the levels of an image.

    Parameters
    ----------
    method : {"auto", "mean", "mode", "nearest"}
        `"auto"` selects the mode for booleans and for integers of 32 and 64 bits, which usually are labels, and the mean for
        all other dtypes.
    dtype : numpy dtype
        Dtype of the image.

    Raises
    ------
    ArgumentError
        If it is not one of these.

    Examples
    --------
    >>> [pyramid_method("auto", np.dtype(name)) for name in ("uint16", "float32", "int64", "bool")]
    ['mean', 'mean', 'mode', 'mode']
    """
    checked = check_pyramid(method)
    if checked in ("mode", "nearest"):
        return cast("PyramidMethod", checked)
    labels = dtype.kind == "b" or (checked == "auto" and dtype.kind in "iu" and dtype.itemsize >= 4)
    return "mode" if labels else "mean"


def halving(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the factor between a level and the next one for each axis: 2, or 1 if the axis has one voxel.

    Examples
    --------
    >>> halving((1, 7, 512))
    (1, 2, 2)
    """
    return tuple(2 if size > 1 else 1 for size in shape)


def halved(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the next level.

    Examples
    --------
    >>> halved((1, 7, 512))
    (1, 4, 256)
    """
    return tuple(-(-size // 2) for size in shape)


def level_shapes(
    spatial_shape: Sequence[int], chunk_shape: Sequence[int], levels: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return the spatial shapes of all levels, the full image first.

    Parameters
    ----------
    spatial_shape : sequence of int
        `(z,) y, x`.
    chunk_shape : sequence of int
        Chunk of the image, `(z,) y, x`.
    levels : int, optional
        Number of levels, including the full image; fewer if one voxel is left before. If None, levels are added until no axis
        is larger than 256 voxels or one chunk.

    Examples
    --------
    >>> level_shapes((5, 1000, 700), (64, 256, 256))
    ((5, 1000, 700), (3, 500, 350), (2, 250, 175))
    >>> level_shapes((3, 3), (256, 256), levels=9)
    ((3, 3), (2, 2), (1, 1))
    """
    shapes = [tuple(spatial_shape)]
    while max(shapes[-1]) > 1 and (
        any(size > max(SMALL_ENOUGH, chunk) for size, chunk in zip(shapes[-1], chunk_shape, strict=True))
        if levels is None
        else len(shapes) < levels
    ):
        shapes.append(halved(shapes[-1]))
    return tuple(shapes)


def downsampled(store: ts.TensorStore, factors: Sequence[int], method: PyramidMethod) -> ts.TensorStore:
    """Return a view of an array that computes the next level where it is read.

    Parameters
    ----------
    store : TensorStore
        Boolean, integer or floating-point; unsigned for the mode of floating-point numbers, see `downsample`.
    factors : sequence of int
        1 or 2 for each axis.
    method : {"mean", "mode", "nearest"}
        Mean of neighbors, their mode, or the first of them.
    """
    return ts.downsample(store, list(factors), "stride" if method == "nearest" else method)


def downsample(block: NDArray[Any], factors: Sequence[int], method: PyramidMethod) -> NDArray[Any]:
    """Halve an array along some axes.

    A block that starts at even coordinates gives the same values as the whole image.

    Parameters
    ----------
    block : array
        Boolean, integer or floating-point.
    factors : sequence of int
        1 or 2 for each axis.
    method : {"mean", "mode", "nearest"}
        Mean of neighbors, their mode, or the first of them.

    Returns
    -------
    array
        An array of the block's dtype. Its sizes are halved and rounded up.

    Examples
    --------
    >>> block = np.array([[1, 3, 9], [3, 4, 9]], "uint8")
    >>> [downsample(block, (2, 2), method).tolist() for method in ("mean", "mode", "nearest")]
    [[[3, 9]], [[3, 9]], [[1, 9]]]
    """
    values = block.astype(block.dtype.newbyteorder("="), copy=False)
    if takes_mode_of_bits(method, values.dtype):
        values = np.ascontiguousarray(values).view(f"u{values.itemsize}")
    halves: NDArray[Any] = downsampled(ts.array(values, copy=False), factors, method).read().result()
    return halves.view(block.dtype.newbyteorder("="))


def takes_mode_of_bits(method: PyramidMethod | None, dtype: np.dtype[Any]) -> bool:
    """Return whether values are compared by their bits, so that `downsample` has to be used."""
    return method == "mode" and dtype.kind == "f"
