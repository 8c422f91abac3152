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
