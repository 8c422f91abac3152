"""Statistics of the parts of an image that is larger than memory: few reads of its pixels.

The *parts* are the whole image, its channels, its samples, or each channel of each sample. NaN and infinite pixels are excluded
and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from itertools import product
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError
from patchloom.image_stacks import ImageStack, scan_stack
from patchloom.image_stacks.scan import MAX_BYTES

_PORTION = 2**16
"""Values that are processed at once: so few that intermediate arrays stay in the processor's cache."""

_STATISTIC_BYTES = 64 << 20
"""Memory for statistics, in bytes. If it is too little for all parts, some are measured after the others."""


Number = float | Fraction


class Statistic(Protocol):
    """A statistic of values, which takes one pass over them or several."""

    @property
    def count(self) -> int:
        """Number of values in one pass."""

    def add(self, values: NDArray[Any], /) -> None:
        """Add values: an array of one axis, not empty, all finite."""

    def end_pass(self) -> bool:
        """End a pass; return True if all values are needed again."""

    def exact(self) -> tuple[Number, ...]:
        """Return the results after the last pass; as fractions if float64 would round them."""


Part = tuple[int, int]
"""The index of the first sample and of the first channel of a part."""


class Division(NamedTuple):
    """The division of an image into parts, each of which is measured by itself."""

    by_sample: bool
    by_channel: bool

    def part_of(self, sample_idx: int, channel: int) -> Part:
        """Return the part of a channel of a sample."""
        return (sample_idx if self.by_sample else 0, channel if self.by_channel else 0)


class _Region(NamedTuple):
    """Samples and channels that are read to measure some of the parts."""

    samples: range
    channels: range


class Measured(NamedTuple):
    """The results for the parts of an image."""

    results: Mapping[Part, tuple[Number, ...]]
    n_ignored: int
    """Number of NaN or infinite pixels, excluded from the statistics."""


def measure_parts(
    stack: ImageStack,
    division: Division,
    make_statistic: Callable[[], Statistic],
    bytes_each: int,
    *,
    max_bytes: int = MAX_BYTES,
    max_statistic_bytes: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Measured:
    """Measure every part of an image.

    Parameters
    ----------
    stack : ImageStack
        The image.
    division : Division
        The division into parts.
    make_statistic : callable
        Makes the statistic of one part.
    bytes_each : int
        Memory that one statistic needs.
    max_bytes : int
        Bytes of pixels that are in memory at once.
    max_statistic_bytes : int
        Bytes of memory for statistics, at most 64 MiB. If None, 64 MiB.
    advance : callable, optional
        Called with the number of voxels after each block that was read; what it raises ends the measurement.

    Raises
    ------
    SourceError
        If pixels cannot be read, or a part has no finite pixel.

    Examples
    --------
    >>> from patchloom import ArrayStack
    >>> from patchloom.prediction.normalization.streamed_moments import StreamedMoments
    >>> stack = ArrayStack(np.array([[[1.0, 3.0]], [[5.0, np.nan]]]), axes="CYX")
    >>> measure_parts(stack, Division(by_sample=False, by_channel=True), StreamedMoments, bytes_each=100)
    Measured(results={(0, 0): (Fraction(2, 1), 1.0), (0, 1): (Fraction(5, 1), 0.0)}, n_ignored=1)
    """
    results: dict[Part, tuple[Number, ...]] = {}
    n_ignored = 0
    reading: dict[str, Any] = {"max_bytes": max_bytes, "advance": advance}
    available = _STATISTIC_BYTES if max_statistic_bytes is None else min(max_statistic_bytes, _STATISTIC_BYTES)
    for region in _regions(stack, division, max(1, available // bytes_each)):
        parts = {division.part_of(sample, channel) for sample, channel in product(region.samples, region.channels)}
        statistics = {part: make_statistic() for part in sorted(parts)}
        n_ignored += _add_pixels(stack, region, division, statistics, **reading)
        _check_counts(stack, division, statistics)
        unfinished = statistics
        while unfinished := {part: statistic for part, statistic in unfinished.items() if statistic.end_pass()}:
            _add_pixels(stack, region, division, unfinished, **reading)
        results.update((part, statistic.exact()) for part, statistic in statistics.items())
    return Measured(results, n_ignored)


def _regions(stack: ImageStack, division: Division, n_parts: int) -> Iterator[_Region]:
    """Divide an image into regions of at most `n_parts` parts."""
    n_samples, n_channels = stack.data_shape[:2]
    channel_step = min(n_channels, n_parts) if division.by_channel else n_channels
    sample_step = max(1, n_parts // (channel_step if division.by_channel else 1)) if division.by_sample else n_samples
    for sample, channel in product(range(0, n_samples, sample_step), range(0, n_channels, channel_step)):
        yield _Region(
            range(sample, min(sample + sample_step, n_samples)), range(channel, min(channel + channel_step, n_channels))
        )


def _add_pixels(
    stack: ImageStack,
    region: _Region,
    division: Division,
    statistics: Mapping[Part, Statistic],
    *,
    max_bytes: int,
    advance: Callable[[int], None] | None,
) -> int:
    """Add all pixels of a region to the statistics of their parts; return the number of pixels that are not finite."""
    n_ignored = 0
    for block, pixels in scan_stack(stack, samples=region.samples, channels=region.channels, max_bytes=max_bytes):
        boxes = zip(region.channels, pixels, strict=True) if division.by_channel else [(0, pixels)]
        for channel, box in boxes:
            n_ignored += _add_values(statistics[division.part_of(block.sample_idx, channel)], box.reshape(-1))
        if advance is not None:
            advance(pixels.size)
    return n_ignored


def _add_values(statistic: Statistic, values: NDArray[Any]) -> int:
    """Add values to a statistic; return the number of values that are not finite."""
    n_ignored = 0
    for start in range(0, len(values), _PORTION):
        portion = values[start : start + _PORTION]
        finite = _finite(portion)
        n_ignored += len(portion) - len(finite)
        if len(finite):
            statistic.add(finite)
    return n_ignored


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return values
    is_finite = np.isfinite(values)
    return values if is_finite.all() else values[is_finite]


def _check_counts(stack: ImageStack, division: Division, statistics: Mapping[Part, Statistic]) -> None:
    for (sample_idx, channel), statistic in statistics.items():
        if not statistic.count:
            named = [f"sample {sample_idx}"] * division.by_sample + [f"channel {channel}"] * division.by_channel
            where = f" in {', '.join(named)}" if named else ""
            raise SourceError(
                f"{stack.source} has no finite pixel{where}: measure other parts with per, or leave normalize out"
            )
