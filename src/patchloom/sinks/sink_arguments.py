"""Checks of the arguments that all sinks share, made before any file is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from patchloom.argument_checks import file_path, flag, instance
from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.image_metadata import ImageMetadata
from patchloom.pixel_arrays import pixel_dtype
from patchloom.sinks.publishing.lock import OutputLock


def check_sink_arguments(
    path: Any,
    axes_map: Any,
    *,
    metadata: Any = None,
    overwrite: Any = False,
    resume: Any = False,
    lock: Any = None,
) -> None:
    """Check the types of the arguments of a sink.

    Raises
    ------
    ArgumentTypeError
        If an argument has another type.
    SinkError
        If `path` is not a path.
    """
    file_path("path", path, error=SinkError)
    instance("axes_map", axes_map, AxesMap, "such as AxesMap('YX', (64, 64))")
    if metadata is not None:
        instance("metadata", metadata, ImageMetadata)
    flag("overwrite", overwrite)
    flag("resume", resume)
    if lock is not None:
        instance("lock", lock, OutputLock)


def sink_dtype(dtype: DTypeLike) -> np.dtype[Any]:
    """Return a NumPy dtype. The sink checks whether it can store it.

    Raises
    ------
    GeometryError
        If it is not a dtype.
    """
    known = _known(dtype) if isinstance(dtype, (str, type, np.dtype)) else None
    return pixel_dtype("dtype", dtype) if known is None else known


def _known(dtype: Any) -> np.dtype[Any] | None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of old names, which no sink stores
            known: np.dtype[Any] = np.dtype(dtype)
    except (TypeError, ValueError, SyntaxError):
        return None
    return known
