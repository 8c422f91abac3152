"""Image stacks over NumPy files (`.npy`), memory-mapped while they are read."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from patchloom.errors import SourceError, SourceNotFoundError
from patchloom.image_stacks.array_stack import pixels_in_order
from patchloom.image_stacks.open_files import OpenFiles, check_unchanged, file_fingerprint, share_of_descriptors
from patchloom.image_stacks.sliced_stack import SlicedStack
from patchloom.image_stacks.source_axes import axes_map_of, unknown_axes
from patchloom.image_stacks.source_paths import checked_path

_MAPS: OpenFiles[NDArray[Any]] = OpenFiles(share_of_descriptors(0.375))
_LIVE_MAPS: weakref.WeakValueDictionary[int, np.memmap[Any, Any]] = weakref.WeakValueDictionary()
"""All maps in use, including maps that `_MAPS` has closed, by the id of the stack."""


class NpyStack(SlicedStack):
    """An image stack over a NumPy file, of which only the bytes of a region are read.

    Each mapped file uses a descriptor, so a bounded number of files is mapped at any time.

    Parameters
    ----------
    path : str or Path
        The file.
    axes : str
        Axes of the array: letters of `STCZYX`, outermost first. The file does not contain them.

    Raises
    ------
    SourceNotFoundError
        If there is no such file.
    SourceError
        If the file is not a NumPy file, is truncated, or contains no numbers. Objects are never unpickled.
    AxesError
        If the axes are not given, or do not fit the array.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.save(Path(folder, "image.npy"), np.arange(12).reshape(3, 4))
    ...     NpyStack(Path(folder, "image.npy"), axes="YX").extract_patch(0, None, (1, 1), (2, 2)).tolist()
    [[[5, 6], [9, 10]]]
    """

    def __init__(self, path: str | Path, axes: str | None = None) -> None:
        path = checked_path("path", path)
        self._path = Path(path).absolute()
        array = _mapped(path)
        self._layout = (array.dtype, array.offset, array.shape, _order(array))
        self._fingerprint = file_fingerprint(path, self._path)
        if axes is None:
            raise unknown_axes(path, array.shape)
        super().__init__(path, axes_map_of(path, axes, array.shape), array.dtype)

    @property
    def pixels(self) -> NDArray[Any] | None:
        """The whole image as a view, or None if too many files are mapped; see `HoldsPixels.pixels`."""
        if len(_LIVE_MAPS) >= _MAPS.most and id(self) not in _LIVE_MAPS:
            return None
        return pixels_in_order(self._array(), self.axes_map)

    @property
    def files(self) -> tuple[Path, ...]:
        """The file; see `HasFiles.files`."""
        return (self._path,)

    @property
    def image_in_files(self) -> str:
        """The only array of the file; see `HasFiles.image_in_files`."""
        return "array"

    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box of the file; see `SlicedStack.read`."""
        region: NDArray[Any] = self._array()[selection]
        return region

    def _array(self) -> NDArray[Any]:
        return _MAPS.of(self, self._map)

    def _map(self) -> NDArray[Any]:
        array = _LIVE_MAPS.get(id(self))
        if array is None:
            dtype, offset, shape, order = self._layout
            check_unchanged(self.source, self._path, self._fingerprint)
            try:
                array = np.memmap(self._path, dtype, "r", offset, shape, order)
            except (OSError, ValueError) as error:
                raise SourceError(f"{self.source} cannot be read: {error}") from error
            _LIVE_MAPS[id(self)] = array
        return array.view(np.ndarray)  # which is cut faster than a map


def _mapped(path: str | Path) -> np.memmap[Any, Any]:
    """Map a file by its header; no other function reads a header."""
    if Path(path).exists() and not Path(path).is_file():  # a named pipe would be waited for
        raise SourceError(f"{path} cannot be read as a NumPy array: it is not a file")
    try:
        # A shape that overflows is found by comparing it with the size of the file.
        with np.errstate(over="ignore"):
            return npy_format.open_memmap(path, mode="r")
    except FileNotFoundError as error:
        raise SourceNotFoundError(f"there is no file {path}: check the path") from error
    except Exception as error:  # whatever Python's parser raises for a header that is damaged
        raise SourceError(f"{path} cannot be read as a NumPy array: {str(error) or type(error).__name__}") from error


def _order(array: np.memmap[Any, Any]) -> Literal["C", "F"]:
    return "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
