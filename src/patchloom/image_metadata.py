"""What a source says of its voxels and channels, and what a result carries over from it."""

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
        Name of the image; empty where the source gives none.
    voxel_size : mapping of str to float
        Size of a voxel along `T`, `Z`, `Y` or `X`; axes that the source is silent about are left out.
    origin : mapping of str to float
        Where the center of the first voxel is along `T`, `Z`, `Y` or `X`, in the unit of that axis; axes that the source is
        silent about are left out.
    units : mapping of str to str
        Unit of each size, by its full name (`"micrometer"`, `"second"`).
    channel_names : tuple of str
        One name a channel, or none at all.
    channel_colors : tuple of str
        One color a channel as `RRGGBB`, or none at all.
    is_rgb : bool
        Whether the channels are the red, green and blue of a color image, to be shown with one range of values.

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
