"""A sink that writes an OME-TIFF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.sinks.files.file_sink import FileSink, Piece
from patchloom.sinks.output_kinds import TIFF, OutputKind, image_name
from patchloom.sinks.publishing.lock import OutputLock
from patchloom.sinks.regions import Slices, boxes
from patchloom.sinks.sink_arguments import check_sink_arguments, sink_dtype

_STORABLE = ("int8", "int16", "int32", "uint8", "uint16", "uint32", "float32", "float64")


def check_tiff_dtype(dtype: np.dtype[Any]) -> None:
    """Check that OME-TIFF can store a dtype.

    Raises
    ------
    SinkError
        If it cannot.
    """
    if dtype.newbyteorder("=").name not in _STORABLE:
        remedy = "convert it to uint8" if dtype.kind == "b" else "convert it, or write OME-Zarr"
        raise SinkError(f"dtype {dtype} cannot be stored as OME-TIFF, which has {', '.join(_STORABLE)}: {remedy}")


class TiffSink(FileSink):
    """An `ImageSink` that writes a tiled OME-TIFF, as BigTIFF.

    The file is written to `<path>.partial` and renamed at the end. It is not compressed, so that the position of every tile is
    known from the start, and blocks may have any size and any order. It cannot be resumed and has no pyramid: use OME-Zarr for
    both.

    Parameters
    ----------
    path : str or Path
        The file: a local path that ends in `.ome.tif`, `.ome.tiff`, `.tif`, `.tiff` or `.btf`. All of them give an OME-TIFF.
    axes_map : AxesMap
        The axes and shape of the image, as its user sees it. Planes `YX` are stored, in the image's own order of `T`, `C` and
        `Z`. OME-TIFF has no samples: `S`, and `S` and `T` together, are stored as `T`.
    dtype : dtype-like
        Integer or floating-point, but not `int64`, `uint64` or `float16`, which OME-TIFF does not have.
    metadata : ImageMetadata, optional
        Voxel sizes, units, and names and colors of the channels to store.
    overwrite : bool
        Whether an existing TIFF is replaced, and one that a killed run left unfinished is discarded.
    lock : OutputLock, optional
        The lock on `path`, if the caller holds it. If None, the sink holds one while it is open.

    Raises
    ------
    OutputExistsError
        If `path` exists and is not to be replaced.
    SinkError
        If the folder cannot be written to, the disk has too little space left, another run is writing the file, the dtype
        cannot be stored, or the metadata do not match the channels.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import tifffile
    >>> image = np.ones((3, 1, 600, 400), "uint8")
    >>> with TemporaryDirectory() as folder:
    ...     sink = TiffSink(Path(folder, "movie.ome.tif"), axes_map=AxesMap("TYX", (3, 600, 400)), dtype="uint8")
    ...     for start, stop in ((0, 512), (512, 600)):
    ...         region = (slice(0, 3), slice(0, 1), slice(start, stop), slice(0, 400))
    ...         sink.write(region, image[region])
    ...     with tifffile.TiffFile(sink.finalize()) as tif:
    ...         print(tif.series[0].axes, tif.series[0].shape, tif.pages[0].tile)
    TYX (3, 600, 400) (208, 208)
    """

    kind: ClassVar[OutputKind] = TIFF

    def __init__(
        self,
        path: str | Path,
        *,
        axes_map: AxesMap,
        dtype: DTypeLike,
        metadata: ImageMetadata | None = None,
        overwrite: bool = False,
        lock: OutputLock | None = None,
    ) -> None:
        from patchloom.sinks.files.tiff_layout import TiffLayout, ome_metadata  # noqa: PLC0415  # slow to import

        check_sink_arguments(path, axes_map, metadata=metadata, overwrite=overwrite, lock=lock)
        check_tiff_dtype(sink_dtype(dtype))
        little = sink_dtype(dtype).newbyteorder("<")
        self.layout = TiffLayout(axes_map, little)
        self.metadata = metadata or ImageMetadata()
        self.metadata = replace(self.metadata, name=self.metadata.name or image_name(path))
        ome_metadata(
            self.layout.axes, self.metadata, n_channels=axes_map.size("C")
        )  # checked before an old output is discarded
        super().__init__(path, axes_map, little, overwrite=overwrite, lock=lock)

    def _lay_out(self, path: Path) -> int:
        from patchloom.sinks.files.tiff_layout import write_layout  # noqa: PLC0415  # slow to import

        self._begin_of_tiles, size = write_layout(path, self.layout, self.metadata)
        return size

    def _pieces(self, region: Slices, block: NDArray[Any]) -> Iterator[Piece]:
        """Cut a block at the edges of tiles; a piece extends through all pages."""
        layout = self.layout
        height, width = layout.tile_shape
        pages = layout.page_steps()
        item = self.data_dtype.itemsize
        strides = tuple(pages[axis] * layout.page_bytes for axis in "TCZ"[: len(region) - 2])
        first = sum(part.start * stride for part, stride in zip(region, strides, strict=False))
        for y, x in _cut_at_tiles(region[-2:], layout.tile_shape):
            tile = y.start // height * layout.tile_counts[1] + x.start // width
            inside = y.start % height * width + x.start % width
            yield Piece(
                block[..., _within(y, region[-2]), _within(x, region[-1])],
                self._begin_of_tiles + first + tile * layout.tile_bytes + inside * item,
                (*strides, width * item, item),
            )


def _cut_at_tiles(window: Slices, tile_shape: tuple[int, int]) -> Iterator[Slices]:
    """Cut a window `y, x` at the edges of tiles."""
    aligned = tuple(slice(part.start // size * size, part.stop) for part, size in zip(window, tile_shape, strict=True))
    for tile in boxes(aligned, tile_shape):
        yield tuple(slice(max(cut.start, part.start), cut.stop) for cut, part in zip(tile, window, strict=True))


def _within(part: slice, around: slice) -> slice:
    return slice(part.start - around.start, part.stop - around.start)
