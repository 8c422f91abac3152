"""What is kept of a block that is written, for whoever goes on with an unfinished output: plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patchloom.errors import SinkError
from patchloom.sinks.ome_zarr.value_range import ValueRange

Region = tuple[slice, ...]


def block_record(
    region: Region, ranges: Sequence[ValueRange], stored_bytes: Sequence[int], mark: Sequence[int]
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


def read_record(record: dict[str, Any], data_shape: Sequence[int]) -> tuple[Region, list[ValueRange], list[int]]:
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
