"""What a finished block is reduced to before it is written: its likeliest class, a mask, a few channels, a smaller dtype.

A postprocessing looks at one voxel at a time, all its channels. Its text, such as `argmax` or `uint8*255`, is what
`parse_postprocessing` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import instances, listed, real_number, shown
from patchloom.errors import GeometryError, ModelOutputError
from patchloom.geometry.checks import whole_number
from patchloom.pixel_arrays import pixel_dtype
from patchloom.prediction.models.batch_prediction import to_dtype

DTYPES = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""What values can be turned into."""

_SLAB_VOXELS = 2**18
"""Voxels worked on at once, so that what is made on the way stays small."""


@runtime_checkable
class Postprocessing(Protocol):
    """Something that turns a block into a smaller one of the same spatial size."""

    @property
    def identity(self) -> str:
        """All that the result depends on, as `parse_postprocessing` reads it."""

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results.

        Parameters
        ----------
        n_channels : int
            Channels of the blocks that go in.
        dtype : numpy dtype
            Their dtype.

        Returns
        -------
        n_channels : int
            Channels of the results.
        dtype : numpy dtype
            Its dtype.

        Raises
        ------
        ModelOutputError
            If such blocks cannot be reduced in this way.
        """

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block.

        Parameters
        ----------
        block : array
            `C(Z)YX`; it is not changed.

        Returns
        -------
        array
            `C(Z)YX` of the channels and dtype that `output` returns; it may be a view of the block.

        Raises
        ------
        ModelOutputError
            If a voxel is NaN and the results are integers.
        """


@runtime_checkable
class MakesLabels(Protocol):
    """A postprocessing that declares whether its result holds labels."""

    @property
    def makes_labels(self) -> bool:
        """Whether the values are labels of classes or objects, of which no mean may be taken."""


@dataclass(frozen=True, slots=True)
class Argmax:
    """The number of the channel that is highest, in the smallest unsigned dtype; of equal ones the first.

    Examples
    --------
    >>> Argmax()(np.array([[[0.1, 0.9]], [[0.8, 0.2]]])).tolist(), Argmax().output(2, np.dtype("float32"))
    ([[[1, 0]]], (1, dtype('uint8')))
    """

    @property
    def identity(self) -> str:
        """As it is spelled."""
        return "argmax"

    @property
    def makes_labels(self) -> bool:
        """The number of a class is a label."""
        return True

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results."""
        _check_real(self, n_channels, dtype)
        if n_channels < 2:
            raise ModelOutputError("argmax needs two channels or more, and the model gives one: use threshold")
        return 1, np.min_scalar_type(n_channels - 1)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block."""
        _check_block(block)

        def likeliest(slab: NDArray[Any]) -> NDArray[Any]:
            _refuse_nan(self, slab)
            return np.asarray(slab.argmax(axis=0))[np.newaxis]

        return _by_slabs(likeliest, block, *self.output(len(block), block.dtype))


@dataclass(frozen=True, slots=True)
class Threshold:
    """1 where a voxel is above a value and 0 elsewhere, in uint8: each channel for itself, or of one channel only.

    Parameters
    ----------
    value : float
        What a voxel must exceed.
    channel : int, optional
        The only channel to be looked at, counted from 0.

    Raises
    ------
    GeometryError
        If `value` is NaN, or the channel is not a whole number or below 0.

    Examples
    --------
    >>> Threshold(0.5)(np.array([[[0.4, 0.5, 0.6]]])).tolist(), Threshold(0.5, channel=1).identity
    ([[[0, 0, 1]]], 'threshold:0.5@1')
    """

    value: float
    channel: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", real_number("threshold", self.value, finite=False))
        if self.channel is not None:
            object.__setattr__(self, "channel", _checked_channel(self.channel))

    @property
    def identity(self) -> str:
        """As it is spelled."""
        return f"threshold:{self.value!r}" + ("" if self.channel is None else f"@{self.channel}")

    @property
    def makes_labels(self) -> bool:
        """0 and 1 are the labels of a mask."""
        return True

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results."""
        _check_real(self, n_channels, dtype)
        if self.channel is None:
            return n_channels, np.dtype(np.uint8)
        _check_channel(self, self.channel, n_channels)
        return 1, np.dtype(np.uint8)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block."""
        _check_block(block)

        def mask(slab: NDArray[Any]) -> NDArray[Any]:
            seen = slab if self.channel is None else slab[self.channel : self.channel + 1]
            _refuse_nan(self, seen)
            with np.errstate(over="ignore"):  # a value beyond a float's range is infinite to it: above all voxels
                return seen > self.value

        return _by_slabs(mask, block, *self.output(len(block), block.dtype))


@dataclass(frozen=True, slots=True)
class SelectChannels:
    """Some channels, in the order wanted.

    Parameters
    ----------
    channels : sequence of int
        Which, counted from 0.

    Raises
    ------
    GeometryError
        If there is none, or one is not a whole number or below 0.

    Examples
    --------
    >>> SelectChannels((2, 0))(np.arange(3).reshape(3, 1, 1)).ravel().tolist()
    [2, 0]
    """

    channels: tuple[int, ...]

    def __post_init__(self) -> None:
        given = listed("channels", self.channels, "a sequence of whole numbers, such as [0, 2]")
        object.__setattr__(self, "channels", tuple(map(_checked_channel, given)))
        if not self.channels:
            raise GeometryError("channels is empty: name at least one")

    @property
    def identity(self) -> str:
        """As it is spelled."""
        return f"channels:{','.join(map(str, self.channels))}"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results."""
        n_channels = whole_number("n_channels", n_channels, least=1)
        for channel in self.channels:
            _check_channel(self, channel, n_channels)
        return len(self.channels), pixel_dtype("dtype", dtype)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block."""
        _check_block(block)
        self.output(len(block), block.dtype)
        first = self.channels[0]
        if self.channels == tuple(range(first, first + len(self.channels))):
            return block[first : first + len(self.channels)]
        return block[list(self.channels)]


