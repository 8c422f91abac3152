"""The base of sinks that write one uncompressed file, in which every voxel has a fixed position."""

from __future__ import annotations

import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.local_paths import normalize_path
from patchloom.sinks.output_kinds import OutputKind
from patchloom.sinks.publishing.destination import resolved
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.publishing.pending_output import PendingOutput
from patchloom.sinks.regions import Slices, WrittenBoxes, check_block, shown_region
from patchloom.sinks.sink_arguments import check_sink_arguments, sink_dtype
from patchloom.sinks.write_errors import explain


def check_room(path: str | Path, n_bytes: int) -> None:
    """Check that the disk of an output has room for it.

    Parameters
    ----------
    path : str or Path
        The output.
    n_bytes : int
        Its size in bytes.

    Raises
    ------
    SinkError
        If it does not.
    """
    free = shutil.disk_usage(resolved(path).parent).free
    if n_bytes > free:
        raise SinkError(f"{path} takes {n_bytes} bytes, but the disk has {free} left: make room for it")


class Piece(NamedTuple):
    """A part of a block and its position in the file: the arguments of `write_strided`."""

    values: NDArray[Any]
    offset: int
    strides: tuple[int, ...]


class FileSink(ABC):
    """An `ImageSink` for a file whose layout is known before its first voxel.

    Therefore blocks may have any size and any order, no voxel waits in memory, and a disk that is too small is noticed at the
    start.

    Parameters
    ----------
    path : str or Path
        The file.
    axes_map : AxesMap
        The axes and shape of the image.
    dtype : dtype-like
        The dtype to store.
    overwrite : bool
        Whether a file of the same kind is replaced, and one that a killed run left unfinished is discarded.
    lock : OutputLock or None
        The lock on `path`, if the caller holds it. If None, the sink holds one while it is open.
    """

    kind: ClassVar[OutputKind]

    def __init__(
        self, path: str | Path, axes_map: AxesMap, dtype: DTypeLike, *, overwrite: bool, lock: OutputLock | None
    ) -> None:
        check_sink_arguments(path, axes_map, overwrite=overwrite, lock=lock)
        self.path = Path(normalize_path(path))
        self.axes_map = axes_map
        self.data_shape = axes_map.data_shape
        self.data_dtype = sink_dtype(dtype)
        self._boxes = WrittenBoxes(len(self.data_shape))
        self._file: FileIO | None = None
        self._output = PendingOutput(path, self.kind, overwrite=overwrite, lock=lock)
        try:
            with self._failing("cannot be opened"):
                self._begin(self._output.partial)
        except BaseException:
            self.abort()
            raise

    @abstractmethod
    def _lay_out(self, path: Path) -> int:
        """Write everything but the voxels, and return the size of the whole file in bytes."""

    @abstractmethod
    def _pieces(self, region: Slices, block: NDArray[Any]) -> Iterator[Piece]:
        """Cut a block into pieces that are contiguous, or nearly contiguous, in the file."""

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write one block, of any size; see `ImageSink.write`."""
        self._output.check_open()
        check_block(region, block, self.data_shape, self.data_dtype)
        self._boxes.check_free(region)
        with self._failing(f"cannot be written at {shown_region(region)}"):
            for piece in self._pieces(region, block.astype(self.data_dtype, copy=False)):
                write_strided(self._open_file(), *piece)
        self._boxes.add(region)

    def finalize(self) -> Path:
        """Publish the file; see `ImageSink.finalize`."""
        self._output.check_open()
        self._boxes.check_complete(self.data_shape)
        with self._failing("cannot be completed"):
            file = self._open_file()
            os.fsync(file)
            self._check_whole(file)
            self._close_file()
        self._output.publish()
        return self.path

    def abort(self) -> None:
        """Remove what was written; see `ImageSink.abort`."""
        self._close_file()
        self._output.abort()

    def _begin(self, partial: Path) -> None:
        size = self._size = self._lay_out(partial)
        check_room(self.path, size)
        os.truncate(partial, size)

    def _check_whole(self, file: FileIO) -> None:
        """Check that the file that was written is the one that will be published, and has its full length."""
        written, partial = os.fstat(file.fileno()), self._output.partial.stat()
        if not os.path.samestat(written, partial) or partial.st_size != self._size:
            raise SinkError(
                f"{self._output.partial} was changed while it was written: it has {partial.st_size} bytes and should have "
                f"{self._size}: start afresh with overwrite=True (--overwrite)"
            )

    def _open_file(self) -> FileIO:
        if self._file is None:
            self._file = FileIO(self._output.partial, "r+b")
        return self._file

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except SinkError:
            raise
        except OSError as error:
            raise SinkError(f"{self.path} {what}: {explain(error)}") from error

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r}, {self.data_shape}, {self.data_dtype}, {self._output.state})"


def write_strided(file: FileIO, values: NDArray[Any], offset: int, strides: Sequence[int]) -> None:
    r"""Write an array into a file in which neighbors are a fixed number of bytes apart.

    Bytes that are contiguous in the file are written together. There is no buffer, so that an error belongs to this array. There
    is no memory map, as a full disk would then end the process instead of raising an error.

    Parameters
    ----------
    file : FileIO
        A file that is open for writing.
    values : array
        Values in any memory order.
    offset : int
        Position of the first element, in bytes.
    strides : sequence of int
        For each axis, number of bytes from an element to the next. The stride of an axis with one element is ignored.

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
