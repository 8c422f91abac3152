"""OME-Zarr metadata of an image, read with the models of yaozarrs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import LEGAL_AXES, SPATIAL_AXES
from patchloom.errors import SourceError
from patchloom.image_metadata import RGB_COLORS

_LARGEST = 1e300
"""Numbers of this size and above are not sizes."""


class OmeZarrImage(NamedTuple):
    """The first multiscale image of a group, as plain values."""

    name: str
    axes: tuple[str, ...]
    """For each axis a letter of `STCZYX`, or its name if it has no letter."""
    units: tuple[str, ...]
    """Unit of each axis; empty if it has none."""
    paths: tuple[str, ...]
    """Paths of the levels, relative to the group."""
    scales: tuple[tuple[float, ...], ...]
    """For each level the size of a voxel along each axis: negative if the axis is flipped, NaN if it is not known."""
    translations: tuple[tuple[float, ...], ...]
    """For each level the position of its first voxel."""
    channel_names: tuple[str, ...]
    channel_colors: tuple[str, ...]
    is_rgb: bool
    """Whether the channels are red, green and blue, shown with one range of values."""


def ome_zarr_image(source: str, attributes: dict[str, Any]) -> OmeZarrImage | None:
    """Read the metadata of OME-Zarr 0.4 and 0.5 from the attributes of a group.

    Parameters
    ----------
    source : str
        Name of the group in messages.
    attributes : dict
        Attributes of the group.

    Returns
    -------
    OmeZarrImage or None
        None if the group is not an OME-Zarr image.

    Raises
    ------
    SourceError
        If the metadata are not valid, or of another version.
    """
    ome = attributes.get("ome", attributes)
    multiscales = ome.get("multiscales") if isinstance(ome, dict) else None
    if not multiscales:
        return None
    # Importing pydantic, which yaozarrs needs, is slow.
    from pydantic import ValidationError  # noqa: PLC0415
    from yaozarrs import v04, v05  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # unknown units and risky names do no harm
        try:
            image = (v05 if "ome" in attributes else v04).Multiscale.model_validate(_with_unit_scales(multiscales[0]))
            transformations = _transformations(multiscales[0], len(image.axes))
            paths = tuple(path_inside(dataset.path) for dataset in image.datasets)
            _check_order(transformations, [axis.type == "space" for axis in image.axes])
        except (ValidationError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{source} has OME-Zarr metadata that are not valid, or of another version than 0.4 and 0.5 "
                f"({_first_words(error)}): give a level and its axes, such as {source}/0 with axes='TCZYX'"
            ) from error
        try:
            channels = v05.Omero.model_validate(ome.get("omero") or {"channels": []}).channels
        except ValidationError:
            channels = []  # only names and colors are lost
    colors = tuple(channel.color.upper() for channel in channels)
    return OmeZarrImage(
        name=image.name or "",
        axes=_letters([(axis.name, axis.type) for axis in image.axes]),
        units=tuple(axis.unit or "" for axis in image.axes),
        paths=paths,
        scales=tuple(level.scale for level in transformations),
        translations=tuple(level.translation for level in transformations),
        channel_names=tuple(channel.label or "" for channel in channels),
        channel_colors=colors,
        is_rgb=colors == RGB_COLORS and len({(channel.window.start, channel.window.end) for channel in channels}) == 1,
    )


def path_inside(path: str) -> str:
    """Return a path within a store, and refuse one that leads out of it, since files are not trusted.

    Raises
    ------
    ValueError
        If the path is absolute or empty, or has `..` or another step that stores do not have.

    Examples
    --------
    >>> path_inside("./0/")
    '0'
    >>> path_inside("../secret.zarr/0")
    Traceback (most recent call last):
        ...
    ValueError: the path '../secret.zarr/0' leads out of the image
    """
    steps = path.removesuffix("/").split("/")
    inside = [step for step in steps if step != "."]
    if not inside or {"", ".."} & set(inside) or set(path) & set("\\\0"):
        raise ValueError(f"the path {path!r} leads out of the image")
    return "/".join(inside)


class _Transformation(NamedTuple):
    """The position of a voxel along each axis: `scale` times its index, plus `translation`."""

    scale: tuple[float, ...]
    """NaN if it is not known."""
    translation: tuple[float, ...]


def _transformations(multiscale: dict[str, Any], n_axes: int) -> list[_Transformation]:
    """Return the transformation of each level, as far as it has numbers."""
    common = multiscale.get("coordinateTransformations") or []
    return [
        _chained([*(dataset.get("coordinateTransformations") or []), *common], n_axes)
        for dataset in multiscale["datasets"]
    ]


def _chained(steps: Sequence[dict[str, Any]], n_axes: int) -> _Transformation:
    scale, translation, is_known = np.ones(n_axes), np.zeros(n_axes), False
    with np.errstate(all="ignore"):
        for step in steps:
            if step.get("type") == "scale":
                factors = _numbers(step.get("scale"), n_axes)
                scale, translation, is_known = scale * factors, translation * factors, True
            elif step.get("type") == "translation":
                translation = translation + _numbers(step.get("translation"), n_axes)
    scale[~np.isfinite(scale) | (scale == 0)] = np.nan
    return _Transformation(tuple(scale.tolist()) if is_known else (math.nan,) * n_axes, tuple(translation.tolist()))


def _numbers(listed: Any, n_axes: int) -> NDArray[np.float64]:
    """Return a list as numbers, with NaN for other values, or if the numbers are in a separate array."""
    values = listed if isinstance(listed, list) else [None] * n_axes
    if len(values) != n_axes:
        raise ValueError(f"a transformation has {len(values)} numbers, and there are {n_axes} axes")
    plain = [value if isinstance(value, (int, float)) and abs(value) < _LARGEST else math.nan for value in values]
    return np.array(plain, np.float64)


def _check_order(levels: Sequence[_Transformation], is_spatial: Sequence[bool]) -> None:
    """Check that levels are in order from fine to coarse, as far as their scales are known."""
    scales = [
        [abs(size) for size, is_space in zip(level.scale, is_spatial, strict=True) if is_space] for level in levels
    ]
    volumes = [math.prod(sizes) for sizes in scales]
    if any(second < first for first, second in pairwise(volumes)):
        raise ValueError(f"its levels are not ordered from fine to coarse: their spatial scales are {scales}")


def _with_unit_scales(multiscale: dict[str, Any]) -> dict[str, Any]:
    """Replace all transformations by unit scales, as the models refuse flips and levels without a scale."""
    unit = [{"type": "scale", "scale": [1.0] * max(len(multiscale["axes"]), 2)}]
    plain = {name: value for name, value in multiscale.items() if name != "coordinateTransformations"}
    return {
        **plain,
        "datasets": [{**dataset, "coordinateTransformations": unit} for dataset in multiscale["datasets"]],
    }


def _first_words(error: Exception) -> str:
    """Return the first error of a model in metadata."""
    errors = getattr(error, "errors", None)  # those of pydantic, which is not imported here
    if errors is not None:
        first = errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _letters(axes: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """Return the letter of each axis: its name if that is a letter, else by its type, spatial axes in order."""
    n_space = sum(kind == "space" for _, kind in axes)
    spatial = iter(SPATIAL_AXES[-n_space:])
    by_type = {"time": "T", "channel": "C"}
    letters = []
    for name, kind in axes:
        in_order = next(spatial) if kind == "space" else by_type.get(kind or "", name)
        letters.append(name.upper() if name.upper() in LEGAL_AXES else in_order)
    return tuple(letters)
