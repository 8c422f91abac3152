"""Image stacks over arrays and array-likes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SourceError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.sliced_stack import SlicedStack


class ArrayLike(Protocol):
    """Anything with a shape, a dtype and slicing: NumPy, memmap, h5py, dask, zarr, xarray."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each axis."""

    @property
    def dtype(self) -> Any:
        """Type of the elements, as NumPy understands it."""

    def __getitem__(self, index: Any, /) -> Any:
        """Cut out a box; what comes back turns into a NumPy array."""


class ArrayStack(SlicedStack):
    """An image stack over an array; nothing is copied until a patch is read.

    Parameters
    ----------
    array : array-like
        Anything with `shape`, `dtype` and slicing.
    axes : str
        The array's own axes, letters of `STCZYX`, outermost first.
    source : str or Path
        What to call it in messages.
    metadata : ImageMetadata, optional
        Voxel sizes and channels.

    Raises
    ------
    AxesError
        If the axes are not legal or not as many as the array's.

    Examples
    --------
    >>> stack = ArrayStack(np.arange(12).reshape(3, 4), axes="YX")
    >>> stack.data_shape
    (1, 1, 3, 4)
    >>> stack.extract_patch(0, None, (1, 1), (2, 2)).tolist()
    [[[5, 6], [9, 10]]]
    """

    def __init__(
        self, array: ArrayLike, axes: str, *, source: str | Path = "array", metadata: ImageMetadata | None = None
    ) -> None:
        super().__init__(source, AxesMap(axes, tuple(array.shape)), np.dtype(array.dtype), metadata)
        self.array = array

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Cut a box out of the array; see `SlicedStack.read`."""
        try:
            return np.asarray(self.array[selection])
        except OSError as error:
            raise SourceError(f"{self.source}: cannot read {selection}: {error}") from error
