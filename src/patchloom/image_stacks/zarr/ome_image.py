"""What OME-Zarr metadata say of an image, read with yaozarrs' models."""

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
"""Numbers from here on are no sizes."""


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
    """For each level the size of a voxel along each axis: negative where that is flipped, NaN where it is not known."""
    translations: tuple[tuple[float, ...], ...]
    """For each level where its first voxel is."""
    channel_names: tuple[str, ...]
    channel_colors: tuple[str, ...]
    is_rgb: bool
    """Whether the channels are red, green and blue, shown with one range of values."""


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
            image = (v05 if "ome" in attributes else v04).Multiscale.model_validate(_with_unit_scales(multiscales[0]))
            transformations = _transformations(multiscales[0], len(image.axes))
            paths = tuple(path_inside(dataset.path) for dataset in image.datasets)
            _check_order(transformations, [axis.type == "space" for axis in image.axes])
        except (ValidationError, LookupError, TypeError, ValueError, AttributeError) as error:
            raise SourceError(
                f"{source} has OME-Zarr metadata that are not valid, or of another version than 0.4 and 0.5 "
                f"({_first_words(error)}): name a level and its axes yourself, such as {source}/0 with axes='TCZYX'"
            ) from error
        try:
            channels = v05.Omero.model_validate(ome.get("omero") or {"channels": []}).channels
        except ValidationError:
            channels = []  # names and colors are missed, the pixels are not
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
    """Return a path within a store, or refuse one that leads out of it: a file says it, and may come from anybody.

    Raises
    ------
    ValueError
        If the path is absolute, empty, or has `..` or another step that stores do not know.

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
    """From a voxel's index to its place: `scale` times the index, plus `translation`, along each axis."""

    scale: tuple[float, ...]
    """NaN where it is not known."""
    translation: tuple[float, ...]


def _transformations(multiscale: dict[str, Any], n_axes: int) -> list[_Transformation]:
    """Read the transformation of each level, as far as numbers are there."""
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
    """Turn a list into numbers, and what is none in it into NaN; so where it lies in an array of its own."""
    values = listed if isinstance(listed, list) else [None] * n_axes
    if len(values) != n_axes:
        raise ValueError(f"a transformation has {len(values)} numbers, and there are {n_axes} axes")
    plain = [value if isinstance(value, (int, float)) and abs(value) < _LARGEST else math.nan for value in values]
    return np.array(plain, np.float64)


def _check_order(levels: Sequence[_Transformation], is_spatial: Sequence[bool]) -> None:
    """Refuse levels that come in another order than from fine to coarse, as far as their scales are known."""
    scales = [
        [abs(size) for size, is_space in zip(level.scale, is_spatial, strict=True) if is_space] for level in levels
    ]
    volumes = [math.prod(sizes) for sizes in scales]
    if any(second < first for first, second in pairwise(volumes)):
        raise ValueError(f"its levels are not ordered from fine to coarse: their spatial scales are {scales}")


def _with_unit_scales(multiscale: dict[str, Any]) -> dict[str, Any]:
    """Replace all transformations by plain ones: the models refuse flips and levels without a scale, which are no loss."""
    unit = [{"type": "scale", "scale": [1.0] * max(len(multiscale["axes"]), 2)}]
    plain = {name: value for name, value in multiscale.items() if name != "coordinateTransformations"}
    return {
        **plain,
        "datasets": [{**dataset, "coordinateTransformations": unit} for dataset in multiscale["datasets"]],
    }


def _first_words(error: Exception) -> str:
    """Return the first of what a model has against metadata."""
    errors = getattr(error, "errors", None)  # those of pydantic, which is not imported here
    if errors is not None:
        first = errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


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
