"""Numbers for the positions that a patch may take in an image.

A position is the first voxel of a patch. On an axis of size `A`, a patch of size `P` has `A - P + 1` positions inside the
image, and `A + P - 1` if it only has to touch the image. The positions of a whole sample are numbered consecutively, so
drawing a patch means drawing one whole number.

`unravel` holds for one `int` and for arrays of `int64` alike, as the formulas of `tile_rule` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, Literal, get_args

from patchloom.argument_checks import one_of
from patchloom.axes import spatial_axes
from patchloom.errors import GeometryError

Coverage = Literal["inside", "uniform"]


def position_counts(
    data_shapes: Sequence[Sequence[int]], patch_size: Sequence[int], coverage: Coverage = "inside"
) -> list[tuple[int, ...]]:
    """Count the positions of a patch along each spatial axis of each image stack.

    Parameters
    ----------
    data_shapes : sequence of sequence of int
        `SC(Z)YX` each.
    patch_size : sequence of int
        `(z,) y, x`.
    coverage : {"inside", "uniform"}
        Whether patches stay inside the image, or may reach past its border by all but one voxel.

    Raises
    ------
    GeometryError
        If patches stay inside and are larger than an image, or have too many positions to be numbered.

    Examples
    --------
    >>> position_counts([(1, 1, 10, 8)], (4, 8)), position_counts([(1, 1, 10, 8)], (4, 8), "uniform")
    ([(7, 1)], [(13, 15)])
    """
    one_of("coverage", coverage, get_args(Coverage))
    sign = -1 if coverage == "inside" else 1
    counts = []
    for data_idx, shape in enumerate(data_shapes):
        positions = tuple(size + sign * (patch - 1) for size, patch in zip(shape[2:], patch_size, strict=True))
        if min(positions) < 1:
            axis = min(range(len(positions)), key=positions.__getitem__)
            raise GeometryError(
                f"patch_size is {patch_size[axis]} along {spatial_axes(len(positions))[axis]}, but image stack {data_idx} "
                f"has size {shape[2 + axis]} there (shape {tuple(shape)}): take a smaller patch, leave the stack out, or "
                'draw with coverage="uniform", which lets patches reach past the border'
            )
        if prod(positions) >= 2**63:
            raise GeometryError(
                f"image stack {data_idx} has shape {tuple(shape)}: its samples have more than 2**63 - 1 positions of a "
                "patch, which is more than can be numbered"
            )
        counts.append(positions)
    return counts


def unravel(number: Any, extents: Sequence[Any]) -> list[Any]:
    """Return the coordinates of an element of a box by its number in raster order, the last axis fastest.

    Parameters
    ----------
    number : int or array of int64
        At least 0 and less than the product of the extents; not checked.
    extents : sequence of int or array of int64
        Of each axis.

    Examples
    --------
    >>> unravel(17, (3, 2, 5))
    [1, 1, 2]
    """
    coords = []
    for extent in extents[:0:-1]:
        quotient = number // extent
        coords.append(number - quotient * extent)
        number = quotient
    return [number, *coords[::-1]]
