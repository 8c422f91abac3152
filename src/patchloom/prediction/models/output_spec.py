"""What a model makes of a tile: how many channels, which dtype, how much larger or smaller, and how much less."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import spatial_axes
from patchloom.errors import ModelOutputError


@dataclass(frozen=True)
class OutputSpec:
    """The form of one output of a model.

    Parameters
    ----------
    n_channels : int
        Channels.
    dtype : numpy dtype
        Dtype.
    scale : tuple of Fraction
        Voxels of the output for one voxel of the input, along each spatial axis: a whole number or one over it.
    margin : tuple of int
        Voxels of the input, on each side along each spatial axis, that the output does not cover: what valid
        convolutions eat.
    name : str
        Name of the output where the model has several; may be empty.

    Examples
    --------
    >>> doubled = OutputSpec(3, np.dtype("float32"), (Fraction(2), Fraction(2)), (7, 7))
    >>> doubled.place((10, 20)), doubled.size((5, 5))
    ((20, 40), (10, 10))
    """

    n_channels: int
    dtype: np.dtype[Any]
    scale: tuple[Fraction, ...]
    margin: tuple[int, ...]
    name: str = ""

    @cached_property
    def is_scaled(self) -> bool:
        """Whether voxels of the output are not those of the input."""
        return any(factor.numerator != factor.denominator for factor in self.scale)

    def place(self, coords: Sequence[int]) -> tuple[int, ...]:
        """Turn a position in the input, `(z,) y, x`, into one in the output; it must be a whole number there."""
        if not self.is_scaled:
            return tuple(map(int, coords))
        return tuple(int(coord * factor) for coord, factor in zip(coords, self.scale, strict=True))

    def size(self, sizes: Sequence[int]) -> tuple[int, ...]:
        """Turn a size or an end of the input into one of the output; a part of a voxel counts as one."""
        if not self.is_scaled:
            return tuple(map(int, sizes))
        return tuple(-int(-size * factor // 1) for size, factor in zip(sizes, self.scale, strict=True))

    def window(self, window: Sequence[slice]) -> tuple[slice, ...]:
        """Turn a window of the input into one of the output."""
        if not self.is_scaled:
            return tuple(window)
        starts, stops = self.place([part.start for part in window]), self.size([part.stop for part in window])
        return tuple(map(slice, starts, stops))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return {
            "n_channels": self.n_channels,
            "dtype": str(self.dtype),
            "scale": list(map(str, self.scale)),
            "margin": list(self.margin),
            "name": self.name,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the output that `to_dict` was made of."""
        plain = {"dtype": np.dtype(values["dtype"]), "scale": tuple(map(Fraction, values["scale"]))}
        return cls(**{**values, **plain, "margin": tuple(values["margin"])})


def output_form(
    name: str, prediction: NDArray[Any], patch_size: Sequence[int], scale: Sequence[Fraction]
) -> OutputSpec:
    """Work out the form of an output of known scale from the prediction of one batch.

    Parameters
    ----------
    name : str
        Name of the output.
    prediction : array
        `(B, C, (Z), Y, X)`.
    patch_size : sequence of int
        Size of the tiles that went in.
    scale : sequence of Fraction
        Voxels of the output for one of the input, along each spatial axis.

    Raises
    ------
    ModelOutputError
        If the output lacks other than the same whole margin on both sides.

    Examples
    --------
    >>> form = output_form("", np.zeros((1, 3, 228, 228), np.float32), (128, 128), (Fraction(2), Fraction(2)))
    >>> form.margin
    (7, 7)
    """
    margin = []
    for axis, (out, size, factor) in enumerate(zip(prediction.shape[2:], patch_size, scale, strict=True)):
        lacking = size - out / factor
        if lacking < 0 or (lacking / 2).denominator != 1:
            raise ModelOutputError(
                f"the model returned size {prediction.shape[2:]} for tiles of size {tuple(patch_size)} at a scale of "
                f"{' × '.join(map(str, scale))}: along {spatial_axes(len(patch_size))[axis]} it lacks {lacking} voxels, which is not "
                "the same whole margin on both sides; crop or pad the output, so that it is"
            )
        margin.append(int(lacking / 2))
    return OutputSpec(int(prediction.shape[1]), prediction.dtype, tuple(scale), tuple(margin), name)


def keep_core(prediction: NDArray[Any], form: OutputSpec, margin: Sequence[int]) -> NDArray[Any]:
    """Cut a prediction down to what all outputs of a model cover.

    Parameters
    ----------
    prediction : array
        `(B, C, (Z), Y, X)` of this form.
    form : OutputSpec
        Its form.
    margin : sequence of int
        The largest margin of all outputs, in voxels of the input.
    """
    if form.margin == tuple(margin):
        return prediction
    cuts = [int((largest - own) * factor) for largest, own, factor in zip(margin, form.margin, form.scale, strict=True)]
    kept = [slice(cut, size - cut) for cut, size in zip(cuts, prediction.shape[2:], strict=True)]
    return prediction[(slice(None), slice(None), *kept)]
