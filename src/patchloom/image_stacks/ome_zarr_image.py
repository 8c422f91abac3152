"""What OME-Zarr metadata say of an image, read with yaozarrs' models."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from patchloom.axes import LEGAL_AXES, SPATIAL_AXES
from patchloom.errors import SourceError


class OmeZarrImage(NamedTuple):
    """The multiscales of a group, in plain values."""

    name: str
    axes: tuple[str, ...]
    """One letter of `STCZYX` an axis, or the axis' own name where it has none."""
    units: tuple[str, ...]
    """One an axis; empty where there is none."""
    paths: tuple[str, ...]
    """Where the levels are, from the group."""
    scales: tuple[tuple[float, ...], ...]
    """For each level the size of a voxel along each axis."""
    channel_names: tuple[str, ...]
    channel_colors: tuple[str, ...]


def ome_zarr_image(source: str, attributes: dict[str, Any]) -> OmeZarrImage | None:
    """Read the metadata of OME-Zarr 0.4 and 0.5 out of a group's attributes.

    Parameters
    ----------
    source : str
        What to call the group.
    attributes : dict
        Its attributes.

    Returns
    -------
    OmeZarrImage or None
        `None` if the group is no OME-Zarr image.

    Raises
    ------
    SourceError
        If the metadata are not valid, or of another version.
    """
    ome = attributes.get("ome", attributes)
    multiscales = ome.get("multiscales") if isinstance(ome, dict) else None
    if not multiscales:
        return None
    # pydantic, beneath yaozarrs, takes its time.
    from pydantic import ValidationError  # noqa: PLC0415
    from yaozarrs import v04, v05  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unknown unit or a risky name is the writer's affair
        try:
            image = (v05 if "ome" in attributes else v04).Multiscale.model_validate(multiscales[0])
        except (ValidationError, LookupError, TypeError) as error:
            first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": str(error)}
            said = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
            raise SourceError(
                f"{source} has OME-Zarr metadata that are not valid, or of another version than 0.4 and 0.5 ({said}): "
                f"name a level and its axes yourself, such as {source}/0 with axes='TCZYX'"
            ) from error
        try:
            channels = v05.Omero.model_validate(ome.get("omero") or {"channels": []}).channels
        except ValidationError:
            channels = []  # names and colours are missed, the pixels are not
    common = _scale(image.coordinateTransformations or (), len(image.axes))
    return OmeZarrImage(
        name=image.name or "",
        axes=_letters([(axis.name, axis.type) for axis in image.axes]),
        units=tuple(axis.unit or "" for axis in image.axes),
        paths=tuple(dataset.path for dataset in image.datasets),
        scales=tuple(
            tuple(np.multiply(_scale(dataset.coordinateTransformations, len(image.axes)), common).tolist())
            for dataset in image.datasets
        ),
        channel_names=tuple(channel.label or "" for channel in channels),
        channel_colors=tuple(channel.color for channel in channels),
    )


def _scale(transformations: Sequence[Any], n_axes: int) -> Sequence[float]:
    """Scale among some transformations; none is a scale of one."""
    scales = [transformation.scale for transformation in transformations if transformation.type == "scale"]
    return scales[0] if scales else [1.0] * n_axes


def _letters(axes: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Letter of each axis, by its name where that is one, else by its type; spatial ones in their order."""
    n_space = sum(kind == "space" for _, kind in axes)
    spatial = iter(SPATIAL_AXES[-n_space:])
    by_type = {"time": "T", "channel": "C"}
    letters = []
    for name, kind in axes:
        in_order = next(spatial) if kind == "space" else by_type.get(kind or "", name)
        letters.append(name.upper() if name.upper() in LEGAL_AXES else in_order)
    return tuple(letters)
