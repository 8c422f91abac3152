"""The elements along one axis from which operators compute each element of their output: `(n_taps, n)` indices, -1 for padding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from patchloom.prediction.probe.spans import Indices, UndecidedError


def window_taps(size: int, kernel: int, stride: int, dilation: int, pads: tuple[int, int], *, ceil: bool) -> Indices:
    """Return the taps of a convolution or of pooling along one axis.

    Parameters
    ----------
    size : int
        Size of the input.
    kernel, stride, dilation : int
        As in ONNX.
    pads : (int, int)
        Padding before and after.
    ceil : bool
        Whether a last window that reaches beyond the padding counts, if it starts in the input.

    Examples
    --------
    >>> window_taps(6, kernel=2, stride=2, dilation=1, pads=(0, 0), ceil=False).T.tolist()
    [[0, 1], [2, 3], [4, 5]]
    """
    room = size + sum(pads) - dilation * (kernel - 1) - 1
    if room < 0:
        raise UndecidedError("a tensor is smaller than a kernel")
    n = (-(-room // stride) if ceil else room // stride) + 1
    if ceil and (n - 1) * stride >= size + pads[0]:
        n -= 1
    taps = np.arange(n) * stride - pads[0] + dilation * np.arange(kernel)[:, None]
    return np.where((taps < 0) | (taps >= size), -1, taps)


def transposed_taps(size: int, n: int, kernel: int, stride: int, dilation: int, *, before: int) -> Indices:
    """Return the taps of a transposed convolution with `n` elements of output.

    Examples
    --------
    >>> transposed_taps(2, 4, kernel=2, stride=2, dilation=1, before=0).max(axis=0).tolist()
    [0, 0, 1, 1]
    """
    reached = np.arange(n) + before - dilation * np.arange(kernel)[:, None]
    taps = reached // stride
    return np.where((reached % stride != 0) | (taps < 0) | (taps >= size), -1, taps)


def pad_taps(size: int, before: int, after: int, mode: str) -> Indices:
    """Return the taps of padding; negative numbers crop.

    Examples
    --------
    >>> pad_taps(4, 2, 1, "reflect").tolist(), pad_taps(4, -1, 1, "constant").tolist()
    ([[2, 1, 0, 1, 2, 3, 2]], [[1, 2, 3, -1]])
    """
    place = np.arange(-before, size + after)
    if mode == "edge":
        place = place.clip(0, size - 1)
    elif mode == "wrap":
        place %= size
    elif mode == "reflect":
        if max(before, after) >= size:
            raise UndecidedError("a tensor is padded by its mirror image by more than its size")
        place = np.abs(place)
        place = np.where(place >= size, 2 * (size - 1) - place, place)
    return np.where((place < 0) | (place >= size), -1, place)[None]


def resize_taps(
    size: int, n: int, scale: float, *, mode: str, coordinates: str, rounding: str, widens: bool
) -> Indices:
    """Return the taps of interpolation along one axis.

    Parameters
    ----------
    size, n : int
        Size of the input and of the output.
    scale : float
        Voxels of the output for one of the input.
    mode : {"nearest", "linear", "cubic"}
        The interpolation.
    coordinates, rounding : str
        `coordinate_transformation_mode` and `nearest_mode` of ONNX.
    widens : bool
        Whether the kernel becomes wider if the output is smaller (`antialias`).

    Examples
    --------
    >>> resize_taps(3, 6, 2.0, mode="linear", coordinates="half_pixel", rounding="", widens=False).T.tolist()
    [[0, 0], [0, 1], [0, 1], [1, 2], [1, 2], [2, 2]]
    """
    place = _source(size, n, scale, coordinates)
    place = np.where(np.abs(place - place.round()) < 1e-6, place.round(), place)
    if mode == "nearest":
        return _rounded(place, rounding).astype(np.int64).clip(0, size - 1)[None]
    reach = {"linear": 1, "cubic": 2}.get(mode)
    if reach is None:
        raise UndecidedError(f"the mode {mode} of Resize is not known")
    support = reach / scale if widens and scale < 1 else reach
    first = np.floor(place - support).astype(np.int64) + 1
    # A tap whose weight is 0 has no effect, so it is replaced by the first one.
    taps = first + np.arange(math.ceil(2 * support))[:, None]
    taps = np.where(np.abs(taps - place) < support, taps, first)
    if support == reach:
        taps = np.where(place == place.round(), place.astype(np.int64), taps)
    return taps.clip(0, size - 1)


def _rounded(
    place: np.ndarray[tuple[int], np.dtype[np.float64]], rounding: str
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if rounding == "floor":
        return np.floor(place)
    if rounding == "ceil":
        return np.ceil(place)
    return np.floor(place + 0.5) if rounding == "round_prefer_ceil" else np.ceil(place - 0.5)


def _source(size: int, n: int, scale: float, coordinates: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return the position in the input of each element of the output."""
    place = np.arange(n, dtype=np.float64)
    if coordinates in ("half_pixel", "half_pixel_symmetric"):
        return (place + 0.5) / scale - 0.5
    if coordinates == "pytorch_half_pixel":
        return (place + 0.5) / scale - 0.5 if n > 1 else place * 0
    if coordinates == "asymmetric":
        return place / scale
    if coordinates == "align_corners":
        return place * ((size - 1) / (n - 1) if n > 1 else 0)
    raise UndecidedError(f"the coordinates {coordinates} of Resize are not known")


def slice_taps(size: int, start: int, stop: int, step: int) -> Indices:
    """Return the taps of a slice."""
    limits = slice(start, stop if step > 0 or stop >= -size else None, step).indices(size)
    return np.arange(*limits)[None]


def same_pads(size: int, kernel: int, stride: int, dilation: int, auto_pad: str) -> tuple[int, int]:
    """Return the padding of `auto_pad`.

    Examples
    --------
    >>> same_pads(7, 2, 2, 1, "SAME_UPPER"), same_pads(7, 2, 2, 1, "SAME_LOWER"), same_pads(7, 2, 2, 1, "VALID")
    ((0, 1), (1, 0), (0, 0))
    """
    if auto_pad not in ("SAME_UPPER", "SAME_LOWER"):
        return (0, 0)
    total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
    return (total // 2, total - total // 2) if auto_pad == "SAME_UPPER" else (total - total // 2, total // 2)


def one_for_each(values: Sequence[int] | None, n: int, default: int) -> list[int]:
    """Return the numbers of an attribute, or a default for each axis."""
    return list(values) if values else [default] * n
