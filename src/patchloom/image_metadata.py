"""Metadata of the voxels and channels of a source, which results inherit."""

from __future__ import annotations

from dataclasses import dataclass, field

RGB_COLORS = ("FF0000", "00FF00", "0000FF")
"""The colors of the channels of a color image."""


@dataclass(frozen=True, slots=True)
class ImageMetadata:
    """Voxel sizes and channels of an image.

    Parameters
    ----------
    name : str
        Name of the image; empty if the source declares none.
    voxel_size : mapping of str to float
        Size of a voxel along `T`, `Z`, `Y` or `X`; axes that the source does not declare are missing.
    origin : mapping of str to float
        Position of the center of the first voxel along `T`, `Z`, `Y` or `X`, in the unit of the axis; axes that the source does
        not declare are missing.
    units : mapping of str to str
        Unit of each size, by its full name (`"micrometer"`, `"second"`).
    channel_names : tuple of str
        One name for each channel, or empty.
    channel_colors : tuple of str
        One color for each channel, as `RRGGBB`, or empty.
    is_rgb : bool
        Whether the channels are the red, green and blue of a color image, which viewers display with one range of values.

    Examples
    --------
    >>> ImageMetadata(voxel_size={"Y": 0.227, "X": 0.227}, units={"Y": "micrometer", "X": "micrometer"}).channel_names
    ()
    """

    name: str = ""
    voxel_size: dict[str, float] = field(default_factory=dict)
    origin: dict[str, float] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    channel_colors: tuple[str, ...] = ()
    is_rgb: bool = False
