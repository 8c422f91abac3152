"""Measurement of the normalization of an image, chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from math import inf, isfinite, prod
from typing import Any

import numpy as np

from patchloom.argument_checks import instance
from patchloom.errors import SourceError
from patchloom.extraction.rescaling import cancels
from patchloom.geometry.checks import whole_number
from patchloom.image_stacks import HasStorageGrid, ImageStack
from patchloom.image_stacks.scan import MAX_BYTES
from patchloom.prediction.normalization.methods import MeanStd, NormalizationMethod, parse_method
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.normalization.percentile_search import PercentileSearch, n_passes
from patchloom.prediction.normalization.source_statistics import Division, Measured, Part, Statistic, measure_parts
from patchloom.prediction.normalization.streamed_moments import CountedMoments, StreamedMoments

_COUNTS_BYTES = 2**16 * 8
"""Memory for a count of each value of 16 bits."""

_SHARE_OF_PIXELS = 24
"""Pixels take 1/24 of the memory limit, as they are in memory several times: decoded, copied, and kept by the allocator."""

_SHARE_OF_CHUNK = 8
"""A stored chunk may take 1/8 of the memory limit: in smaller pieces, it would be decoded several times."""

_SHARE_OF_COUNTS = 4
"""Counts of values take at most 1/4 of the memory limit."""


def measure_images(
    images: Sequence[ImageStack],
    method: NormalizationMethod,
    memory_limit: int,
    advance: Callable[[int], None] | None = None,
) -> tuple[Normalization, ...]:
    """Measure the images of a run.

    Parameters
    ----------
    images : sequence of ImageStack
        The images.
    method : MeanStd or Percentiles
        The method by which they are normalized.
    memory_limit : int
        Bytes of memory that measuring may take.
    advance : callable, optional
        Called now and then with the number of voxels that were read, out of `n_voxels_read`; what it raises ends the measurement.

    Raises
    ------
    SourceError
        As `measure_normalization`.
    """
    return tuple(
        _measure(
            image,
            method,
            max_bytes=pixel_bytes(image, memory_limit),
            max_statistic_bytes=memory_limit // _SHARE_OF_COUNTS,
            advance=advance,
        )
        for image in images
    )


def n_voxels_read(images: Sequence[ImageStack], method: NormalizationMethod) -> int:
    """Return the number of voxels that are read to measure images, each as often as it is read.

    Parameters
    ----------
    images : sequence of ImageStack
        The images.
    method : MeanStd or Percentiles
        The method by which they are normalized.
    """
    return sum(
        prod(image.data_shape) * (1 if isinstance(method, MeanStd) else n_passes(np.dtype(image.data_dtype)))
        for image in images
    )


def measure_normalization(
    stack: ImageStack,
    method: str | NormalizationMethod = MeanStd(),  # noqa: B008  # frozen
    *,
    max_bytes: int = MAX_BYTES,
    max_count_bytes: int | None = None,
) -> Normalization:
    """Measure the statistics of an image with which it is normalized.

    Pixels are read chunk by chunk, so memory does not grow with the image.

    Parameters
    ----------
    stack : ImageStack
        The image, of integers or floats of at most 64 bits.
    method : MeanStd, Percentiles or str
        The method, such as `MeanStd(per="channel")` or `Percentiles(1, 99.8)`, or its text.
    max_bytes : int
        Bytes of pixels that are in memory at once.
    max_count_bytes : int
        Bytes of memory for counts of values, at most 64 MiB. If it is too little for all parts, the image is read several times.
        The counts of a single part take at most 2 MiB and are always in memory. If None, 64 MiB.

    Returns
    -------
    Normalization
        A scale and an offset for each channel of each sample; they are equal within a part.

    Raises
    ------
    GeometryError
        If an argument has a value that is not allowed.
    SourceError
        If pixels cannot be read, or are complex, or a part to be measured has no finite pixel.

    Notes
    -----
    NaN and infinite pixels are excluded and counted (`n_ignored`). If a part has no spread, because all of its pixels or both of
    its percentiles are equal, its scale is 1, or 1 / `eps` if the method has one; it is counted (`n_flat`).

    Precision: mean and standard deviation of integers of 8 and 16 bits are exact before the last rounding; those of other pixels
    are exact to within the rounding of float64. Percentiles are exact: they equal `numpy.percentile` of the whole image in
    float64. They need one pass over the pixels for 8 and 16 bits, two for 32 bits and four for 64 bits; mean and deviation need
    one pass.

    Examples
    --------
    >>> from patchloom import ArrayStack, Percentiles
    >>> stack = ArrayStack(np.arange(101, dtype=np.uint8).reshape(1, 101), axes="YX")
    >>> measured = measure_normalization(stack, Percentiles(10, 90))
    >>> measured.scale, measured.offset
    (((0.0125,),), ((-0.125,),))
    """
    instance("stack", stack, ImageStack, "open_stacks makes one")
    chosen = parse_method("method", method)
    whole_number("max_bytes", max_bytes, least=1)
    if max_count_bytes is not None:
        whole_number("max_count_bytes", max_count_bytes, least=0)
    check_measurable(stack)
    return _measure(stack, chosen, max_bytes=max_bytes, max_statistic_bytes=max_count_bytes)


def _measure(stack: ImageStack, chosen: NormalizationMethod, **bounds: Any) -> Normalization:
    dtype, per = np.dtype(stack.data_dtype), chosen.per
    division = Division(by_sample=per in {"sample", "sample_channel"}, by_channel=per in {"channel", "sample_channel"})
    if isinstance(chosen, MeanStd):
        return _normalization(stack, division, measure_parts(stack, division, *_moments(dtype), **bounds), chosen)
    search = partial(PercentileSearch, dtype, (chosen.lower, chosen.upper))
    ends = measure_parts(stack, division, search, 2 * 2 * _COUNTS_BYTES, **bounds)
    ranges = {part: (low, _as_float(high - low)) for part, (low, high) in ends.results.items()}
    return _normalization(stack, division, ends._replace(results=ranges), chosen)


def check_measurable(stack: ImageStack) -> None:
    """Check that the pixels of an image can be normalized.

    Parameters
    ----------
    stack : ImageStack
        The image.

    Raises
    ------
    SourceError
        If they are complex, or wider than 64 bits.
    """
    dtype = np.dtype(stack.data_dtype)
    if dtype.kind not in "iubf" or dtype.itemsize > 8:
        raise SourceError(
            f"{stack.source} has dtype {dtype}, and only integers and floats of up to 64 bits are normalized: convert the image, or "
            "leave normalize out"
        )


def pixel_bytes(stack: ImageStack, memory_limit: int) -> int:
    """Return the number of bytes of pixels that are held at once while an image is measured.

    Parameters
    ----------
    stack : ImageStack
        The image.
    memory_limit : int
        Bytes that measuring may take.
    """
    chunk_shape = stack.chunk_shape if isinstance(stack, HasStorageGrid) else ()
    chunk = prod(map(min, chunk_shape, stack.data_shape)) * np.dtype(stack.data_dtype).itemsize
    wanted = max(memory_limit // _SHARE_OF_PIXELS, min(chunk, memory_limit // _SHARE_OF_CHUNK))
    return max(1, min(wanted, MAX_BYTES))


def _moments(dtype: np.dtype[Any]) -> tuple[Callable[[], Statistic], int]:
    """Return a function that makes the statistic of one part, and the bytes of memory that it needs."""
    if dtype.kind in "iub" and dtype.itemsize <= 2:
        return partial(CountedMoments, dtype), _COUNTS_BYTES
    return StreamedMoments, 1


def _normalization(
    stack: ImageStack, division: Division, measured: Measured, method: NormalizationMethod
) -> Normalization:
    """Compute scale and offset of each channel from two numbers for each part: the value that becomes 0, and the spread."""
    transforms: dict[Part, tuple[float, float, float]] = {}
    n_flat = 0
    for part, (zero, spread) in measured.results.items():
        if not isfinite(zero) or not isfinite(spread):
            raise SourceError(
                f"{stack.source} has pixels whose spread is too large for float64: mask them, or leave normalize out"
            )
        divisor = spread + method.eps
        flat = not divisor or not isfinite(1 / divisor) or not isfinite(float(zero) / divisor)
        n_flat += flat or not spread
        transforms[part] = _transform(zero, 1.0 if flat else 1 / divisor)
    n_samples, n_channels = stack.data_shape[:2]
    scale, offset, rest = (
        tuple(
            tuple(transforms[division.part_of(sample, channel)][which] for channel in range(n_channels))
            for sample in range(n_samples)
        )
        for which in (0, 1, 2)
    )
    return Normalization(
        method,
        scale,
        offset,
        measured.n_ignored,
        n_flat,
        rest if any(map(any, rest)) and cancels(offset) else (),
    )


def _as_float(number: float | Fraction) -> float:
    """Round a number to float64; a number that is too large becomes infinite."""
    try:
        return float(number)
    except OverflowError:
        return inf


def _transform(zero: float | Fraction, scale: float) -> tuple[float, float, float]:
    """Return scale, offset, and the part of the offset that float64 cannot represent."""
    exact = -Fraction(zero) * Fraction(scale)
    offset = float(exact)
    return scale, offset, float(exact - Fraction(offset))
