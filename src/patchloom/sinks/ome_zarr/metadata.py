"""The metadata of an OME-Zarr, built from the models of yaozarrs so that they are valid.

Import this module inside functions: yaozarrs needs pydantic, which is slow to import.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import cycle, islice
from typing import Any

from yaozarrs import v04, v05

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.sinks.ome_zarr.pyramid import PyramidMethod

_COLORS = ("00FF00", "FF00FF", "00FFFF", "FFFF00", "FF0000", "0000FF")
_DESCRIPTIONS = {
    "mean": "Each voxel is the mean of 2 voxels along each axis that is halved; integers are rounded half to even.",
    "mode": "Each voxel is the commonest of 2 voxels along each axis that is halved, of equally common ones the smallest.",
    "nearest": "Every second voxel along each axis that is halved.",
}


def ome_axes(axes_map: AxesMap) -> str:
    """Return the axes of an image in OME-Zarr: a part of `tczyx`, in this order.

    OME-Zarr has no samples: `S`, and `S` and `T` together, are stored as `t`.

    Examples
    --------
    >>> ome_axes(AxesMap("YXC", (64, 48, 3))), ome_axes(AxesMap("SZYX", (2, 8, 64, 48)))
    ('cyx', 'tzyx')
    """
    has_samples = "S" in axes_map.axes or "T" in axes_map.axes
    return "t" * has_samples + "c" * ("C" in axes_map.axes) + axes_map.spatial.lower()


def group_attributes(
    axes_map: AxesMap,
    metadata: ImageMetadata,
    *,
    version: str = "0.5",
    level_factors: Sequence[Sequence[int]],
    method: PyramidMethod | None,
    value_ranges: Sequence[tuple[float, float]],
) -> dict[str, Any]:
    """Return the attributes of the group of an image.

    Parameters
    ----------
    axes_map : AxesMap
        The axes and shape of the image, as its user sees it. They are stored under `"patchloom"`, so that
        `AxesMap(axes, shape).from_data` restores the order.
    metadata : ImageMetadata
        Voxel sizes, origin, units and channels. A size that is not positive counts as unknown, and a unit that OME-Zarr does
        not have is left out. The channels of a color image share one window.
    version : {"0.5", "0.4"}
        Version of OME-Zarr. In 0.5 the attributes are under `"ome"`.
    level_factors : sequence of sequence of int
        For each level, number of voxels of the full image that one of its voxels spans, `(z,) y, x`.
    method : {"mean", "mode", "nearest"} or None
        How lower levels are computed; None if there are none.
    value_ranges : sequence of (float, float)
        Smallest and largest value of each channel.

    Raises
    ------
    SinkError
        If there is not one name and one color for each channel, or a color is not valid.
    """
    models = {"0.4": v04, "0.5": v05}[version]
    try:
        image = models.Image(
            multiscales=[_multiscale(models, axes_map, metadata, level_factors, method)],
            omero=models.Omero(channels=_channels(axes_map, metadata, value_ranges)),
        )
    except ValueError as error:
        raise SinkError(f"metadata cannot be written as OME-Zarr: {error}") from error
    attributes = image.model_dump(mode="json", exclude_none=True)
    return {
        **({"ome": attributes} if version == "0.5" else attributes),
        "patchloom": {"axes": axes_map.axes, "shape": list(axes_map.shape)},
    }


def _multiscale(
    models: Any,
    axes_map: AxesMap,
    metadata: ImageMetadata,
    level_factors: Sequence[Sequence[int]],
    method: PyramidMethod | None,
) -> Any:
    axes = ome_axes(axes_map)
    sizes = {axis: metadata.voxel_size.get(axis.upper(), math.nan) for axis in axes}
    known = {axis: size for axis, size in sizes.items() if math.isfinite(size) and size > 0}
    origin = [metadata.origin.get(axis.upper(), 0.0) for axis in axes]
    datasets = []
    for level, spatial_factors in enumerate(level_factors):
        factors = dict.fromkeys(axes, 1) | dict(zip(axes_map.spatial.lower(), spatial_factors, strict=True))
        transformations: list[Any] = [
            models.ScaleTransformation(scale=[known.get(axis, 1.0) * factors[axis] for axis in axes])
        ]
        # A mean or mode is at the center of its voxels; with "nearest" a voxel stays at its position.
        is_central = level > 0 and method != "nearest"
        if is_central or any(origin):
            shift = [known.get(axis, 1.0) * (factors[axis] - 1) / 2 * is_central for axis in axes]
            translation = [start + offset for start, offset in zip(origin, shift, strict=True)]
            transformations.append(models.TranslationTransformation(translation=translation))
        datasets.append(models.Dataset(path=str(level), coordinateTransformations=transformations))
    return models.Multiscale(
        name=metadata.name or None,
        axes=[_axis(axis, metadata.units.get(axis.upper()) if axis in known else None) for axis in axes],
        datasets=datasets,
        type=method,
        metadata={"description": _DESCRIPTIONS[method]} if method else None,
    )


def _axis(name: str, unit: str | None) -> v05.Axis:
    if name == "c":
        return v05.ChannelAxis(name=name)
    kind = v05.TimeAxis if name == "t" else v05.SpaceAxis
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return kind(name=name, unit=unit)
        except Warning:  # yaozarrs warns of a unit that OME-Zarr does not have
            return kind(name=name)


def _channels(
    axes_map: AxesMap, metadata: ImageMetadata, value_ranges: Sequence[tuple[float, float]]
) -> list[v05.OmeroChannel]:
    n_channels = axes_map.size("C")
    default_colors = islice(cycle(_COLORS), n_channels) if n_channels > 1 else ["FFFFFF"]
    names = metadata.channel_names or tuple(f"channel {channel}" for channel in range(n_channels))
    colors = metadata.channel_colors or tuple(default_colors)
    for what, given in (("channel_names", names), ("channel_colors", colors)):
        if len(given) != n_channels:
            raise SinkError(
                f"metadata.{what} has {len(given)} entries, {given}: the image has {n_channels} channels: give one for each"
            )
    if metadata.is_rgb and value_ranges:  # three windows would change the colors
        lows, highs = zip(*value_ranges, strict=True)
        value_ranges = [(min(lows), max(highs))] * n_channels
    return [
        v05.OmeroChannel(label=name, color=color, active=True, window=v05.OmeroWindow(**_window(*value_range)))
        for name, color, value_range in zip(names, colors, value_ranges, strict=True)
    ]


def _window(low: float, high: float) -> dict[str, float]:
    # Viewers refuse an empty window.
    end = high if high > low else low + max(1.0, 1e-6 * abs(low))
    return {"min": low, "start": low, "end": end, "max": end}
