"""How the gray values of images are brought to the range that a model was trained on: the values of `normalize`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast, get_args

import numpy as np

from patchloom.argument_checks import one_of, shown
from patchloom.errors import ArgumentTypeError, GeometryError
from patchloom.image_stacks import HasStorageGrid, ImageStack
from patchloom.image_stacks.scan import MAX_BYTES
from patchloom.prediction.normalization.normalization import (
    Normalization,
    Per,
    checked_percentiles,
    measure_normalization,
)

_SHARE_OF_PIXELS = 24
"""Pixels take one in so many of the bytes allowed, several times: as they are decoded, as they are held, and as the allocator
keeps them."""

_SHARE_OF_CHUNK = 8
"""One stored chunk may take one in so many of them: in smaller pieces, it would be decoded several times."""

_SHARE_OF_COUNTS = 4
"""Counts of values take at most one in so many of them."""

_HELP = (
    "mean_std or percentiles:1,99.8, with /channel, /sample or /sample_channel behind it for statistics of their own"
)


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Bring the gray values of an image to mean 0 and standard deviation 1.

    Parameters
    ----------
    per : {"source", "channel", "sample", "sample_channel"}
        What is normalized by statistics of its own: the whole image, each channel, each sample (a time point is one), or each
        channel of each sample.

    Raises
    ------
    GeometryError
        If there is no such `per`.

    Examples
    --------
    >>> str(MeanStd(per="channel"))
    'mean_std/channel'
    """

    per: Per = "source"

    def __post_init__(self) -> None:
        one_of("per", self.per, get_args(Per))

    def measure(self, stack: ImageStack, memory_limit: int) -> Normalization:
        """Measure an image; see `measure_normalization`.

        Parameters
        ----------
        stack : ImageStack
            The image.
        memory_limit : int
            Bytes that measuring may take.
        """
        return measure_normalization(stack, "mean_std", per=self.per, **_bounds(stack, memory_limit))

    def __str__(self) -> str:
        return _with_per("mean_std", self.per)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Bring two percentiles of the gray values of an image to 0 and 1; what lies beyond them goes beyond 0 and 1.

    Parameters
    ----------
    lower, upper : float
        The percentiles, from 0 to 100.
    per : {"source", "channel", "sample", "sample_channel"}
        As in `MeanStd`.

    Raises
    ------
    GeometryError
        If the percentiles are not two numbers from 0 to 100, the lower one first, or there is no such `per`.

    Examples
    --------
    >>> str(Percentiles(2, 98, per="sample")), str(Percentiles())
    ('percentiles:2,98/sample', 'percentiles:1,99.8')
    """

    lower: float = 1.0
    upper: float = 99.8
    per: Per = "source"

    def __post_init__(self) -> None:
        lower, upper = checked_percentiles((self.lower, self.upper))
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        one_of("per", self.per, get_args(Per))

    def measure(self, stack: ImageStack, memory_limit: int) -> Normalization:
        """Measure an image; see `MeanStd.measure`."""
        percentiles = (self.lower, self.upper)
        return measure_normalization(
            stack, "percentiles", percentiles=percentiles, per=self.per, **_bounds(stack, memory_limit)
        )

    def __str__(self) -> str:
        return _with_per(f"percentiles:{_shortest(self.lower)},{_shortest(self.upper)}", self.per)


NormalizationMethod = MeanStd | Percentiles


def method_of(measured: Normalization) -> NormalizationMethod:
    """Return the method by which a normalization was measured.

    Parameters
    ----------
    measured : Normalization
        The normalization of an image.
    """
    if measured.method == "mean_std":
        return MeanStd(measured.per)
    lower, upper = measured.percentiles
    return Percentiles(lower, upper, measured.per)


def parse_normalization(value: Any) -> NormalizationMethod | tuple[Normalization, ...] | None:
    """Parse what `normalize` of `predict` may be.

    Parameters
    ----------
    value : str, MeanStd, Percentiles, sequence of Normalization or None
        A text is `mean_std`, `percentiles` or `percentiles:LOWER,UPPER`, with `/` and the `per` behind it if it is not
        `source`: what `str` of a method gives.

    Raises
    ------
    GeometryError
        If it is something else.

    Examples
    --------
    >>> parse_normalization("percentiles:2,98/channel")
    Percentiles(lower=2.0, upper=98.0, per='channel')
    >>> parse_normalization("minmax")
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: normalize is 'minmax': it must be mean_std or percentiles:1,99.8, with /channel, /sample or
    /sample_channel behind it for statistics of their own
    """
    if value is None or isinstance(value, NormalizationMethod):
        return value
    if isinstance(value, str):
        return _parse_text(value)
    if isinstance(value, Sequence) and all(isinstance(measured, Normalization) for measured in value):
        return tuple(value)
    raise ArgumentTypeError(
        f"normalize is {shown(value)}: give MeanStd(), Percentiles(1, 99.8), or a list of one Normalization for each image"
    )


def _parse_text(text: str) -> NormalizationMethod:
    named, separator, per = text.partition("/")
    name, colon, numbers = named.partition(":")
    within = cast("Per", per if separator else "source")
    if named == "mean_std":
        return MeanStd(within)
    if name == "percentiles":
        if not colon:
            return Percentiles(per=within)
        try:
            lower, upper = map(float, numbers.split(","))
        except ValueError:
            raise GeometryError(
                f"normalize is {shown(text)}: give two percentiles behind the colon, such as percentiles:1,99.8"
            ) from None
        return Percentiles(lower, upper, within)
    raise GeometryError(f"normalize is {shown(text)}: it must be {_HELP}")


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


def _bounds(stack: ImageStack, memory_limit: int) -> dict[str, Any]:
    return {"max_bytes": pixel_bytes(stack, memory_limit), "max_count_bytes": memory_limit // _SHARE_OF_COUNTS}


def _with_per(name: str, per: Per) -> str:
    return name if per == "source" else f"{name}/{per}"


def _shortest(number: float) -> str:
    """Write a number so that it reads back as the same, without a point where it is whole."""
    return repr(number).removesuffix(".0")
