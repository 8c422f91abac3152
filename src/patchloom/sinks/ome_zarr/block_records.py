"""Records of written blocks, from which an unfinished output is resumed: plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SinkError
from patchloom.sinks.regions import Slices

ValueRange = tuple[float, float] | None
"""Smallest and largest finite value; None if no value is finite."""

_ARRAY_DOCUMENTS = ("0/zarr.json", "0/.zarray")


def block_record(
    region: Slices, ranges: Sequence[ValueRange], stored_bytes: Sequence[int], mark: Sequence[int]
) -> dict[str, Any]:
    """Return the record of a block.

    Parameters
    ----------
    region : tuple of slice
        Position of the block, `SC(Z)YX`.
    ranges : sequence of (float, float) or None
        Smallest and largest value of each channel of the block.
    stored_bytes : sequence of int
        Sizes of the files of the block, in bytes.
    mark : sequence of int
        Mark of the output that the block was written to; see `output_mark`.

    Examples
    --------
    >>> block_record((slice(0, 1), slice(0, 1), slice(0, 64), slice(64, 90)), [(0.0, 7.0)], [113], [4711])
    {'region': [[0, 1], [0, 1], [0, 64], [64, 90]], 'ranges': [[0.0, 7.0]], 'bytes': [113], 'output': [4711]}
    """
    return {
        "region": [[part.start, part.stop] for part in region],
        "ranges": [found and list(found) for found in ranges],
        "bytes": list(stored_bytes),
        "output": list(mark),
    }


def read_record(record: dict[str, Any], data_shape: Sequence[int]) -> tuple[Slices, list[ValueRange], list[int]]:
    """Read the record of a block.

    Parameters
    ----------
    record : dict
        A record of `block_record`, possibly read from JSON.
    data_shape : sequence of int
        Shape of the image, `SC(Z)YX`.

    Raises
    ------
    SinkError
        If it is not a record of a block in this image.
    """
    try:
        bounds = [(int(start), int(stop)) for start, stop in record["region"]]
        ranges: list[ValueRange] = [found and (float(found[0]), float(found[1])) for found in record["ranges"]]
        stored = [int(size) for size in record["bytes"]]
    except (LookupError, TypeError, ValueError) as error:
        raise SinkError(f"{record!r} is not a record of a block: write the block again") from error
    inside = len(bounds) == len(data_shape) and all(
        0 <= start < stop <= size for (start, stop), size in zip(bounds, data_shape, strict=True)
    )
    if not inside or len(ranges) != bounds[1][1] - bounds[1][0]:
        raise SinkError(
            f"{record!r} is not a record of a block in an image of shape {tuple(data_shape)}: write the block again"
        )
    return tuple(slice(*pair) for pair in bounds), ranges, stored


def output_mark(folder: Path) -> list[int]:
    """Return a mark that distinguishes an OME-Zarr from all others that were or will be at the same path.

    It consists of the number of the folder in the file system, which a rename does not change, and of the time at which the
    first array was made, as such numbers are used again.

    Parameters
    ----------
    folder : Path
        The OME-Zarr, finished or not.

    Returns
    -------
    list of int
        Empty if the OME-Zarr does not exist.
    """
    try:
        times = [(folder / name).stat().st_mtime_ns for name in _ARRAY_DOCUMENTS if (folder / name).exists()]
        return [folder.stat().st_ino, *times] if times else []
    except OSError:
        return []


def is_output_of(path: str | Path, records: Sequence[Any]) -> bool:
    """Return whether blocks were written to the output that is now at a path.

    Parameters
    ----------
    path : str or Path
        The output, which may not exist.
    records : sequence
        Records of the blocks, from `ResumableSink.block_record`.
    """
    mark = output_mark(Path(path))
    return bool(mark) and all(isinstance(record, dict) and record.get("output") == mark for record in records)


class ChannelRanges:
    """The range of values of each channel in all blocks so far, in any order: a viewer's first contrast limits.

    Parameters
    ----------
    n_channels : int
        Number of channels.

    Examples
    --------
    >>> ranges = ChannelRanges(2)
    >>> ranges.include(block_ranges(np.array([[[[1.0, np.nan, 3.0]], [[np.inf, np.nan, np.nan]]]])))
    >>> ranges.pairs()
    [(1.0, 3.0), (0.0, 1.0)]
    """

    def __init__(self, n_channels: int) -> None:
        self._ranges: list[ValueRange] = [None] * n_channels

    def include(self, ranges: Sequence[ValueRange], first_channel: int = 0) -> None:
        """Extend the ranges by those of a block.

        Parameters
        ----------
        ranges : sequence of (float, float) or None
            One for each channel of the block.
        first_channel : int
            Channel of the image that is the first one of the block.
        """
        for channel, found in enumerate(ranges, first_channel):
            known = self._ranges[channel]
            if found and known:
                found = (min(found[0], known[0]), max(found[1], known[1]))  # noqa: PLW2901  # both, from here on
            self._ranges[channel] = found or known

    def pairs(self) -> list[tuple[float, float]]:
        """Return the smallest and largest value of each channel; 0 and 1 if none is finite."""
        return [found or (0.0, 1.0) for found in self._ranges]


def block_ranges(block: NDArray[Any]) -> list[ValueRange]:
    """Return the range of values of each channel, without NaN and infinities.

    Parameters
    ----------
    block : array
        `SC(Z)YX`.

    Examples
    --------
    >>> block_ranges(np.array([[[[-0.0, 7.0]], [[np.nan, np.inf]]]]))
    [(0.0, 7.0), None]
    """
    return [_finite_range(values) for values in block.swapaxes(0, 1)]


def _finite_range(values: NDArray[Any]) -> ValueRange:
    with np.errstate(invalid="ignore"):
        low, high = np.fmin.reduce(values, axis=None), np.fmax.reduce(values, axis=None)
    if not np.isfinite([low, high]).all():
        finite = values[np.isfinite(values)]
        if not finite.size:
            return None
        low, high = finite.min(), finite.max()
    # Adding 0 removes the sign of -0, which would depend on the order of blocks.
    return float(low) + 0.0, float(high) + 0.0
