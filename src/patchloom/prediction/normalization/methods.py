"""Methods of normalization: the values of `normalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from patchloom.argument_checks import one_of, real_number, shown
from patchloom.errors import ArgumentTypeError, GeometryError

Per = Literal["source", "channel", "sample", "sample_channel"]

_HELP = "mean_std or percentiles:1,99.8; add /channel, /sample or /sample_channel to measure each one alone"


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Normalize an image so that the mean of its pixels is 0 and their standard deviation is 1.

    Statistics are measured over the whole image, so that tiles agree at their seams.

    Parameters
    ----------
    per : {"source", "channel", "sample", "sample_channel"}
        The parts of an image that have statistics of their own: the whole image, each channel, each sample (a time point is a
        sample), or each channel of each sample.

    Raises
    ------
    GeometryError
        If `per` is not one of these.

    Examples
    --------
    >>> str(MeanStd(per="channel"))
    'mean_std/channel'
    """

    per: Per = "source"

    def __post_init__(self) -> None:
        one_of("per", self.per, get_args(Per))

    def __str__(self) -> str:
        return _with_per("mean_std", self.per)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Normalize an image so that two percentiles of its pixels become 0 and 1.

    Pixels beyond the percentiles become less than 0 or more than 1. Percentiles are measured over the whole image and are exact.

    Parameters
    ----------
    lower, upper : float
        The percentiles, from 0 to 100.
    per : {"source", "channel", "sample", "sample_channel"}
        As in `MeanStd`.

    Raises
    ------
    GeometryError
        If the percentiles are not two numbers from 0 to 100, the lower one first, or `per` is not one of these.

    Examples
    --------
    >>> str(Percentiles(2, 98, per="sample")), str(Percentiles())
    ('percentiles:2,98/sample', 'percentiles:1,99.8')
    """

    lower: float = 1.0
    upper: float = 99.8
    per: Per = "source"

    def __post_init__(self) -> None:
        lower, upper = _checked_percentiles(self.lower, self.upper)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        one_of("per", self.per, get_args(Per))

    def __str__(self) -> str:
        return _with_per(f"percentiles:{_shortest(self.lower)},{_shortest(self.upper)}", self.per)


NormalizationMethod = MeanStd | Percentiles


def parse_method(name: str, value: Any) -> NormalizationMethod:
    """Parse a method, or its text.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : str, MeanStd or Percentiles
        A text is `mean_std`, `percentiles` or `percentiles:LOWER,UPPER`, with `/` and the `per` behind it if it is not
        `source`: what `str` of a method returns.

    Raises
    ------
    ArgumentError
        If it is something else.

    Examples
    --------
    >>> parse_method("normalize", "percentiles:2,98/channel")
    Percentiles(lower=2.0, upper=98.0, per='channel')
    >>> parse_method("normalize", "minmax")
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: normalize is 'minmax': it must be mean_std or percentiles:1,99.8; add /channel, /sample or
    /sample_channel to measure each one alone
    """
    if isinstance(value, NormalizationMethod):
        return value
    if not isinstance(value, str):
        raise ArgumentTypeError(f"{name} is {shown(value)}: give MeanStd() or Percentiles(1, 99.8)")
    method, separator, per = value.partition("/")
    kind, colon, numbers = method.partition(":")
    within = cast("Per", per if separator else "source")
    if method == "mean_std":
        return MeanStd(within)
    if kind != "percentiles":
        raise GeometryError(f"{name} is {shown(value)}: it must be {_HELP}")
    if not colon:
        return Percentiles(per=within)
    try:
        lower, upper = map(float, numbers.split(","))
    except ValueError:
        raise GeometryError(
            f"{name} is {shown(value)}: give two percentiles after the colon, such as percentiles:1,99.8"
        ) from None
    return Percentiles(lower, upper, within)


def _checked_percentiles(lower: Any, upper: Any) -> tuple[float, float]:
    try:
        numbers = real_number("lower", lower), real_number("upper", upper)
    except ValueError:
        numbers = np.nan, np.nan
    if not 0 <= numbers[0] < numbers[1] <= 100:
        raise GeometryError(
            f"percentiles are {shown(lower)} and {shown(upper)}: they must be two numbers from 0 to 100, the lower one first, "
            "such as 1 and 99.8"
        )
    return numbers


def _with_per(name: str, per: Per) -> str:
    return name if per == "source" else f"{name}/{per}"


def _shortest(number: float) -> str:
    """Return the shortest text of a number, without a decimal point if it is whole."""
    return repr(number).removesuffix(".0")
