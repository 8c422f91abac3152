"""An axis beside a coarser one, such as that of a mask: the factor between them, and the windows that cover each other.

If the size of the axis is not a multiple of that of the coarser axis, several factors may fit, as the last voxel covers the rest.
"""

from __future__ import annotations


def fitting_factors(size: int, coarse: int) -> range:
    """Return the whole factors by which an axis may be coarser: the exact factor, or all that fit after rounding.

    Parameters
    ----------
    size, coarse : int
        Size of the axis, and of the coarser axis.

    Examples
    --------
    >>> list(fitting_factors(100, 50)), list(fitting_factors(10, 3)), list(fitting_factors(10, 7))
    ([2], [3, 4], [])
    """
    if size % coarse == 0:
        return range(size // coarse, size // coarse + 1)
    largest = size if coarse == 1 else -(-size // (coarse - 1)) - 1
    return range(size // (coarse + 1) + 1, largest + 1)


def coarse_window(part: slice, size: int, coarse: int) -> slice:
    """Return the window of a coarser axis that may cover a window of an axis; at least one voxel.

    Parameters
    ----------
    part : slice
        The window.
    size, coarse : int
        Size of the axis, and of the coarser axis.

    Examples
    --------
    >>> coarse_window(slice(4, 8), size=10, coarse=3), coarse_window(slice(9, 10), size=10, coarse=3)
    (slice(1, 3, None), slice(2, 3, None))
    """
    factors = fitting_factors(size, coarse)
    start = min(part.start // factors[-1], coarse - 1)
    return slice(start, max(min(-(-part.stop // factors[0]), coarse), start + 1))
