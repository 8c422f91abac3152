"""Postprocessing steps: the likeliest class, a mask, a selection of channels, another dtype.

A step processes each voxel, with all its channels, by itself. Each step has a text, such as `argmax` or `uint8*255`, which
`parse_postprocessing` reads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.argument_checks import listed, real_number, shown
from patchloom.errors import GeometryError, ModelOutputError
from patchloom.geometry.checks import whole_number
from patchloom.pixel_arrays import pixel_dtype
from patchloom.prediction.postprocessing.casting import to_dtype

DTYPES = (
    *("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
"""Names of the dtypes that values can be converted to."""

_SLAB_VOXELS = 2**18
"""Voxels that are processed at once, to bound the memory of intermediate arrays."""


@runtime_checkable
class Postprocessing(Protocol):
    """A postprocessing step: it processes complete blocks of an output before they are written.

    Any object with these members can be given as `postprocess` of `pl.predict`. A step must process each voxel, with all its
    channels, by itself, so that the result does not depend on blocks.

    Examples
    --------
    >>> import patchloom as pl
    >>> class Difference:
    ...     identity = "difference"
    ...
    ...     def output(self, n_channels, dtype):
    ...         return 1, dtype
    ...
    ...     def __call__(self, block):
    ...         return block[:1] - block[1:]
    >>> options = {"axes": "CYX", "patch_size": (1, 2), "overlaps": (0, 0), "progress": False}
    >>> pl.predict(lambda batch: batch, np.array([[[5, 7, 9]], [[1, 2, 3]]]), postprocess=Difference(), **options).tolist()
    [[[4, 5, 6]]]
    """

    @property
    def identity(self) -> str:
        """A text that contains all that the result depends on. A run is not resumed with a step of another identity."""

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result.

        Parameters
        ----------
        n_channels : int
            Number of channels of a block.
        dtype : numpy dtype
            Dtype of a block.

        Returns
        -------
        n_channels : int
            Number of channels of the result.
        dtype : numpy dtype
            Dtype of the result.

        Raises
        ------
        ModelOutputError
            If the step cannot process such blocks.
        """

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block.

        Parameters
        ----------
        block : array
            `C(Z)YX`; it is not changed.

        Returns
        -------
        array
            `C(Z)YX` with the channels and dtype that `output` returns; it may be a view of the block.

        Raises
        ------
        ModelOutputError
            If a voxel is NaN and the result is integer.
        """


@dataclass(frozen=True, slots=True)
class Argmax:
    """The index of the channel with the highest value, in the smallest unsigned dtype; the first of equal channels.

    Examples
    --------
    >>> Argmax()(np.array([[[0.1, 0.9]], [[0.8, 0.2]]])).tolist(), Argmax().output(2, np.dtype("float32"))
    ([[[1, 0]]], (1, dtype('uint8')))
    """

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return "argmax"

    @property
    def makes_labels(self) -> bool:
        """True: the index of a class is a label."""
        return True

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        check_real(self, n_channels, dtype)
        if n_channels < 2:
            raise ModelOutputError(
                "postprocess is 'argmax', and the model returns one channel: return a channel for each class, or use 'threshold:VALUE'"
            )
        return 1, np.min_scalar_type(n_channels - 1)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)

        def likeliest(slab: NDArray[Any]) -> NDArray[Any]:
            _refuse_nan(self, slab)
            return np.asarray(slab.argmax(axis=0))[np.newaxis]

        return by_slabs(likeliest, block, *self.output(len(block), block.dtype))


@dataclass(frozen=True, slots=True)
class Threshold:
    """A mask in uint8: 1 for voxels above a value, 0 for others; of each channel, or of one channel only.

    Parameters
    ----------
    value : float
        The value that a voxel must exceed.
    channel : int, optional
        Index of the only channel that is used, from 0. If None, each channel gets a mask.

    Raises
    ------
    GeometryError
        If `value` is NaN, or `channel` is not a whole number or is negative.

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
        """The step as text, which `parse_postprocessing` reads."""
        return f"threshold:{self.value!r}" + ("" if self.channel is None else f"@{self.channel}")

    @property
    def makes_labels(self) -> bool:
        """True: 0 and 1 are the labels of a mask."""
        return True

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        check_real(self, n_channels, dtype)
        if self.channel is None:
            return n_channels, np.dtype(np.uint8)
        _check_channel(self, self.channel, n_channels)
        return 1, np.dtype(np.uint8)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)

        def mask(slab: NDArray[Any]) -> NDArray[Any]:
            seen = slab if self.channel is None else slab[self.channel : self.channel + 1]
            _refuse_nan(self, seen)
            with np.errstate(over="ignore"):  # a value beyond the range of the dtype becomes infinite
                return seen > self.value

        return by_slabs(mask, block, *self.output(len(block), block.dtype))