@dataclass(frozen=True, slots=True)
class AsDtype:
    """Another dtype, of values multiplied by a number.

    Integers are rounded to the nearest, halves to even, and stop at the ends of their range; floats beyond the range of a
    smaller float become infinite.

    Parameters
    ----------
    dtype : dtype
        A dtype of integers, floats, truth values (True from 0.5 on) or complex numbers. Predictions are not blended in it.
    scale : float
        What values are multiplied by, in float64; if it is 1, they are not.

    Raises
    ------
    GeometryError
        If there is no such dtype, or the scale is 0 or not finite, or numbers are complex and scaled.

    Examples
    --------
    >>> AsDtype("uint8", scale=255)(np.array([[[-0.2, 0.5, 0.6, 1.0]]])).tolist()
    [[[0, 128, 153, 255]]]
    """

    dtype: DTypeLike
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", _number_dtype(self.dtype))
        object.__setattr__(self, "scale", real_number("scale", self.scale))
        if not self.scale:
            raise GeometryError(f"scale is {self.scale}: it must be finite and not 0")
        if self.scale != 1 and self._is_complex:
            raise GeometryError(f"scale is {self.scale}: complex numbers are not scaled, leave it out")

    @property
    def _is_complex(self) -> bool:
        return np.dtype(self.dtype).kind == "c"

    @property
    def identity(self) -> str:
        """As it is spelled."""
        return f"{self.dtype}" + ("" if self.scale == 1 else f"*{self.scale!r}")

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results."""
        if not self._is_complex:
            _check_real(self, n_channels, dtype)
        return n_channels, np.dtype(self.dtype)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block."""
        _check_block(block)
        n_channels, dtype = self.output(len(block), block.dtype)

        def convert(slab: NDArray[Any]) -> NDArray[Any]:
            with np.errstate(over="ignore"):
                scaled = slab if self.scale == 1 else np.multiply(slab, self.scale, dtype=np.float64)
                return to_dtype(scaled, dtype, [])

        return _by_slabs(convert, block, n_channels, dtype)


@dataclass(frozen=True, slots=True)
class PostprocessingChain:
    """Postprocessing one after the other.

    Parameters
    ----------
    steps : sequence of Postprocessing
        The first comes first.

    Examples
    --------
    >>> chain = PostprocessingChain((SelectChannels((1,)), AsDtype("uint8", 255)))
    >>> chain.identity, chain.output(3, np.dtype("float32"))
    ('channels:1|uint8*255.0', (1, dtype('uint8')))
    """

    steps: tuple[Postprocessing, ...]

    def __post_init__(self) -> None:
        steps = instances("steps", self.steps, Postprocessing, "a sequence of postprocessing, the first first")
        if not steps:
            raise GeometryError("steps is empty: name one postprocessing at least")
        object.__setattr__(self, "steps", tuple(steps))

    @property
    def identity(self) -> str:
        """As it is spelled."""
        return "|".join(step.identity for step in self.steps)

    @property
    def makes_labels(self) -> bool:
        """Whether a step makes labels; those after it choose channels or another dtype of them."""
        return any(isinstance(step, MakesLabels) and step.makes_labels for step in self.steps)

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the results."""
        for step in self.steps:
            n_channels, dtype = step.output(n_channels, dtype)
        return n_channels, dtype

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Postprocess a block."""
        _check_block(block)
        self.output(len(block), block.dtype)
        return reduce(lambda reduced, step: step(reduced), self.steps, block)


def _by_slabs(
    function: Callable[[NDArray[Any]], NDArray[Any]], block: NDArray[Any], n_channels: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Fill a new block with what a function makes of the old one, a slab of its first spatial axis at a time."""
    reduced = np.empty((n_channels, *block.shape[1:]), dtype)
    step = max(1, _SLAB_VOXELS // max(1, prod(block.shape) // block.shape[1]))
    for start in range(0, block.shape[1], step):
        reduced[:, start : start + step] = function(block[:, start : start + step])
    return reduced


def _check_block(block: Any) -> None:
    if not isinstance(block, np.ndarray) or block.ndim not in (3, 4) or not block.size:
        raise ModelOutputError(f"block is {shown(block)}: it must be an array C(Z)YX, not empty")


def _refuse_nan(postprocessing: Postprocessing, values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ModelOutputError(
            f"the model returned NaN, which {postprocessing.identity!r} cannot process: fix the model, or leave this step out"
        )


def _check_real(postprocessing: Postprocessing, n_channels: int, dtype: np.dtype[Any]) -> None:
    whole_number("n_channels", n_channels, least=1)
    dtype = pixel_dtype("dtype", dtype)
    if dtype.kind not in "biuf":
        raise ModelOutputError(f"{postprocessing.identity!r} is for real numbers, and the model returns {dtype}")


def _check_channel(postprocessing: Postprocessing, channel: int, n_channels: int) -> None:
    if channel >= n_channels:
        raise ModelOutputError(
            f"{postprocessing.identity!r} asks for channel {channel}, and the model gives {n_channels}, counted from 0"
        )


def _checked_channel(channel: int) -> int:
    number = whole_number("channel", channel)
    if number < 0:
        raise GeometryError(f"channel is {number}: channels are counted from 0")
    return number


def _number_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        name = pixel_dtype("dtype", dtype).name
    except GeometryError:
        name = dtype if isinstance(dtype, str) else shown(dtype)
    if name not in DTYPES:
        raise GeometryError(f"dtype is {name!r}: it must be one of {', '.join(DTYPES)}")
    return np.dtype(name)
