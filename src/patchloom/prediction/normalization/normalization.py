"""The normalization of an image, by statistics of the whole image and never of a tile.

Statistics of neighboring tiles differ, so predictions of tiles that are normalized by themselves would differ at the seams.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, real_number, shown
from patchloom.errors import GeometryError
from patchloom.geometry.checks import whole_number
from patchloom.prediction.normalization.methods import NormalizationMethod, parse_method


@dataclass(frozen=True, slots=True)
class Normalization:
    """The scale and offset with which one image is normalized: `pixel * scale + offset`.

    `measure_normalization` makes it. Its values are plain numbers, which JSON stores exactly. `PatchExtractor.extract_batch` takes
    `scale[sample_idx]` and `offset[sample_idx]` for tiles of one sample.

    Parameters
    ----------
    method : MeanStd, Percentiles or str
        The method by which it was measured, or its text, such as `"mean_std/channel"`.
    scale, offset : tuple of tuple of float
        One number for each channel of each sample.
    n_ignored : int
        Number of NaN or infinite pixels, excluded from the statistics.
    n_flat : int
        Number of parts without spread, which are shifted and not scaled.
    offset_rest : tuple of tuple of float
        The part of each offset that float64 cannot represent; empty if all are 0.

    Raises
    ------
    GeometryError
        If `scale` and `offset` do not have the same shape, one of their numbers is not finite, or a scale is 0.

    Examples
    --------
    >>> brighter = Normalization("mean_std/channel", scale=((0.5, 1.0),), offset=((-3.0, 0.0),))
    >>> Normalization.from_dict(brighter.to_dict()) == brighter
    True
    >>> brighter.undo(np.array([[[1.0]], [[2.0]]]), sample_idx=0).tolist()
    [[[8.0]], [[2.0]]]
    """

    method: NormalizationMethod
    scale: tuple[tuple[float, ...], ...]
    offset: tuple[tuple[float, ...], ...]
    n_ignored: int = 0
    n_flat: int = 0
    offset_rest: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "method", parse_method("method", self.method))
        for name in ("n_ignored", "n_flat"):
            whole_number(name, getattr(self, name), least=0)
        for name in ("scale", "offset", "offset_rest"):
            object.__setattr__(self, name, _table(name, getattr(self, name)))
        rest = self.offset_rest or self.offset
        lengths = {len(numbers) for numbers in (*self.scale, *self.offset, *rest)}
        if not len(self.scale) == len(self.offset) == len(rest) or len(lengths) != 1:
            raise GeometryError(
                "scale and offset must both have one number for each channel of each sample: give tables of the same shape"
            )
        for name, samples in (("scale", self.scale), ("offset", self.offset), ("offset_rest", rest)):
            for number in (number for numbers in samples for number in numbers):
                if not isfinite(number) or (name == "scale" and not number):
                    raise GeometryError(
                        f"{name} contains {number}: all its numbers must be finite, and those of scale not 0"
                    )

    def undo(
        self, prediction: NDArray[Any], sample_idx: int, channels: Sequence[int] | None = None
    ) -> NDArray[np.floating[Any]]:
        """Undo the normalization of a prediction: `(value - offset) / scale`.

        Parameters
        ----------
        prediction : array
            `C(Z)YX`, of one sample.
        sample_idx : int
            Index of the sample.
        channels : sequence of int, optional
            For each channel of the prediction, the channel of the image whose scale and offset are used. It is not needed if
            both have the same number of channels, or all channels of the image have the same scale and offset.

        Returns
        -------
        array
            An array of the same shape, in float64 if the dtype of the prediction needs it, else in float32.

        Raises
        ------
        GeometryError
            If `channels` is needed, or there is no such sample or channel.
        """
        scale, offset = self._of_sample(sample_idx)
        _check_prediction(prediction)
        chosen = self._source_channels(len(prediction), scale, offset, channels)
        restored = np.empty(prediction.shape, np.result_type(prediction.dtype, np.float32))
        wide = np.result_type(prediction.dtype, np.float64)
        for values, channel, out in zip(prediction, chosen, restored, strict=True):
            out[...] = np.subtract(values, offset[channel], dtype=wide) / scale[channel]
        return restored

    def of_channels(self, channels: Sequence[int]) -> Normalization:
        """Return the normalization of some channels of the image.

        Parameters
        ----------
        channels : sequence of int
            Indices of the channels, in the order wanted; one may be given more than once.

        Raises
        ------
        GeometryError
            If there is no such channel.

        Examples
        --------
        >>> measured = Normalization("mean_std/channel", scale=((0.5, 1.0),), offset=((-3.0, 0.0),))
        >>> measured.of_channels([1, 1]).scale
        ((1.0, 1.0),)
        """
        what = "a sequence of whole numbers, such as [0, 2]"
        chosen = [whole_number("channels", channel, least=0) for channel in listed("channels", channels, what)]
        if not chosen or max(chosen) >= len(self.scale[0]):
            raise GeometryError(
                f"channels is {shown(channels)}: give at least one of the {len(self.scale[0])} channels of the image, counted from 0"
            )
        scale, offset, rest = (
            tuple(tuple(numbers[channel] for channel in chosen) for numbers in table)
            for table in (self.scale, self.offset, self.offset_rest)
        )
        return replace(self, scale=scale, offset=offset, offset_rest=rest)

    def _of_sample(self, sample_idx: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        number = whole_number("sample_idx", sample_idx)
        if not 0 <= number < len(self.scale):
            raise GeometryError(
                f"sample_idx is {number}: it must be from 0 to {len(self.scale) - 1}, as {len(self.scale)} samples were measured"
            )
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
                f"channels is {shown(channels)}: for each of {n_channels} predicted channels, give one of the {len(scale)} channels "
                "of the image, counted from 0"
            )
        return chosen

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, which JSON stores exactly."""
        return asdict(self) | {"method": str(self.method)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Normalization:
        """Make a normalization from the values that `to_dict` returns.

        Parameters
        ----------
        values : mapping of str to object
            The values, before or after JSON.

        Raises
        ------
        ArgumentError
            If the values are not those of a normalization.
        """
        if isinstance(values, Mapping):
            values = {"offset_rest": (), **values}  # older files do not contain it
        _check_fields(values, {field.name for field in fields(cls)})
        return cls(**values)


def _check_fields(values: Any, names: set[str]) -> None:
    if not isinstance(values, Mapping) or set(values) != names:
        raise GeometryError(f"values is {shown(values)}: it must be a mapping with {sorted(names)}, as to_dict returns")


def _check_prediction(prediction: Any) -> None:
    if not isinstance(prediction, np.ndarray) or prediction.ndim < 2 or prediction.dtype.kind not in "biuf":
        raise GeometryError(f"prediction is {shown(prediction)}: it must be a NumPy array C(Z)YX of real numbers")


def _table(name: str, samples: Any) -> tuple[tuple[float, ...], ...]:
    """Return plain numbers, one row for each sample."""
    what = "a sequence of numbers for each sample, one for each channel"
    return tuple(
        tuple(real_number(name, number, finite=False, nan=True) for number in listed(name, numbers, what))
        for numbers in listed(name, samples, what)
    )
