"""Reading `.npz` files that may be damaged, or made to fill the memory: NumPy raises whatever its parts raise."""

from __future__ import annotations

import math
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

_MOST_EXPANSION = 1040
"""How many times more a deflated file can have than it takes; the format's own limit is 1032."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an archive as `numpy.savez` and `numpy.savez_compressed` write it.

    Every byte of an array is covered by its checksum, objects are never unpickled, and memory is bounded by the size of the
    file.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict of str to array
        The arrays, read-only, by their names.

    Raises
    ------
    OSError
        If the file cannot be opened.
    ValueError
        If it is not such an archive, or is damaged.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez_compressed(Path(folder, "a.npz"), scores=[1.0, 2.0])
    ...     read_arrays(Path(folder, "a.npz"))["scores"].tolist()
    [1.0, 2.0]
    """
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_members(archive.infolist(), path.stat().st_size)
                return {
                    member.filename.removesuffix(".npy"): _parsed(archive.read(member)) for member in archive.infolist()
                }
        except Exception as error:  # of zip, zlib, struct and Python's parser
            raise ValueError(
                f"it is not an archive of arrays, or is damaged: {str(error) or type(error).__name__}"
            ) from error


def _check_members(members: list[zipfile.ZipInfo], n_bytes: int) -> None:
    if any(member.compress_type not in _METHODS for member in members):
        raise ValueError("it is compressed in a way that is not NumPy's")
    if sum(member.file_size for member in members) > _MOST_EXPANSION * n_bytes:
        raise ValueError("it has more than can be in a file of its size")


def _parsed(content: bytes) -> NDArray[Any]:
    """Turn the content of an `.npy` file into an array over the same memory."""
    file = BytesIO(content)
    version = npy_format.read_magic(file)
    header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"an array of shape {shape} and dtype {dtype} is not what it has")
    array = np.frombuffer(content, dtype, offset=file.tell(), count=math.prod(shape))
    return array.reshape(shape, order="F" if fortran_order else "C")
