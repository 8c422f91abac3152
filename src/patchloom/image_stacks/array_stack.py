"""Image stacks over arrays and array-likes."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import instance, shown
from patchloom.axes import AxesMap
from patchloom.errors import SourceError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.protocols import Storage
from patchloom.image_stacks.sliced_stack import SlicedStack, describe_selection
from patchloom.image_stacks.source_axes import axes_from_names, unknown_axes
from patchloom.image_stacks.storage import array_storage


class SliceableArray(Protocol):
    """An array with a shape, a dtype and slicing, such as those of NumPy, h5py, dask, zarr and xarray."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements, in a form that NumPy accepts."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return a box, as something that NumPy converts to an array."""


class ArrayStack(SlicedStack):
    """An image stack over an array; nothing is copied until a patch is read.

    A memory map pickles as the name of its file, other arrays with their pixels. An open HDF5 dataset cannot be pickled.

    Parameters
    ----------
    array : array-like
        Anything with `shape`, `dtype` and slicing.
    axes : str, optional
        Axes of the array: letters of `STCZYX`, outermost first. If None, the names of the array's dimensions are its axes
        (xarray).
    source : str or Path
        Name of the array in messages.
    metadata : ImageMetadata, optional
        Voxel sizes and channels.

    Raises
    ------
    AxesError
        If the axes are not known, not letters of `STCZYX`, or not as many as those of the array.
    SourceError
        If the elements of the array are not numbers.

    Examples
    --------
    >>> stack = ArrayStack(np.arange(12).reshape(3, 4), axes="YX")
    >>> stack.data_shape
    (1, 1, 3, 4)
    >>> stack.extract_patch(0, None, (1, 1), (2, 2)).tolist()
    [[[5, 6], [9, 10]]]
    """

    def __init__(
        self,
        array: SliceableArray,
        axes: str | None = None,
        *,
        source: str | Path = "array",
        metadata: ImageMetadata | None = None,
    ) -> None:
        _check_array_like(array)
        if metadata is not None:
            instance("metadata", metadata, ImageMetadata)
        axes_map = AxesMap(_own_axes(source, array) if axes is None else axes, tuple(array.shape))
        super().__init__(source, axes_map, _numpy_dtype(source, array.dtype), metadata)
        self.array = array

    @property
    def pixels(self) -> NDArray[Any] | None:
        """The whole image as a view; see `HoldsPixels.pixels`."""
        if type(self) is not ArrayStack or not isinstance(self.array, np.ndarray):
            return None  # a subclass may read in another way
        return pixels_in_order(self.array, self.axes_map)

    @property
    def storage(self) -> Storage:
        """Files or memory of the array; see `HasStorage.storage`."""
        return array_storage(self.array)

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box of the array; see `SlicedStack.read`."""
        try:
            return np.asarray(self.array[selection])
        except (OSError, RuntimeError, ValueError) as error:
            where = describe_selection(self.original_axes, selection)
            raise SourceError(f"{self.source} cannot be read at {where}: {error}") from error

    def __getstate__(self) -> dict[str, Any]:
        by_name = isinstance(self.array, np.memmap) and isinstance(self.array.base, mmap.mmap)
        return {**self.__dict__, "array": _ByFileName(self.array)} if by_name else dict(self.__dict__)


def pixels_in_order(array: NDArray[Any], axes_map: AxesMap) -> NDArray[Any] | None:
    """Return a whole array as a view `SC(Z)YX`; None if samples and times cannot become one axis without a copy.

    Examples
    --------
    >>> pixels_in_order(np.zeros((64, 48, 3)), AxesMap("YXC", (64, 48, 3))).shape
    (1, 3, 64, 48)
    """
    steps = dict(zip(axes_map.axes, array.strides, strict=True))
    if "S" in steps and "T" in steps and steps["S"] != steps["T"] * axes_map.size("T"):
        return None
    return axes_map.to_data(array.view(np.ndarray))


class _ByFileName:
    """A memory map in a pickle, as the name of its file instead of its pixels."""

    def __init__(self, array: Any) -> None:
        self.array = array

    def __reduce__(self) -> tuple[Any, ...]:
        array = self.array
        if array.filename is None or array.mode == "c":
            # A copy on write may differ from its file, and a nameless file cannot be opened again.
            return np.array, (np.asarray(array),)
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        return np.memmap, (array.filename, array.dtype, "r", array.offset, array.shape, order)


def _own_axes(source: str | Path, array: SliceableArray) -> str:
    names = getattr(array, "dims", None)
    axes = axes_from_names(names) if isinstance(names, tuple) else None
    if axes is None:
        found = f"its dimensions are named {names}" if isinstance(names, tuple) else ""
        raise unknown_axes(source, array.shape, found, names if isinstance(names, tuple) else ())
    return axes


def _check_array_like(array: Any) -> None:
    if isinstance(array, (type, np.generic)) or not all(
        hasattr(array, name) for name in ("shape", "dtype", "__getitem__")
    ):
        raise SourceError(f"array is {shown(array)}: it must be an array, or have a shape, a dtype and slicing")


def _numpy_dtype(source: str | Path, dtype: Any) -> np.dtype[Any]:
    try:
        numpy_dtype: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise SourceError(
            f"{source} has dtype {dtype}, which is not a dtype of NumPy: convert it to a NumPy array first"
        ) from error
    return numpy_dtype
