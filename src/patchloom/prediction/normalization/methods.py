"""Methods of normalization: the values of `normalize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from patchloom.argument_checks import one_of, real_number, shown
from patchloom.errors import ArgumentTypeError, GeometryError

Per = Literal["source", "channel", "sample", "sample_channel"]

_HELP = "mean_std or percentiles:1,99.8; add /channel, /sample or /sample_channel to measure each one alone"
_NUMBERS_HELP = (
    "give two percentiles after the colon, such as percentiles:1,99.8, and eps=1e-6 behind them if it is needed"
)


@dataclass(frozen=True, slots=True)
class MeanStd:
    """Normalize an image so that the mean of its pixels is 0 and their standard deviation is 1.

    Statistics are measured over the whole image, so that tiles agree at their seams.

    Parameters
    ----------
    per : {"source", "channel", "sample", "sample_channel"}
        The parts of an image that have statistics of their own: the whole image, each channel, each sample (a time point is a
        sample), or each channel of each sample.
    eps : float
        Number that is added to the standard deviation before it divides; many networks were trained with a small one.

    Raises
    ------
    GeometryError
        If `per` is not one of these, or `eps` is negative.

    Examples
    --------
    >>> str(MeanStd(per="channel")), str(MeanStd(eps=1e-6))
    ('mean_std/channel', 'mean_std:eps=1e-06')
    """

    per: Per = "source"
    eps: float = 0.0

    def __post_init__(self) -> None:
        one_of("per", self.per, get_args(Per))
        object.__setattr__(self, "eps", real_number("eps", self.eps, least=0))

    def __str__(self) -> str:
        return _with_per(f"mean_std:eps={self.eps!r}" if self.eps else "mean_std", self.per)


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
    eps : float
        Number that is added to the difference of the percentiles before it divides.

    Raises
    ------
    GeometryError
        If the percentiles are not two numbers from 0 to 100, the lower one first, `per` is not one of these, or `eps` is negative.

    Examples
    --------
    >>> str(Percentiles(2, 98, per="sample")), str(Percentiles())
    ('percentiles:2,98/sample', 'percentiles:1,99.8')
    """

    lower: float = 1.0
    upper: float = 99.8
    per: Per = "source"
    eps: float = 0.0

    def __post_init__(self) -> None:
        lower, upper = _checked_percentiles(self.lower, self.upper)
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)
        one_of("per", self.per, get_args(Per))
        object.__setattr__(self, "eps", real_number("eps", self.eps, least=0))

    def __str__(self) -> str:
        eps = f",eps={self.eps!r}" if self.eps else ""
        return _with_per(f"percentiles:{_shortest(self.lower)},{_shortest(self.upper)}{eps}", self.per)


NormalizationMethod = MeanStd | Percentiles


def parse_method(name: str, value: Any) -> NormalizationMethod:
    """Parse a method, or its text.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : str, MeanStd or Percentiles
        A text is `mean_std`, `percentiles` or `percentiles:LOWER,UPPER`, with `/` and the `per` behind it if it is not
        `source`: what `str` of a method returns. An `eps` is written `mean_std:eps=1e-6` or `percentiles:LOWER,UPPER,eps=1e-6`.

    Raises
    ------
    ArgumentError
        If it is something else.

    Examples
    --------
    >>> parse_method("normalize", "percentiles:2,98/channel")
    Percentiles(lower=2.0, upper=98.0, per='channel', eps=0.0)
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
    kind, colon, text = method.partition(":")
    within = cast("Per", per if separator else "source")
    try:
        numbers, eps = _parse_numbers(text) if colon else ([], 0.0)
    except ValueError:
        raise GeometryError(f"{name} is {shown(value)}: {_NUMBERS_HELP}") from None
    if kind == "mean_std" and not numbers:
        return MeanStd(within, eps)
    if kind != "percentiles":
        raise GeometryError(f"{name} is {shown(value)}: it must be {_HELP}")
    if colon and len(numbers) != 2:
        raise GeometryError(f"{name} is {shown(value)}: {_NUMBERS_HELP}")
    lower, upper = numbers or (1.0, 99.8)
    return Percentiles(lower, upper, within, eps)


def _parse_numbers(text: str) -> tuple[list[float], float]:
    """Return the numbers of a text such as `1,99.8,eps=1e-6`, and the eps.

    Raises
    ------
    ValueError
        If one is not a number.
    """
    numbers = text.split(",")
    eps = numbers.pop().removeprefix("eps=") if numbers[-1].startswith("eps=") else 0.0
    return [float(number) for number in numbers], float(eps)


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
