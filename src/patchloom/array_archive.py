"""Read `.npz` files that may be damaged or malicious, with bounded memory and two kinds of errors."""

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
"""Largest ratio of a file's size to its deflated size; the limit of the format is 1032."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read all arrays of an archive that `numpy.savez` or `numpy.savez_compressed` wrote.

    The checksum of every array is verified, objects are never unpickled, and the size of the file limits the memory.

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
        except Exception as error:  # zip, zlib, struct and Python's parser raise errors of many classes
            raise ValueError(
                f"it is not an archive of arrays, or is damaged: {str(error) or type(error).__name__}"
            ) from error


def _check_members(members: list[zipfile.ZipInfo], n_bytes: int) -> None:
    if any(member.compress_type not in _METHODS for member in members):
        raise ValueError("it is compressed by a method that NumPy does not use")
    if sum(member.file_size for member in members) > _MOST_EXPANSION * n_bytes:
        raise ValueError("it declares more bytes than a file of its size can contain")


def _parsed(content: bytes) -> NDArray[Any]:
    """Return the array in the content of an `.npy` file, as a view."""
    file = BytesIO(content)
    version = npy_format.read_magic(file)
    header = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, fortran_order, dtype = header(file)
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError(f"an array has another size than its shape {shape} and dtype {dtype} require")
    array = np.frombuffer(content, dtype, offset=file.tell(), count=math.prod(shape))
    return array.reshape(shape, order="F" if fortran_order else "C")
