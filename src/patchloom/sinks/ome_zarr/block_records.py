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
    """Make the record of a block.

    Parameters
    ----------
    region : tuple of slice
        Where it lies, `SC(Z)YX`.
    ranges : sequence of (float, float) or None
        Smallest and largest value of each of its channels.
    stored_bytes : sequence of int
        Sizes of the files it is stored in.
    mark : sequence of int
        The output that it was written to; see `output_mark`.

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
        What `block_record` made, perhaps by way of JSON.
    data_shape : sequence of int
        Shape of the image, `SC(Z)YX`.

    Raises
    ------
    SinkError
        If it is no record of a block in this image.
    """
    try:
        bounds = [(int(start), int(stop)) for start, stop in record["region"]]
        ranges: list[ValueRange] = [found and (float(found[0]), float(found[1])) for found in record["ranges"]]
        stored = [int(size) for size in record["bytes"]]
    except (LookupError, TypeError, ValueError) as error:
        raise SinkError(f"{record!r} is no record of a block") from error
    inside = len(bounds) == len(data_shape) and all(
        0 <= start < stop <= size for (start, stop), size in zip(bounds, data_shape, strict=True)
    )
    if not inside or len(ranges) != bounds[1][1] - bounds[1][0]:
        raise SinkError(f"{record!r} is no record of a block in an image of shape {tuple(data_shape)}")
    return tuple(slice(*pair) for pair in bounds), ranges, stored


def output_mark(folder: Path) -> list[int]:
    """Return what tells an OME-Zarr from all that were, are and will be at the same path.

    These are the number that the file system has for the folder, which stays the same when it is renamed, and the time at
    which its first array was made, as numbers are used again.

    Parameters
    ----------
    folder : Path
        The OME-Zarr, finished or not.

    Returns
    -------
    list of int
        Empty if there is none.
    """
    try:
        times = [(folder / name).stat().st_mtime_ns for name in _ARRAY_DOCUMENTS if (folder / name).exists()]
        return [folder.stat().st_ino, *times] if times else []
    except OSError:
        return []


def is_output_of(path: str | Path, records: Sequence[Any]) -> bool:
    """Return whether the output at a path is the one that some blocks were written to.

    Parameters
    ----------
    path : str or Path
        Where an output may be.
    records : sequence
        Records of blocks, as of `ResumableSink.block_record`.
    """
    mark = output_mark(Path(path))
    return bool(mark) and all(isinstance(record, dict) and record.get("output") == mark for record in records)


class ChannelRanges:
    """Ranges of the values in all blocks so far, whatever their order.

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
        """Take in the ranges of a block.

        Parameters
        ----------
        ranges : sequence of (float, float) or None
            One for each channel of the block.
        first_channel : int
            Which channel the block's first one is.
        """
        for channel, found in enumerate(ranges, first_channel):
            known = self._ranges[channel]
            if found and known:
                found = (min(found[0], known[0]), max(found[1], known[1]))  # noqa: PLW2901  # both, from here on
            self._ranges[channel] = found or known

    def pairs(self) -> list[tuple[float, float]]:
        """Smallest and largest value of each channel; 0 and 1 where none was finite."""
        return [found or (0.0, 1.0) for found in self._ranges]


def block_ranges(block: NDArray[Any]) -> list[ValueRange]:
    """Range of the values of each channel; NaN and infinities do not count.

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
    # A zero added takes the sign off one, which would depend on the order of blocks.
    return float(low) + 0.0, float(high) + 0.0
