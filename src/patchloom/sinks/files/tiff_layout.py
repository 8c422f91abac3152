"""The layout of an image in a tiled OME-TIFF: its axes, its tiles and its metadata, written before any voxel."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.image_metadata import ImageMetadata

TILE_SIZE = 256
"""Preferred size of a tile in voxels."""

_TILE_UNIT = 16
"""Sizes of tiles are multiples of this, as TIFF requires."""

_UNITS = {
    "angstrom": "Å",
    "picometer": "pm",
    "nanometer": "nm",
    "micrometer": "µm",
    "millimeter": "mm",
    "centimeter": "cm",
    "meter": "m",
    "inch": "in",
    "nanosecond": "ns",
    "microsecond": "µs",
    "millisecond": "ms",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "day": "d",
}


def tiff_axes(axes_map: AxesMap) -> str:
    """Return the axes of an image in OME-TIFF: pages are planes `YX`, in the image's own order of `T`, `C`, `Z`.

    OME-TIFF has no samples: `S`, and `S` and `T` together, are stored as `T`.

    Examples
    --------
    >>> tiff_axes(AxesMap("YXC", (64, 48, 3))), tiff_axes(AxesMap("SZCYX", (2, 8, 3, 64, 48)))
    ('CYX', 'TZCYX')
    """
    leading = ["T" if axis in "ST" else axis for axis in axes_map.axes if axis not in "YX"]
    return "".join(dict.fromkeys(leading)) + "YX"


@dataclass(frozen=True, slots=True)
class TiffLayout:
    """Positions of the voxels of an image in a TIFF: tile after tile, page after page, uncompressed.

    Parameters
    ----------
    axes_map : AxesMap
        The image's own axes and shape.
    dtype : numpy dtype
        Dtype of the voxels.

    Examples
    --------
    >>> layout = TiffLayout(AxesMap("CZYX", (2, 5, 300, 1000)), np.dtype("uint16"))
    >>> layout.axes, layout.shape, layout.tile_shape, layout.tile_counts, layout.tile_bytes
    ('CZYX', (2, 5, 300, 1000), (160, 256), (2, 4), 81920)
    """

    axes_map: AxesMap
    dtype: np.dtype[Any]

    @property
    def axes(self) -> str:
        """The axes that are stored."""
        return tiff_axes(self.axes_map)

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each stored axis."""
        sizes = {"T": self.axes_map.data_shape[0]}
        return tuple(sizes.get(axis) or self.axes_map.size(axis) for axis in self.axes)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Size of a tile, `y, x`: the smallest one with which this number of tiles covers a page."""
        y, x = map(_tile_size, self.shape[-2:])
        return y, x

    @property
    def tile_counts(self) -> tuple[int, int]:
        """Number of tiles of a page, `y, x`."""
        y, x = (math.ceil(size / tile) for size, tile in zip(self.shape[-2:], self.tile_shape, strict=True))
        return y, x

    @property
    def tile_bytes(self) -> int:
        """Bytes of a tile."""
        return math.prod(self.tile_shape) * self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """Bytes of a page."""
        return math.prod(self.tile_counts) * self.tile_bytes

    @property
    def n_pages(self) -> int:
        """Number of planes."""
        return math.prod(self.shape[:-2])

    def page_steps(self) -> dict[str, int]:
        """Return the number of pages from one `T`, `C` or `Z` to the next; 0 for an axis that is not stored."""
        steps = dict.fromkeys("TCZ", 0)
        for position, axis in enumerate(self.axes[:-2]):
            steps[axis] = math.prod(self.shape[position + 1 : -2])
        return steps


def write_layout(path: Path, layout: TiffLayout, metadata: ImageMetadata) -> tuple[int, int]:
    """Write a new BigTIFF that contains everything but its tiles.

    Returns
    -------
    int
        Position of the first tile in bytes.
    int
        Size of the finished file in bytes.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    n_tiles = math.prod(layout.tile_counts)
    one_tile_a_page = layout.tile_shape == layout.shape[-2:]
    with tifffile.TiffWriter(path, bigtiff=True, byteorder="<", ome=True) as writer:
        writer.write(
            None if one_tile_a_page else itertools.repeat(b"", n_tiles * layout.n_pages),
            shape=layout.shape,
            dtype=layout.dtype,
            tile=layout.tile_shape,
            photometric="minisblack",
            software=False,
            metadata=ome_metadata(layout.axes, metadata, n_channels=layout.axes_map.size("C")),
        )
    with tifffile.TiffFile(path, mode="r+") as tif:
        if one_tile_a_page:  # tifffile stores these one after the other itself
            return tif.pages.first.dataoffsets[0], path.stat().st_size
        begin = offset = path.stat().st_size + -path.stat().st_size % 4096
        # tifffile wrote the tiles as missing ones, so their tables are filled here.
        for page in tif.pages:
            offsets = range(offset, offset + layout.page_bytes, layout.tile_bytes)
            page.aspage().tags["TileOffsets"].overwrite(list(offsets))
            page.aspage().tags["TileByteCounts"].overwrite([layout.tile_bytes] * n_tiles)
            offset += layout.page_bytes
    return begin, offset


def ome_metadata(axes: str, metadata: ImageMetadata, *, n_channels: int) -> dict[str, Any]:
    """Return metadata as tifffile takes them for OME-XML.

    A voxel size without a unit, or with a unit that OME-XML does not have, is left out: readers would assume micrometers.

    Examples
    --------
    >>> known = ImageMetadata(name="cells", voxel_size={"X": 0.5}, units={"X": "micrometer"}, channel_colors=("FF0000",))
    >>> ome_metadata("YX", known, n_channels=1)
    {'axes': 'YX', 'Name': 'cells', 'PhysicalSizeX': 0.5, 'PhysicalSizeXUnit': 'µm', 'Channel': {'Color': [-16776961]}}
    """
    described: dict[str, Any] = {"axes": axes, "Name": _attribute(metadata.name)}
    for axis in axes:
        size, unit = metadata.voxel_size.get(axis, math.nan), _UNITS.get(metadata.units.get(axis, ""))
        if unit and math.isfinite(size) and size > 0:
            name = "TimeIncrement" if axis == "T" else f"PhysicalSize{axis}"
            described |= {name: size, f"{name}Unit": unit}
    channel: dict[str, Any] = {}
    if metadata.channel_names:
        channel["Name"] = [_attribute(name) for name in metadata.channel_names]
    if metadata.channel_colors:
        channel["Color"] = [_signed_rgba(color) for color in metadata.channel_colors]
    for what, given in channel.items():
        if len(given) != n_channels:
            raise SinkError(
                f"metadata has {len(given)} channels ({what}: {given}), but the image has {n_channels}: give one for each channel"
            )
    return described | ({"Channel": channel} if channel else {})


def _attribute(text: str) -> str:
    """Return a text that an XML attribute can contain; older versions of tifffile do not escape quotes."""
    return "".join(character for character in text if character.isprintable()).replace('"', "'")


def _tile_size(size: int) -> int:
    share = math.ceil(size / math.ceil(size / TILE_SIZE))
    return _TILE_UNIT * math.ceil(share / _TILE_UNIT)


def _signed_rgba(color: str) -> int:
    """Return a color for OME-XML: a signed number of 32 bits, from red to opacity."""
    try:
        value = int(color.lstrip("#"), 16) << 8 | 0xFF
    except ValueError:
        raise SinkError(f"metadata.channel_colors has {color!r}: give colors as RRGGBB") from None
    return value - (1 << 32) if value >= 1 << 31 else value
