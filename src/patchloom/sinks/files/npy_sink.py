"""A sink that writes a NumPy file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import DTypeLike, NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks.files.file_sink import FileSink, Piece
from patchloom.sinks.output_kinds import NPY, OutputKind
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.regions import Slices
from patchloom.sinks.sink_arguments import sink_dtype


def check_npy_dtype(dtype: np.dtype[Any]) -> None:
    """Check that a NumPy file can store a dtype.

    Raises
    ------
    SinkError
        If it is not numeric.
    """
    if dtype.kind not in "biufc":
        raise SinkError(f"dtype {dtype} cannot be stored as a NumPy file: use a numeric one")


class NpySink(FileSink):
    """An `ImageSink` that writes an `.npy` file in the image's own axes, for `numpy.load(path, mmap_mode="r")`.

    The file is written to `<path>.partial` and renamed at the end. Blocks may have any size and any order. The file cannot be
    resumed, and stores no axes, voxel sizes or channels.

    Parameters
    ----------
    path : str or Path
        The file: a local path that ends in `.npy`.
    axes_map : AxesMap
        The axes and shape of the array.
    dtype : dtype-like
        Boolean, integer, floating-point or complex.
    overwrite : bool
        Whether an existing `.npy` file is replaced, and one that a killed run left unfinished is discarded.
    lock : OutputLock, optional
        The lock on `path`, if the caller holds it. If None, the sink holds one while it is open.

    Raises
    ------
    OutputExistsError
        If `path` exists and is not to be replaced.
    SinkError
        If the folder cannot be written to, the disk has too little space left, another run is writing the file, or the dtype
        cannot be stored.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     sink = NpySink(Path(folder, "image.npy"), axes_map=AxesMap("YXC", (2, 4, 3)), dtype="uint8")
    ...     sink.write((slice(0, 1), slice(0, 3), slice(0, 2), slice(0, 4)), np.ones((1, 3, 2, 4), "uint8"))
    ...     np.load(sink.finalize()).shape
    (2, 4, 3)
    """

    kind: ClassVar[OutputKind] = NPY

    def __init__(
        self,
        path: str | Path,
        *,
        axes_map: AxesMap,
        dtype: DTypeLike,
        overwrite: bool = False,
        lock: OutputLock | None = None,
    ) -> None:
        check_npy_dtype(sink_dtype(dtype))
        super().__init__(path, axes_map, dtype, overwrite=overwrite, lock=lock)

    def _lay_out(self, path: Path) -> int:
        header = {"descr": self.data_dtype.str, "fortran_order": False, "shape": self.axes_map.shape}
        with path.open("xb") as file:
            npy_format.write_array_header_1_0(file, header)
            self._header_size = file.tell()
        return self._header_size + int(np.prod(self.axes_map.shape, dtype=np.int64)) * self.data_dtype.itemsize

    def _pieces(self, region: Slices, block: NDArray[Any]) -> Iterator[Piece]:
        steps = dict.fromkeys("STCZYX", 0)
        step = self.data_dtype.itemsize
        for axis, size in zip(reversed(self.axes_map.axes), reversed(self.axes_map.shape), strict=True):
            steps[axis] = step
            step *= size
        strides = tuple(steps[axis] for axis in "C" + self.axes_map.spatial)
        start = sum(part.start * stride for part, stride in zip(region[1:], strides, strict=True))
        for sample_idx, values in enumerate(block, region[0].start):
            sample, time = divmod(sample_idx, self.axes_map.size("T"))
            yield Piece(values, self._header_size + sample * steps["S"] + time * steps["T"] + start, strides)
