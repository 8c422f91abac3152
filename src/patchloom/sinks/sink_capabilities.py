"""What a sink can do beyond writing: be gone on with after a kill, and lend its own memory."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from numpy.typing import NDArray

from patchloom.sinks.image_sink import ImageSink


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
