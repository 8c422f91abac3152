"""What a user chooses about an OME-Zarr output."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from patchloom.argument_checks import file_path
from patchloom.errors import SinkError
from patchloom.geometry.checks import PerAxis, per_axis
from patchloom.local_paths import normalize_path
from patchloom.sinks.ome_zarr.pyramid import Pyramid, check_pyramid
from patchloom.sinks.ome_zarr.zarr_format import OmeZarrVersion, zarr_format_of
from patchloom.sinks.output_kinds import SINK_SUFFIXES, ZARR, output_kind


@dataclass(frozen=True, slots=True)
class OmeZarr:
    """An OME-Zarr output with options: `output` of `predict` and of `open_sink`, if a plain path is not enough.

    Parameters
    ----------
    path : str or Path
        A name ending in `.ome.zarr` or `.zarr`; for a series a folder, which gets one `.ome.zarr` for each image.
    version : {"0.5", "0.4"}
        0.5 is Zarr v3 with shards, 0.4 is Zarr v2.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        How a voxel of a lower level is made from 2 voxels along each axis: their mean, the most common of them (for labels)
        or the first. `"auto"` takes the mode of labels and the mean of intensities. Labels are the results of `argmax` and
        `threshold`, booleans, and integers that a model returns, unless these have 8 or 16 bits and the dtype of the
        batches it is given. If None, there are no lower levels.
    chunks : int or sequence of int, optional
        Size of a chunk in voxels, one number for all spatial axes or `(z,) y, x`. A chunk divides a block, so the nearest
        divisor is taken. By default 256 in 2D and 64 in 3D.

    Raises
    ------
    ArgumentError
        If an option is not one of those allowed.
    SinkError
        If the name is that of another kind of output.

    Examples
    --------
    >>> OmeZarr("cells.ome.zarr", pyramid="mode")
    OmeZarr(path='cells.ome.zarr', version='0.5', pyramid='mode', chunks=None)
    """

    path: str | Path
    version: OmeZarrVersion = "0.5"
    pyramid: Pyramid | None = "auto"
    chunks: PerAxis | None = None

    def __post_init__(self) -> None:
        path = normalize_path(file_path("path", self.path, error=SinkError))
        if str(path).lower().endswith(SINK_SUFFIXES) and output_kind(path) is not ZARR:
            raise SinkError(
                f"path is {str(path)!r}, which is not an OME-Zarr: take a name ending in .ome.zarr, or give the path alone as output"
            )
        zarr_format_of(self.version)
        check_pyramid(self.pyramid)
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "chunks", per_axis("chunks", self.chunks, least=1))
