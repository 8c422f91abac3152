"""Arrays put into a file whose elements have their places already."""

from __future__ import annotations

from collections.abc import Sequence
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray


def write_strided(file: FileIO, values: NDArray[Any], offset: int, strides: Sequence[int]) -> None:
    r"""Write an array into a file in which neighbors lie some number of bytes apart.

    What is contiguous in the file is written at once. There is no buffer, so that an error is an error of this array, and
    no memory map: a full disk would not be an error then but the end of the process.

    Parameters
    ----------
    file : FileIO
        Open for writing.
    values : array
        Of any memory order.
    offset : int
        Where the first element goes.
    strides : sequence of int
        For each axis how many bytes further the next element goes. For an axis with one element anything will do.

    Raises
    ------
    OSError
        If the bytes cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryFile
    >>> with TemporaryFile(buffering=0) as file:  # two columns of an image of 2 by 4 bytes
    ...     write_strided(file, np.array([[1, 2], [3, 4]], "uint8"), offset=1, strides=(4, 1))
    ...     _ = file.seek(0)
    ...     file.read()
    b'\x00\x01\x02\x00\x00\x03\x04'
    """
    order = sorted(range(values.ndim), key=lambda axis: strides[axis], reverse=True)
    values = values.transpose(order)
    steps = [strides[axis] for axis in order]
    n_outer, run = values.ndim, values.itemsize
    while n_outer and (values.shape[n_outer - 1] == 1 or steps[n_outer - 1] == run):
        n_outer -= 1
        run *= values.shape[n_outer]
    for index in np.ndindex(values.shape[:n_outer]):
        file.seek(offset + sum(position * step for position, step in zip(index, steps, strict=False)))
        rest = np.ascontiguousarray(values[index]).reshape(-1).view(np.uint8).data
        while rest:
            rest = rest[file.write(rest) :]
