"""Downscaling of windows to the size of a patch, by a power of two along each axis.

There are two ways, both separable. The *mean* of blocks is computed from sums that are halved repeatedly: integers are summed as
integers, so their mean is exact. *Resize* is the default of `skimage.transform.resize`: a Gaussian blur, mirrored at the ends of
the window, and linear interpolation. Along one axis that is a product with a small matrix, one row for each voxel of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom._compiled_loop import compiled_loop
from patchloom.argument_checks import one_of

Downscale = Literal["mean", "resize"]

_MIN_VOXELS = 2**14
"""Below this number of voxels NumPy sums them: loading the compiled loop takes longer."""

_BLUR_REACH = 4.0
"""Reach of the Gaussian, in standard deviations."""


def check_downscale(downscale: str) -> Downscale:
    """Check the name of a way to downscale, and return it.

    Raises
    ------
    GeometryError
        If it is not `"mean"` or `"resize"`.
    """
    way: Downscale = one_of("downscale", downscale, get_args(Downscale))
    return way


def halve_sums(voxels: NDArray[Any], *, halve_z: bool = True, min_voxels: int = _MIN_VOXELS) -> NDArray[Any]:
    """Sum blocks of two voxels along each axis.

    Parameters
    ----------
    voxels : array
        `(N, (Z), Y, X)`, of even sizes.
    halve_z : bool
        Whether blocks span two voxels along Z too. If not, Z may have any size.
    min_voxels : int
        Number of voxels from which on the compiled loop sums them.

    Returns
    -------
    array
        Of `sum_dtype`, which holds the sums.

    Examples
    --------
    >>> halve_sums(np.arange(16, dtype=np.uint8).reshape(1, 4, 4)).tolist()
    [[[10, 18], [42, 50]]]
    """
    flat = voxels.ndim == 3
    depth = 1 if flat or not halve_z else 2
    slices = voxels[:, np.newaxis] if flat else voxels
    n, n_slices, n_rows, width = slices.shape
    sums = np.empty((n, n_slices // depth, n_rows // 2, width // 2), sum_dtype(voxels.dtype))
    known = voxels.dtype.kind in "uif" and voxels.dtype.isnative and voxels.dtype != np.float16
    worth_it = voxels.size >= min_voxels and voxels.flags.c_contiguous
    compiled = compiled_loop(sum_blocks) if known and worth_it else None
    (compiled or halve_by_numpy)(slices, sums, depth)
    return sums[:, 0] if flat else sums


def sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype in which voxels are summed: integers of up to 32 bits as integers, others as floats.

    Examples
    --------
    >>> [str(sum_dtype(np.dtype(dtype))) for dtype in ("bool", "uint16", "int32", "uint32", "int64", "float32")]
    ['uint32', 'uint32', 'int64', 'uint64', 'float64', 'float32']
    """
    if dtype.kind in "bui" and dtype.itemsize < 8:
        signed = "i" if dtype.kind == "i" else "u"
        return np.dtype(f"{signed}{4 if dtype.itemsize < 4 else 8}")
    return np.result_type(dtype, np.float64 if dtype.kind in "ui" else np.float32)


def halve_by_numpy(voxels: NDArray[Any], sums: NDArray[Any], depth: int) -> None:
    """Sum blocks: the reference for the compiled loop."""
    if depth == 2:
        voxels = np.add(voxels[:, 0::2], voxels[:, 1::2], dtype=sums.dtype)
    voxels = np.add(voxels[:, :, 0::2], voxels[:, :, 1::2], dtype=sums.dtype)
    np.add(voxels[..., 0::2], voxels[..., 1::2], out=sums)


def sum_blocks(voxels: Any, sums: Any, depth: Any) -> None:
    """Sum blocks one by one; this loop is compiled."""
    for n in range(sums.shape[0]):
        for z in range(sums.shape[1]):
            for y in range(sums.shape[2]):
                above, below = voxels[n, z * depth, 2 * y], voxels[n, z * depth, 2 * y + 1]
                row, kind = sums[n, z, y], sums.dtype.type
                if depth == 1:
                    for x in range(sums.shape[3]):
                        left = kind(above[2 * x]) + kind(below[2 * x])
                        row[x] = left + (kind(above[2 * x + 1]) + kind(below[2 * x + 1]))
                else:
                    next_above, next_below = voxels[n, z * depth + 1, 2 * y], voxels[n, z * depth + 1, 2 * y + 1]
                    for x in range(sums.shape[3]):
                        left = (kind(above[2 * x]) + kind(next_above[2 * x])) + (
                            kind(below[2 * x]) + kind(next_below[2 * x])
                        )
                        right = (kind(above[2 * x + 1]) + kind(next_above[2 * x + 1])) + (
                            kind(below[2 * x + 1]) + kind(next_below[2 * x + 1])
                        )
                        row[x] = left + right


def resize(voxels: NDArray[Any], factors: Sequence[int]) -> NDArray[np.float32]:
    """Downscale as `skimage.transform.resize` downscales a `float32` image by default.

    Parameters
    ----------
    voxels : array
        `(N, (Z), Y, X)`, of sizes that are multiples of the factors.
    factors : sequence of int
        Ratio of sizes before and after along each spatial axis; powers of two.

    Returns
    -------
    array
        `(N, (Z), Y, X)`.

    Examples
    --------
    >>> resize(np.arange(8).reshape(1, 1, 8), factors=(1, 4)).astype(float).round(1).tolist()
    [[[1.8, 5.2]]]
    """
    result: NDArray[np.float32] = voxels.astype(np.float32, order="C")
    for axis, factor in enumerate(factors, start=1):
        if factor > 1:
            before, size, after = result.shape[:axis], result.shape[axis], result.shape[axis + 1 :]
            matrix = resize_matrix(size, factor)
            result = matrix @ result.reshape(*before, size, -1) if after else result @ matrix.T
            result = result.reshape(*before, size // factor, *after)
    return result


@lru_cache(maxsize=64)
def resize_matrix(size: int, factor: int) -> NDArray[np.float32]:
    """Return the weights that each voxel of a resized axis is computed with.

    Parameters
    ----------
    size : int
        Voxels of the axis; a multiple of the factor.
    factor : int
        Ratio of sizes before and after; a power of two.

    Returns
    -------
    array
        `(size // factor, size)`, read-only; its rows sum to one.
    """
    sigma = (factor - 1) / 2
    reach = int(_BLUR_REACH * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    matrix = np.zeros((size // factor, size))
    period = max(2 * (size - 1), 1)
    for voxel, row in enumerate(matrix):
        # Halfway between the two voxels in the middle of its block; the image is mirrored about its outermost voxels.
        for middle in (voxel * factor + factor // 2 - 1, voxel * factor + factor // 2):
            sources = np.abs(np.arange(middle - reach, middle + reach + 1)) % period
            np.add.at(row, np.minimum(sources, period - sources), weights / 2)
    narrow = matrix.astype(np.float32)
    narrow.flags.writeable = False
    return narrow
