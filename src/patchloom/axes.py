"""Conversion between a source's own order of axes and `SC(Z)YX`; only this module moves axes.

A source may have its axes `S` (sample), `T` (time), `C` (channel), `Z`, `Y`, `X` in any order. All other modules use
`SC(Z)YX`. Sample and time are merged into one sample axis, `S` outermost: sample `s` at time `t` has the index
`s * T + t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, shown, whole_number
from patchloom.errors import AxesError

LEGAL_AXES = "STCZYX"
_LETTERS = frozenset(LEGAL_AXES)
SPATIAL_AXES = "ZYX"


def spatial_axes(n_dims: int) -> str:
    """Return the spatial axes of a 2D or 3D image, in the order of every spatial tuple.

    Examples
    --------
    >>> spatial_axes(2), spatial_axes(3)
    ('YX', 'ZYX')
    """
    return SPATIAL_AXES[-n_dims:]


@dataclass(frozen=True, slots=True)
class AxesMap:
    """The conversion of an array with named axes to `SC(Z)YX` and back.

    Parameters
    ----------
    axes : str
        The array's own axes, outermost first; each of `STCZYX` at most once, `Y` and `X` always. Lower case is accepted.
    shape : sequence of int
        The array's own shape.

    Raises
    ------
    AxesError
        If the axes are invalid, or their number differs from the length of the shape.

    Examples
    --------
    >>> movie = AxesMap("TYXC", (10, 64, 48, 3))
    >>> movie.data_shape
    (10, 3, 64, 48)
    >>> movie.to_data(np.zeros((10, 64, 48, 3))).shape
    (10, 3, 64, 48)
    >>> AxesMap("ZYX", (64, 48))
    Traceback (most recent call last):
        ...
    patchloom.errors.AxesError: axes 'ZYX' name 3 axes, but the image has 2: shape (64, 48);
    give one letter of 'STCZYX' for each
    """

    axes: str
    """The array's own axes, upper case."""

    shape: tuple[int, ...]
    """The array's own shape."""

    def __post_init__(self) -> None:
        _check_axes(self.axes)
        object.__setattr__(self, "axes", self.axes.upper())
        sizes = listed("shape", self.shape, "a size for each axis, such as (3, 64, 48)")
        object.__setattr__(self, "shape", tuple(whole_number("shape", size) for size in sizes))
        if len(self.axes) != len(self.shape):
            raise AxesError(
                f"axes {self.axes!r} name {len(self.axes)} axes, but the image has {len(self.shape)}: shape "
                f"{self.shape}; give one letter of {LEGAL_AXES!r} for each"
            )
        for axis, size in zip(self.axes, self.shape, strict=True):
            if size < 1:
                raise AxesError(f"the image has no voxels: axis {axis} of shape {self.shape} has size {size}")

    def size(self, axis: str) -> int:
        """Return the size along one axis; 1 for an axis that the array does not have.

        Raises
        ------
        AxesError
            If `axis` is not a letter of `STCZYX`.
        """
        _check_letter(axis)
        position = self.axes.find(axis)
        return 1 if position < 0 else self.shape[position]

    @property
    def spatial(self) -> str:
        """The spatial axes: `"YX"` or `"ZYX"`."""
        return "ZYX" if "Z" in self.axes else "YX"

    @property
    def data_shape(self) -> tuple[int, ...]:
        """The shape as `SC(Z)YX`."""
        return (self.size("S") * self.size("T"), self.size("C"), *(self.size(axis) for axis in self.spatial))

    def selection(self, sample_idx: int, channels: slice | int, window: Sequence[slice]) -> tuple[slice | int, ...]:
        """Return the index, in the array's own axes, of one sample, some channels and a spatial window.

        Parameters
        ----------
        sample_idx : int
            Index of the sample, merged with time.
        channels : slice or int
            Channels to select; ignored if the array has no channel axis.
        window : sequence of slice
            One slice for each spatial axis, `(z,) y, x`.

        Returns
        -------
        tuple
            One index for each axis. `S` and `T` (and `C`, if it is an `int`) are integers, so indexing removes these axes.
        """
        n_times = self.size("T")
        sample, time = divmod(
            whole_number("sample_idx", sample_idx, least=0, most=self.size("S") * n_times - 1), n_times
        )
        _check_index(channels, window, self.spatial)
        index: dict[str, slice | int] = {"S": sample, "T": time, "C": channels}
        index.update(zip(self.spatial, window, strict=True))
        return tuple(index[axis] for axis in self.axes)

    def to_canonical(self, region: NDArray[Any]) -> NDArray[Any]:
        """Convert the result of `selection` (with a slice of channels) to `C(Z)YX`, as a view.

        Parameters
        ----------
        region : array
            The axes in the array's own order, without `S` and `T`.
        """
        kept, moves, _ = _region_axes(self.axes)
        _check_axes_of("region", region, kept)
        moved = region.transpose(moves)
        return moved if "C" in kept else moved[np.newaxis]

    def from_canonical(self, patch: NDArray[Any]) -> NDArray[Any]:
        """Convert `C(Z)YX` to the order of axes that `selection` reads, as a view: the inverse of `to_canonical`.

        Examples
        --------
        >>> axes_map = AxesMap("YXC", (64, 48, 3))
        >>> axes_map.from_canonical(np.zeros((2, 20, 30))).shape, AxesMap("TYX", (5, 64, 48)).from_canonical(np.zeros((1, 20, 30))).shape
        ((20, 30, 2), (20, 30))
        """
        kept, _, moves = _region_axes(self.axes)
        _check_axes_of("patch", patch, "C" + self.spatial)
        moved = patch if "C" in kept else patch[0]
        return moved.transpose(moves)

    def to_data(self, array: NDArray[Any]) -> NDArray[Any]:
        """Convert a whole array to `SC(Z)YX`, as a view if the memory order allows one."""
        _check_axes_of("array", array, self.axes)
        _check_array("array", array, self.shape)
        order = [axis for axis in "STC" + self.spatial if axis in self.axes]
        return array.transpose([self.axes.index(axis) for axis in order]).reshape(self.data_shape)

    def from_data(self, data: NDArray[Any]) -> NDArray[Any]:
        """Convert an `SC(Z)YX` array of shape `data_shape` back to the array's own axes."""
        _check_array("data", data, self.data_shape)
        order = [axis for axis in "STC" + self.spatial if axis in self.axes]
        unfolded = data.reshape([self.size(axis) for axis in order])
        return unfolded.transpose([order.index(axis) for axis in self.axes])

    def with_channels(self, n_channels: int) -> AxesMap:
        """Return the map of an array that differs from this one in the number of channels.

        If there is no `C` axis and `n_channels` is greater than 1, `C` is inserted before the first spatial axis.

        Examples
        --------
        >>> AxesMap("TYX", (5, 64, 48)).with_channels(2)
        AxesMap(axes='TCYX', shape=(5, 2, 64, 48))
        >>> AxesMap("TYX", (5, 64, 48)).with_channels(1)
        AxesMap(axes='TYX', shape=(5, 64, 48))
        """
        n_channels = whole_number("n_channels", n_channels, least=1)
        axes = self.axes
        if "C" not in axes and n_channels > 1:
            first = min(axes.index(axis) for axis in self.spatial)
            axes = f"{axes[:first]}C{axes[first:]}"
        shape = tuple(n_channels if axis == "C" else self.size(axis) for axis in axes)
        return AxesMap(axes, shape)

    def with_samples(self, n_samples: int, n_times: int) -> AxesMap:
        """Return the map of an array that differs from this one in the size along S and T; an axis that is missing has size 1.

        Examples
        --------
        >>> AxesMap("TYXC", (5, 64, 48, 3)).with_samples(1, 2)
        AxesMap(axes='TYXC', shape=(2, 64, 48, 3))
        """
        sizes = {"S": whole_number("n_samples", n_samples, least=1), "T": whole_number("n_times", n_times, least=1)}
        for axis, size in sizes.items():
            if axis not in self.axes and size > 1:
                raise AxesError(f"{axis} has size {size}, but axes {self.axes!r} lack it: it must be 1")
        return AxesMap(self.axes, tuple(sizes.get(axis, self.size(axis)) for axis in self.axes))

    def with_spatial(self, spatial_shape: Sequence[int]) -> AxesMap:
        """Return the map of an array that differs from this one in the size along its spatial axes.

        Examples
        --------
        >>> AxesMap("YXC", (64, 48, 3)).with_spatial((128, 96))
        AxesMap(axes='YXC', shape=(128, 96, 3))
        """
        given = listed("spatial_shape", spatial_shape, f"a size for each of {', '.join(self.spatial)}")
        if len(given) != len(self.spatial):
            raise AxesError(
                f"spatial_shape is {shown(spatial_shape)}: it must be a size for each of {', '.join(self.spatial)}"
            )
        given = [whole_number("spatial_shape", size, least=1) for size in given]
        sizes = dict(zip(self.spatial, given, strict=True))
        return AxesMap(self.axes, tuple(sizes.get(axis, self.size(axis)) for axis in self.axes))


