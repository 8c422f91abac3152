"""What is read of the images: channels by index or by name, and voxel sizes that their metadata lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np

from patchloom.argument_checks import listed, real_number, shown, whole_number
from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack, select_channels
from patchloom.image_stacks.metadata import unit_size

Channels = tuple[int | str, ...]

VoxelSize = float | tuple[float, ...]
"""In micrometers: one number for all spatial axes, or `(z,) y, x`."""

_MOST_LISTED = 20
_LEAST_SIZE, _LARGEST_SIZE = 1e-6, 1e9
_HELP = "give indices, counted from 0, or names of channels, such as [0, 2] or ['DAPI', 'GFP']"


def parse_channels(value: Any) -> Channels | None:
    """Parse the argument `channels` of `predict`.

    Parameters
    ----------
    value : int, str, sequence of int or str, or None
        A text contains channels that are separated by commas; a whole number is an index.

    Raises
    ------
    ArgumentError
        If it is something else, or empty.

    Examples
    --------
    >>> parse_channels("2,DAPI"), parse_channels(1), parse_channels(["0"])
    ((2, 'DAPI'), (1,), ('0',))
    """
    if value is None:
        return None
    if isinstance(value, str):
        given: list[Any] = [int(part) if part.isdecimal() else part for part in map(str.strip, value.split(","))]
    elif isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        given = [value]
    else:
        given = listed("channels", value, _HELP.removeprefix("give "))
    if not given:
        raise ArgumentError(f"channels is {shown(value)}: {_HELP}; leave it out for all channels")
    return tuple(_parse_channel(channel, value) for channel in given)


def _parse_channel(channel: Any, value: Any) -> int | str:
    if isinstance(channel, str):
        if not channel:
            raise ArgumentError(f"channels is {shown(value)}, which contains an empty name: {_HELP}")
        return str(channel)
    try:
        return whole_number("channels", channel, least=0)
    except GeometryError as error:
        kind = ArgumentTypeError if isinstance(error, ArgumentTypeError) else ArgumentError
        raise kind(f"channels contains {shown(channel)}: {_HELP}") from None


def channel_indices(image: ImageStack, channels: Channels | None) -> tuple[int, ...]:
    """Return the indices of the chosen channels of an image; all of them if none are chosen.

    Parameters
    ----------
    image : ImageStack
        The image.
    channels : tuple of int or str, optional
        From `parse_channels`.

    Raises
    ------
    GeometryError
        If the image does not have one of them, or has several of one name. The message lists its channels.

    Examples
    --------
    >>> from patchloom import ArrayStack, ImageMetadata
    >>> cells = ArrayStack(np.zeros((2, 4, 4)), axes="CYX", metadata=ImageMetadata(channel_names=("DAPI", "GFP")))
    >>> channel_indices(cells, ("GFP", 0))
    (1, 0)
    >>> channel_indices(cells, ("RFP",))
    Traceback (most recent call last):
        ...
    patchloom.errors.GeometryError: channels contains 'RFP', but array has the channels 0 'DAPI', 1 'GFP': choose among these
    """
    n_channels = int(image.data_shape[1])
    if channels is None:
        return tuple(range(n_channels))
    names = image.metadata.channel_names if isinstance(image, HasMetadata) else ()
    return tuple(_index(image, channel, names) for channel in channels)


def _index(image: ImageStack, channel: int | str, names: Sequence[str]) -> int:
    n_channels = int(image.data_shape[1])
    if isinstance(channel, int):
        places = [channel] if channel < n_channels else []
    else:
        places = [place for place, name in enumerate(names) if name == channel]
    if len(places) == 1:
        return places[0]
    if places:
        numbers = ", ".join(map(str, places))
        raise GeometryError(
            f"channels contains {shown(channel)}, and {image.source} has {len(places)} channels of that name: give the "
            f"index, one of {numbers}"
        )
    has = ", ".join(f"{place} {name!r}" for place, name in enumerate(names[:_MOST_LISTED]))
    more = f" and {n_channels - _MOST_LISTED} more" if has and n_channels > _MOST_LISTED else ""
    numbered = "the channel 0" if n_channels == 1 else f"{n_channels} channels, counted from 0"
    raise GeometryError(
        f"channels contains {shown(channel)}, but {image.source} has {f'the channels {has}{more}' if has else f'{numbered}, without names'}: "
        "choose among these"
    )


def choose_channels(images: Sequence[ImageStack], channels: Channels | None) -> list[ImageStack]:
    """Return stacks of the chosen channels of images, which read only these.

    Parameters
    ----------
    images : sequence of ImageStack
        The images.
    channels : tuple of int or str, optional
        From `parse_channels`. If None, the images are returned unchanged.

    Raises
    ------
    GeometryError
        If an image does not have one of the channels.
    """
    if channels is None:
        return list(images)
    return [select_channels(image, channel_indices(image, channels), repeats=True) for image in images]


def parse_sizes(name: str, value: Any) -> VoxelSize | None:
    """Parse the size of a voxel in micrometers.

    Parameters
    ----------
    name : str
        Name of the argument, for the message.
    value : float, str, sequence of float, or None
        One number for all spatial axes, or `(z,) y, x`. A text contains numbers that are separated by commas.

    Raises
    ------
    ArgumentError
        If it is something else, or a number is not positive.

    Examples
    --------
    >>> parse_sizes("voxel_size", "0.5,0.1,0.1"), parse_sizes("voxel_size", 2)
    ((0.5, 0.1, 0.1), 2.0)
    """
    if value is None:
        return None
    what = "one number of micrometers for all spatial axes, or one for each, such as 0.5,0.1,0.1"
    if isinstance(value, str):
        try:
            given: list[Any] = [float(part) for part in value.split(",")]
        except ValueError:
            raise ArgumentError(f"{name} is {shown(value)}: give {what}") from None
    elif isinstance(value, (int, float, np.integer, np.floating)):
        given = [value]
    else:
        given = listed(name, value, what)
    if len(given) not in ((1, 2, 3) if isinstance(value, str) or given == [value] else (2, 3)):
        raise GeometryError(f"{name} is {shown(value)}: give {what}")
    sizes = tuple(real_number(name, size, least=_LEAST_SIZE, most=_LARGEST_SIZE) for size in given)
    return sizes[0] if len(sizes) == 1 else sizes


def parse_pixel_size(value: Any) -> VoxelSize | str | None:
    """Parse the argument `pixel_size` of `predict`: sizes in micrometers, or `"model"` for the sizes of the model's description.

    Raises
    ------
    ArgumentError
        If it is something else.

    Examples
    --------
    >>> parse_pixel_size("model"), parse_pixel_size("0.2,0.2")
    ('model', (0.2, 0.2))
    """
    return value if isinstance(value, str) and value == "model" else parse_sizes("pixel_size", value)


def metadata_of(image: ImageStack, voxel_size: VoxelSize | None = None) -> ImageMetadata:
    """Return the metadata of an image, with voxel sizes that are given.

    Parameters
    ----------
    image : ImageStack
        The image.
    voxel_size : float or tuple of float, optional
        From `parse_sizes`. If None, as the metadata contain it.

    Raises
    ------
    GeometryError
        If there are three sizes, and the image is 2D.
    """
    metadata = image.metadata if isinstance(image, HasMetadata) else ImageMetadata()
    if voxel_size is None:
        return metadata
    axes = "ZYX" if "Z" in image.original_axes.upper() else "YX"
    sizes = voxel_size if isinstance(voxel_size, tuple) else (voxel_size,) * len(axes)
    if len(sizes) > len(axes):
        raise GeometryError(
            f"voxel_size is {voxel_size}, and {image.source} has the axes {image.original_axes}: give two numbers, for Y and X"
        )
    given = dict(zip(axes[-len(sizes) :], sizes, strict=True))
    units = metadata.units | dict.fromkeys(given, "micrometer")
    known = {axis: unit_size(metadata.units.get(axis, ""))[1] for axis in given if axis in metadata.origin}
    origin = {axis: metadata.origin[axis] * unit * 1e6 for axis, unit in known.items() if isfinite(unit)}
    return replace(metadata, voxel_size=metadata.voxel_size | given, units=units, origin=metadata.origin | origin)
