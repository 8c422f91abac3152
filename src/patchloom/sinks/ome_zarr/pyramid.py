"""Halving images: how many times, to which shapes, and by what arithmetic.

Pure functions on shapes and arrays. A level has half the voxels of the one above it along each spatial axis, rounded up,
until an axis has one voxel. Its values are means of 2 neighbors along each axis, the commonest of them, or every second
voxel:

- Means of floating-point numbers are taken in their own type (`float16` in `float32`) without overflow; NaN propagates.
- Means of integers are exact and rounded half to even, for 64 bits too: each value is split into its multiple of the
  count and the rest, so that no sum leaves the type.
- The commonest value (mode) is one of the neighbors, as labels need it: of equally common ones the smallest, floats in the
  order of their bits. Truth values have no mean: their mode is taken instead.

The last voxel of an odd axis averages what there is.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, Literal, cast, get_args

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.errors import GeometryError

PyramidMethod = Literal["mean", "mode", "nearest"]
Pyramid = Literal["auto", "mean", "mode", "nearest"]
"""What may be asked for: `"auto"` is the mode or the mean, whichever suits the dtype."""

SMALL_ENOUGH = 256
"""An image whose spatial sizes are no larger needs no further level."""

_Fold = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]


def check_pyramid(pyramid: object) -> Pyramid | None:
    """Check a method, or `None` for no lower levels.

    Raises
    ------
    GeometryError
        If there is no such method.
    """
    if pyramid is not None and not (isinstance(pyramid, str) and pyramid in get_args(Pyramid)):
        raise GeometryError(
            f"pyramid is {shown(pyramid)}: it must be {', '.join(map(repr, get_args(Pyramid)))}, or None for no lower levels"
        )
    return cast("Pyramid | None", pyramid)


def pyramid_method(method: str, dtype: np.dtype[Any]) -> PyramidMethod:
    """Return the method by which an image of some dtype is halved.

    Parameters
    ----------
    method : {"auto", "mean", "mode", "nearest"}
        `"auto"` is the mode for truth values and integers of 32 and 64 bits, which are labels as a rule, and the mean for
        others.
    dtype : numpy dtype
        Dtype of the image.

    Raises
    ------
    GeometryError
        If there is no such method.

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
    """Factor by which each axis shrinks from one level to the next: 2, or 1 where one voxel is left.

    Examples
    --------
    >>> halving((1, 7, 512))
    (1, 2, 2)
    """
    return tuple(2 if size > 1 else 1 for size in shape)


def halved(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of the next level.

    Examples
    --------
    >>> halved((1, 7, 512))
    (1, 4, 256)
    """
    return tuple(-(-size // 2) for size in shape)


def level_shapes(
    spatial_shape: Sequence[int], chunk_shape: Sequence[int], levels: int | None = None
) -> tuple[tuple[int, ...], ...]:
    """Spatial shapes of all levels, the full image first.

    Parameters
    ----------
    spatial_shape : sequence of int
        `(z,) y, x`.
    chunk_shape : sequence of int
        Chunk of the image, `(z,) y, x`.
    levels : int, optional
        How many levels to make, the full image among them; fewer where one voxel is left. Without it, levels are made
        until no axis is larger than 256 voxels or one chunk.

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


def downsample(block: NDArray[Any], factors: Sequence[int], method: PyramidMethod = "mean") -> NDArray[Any]:
    """Halve an array along some axes; each value depends on 2 neighbors along each of them.

    A block that starts at even coordinates gives the same as the whole image does there.

    Parameters
    ----------
    block : array
        Boolean, integer or floating-point.
    factors : sequence of int
        1 or 2 for each axis, at most three of them 2.
    method : {"mean", "mode", "nearest"}
        Mean of neighbors, the commonest of them, or every second voxel.

    Returns
    -------
    array
        Of the block's dtype; sizes are halved and rounded up. With `"nearest"` a view.

    Raises
    ------
    GeometryError
        If a factor is neither 1 nor 2, or the method is unknown.

    Examples
    --------
    >>> downsample(np.array([[1, 2, 9], [2, 1, 9]], "uint8"), (2, 2)).tolist()
    [[2, 9]]
    >>> downsample(np.array([[1, 2, 9], [2, 1, 9]], "uint8"), (2, 2), "nearest").tolist()
    [[1, 9]]
    >>> downsample(np.array([[1, 3, 9], [3, 4, 9]], "uint8"), (2, 2), "mode").tolist()
    [[3, 9]]
    """
    if len(factors) != block.ndim or not set(factors) <= {1, 2} or sum(factors) > block.ndim + 3:
        raise GeometryError(
            f"factors are {tuple(factors)}: there must be a 1 or 2 for each of {block.ndim} axes, at most three of them 2"
        )
    method = pyramid_method(method, block.dtype)
    if method == "nearest":
        return block[tuple(slice(None, None, factor) for factor in factors)]
    if method == "mode":
        return _mode(block, factors)
    axes = [axis for axis, factor in enumerate(factors) if factor == 2]
    if block.dtype.kind in "iu":
        return _integer_mean(block, axes)
    working = block.astype(np.float32) if block.dtype == np.float16 else block
    # Infinities of both signs meet in NaN, as they should.
    with np.errstate(invalid="ignore"):
        return _fold(working, axes, lambda even, odd: even * 0.5 + odd * 0.5).astype(block.dtype, copy=False)


def _mode(block: NDArray[Any], factors: Sequence[int]) -> NDArray[Any]:
    # Bits are compared, as NaN is not equal to itself.
    bits = np.ascontiguousarray(block, block.dtype.newbyteorder("=")).view(f"u{block.itemsize}")
    halves: NDArray[Any] = ts.downsample(ts.array(bits, copy=False), list(factors), "mode").read().result()
    return halves.view(block.dtype.newbyteorder("="))


def _integer_mean(block: NDArray[Any], axes: Sequence[int]) -> NDArray[Any]:
    """Mean of `n = 2 ** k` integers: with `x = n q + r`, it is the sum of `q` and the rounded sum of `r` over `n`."""
    k = block.dtype.type(len(axes))
    rest_of = block.dtype.type((1 << len(axes)) - 1)
    whole = _fold(block >> k, axes, operator.add)
    rest = _fold(block & rest_of, axes, operator.add)
    whole += rest >> k
    if axes:
        # Adding just under a half carries where the rest is over a half; a half carries to an odd whole only.
        whole += ((rest & rest_of) + (rest_of >> block.dtype.type(1)) + (whole & block.dtype.type(1))) >> k
    return whole


def _fold(array: NDArray[Any], axes: Sequence[int], join: _Fold) -> NDArray[Any]:
    """Join neighbors pairwise along each axis; the last voxel of an odd axis is its own neighbor."""
    return reduce(lambda folded, axis: _fold_axis(folded, axis, join), axes, array)


def _fold_axis(array: NDArray[Any], axis: int, join: _Fold) -> NDArray[Any]:
    size = array.shape[axis]
    along = [slice(None)] * array.ndim

    def every_second(start: int, stop: int) -> NDArray[Any]:
        along[axis] = slice(start, stop, 2)
        return array[tuple(along)]

    joined = join(every_second(0, size - size % 2), every_second(1, size))
    if size % 2 == 0:
        return joined
    last = every_second(size - 1, size)
    return np.concatenate([joined, join(last, last)], axis)
