"""Protocols of image sinks: every sink takes blocks; some can be resumed, or provide a buffer for a block."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


@runtime_checkable
class ImageSink(Protocol):
    """An output for one image, which is written in blocks.

    A sink is made with the shape and dtype of its image and the shape of its shards. `write` is called once for each block, in
    any order, by one thread at a time. Then `finalize` completes the image and publishes it, or `abort` removes it. Nothing is
    visible at the destination before `finalize`.

    Examples
    --------
    >>> import numpy as np
    >>> from patchloom.sinks import MemorySink
    >>> from patchloom.axes import AxesMap
    >>> sink = MemorySink(AxesMap("YX", (2, 4)), "uint8")
    >>> isinstance(sink, ImageSink), sink.data_shape
    (True, (1, 1, 2, 4))
    >>> for y in (0, 1):
    ...     region = (slice(0, 1), slice(0, 1), slice(y, y + 1), slice(0, 4))
    ...     sink.write(region, np.full((1, 1, 1, 4), y, "uint8"))
    >>> sink.finalize().tolist()
    [[0, 0, 0, 0], [1, 1, 1, 1]]
    """

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of the image in voxels, `SC(Z)YX`."""

    @property
    def data_dtype(self) -> Any:
        """The dtype that is stored."""

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write one block. Its bytes are stored when this returns.

        Parameters
        ----------
        region : tuple of slice
            Position of the block in voxels, `SC(Z)YX`, start and stop given. Each start is a multiple of the shard size.
            Each stop is one too, or the end of the image, so that no stored object is written twice.
        block : array
            Values `SC(Z)YX`, with the shape of the region and the dtype of the sink. The sink does not keep a reference.

        Raises
        ------
        SinkError
            If the block does not fit its region or the sink, if the region was written before or contains a part of a shard,
            or if the bytes cannot be written (a full disk, a lost connection). Then the block counts as not written, and may
            be written again.
        """

    def finalize(self) -> NDArray[Any] | Path:
        """Complete the image and publish it at its destination.

        Returns
        -------
        array or Path
            The image in its own axes, or its path.

        Raises
        ------
        SinkError
            If a part of the image was never written, or the image cannot be completed.
        """

    def abort(self) -> None:
        """Remove everything that was written. Has no effect after `finalize`, and may be called twice."""


@runtime_checkable
class ResumableSink(ImageSink, Protocol):
    """A sink whose unfinished output can be resumed by another process.

    The caller stores a record of each written block (`block_record`) as durably as the block itself. After a kill, a sink is
    made again with the same arguments and `resume=True`, and `restore` is called with each record. Blocks without a record are
    written again. The finished output has the same bytes as that of a run without a kill.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from patchloom.sinks import OmeZarrSink
    >>> from patchloom.axes import AxesMap
    >>> grid = {"chunk_shape": (1, 1, 2, 2), "shard_shape": (1, 1, 2, 2)}
    >>> def open_it(folder, **options):
    ...     return OmeZarrSink(f"{folder}/a.zarr", axes_map=AxesMap("YX", (2, 4)), dtype="uint8", **grid, **options)
    >>> left, right = [(slice(0, 1), slice(0, 1), slice(0, 2), slice(x, x + 2)) for x in (0, 2)]
    >>> with TemporaryDirectory() as folder:
    ...     sink = open_it(folder)
    ...     sink.write(left, np.ones((1, 1, 2, 2), "uint8"))
    ...     record = sink.block_record(left)
    ...     sink.close()  # or the process is killed
    ...     resumed = open_it(folder, resume=True)
    ...     resumed.restore(record) == left
    ...     resumed.write(right, np.ones((1, 1, 2, 2), "uint8"))
    ...     resumed.finalize().name
    True
    'a.zarr'
    """

    def block_record(self, region: tuple[slice, ...]) -> dict[str, Any]:
        """Return the record of a written block, in plain JSON values.

        Parameters
        ----------
        region : tuple of slice
            The region that was given to `write`.

        Raises
        ------
        SinkError
            If no block was written there.
        """

    def has_block(self, record: dict[str, Any]) -> bool:
        """Return whether the block of an earlier sink is stored unchanged and not yet restored.

        If several sinks share a block, ask all of them before any restores it: that cannot be undone.

        Parameters
        ----------
        record : dict
            A record of `block_record`. For anything else the result is False.
        """

    def restore(self, record: dict[str, Any]) -> tuple[slice, ...]:
        """Count the block of an earlier sink as written.

        Parameters
        ----------
        record : dict
            A record of `block_record`.

        Returns
        -------
        tuple of slice
            The region of the block, `SC(Z)YX`.

        Raises
        ------
        SinkError
            If the record does not belong to this output, if the region is already written, or if the stored block is missing
            or changed. Then the block counts as not written, and may be written again.
        """

    def close(self) -> None:
        """Close the output and keep what is written, to be resumed. Has no effect after `finalize` or `abort`."""


@runtime_checkable
class CountsFinalizing(Protocol):
    """A sink that may take long to finalize, and counts its steps."""

    @property
    def n_steps(self) -> int:
        """Number of steps of `finalize`."""

    def finalize(self, advance: Callable[[int], None] | None = None) -> NDArray[Any] | Path:
        """Complete the image and publish it at its destination; see `ImageSink.finalize`.

        Parameters
        ----------
        advance : callable, optional
            Called with 1 after each step. If it raises, the image is not published, and may be finalized again.
        """


@runtime_checkable
class HasBuffer(Protocol):
    """A sink that provides its own memory for a block, so that no second copy is needed.

    Examples
    --------
    >>> from patchloom.sinks import MemorySink
    >>> from patchloom.axes import AxesMap
    >>> sink = MemorySink(AxesMap("YX", (2, 4)), "uint8")
    >>> region = (slice(0, 1), slice(0, 1), slice(0, 2), slice(0, 4))
    >>> buffer = sink.buffer(region)
    >>> buffer[...] = 7
    >>> sink.write(region, buffer)
    >>> sink.finalize().tolist()
    [[7, 7, 7, 7], [7, 7, 7, 7]]
    """

    def buffer(self, region: tuple[slice, ...]) -> NDArray[Any]:
        """Return the memory of a block as a writable view with undefined values.

        The block counts as written when `write` is called with the region and this view.

        Parameters
        ----------
        region : tuple of slice
            As for `write`.

        Returns
        -------
        array
            Shape of the region, `SC(Z)YX`, and dtype of the sink.

        Raises
        ------
        SinkError
            If the region is not inside the image, or was written before.
        """
