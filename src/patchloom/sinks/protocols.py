"""What an image sink is: the place where one image is written, region by region, each region once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray


@runtime_checkable
class ImageSink(Protocol):
    """One output image, made with its shape, dtype and storage grid, then written in whole blocks.

    The life of a sink: `write` for each block, in any order, from any one thread; then `finalize`, or `abort` if
    something failed. Nothing is seen at the destination before `finalize`.
    """

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape as `SC(Z)YX`."""

    @property
    def data_dtype(self) -> Any:
        """The dtype stored."""

    def write(self, region: tuple[slice, ...], block: NDArray[Any]) -> None:
        """Write one block; its bytes are where they belong when this returns.

        Parameters
        ----------
        region : tuple of slice
            Where the block lies in `SC(Z)YX`; start and stop given. Starts are multiples of the sink's shard, stops are
            too or are the image's end, so that no stored object is ever written twice.
        block : array
            `SC(Z)YX` of the region's shape and the sink's dtype. The sink does not keep it.

        Raises
        ------
        SinkError
            If the block does not fit its region or the sink, the region was written before or is no whole number of shards,
            or the bytes cannot be written (a full disk, a lost connection). Nothing counts as written then, and the block
            may be tried again.
        """

    def finalize(self) -> NDArray[Any] | Path:
        """Complete the image and show it at its destination.

        Returns
        -------
        array or Path
            The image, or where it is.

        Raises
        ------
        SinkError
            If a part of the image was never written, or the image cannot be completed.
        """

    def abort(self) -> None:
        """Remove whatever was written. Does nothing after `finalize`; may be called twice."""


@runtime_checkable
class ResumableSink(ImageSink, Protocol):
    """A sink whose unfinished output another process can go on with.

    Whoever writes keeps the record of each block that is written, in a place that is as durable. After a kill a sink is
    made again with the same arguments and `resume=True`, and is given the records back by `restore`; blocks without one are
    written again. What `finalize` makes then has the same bytes as if nothing had happened.
    """

    def block_record(self, region: tuple[slice, ...]) -> dict[str, Any]:
        """Return what the sink needs to be told of a block again, in plain JSON values.

        Parameters
        ----------
        region : tuple of slice
            As it was given to `write`, whose bytes are durable.

        Raises
        ------
        SinkError
            If no block was written there.
        """

    def has_block(self, record: dict[str, Any]) -> bool:
        """Whether a block that an earlier sink wrote is stored as it was, and not yet restored.

        Ask all sinks that share a block before any of them restores it, as that cannot be undone.

        Parameters
        ----------
        record : dict
            What `block_record` returned. For anything else the answer is no.
        """

    def restore(self, record: dict[str, Any]) -> tuple[slice, ...]:
        """Count a block as written that was written by an earlier sink.

        Parameters
        ----------
        record : dict
            What `block_record` returned.

        Returns
        -------
        tuple of slice
            The block's region.

        Raises
        ------
        SinkError
            If that is no record of this output, the region is written already, or what was stored there is gone or
            changed. The block does not count as written then, and may be written again.
        """

    def close(self) -> None:
        """Let go of the output and leave what is written to be resumed. Does nothing after `finalize` or `abort`."""


@runtime_checkable
class HasBuffer(Protocol):
    """A sink in whose own memory a block can be computed, so that there is no second copy of it."""

    def buffer(self, region: tuple[slice, ...]) -> NDArray[Any]:
        """Return the memory in which a block will be, as a writable view with anything in it.

        The block counts as written when `write` is given the region and this view.

        Parameters
        ----------
        region : tuple of slice
            As for `write`.

        Raises
        ------
        SinkError
            If the region does not lie in the image, or was written before.
        """