@lru_cache
def _region_axes(axes: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Return a region's axes in the array's own order, their permutation to `C(Z)YX`, and its inverse."""
    kept = "".join(axis for axis in axes if axis not in "ST")
    order = "".join(axis for axis in "CZYX" if axis in kept)
    return kept, tuple(map(kept.index, order)), tuple(map(order.index, kept))


def _check_index(channels: Any, window: Any, spatial: str) -> None:
    if not isinstance(channels, slice):
        whole_number("channels", channels, least=0)
    if not isinstance(window, (tuple, list)) or [type(part) for part in window] != [slice] * len(spatial):
        raise AxesError(f"window is {shown(window)}: it must be one slice for each of {', '.join(spatial)}")


def _check_letter(axis: Any) -> None:
    if not isinstance(axis, str) or axis not in _LETTERS:
        raise AxesError(f"axis is {shown(axis)}: it must be one letter of {LEGAL_AXES!r}")


def _check_array(name: str, array: Any, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape; axes of size 1 may be missing or added."""
    if not isinstance(array, np.ndarray) or _longer_than_one(array.shape) != _longer_than_one(shape):
        raise AxesError(f"{name} {_described(array)}: it must be an array of shape {shape}")


def _longer_than_one(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]


def _check_axes_of(name: str, array: Any, axes: str) -> None:
    if not isinstance(array, np.ndarray) or array.ndim != len(axes):
        raise AxesError(f"{name} {_described(array)}: it must be an array with axes {axes}")


def _described(array: Any) -> str:
    return f"has shape {array.shape}" if isinstance(array, np.ndarray) else f"is {shown(array)}"


def _check_axes(given: Any) -> None:
    if not isinstance(given, str):
        raise AxesError(f"axes is {shown(given)}: it must be a string such as 'CYX'")
    # Letter by letter, because some letters become two in upper case.
    unknown = sorted(letter for letter in set(given) if letter.upper() not in LEGAL_AXES or not letter.isascii())
    if unknown:
        raise AxesError(
            f"axes {shown(given)} have an unknown axis {unknown[0]!r}: use letters of {LEGAL_AXES!r}, such as 'CYX'"
        )
    axes = given.upper()
    if len(axes) > len(LEGAL_AXES):
        raise AxesError(f"axes {shown(given)} name {len(axes)} axes: each of {LEGAL_AXES!r} may occur once")
    repeated = sorted({axis for axis in axes if axes.count(axis) > 1})
    if repeated:
        raise AxesError(f"axes {axes!r} name {repeated[0]!r} more than once: each axis may occur once")
    for axis in "YX":
        if axis not in axes:
            raise AxesError(f"axes {axes!r} lack {axis!r}: every image has Y and X")