@dataclass(frozen=True, slots=True)
class SelectChannels:
    """A selection of channels, in any order.

    Parameters
    ----------
    channels : sequence of int
        Indices of the channels, from 0.

    Raises
    ------
    GeometryError
        If the sequence is empty, or an index is not a whole number or is negative.

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
            raise GeometryError("channels is empty: give at least one channel")

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return f"channels:{','.join(map(str, self.channels))}"

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        n_channels = whole_number("n_channels", n_channels, least=1)
        for channel in self.channels:
            _check_channel(self, channel, n_channels)
        return len(self.channels), pixel_dtype("dtype", dtype)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        self.output(len(block), block.dtype)
        first = self.channels[0]
        if self.channels == tuple(range(first, first + len(self.channels))):
            return block[first : first + len(self.channels)]
        return block[list(self.channels)]


@dataclass(frozen=True, slots=True)
class AsDtype:
    """A conversion to another dtype, after multiplication by a factor.

    For integers, values are rounded to the nearest, halves to even, and values beyond the range become its ends. Floats beyond
    the range of a smaller float become infinite.

    Parameters
    ----------
    dtype : dtype
        A dtype of integers, floats, booleans (True from 0.5 on) or complex numbers. Predictions are blended before the
        conversion.
    scale : float
        Factor by which values are multiplied, in float64.

    Raises
    ------
    GeometryError
        If the dtype is none of these, `scale` is 0 or not finite, or the dtype is complex and `scale` is not 1.

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
            raise GeometryError(f"scale is {self.scale}: it must be a finite number other than 0")
        if self.scale != 1 and self._is_complex:
            raise GeometryError(
                f"scale is {self.scale}, and dtype is {self.dtype}: complex numbers are not scaled, leave scale out"
            )

    @property
    def _is_complex(self) -> bool:
        return np.dtype(self.dtype).kind == "c"

    @property
    def identity(self) -> str:
        """The step as text, which `parse_postprocessing` reads."""
        return f"{self.dtype}" + ("" if self.scale == 1 else f"*{self.scale!r}")

    def output(self, n_channels: int, dtype: np.dtype[Any]) -> tuple[int, np.dtype[Any]]:
        """Return channels and dtype of the result; see `Postprocessing.output`."""
        if not self._is_complex:
            check_real(self, n_channels, dtype)
        return n_channels, np.dtype(self.dtype)

    def __call__(self, block: NDArray[Any], /) -> NDArray[Any]:
        """Process a block; see `Postprocessing`."""
        check_block(block)
        n_channels, dtype = self.output(len(block), block.dtype)

        def convert(slab: NDArray[Any]) -> NDArray[Any]:
            with np.errstate(over="ignore"):
                scaled = slab if self.scale == 1 else np.multiply(slab, self.scale, dtype=np.float64)
                return to_dtype(scaled, dtype, [])

        return by_slabs(convert, block, n_channels, dtype)


def by_slabs(
    function: Callable[[NDArray[Any]], NDArray[Any]], block: NDArray[Any], n_channels: int, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """Apply a function to a block, one slab of its first spatial axis at a time.

    Parameters
    ----------
    function : callable
        From a slab to the same slab of the result.
    block : array
        `C(Z)YX`.
    n_channels : int
        Number of channels of the result.
    dtype : numpy dtype
        Dtype of the result.
    """
    processed = np.empty((n_channels, *block.shape[1:]), dtype)
    thickness = max(1, _SLAB_VOXELS // max(1, prod(block.shape) // block.shape[1]))
    for start in range(0, block.shape[1], thickness):
        processed[:, start : start + thickness] = function(block[:, start : start + thickness])
    return processed


def check_block(block: Any) -> None:
    """Check that an argument is a block.

    Raises
    ------
    ModelOutputError
        If it is not an array `C(Z)YX`, or it is empty.
    """
    if not isinstance(block, np.ndarray) or block.ndim not in (3, 4) or not block.size:
        raise ModelOutputError(f"block is {shown(block)}: it must be a NumPy array C(Z)YX that is not empty")


def _refuse_nan(postprocessing: Postprocessing, values: NDArray[Any]) -> None:
    if values.dtype.kind == "f" and np.isnan(values).any():
        raise ModelOutputError(nan_refusal(postprocessing))


def nan_refusal(postprocessing: Postprocessing) -> str:
    """Return the message of a step that found NaN."""
    return f"the model returned NaN, which {postprocessing.identity!r} cannot process: fix the model, or postprocess without it"


def check_real(postprocessing: Postprocessing, n_channels: int, dtype: np.dtype[Any]) -> None:
    """Check that blocks are of real numbers.

    Raises
    ------
    ModelOutputError
        If they are complex.
    """
    whole_number("n_channels", n_channels, least=1)
    dtype = pixel_dtype("dtype", dtype)
    if dtype.kind not in "biuf":
        raise ModelOutputError(
            f"postprocess is {postprocessing.identity!r}, and the model returns {dtype}: return real numbers, or postprocess without it"
        )


def _check_channel(postprocessing: Postprocessing, channel: int, n_channels: int) -> None:
    if channel >= n_channels:
        raise ModelOutputError(
            f"postprocess is {postprocessing.identity!r}, and channel {channel} does not exist: the model returns {n_channels} "
            "channel(s), counted from 0"
        )


def _checked_channel(channel: int) -> int:
    return whole_number("channel", channel, least=0)


def _number_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    try:
        name = pixel_dtype("dtype", dtype).name
    except GeometryError:
        name = dtype if isinstance(dtype, str) else shown(dtype)
    if name not in DTYPES:
        raise GeometryError(f"dtype is {name!r}: it must be one of {', '.join(DTYPES)}")
    return np.dtype(name)
