"""Gray values brought to the range that a model was trained on, by statistics of the whole source and never of a tile.

Statistics of a tile differ from those of its neighbor, and so would the two predictions at their seam.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from fractions import Fraction
from functools import partial
from math import inf, isfinite
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, listed, one_of, real_number, shown
from patchloom.errors import GeometryError, SourceError
from patchloom.extraction.rescaling import cancels
from patchloom.geometry.checks import whole_number
from patchloom.image_stacks import ImageStack
from patchloom.image_stacks.scan import MAX_BYTES
from patchloom.prediction.normalization.percentile_search import PercentileSearch
from patchloom.prediction.normalization.source_statistics import Division, Measured, Part, Statistic, measure_parts
from patchloom.prediction.normalization.streamed_moments import CountedMoments, StreamedMoments

Method = Literal["mean_std", "percentiles"]
Per = Literal["source", "channel", "sample", "sample_channel"]

_COUNTS_BYTES = 2**16 * 8
"""A count of each value of 16 bits."""


@dataclass(frozen=True, slots=True)
class Normalization:
    """What turns the gray values of one image into what a model is fed: `pixel * scale + offset`.

    Made by `measure_normalization`. All of it are plain values, and JSON keeps them exactly. `scale[sample_idx]` and
    `offset[sample_idx]` are what `PatchExtractor.extract_batch` takes for tiles of one sample.

    Raises
    ------
    GeometryError
        If `scale` and `offset` are not of one form, or one of their numbers is not finite, or a scale is 0.

    Examples
    --------
    >>> brighter = Normalization("mean_std", "channel", (), scale=((0.5, 1.0),), offset=((-3.0, 0.0),))
    >>> Normalization.from_dict(brighter.to_dict()) == brighter
    True
    >>> brighter.undo(np.array([[[1.0]], [[2.0]]]), sample_idx=0).tolist()
    [[[8.0]], [[2.0]]]
    """

    method: Method
    """How it was measured."""

    per: Per
    """What has values of its own."""

    percentiles: tuple[float, ...]
    """Those that become 0 and 1; none where `method` is `"mean_std"`."""

    scale: tuple[tuple[float, ...], ...]
    """One number for each channel of each sample."""

    offset: tuple[tuple[float, ...], ...]
    """One number for each channel of each sample."""

    n_ignored: int = 0
    """Pixels that are NaN or infinite: they had no say."""

    n_flat: int = 0
    """Of the sources, channels or samples measured: how many have no spread, and are shifted only."""

    offset_rest: tuple[tuple[float, ...], ...] = ()
    """What is added to each offset, where float64 does not hold it exactly; all 0 if empty."""

    def __post_init__(self) -> None:
        one_of("method", self.method, get_args(Method))
        one_of("per", self.per, get_args(Per))
        for name in ("n_ignored", "n_flat"):
            whole_number(name, getattr(self, name), least=0)
        for name in ("scale", "offset", "offset_rest"):
            object.__setattr__(self, name, _table(name, getattr(self, name)))
        rest = self.offset_rest or self.offset
        lengths = {len(numbers) for numbers in (*self.scale, *self.offset, *rest)}
        if not len(self.scale) == len(self.offset) == len(rest) or len(lengths) != 1:
            raise GeometryError("scale and offset must both have one number for each channel of each sample")
        for name, samples in (("scale", self.scale), ("offset", self.offset), ("offset_rest", rest)):
            for number in (number for numbers in samples for number in numbers):
                if not isfinite(number) or (name == "scale" and not number):
                    raise GeometryError(f"{name} is {number} for some channel: it must be finite, and a scale not 0")

    def undo(
        self, prediction: NDArray[Any], sample_idx: int, channels: Sequence[int] | None = None
    ) -> NDArray[np.floating[Any]]:
        """Give a prediction the gray values of the source again: `(value - offset) / scale`.

        Parameters
        ----------
        prediction : array
            `C(Z)YX`, all of it of one sample.
        sample_idx : int
            Which sample.
        channels : sequence of int, optional
            For each channel of the prediction, the channel of the source whose gray values it gets. It may be left out
            where both have as many, or where all channels of the source have the same scale and offset.

        Returns
        -------
        array
            Of the same shape, float64 or float32 as the prediction's dtype asks for.

        Raises
        ------
        GeometryError
            If it is not clear which channel belongs to which, or there is no such sample or channel.
        """
        scale, offset = self._of_sample(sample_idx)
        _check_prediction(prediction)
        chosen = self._source_channels(len(prediction), scale, offset, channels)
        restored = np.empty(prediction.shape, np.result_type(prediction.dtype, np.float32))
        wide = np.result_type(prediction.dtype, np.float64)
        for values, channel, out in zip(prediction, chosen, restored, strict=True):
            out[...] = np.subtract(values, offset[channel], dtype=wide) / scale[channel]
        return restored

    def _of_sample(self, sample_idx: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        number = whole_number("sample_idx", sample_idx)
        if not 0 <= number < len(self.scale):
            raise GeometryError(f"sample_idx is {number}, but {len(self.scale)} samples were measured")
        return self.scale[number], self.offset[number]

    @staticmethod
    def _source_channels(
        n_channels: int, scale: tuple[float, ...], offset: tuple[float, ...], channels: Sequence[int] | None
    ) -> list[int]:
        if channels is None and len(scale) == n_channels:
            return list(range(n_channels))
        if channels is None and len(set(scale)) == len(set(offset)) == 1:
            return [0] * n_channels
        given = [] if channels is None else listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
        chosen = [whole_number("channels", channel) for channel in given]
        if len(chosen) != n_channels or not all(0 <= channel < len(scale) for channel in chosen):
            raise GeometryError(
                f"channels is {shown(channels)}: name for each of {n_channels} predicted channels one of the source's "
                f"{len(scale)}, counted from 0"
            )
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Give plain values that go to JSON and come back exactly."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalization:
        """Make it of what `to_dict` gave, before or after JSON.

        Raises
        ------
        GeometryError
            If it is something else.
        """
        if isinstance(values, Mapping):
            values = {"offset_rest": (), **values}  # what was written before there was one
        _check_fields(values, {field.name for field in fields(cls)})
        percentiles = tuple(listed("percentiles", values["percentiles"], "a sequence of numbers"))
        for number in percentiles:
            real_number("percentiles", number, least=0, most=100)
        return cls(**{**values, "percentiles": percentiles})


def measure_normalization(
    stack: ImageStack,
    method: Method = "mean_std",
    *,
    percentiles: Sequence[float] = (1, 99.8),
    per: Per = "source",
    max_bytes: int = MAX_BYTES,
    max_count_bytes: int | None = None,
) -> Normalization:
    """Measure an image so that its gray values can be normalized.

    The pixels are read chunk by chunk; memory does not grow with the image.

    Parameters
    ----------
    stack : ImageStack
        The image, of integers or floats of up to 64 bits.
    method : {"mean_std", "percentiles"}
        `"mean_std"`: the mean becomes 0 and the standard deviation 1. `"percentiles"`: the two percentiles become 0 and 1;
        what lies beyond them goes beyond 0 and 1.
    percentiles : (float, float)
        The lower and the upper one, from 0 to 100; for `"percentiles"` only.
    per : {"source", "channel", "sample", "sample_channel"}
        What gets numbers of its own: nothing but the whole image, each channel, each sample (a time point is one), or each
        channel of each sample.
    max_bytes : int
        Bytes of pixels that are held at once.
    max_count_bytes : int
        Bytes that counts of values take in addition, if less than 64 MiB. Parts that do not fit are measured after the
        others, in passes of their own. The counts of one part are always held: 2 MiB at most.

    Returns
    -------
    Normalization
        One scale and offset for each channel of each sample, equal within what `per` takes together.

    Raises
    ------
    GeometryError
        If an argument is none of those that exist.
    SourceError
        If pixels cannot be read, or are complex, or what is to be measured has no finite pixel.

    Notes
    -----
    Pixels that are NaN or infinite are left out and counted (`n_ignored`). Where there is no spread (all pixels are the same,
    or both percentiles are), the scale is 1: such an image becomes 0, and is counted (`n_flat`).

    Precision: mean and standard deviation of integers of 8 and 16 bits are exact before the last rounding, of other pixels to
    within the rounding of float64. Percentiles are exact and the same as `numpy.percentile` gives for the whole image in
    float64. They take one pass over the pixels for 8 and 16 bits, two for 32, four for 64; mean and deviation take one.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> stack = ArrayStack(np.arange(101, dtype=np.uint8).reshape(1, 101), axes="YX")
    >>> measured = measure_normalization(stack, "percentiles", percentiles=(10, 90))
    >>> measured.scale, measured.offset
    (((0.0125,),), ((-0.125,),))
    """
    instance("stack", stack, ImageStack, "open_stacks makes them")
    one_of("method", method, get_args(Method))
    one_of("per", per, get_args(Per))
    whole_number("max_bytes", max_bytes, least=1)
    if max_count_bytes is not None:
        whole_number("max_count_bytes", max_count_bytes, least=0)
    lower, upper = checked_percentiles(percentiles)
    check_measurable(stack)
    division = Division(by_sample=per in {"sample", "sample_channel"}, by_channel=per in {"channel", "sample_channel"})
    bounds: dict[str, Any] = {"max_bytes": max_bytes, "max_statistic_bytes": max_count_bytes}
    if method == "mean_std":
        means = measure_parts(stack, division, *_moments(np.dtype(stack.data_dtype)), **bounds)
        return _normalization(stack, division, means, method=method, per=per, percentiles=())
    search = partial(PercentileSearch, np.dtype(stack.data_dtype), (lower, upper))
    ends = measure_parts(stack, division, search, 2 * 2 * _COUNTS_BYTES, **bounds)
    ranges = {part: (low, _as_float(high - low)) for part, (low, high) in ends.results.items()}
    return _normalization(
        stack, division, ends._replace(results=ranges), method=method, per=per, percentiles=(lower, upper)
    )


def _moments(dtype: np.dtype[Any]) -> tuple[Callable[[], Statistic], int]:
    """How mean and deviation are measured, and the bytes that takes a part."""
    if dtype.kind in "iub" and dtype.itemsize <= 2:
        return partial(CountedMoments, dtype), _COUNTS_BYTES
    return StreamedMoments, 1


def checked_percentiles(percentiles: Sequence[float]) -> tuple[float, float]:
    """Check a lower and an upper percentile.

    Raises
    ------
    GeometryError
        If they are not two numbers from 0 to 100, the lower one first.
    """
    try:
        lower, upper = (
            real_number("percentiles", number) for number in listed("percentiles", percentiles, "two numbers")
        )
    except ValueError:
        lower = upper = np.nan
    if not 0 <= lower < upper <= 100:
        raise GeometryError(
            f"percentiles is {shown(percentiles)}: it must be two numbers from 0 to 100, the lower one first, such as (1, 99.8)"
        )
    return lower, upper


def check_measurable(stack: ImageStack) -> None:
    """Check that the gray values of an image can be normalized.

    Raises
    ------
    SourceError
        If they are complex, or wider than 64 bits.
    """
    dtype = np.dtype(stack.data_dtype)
    if dtype.kind not in "iubf" or dtype.itemsize > 8:
        raise SourceError(f"{stack.source} has dtype {dtype}: only integers and floats of up to 64 bits are normalized")


def _check_fields(values: Any, names: set[str]) -> None:
    if not isinstance(values, Mapping) or set(values) != names:
        raise GeometryError(f"values is {shown(values)}: it must be what to_dict gave, a mapping of {sorted(names)}")


def _check_prediction(prediction: Any) -> None:
    if not isinstance(prediction, np.ndarray) or prediction.ndim < 2 or prediction.dtype.kind not in "biuf":
        raise GeometryError(f"prediction is {shown(prediction)}: it must be an array C(Z)YX of real numbers")


def _table(name: str, samples: Any) -> tuple[tuple[float, ...], ...]:
    """Plain numbers, one row a sample."""
    what = "a sequence of numbers for each sample, one for each channel"
    return tuple(
        tuple(real_number(name, number, finite=False, nan=True) for number in listed(name, numbers, what))
        for numbers in listed(name, samples, what)
    )


def _normalization(
    stack: ImageStack,
    division: Division,
    measured: Measured,
    *,
    method: Method,
    per: Per,
    percentiles: tuple[float, ...],
) -> Normalization:
    """Turn what becomes 0 in each part, and by how much more becomes 1, into scale and offset of every channel."""
    transforms: dict[Part, tuple[float, float, float]] = {}
    n_flat = 0
    for part, (zero, spread) in measured.results.items():
        if not isfinite(zero) or not isfinite(spread):
            raise SourceError(f"{stack.source} has pixels too large to be normalized: their spread is no float64")
        flat = not spread or not isfinite(1 / spread) or not isfinite(float(zero) / spread)
        n_flat += flat
        transforms[part] = _transform(zero, 1.0 if flat else 1 / spread)
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
        per,
        percentiles,
        scale,
        offset,
        measured.n_ignored,
        n_flat,
        rest if any(map(any, rest)) and cancels(offset) else (),
    )


def _as_float(number: float | Fraction) -> float:
    """Round a number to float64, or to infinity."""
    try:
        return float(number)
    except OverflowError:
        return inf


def _transform(zero: float | Fraction, scale: float) -> tuple[float, float, float]:
    """Give scale, offset and what float64 lacks of the offset."""
    exact = -Fraction(zero) * Fraction(scale)
    offset = float(exact)
    return scale, offset, float(exact - Fraction(offset))
