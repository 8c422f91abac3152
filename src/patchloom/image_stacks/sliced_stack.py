"""The base of image stacks of all formats: it turns a patch into slices of the source, and the pixels into `C(Z)YX`.

A stack of another format only defines how to read a box in the axes of the source: see `SlicedStack.read`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import listed, shown
from patchloom.axes import AxesMap
from patchloom.errors import GeometryError, SourceError
from patchloom.geometry.checks import spatial_tuple, whole_number
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks.protocols import Region

_BRIDGED = 8
"""Largest number of channels that are read for each channel wanted."""


def describe_selection(axes: str, selection: Sequence[slice | int]) -> str:
    """Describe a box of a source for a message.

    Examples
    --------
    >>> describe_selection("TYX", (3, slice(0, 64), slice(32, 96)))
    'T 3, Y 0:64, X 32:96'
    """
    return ", ".join(
        f"{axis} {index.start}:{index.stop}" if isinstance(index, slice) else f"{axis} {index}"
        for axis, index in zip(axes, selection, strict=True)
    )


class SlicedStack(ABC):
    """An `ImageStack` over a source of which any box can be read.

    Parameters
    ----------
    source : str or Path
        Path, URL or name of the image.
    axes_map : AxesMap
        Axes and shape of the source.
    dtype : numpy dtype
        Dtype of the source; patches have it in the byte order of the machine.
    metadata : ImageMetadata, optional
        Voxel sizes and channels of the source.

    Raises
    ------
    SourceError
        If the pixels are not numbers.
    """

    def __init__(
        self, source: str | Path, axes_map: AxesMap, dtype: np.dtype[Any], metadata: ImageMetadata | None = None
    ) -> None:
        if dtype.kind not in "biufc":
            raise SourceError(f"{source} has dtype {dtype}: the pixels of an image must be numbers")
        self.source = source
        self.axes_map = axes_map
        self.data_shape = axes_map.data_shape
        self.data_dtype = dtype.newbyteorder("=")
        self.original_axes = axes_map.axes
        self.original_data_shape = axes_map.shape
        self.metadata = metadata or ImageMetadata()

    @abstractmethod
    def read(self, selection: tuple[slice | int, ...]) -> NDArray[Any]:
        """Read a box of the source.

        Parameters
        ----------
        selection : tuple
            One index for each axis of the source: an `int` removes the axis, a slice has a start and a stop inside the image
            and a step of 1.

        Returns
        -------
        array
            In the axes and dtype of the source. May be a view of the source, as it is copied afterwards.

        Raises
        ------
        SourceError
            If the pixels cannot be read; the message names the source.
        """

    def read_region(self, region: Region) -> NDArray[Any]:
        """Read one box as `C(Z)YX`; may be a view of the source."""
        return self.axes_map.to_canonical(self.read(self.axes_map.selection(*region)))

    def read_regions(self, regions: Sequence[Region], out: Sequence[NDArray[Any]]) -> None:
        """Read regions into given arrays; see `ReadsRegions.read_regions`."""
        for region, target in zip(regions, out, strict=True):
            target[...] = self.read_region(region)

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> NDArray[Any]:
        """Read one patch; see `ImageStack.extract_patch`."""
        spatial_shape = self.data_shape[2:]
        starts = spatial_tuple("coords", coords, len(spatial_shape), least=-(2**62))
        sizes = spatial_tuple("patch_size", patch_size, len(spatial_shape), least=1)
        sample = self._checked("sample_idx", sample_idx, self.data_shape[0])
        wanted = list(range(self.data_shape[1]))
        if channels is not None:
            given = listed("channels", channels, "a sequence of whole numbers, such as [0, 2]")
            wanted = [self._checked("channels", channel, self.data_shape[1]) for channel in given]
        patch = np.zeros((len(wanted), *sizes), self.data_dtype)
        inside = tuple(
            slice(max(start, 0), min(start + size, limit))
            for start, size, limit in zip(starts, sizes, spatial_shape, strict=True)
        )
        if wanted and all(window.start < window.stop for window in inside):
            landing = tuple(
                slice(window.start - start, window.stop - start) for window, start in zip(inside, starts, strict=True)
            )
            patch[(slice(None), *landing)] = self._read_channels(sample, wanted, inside)
        return patch

    def _read_channels(self, sample_idx: int, wanted: list[int], window: tuple[slice, ...]) -> NDArray[Any]:
        """Read channels in any order, close ones together, if that reads few others."""
        first, last = min(wanted), max(wanted)
        if last - first < _BRIDGED * len(wanted):
            region = self.read_region(Region(sample_idx, slice(first, last + 1), window))
            in_order = wanted == list(range(first, first + len(wanted)))
            return region if in_order else region[[channel - first for channel in wanted]]
        each = [slice(channel, channel + 1) for channel in wanted]
        return np.concatenate([self.read_region(Region(sample_idx, channel, window)) for channel in each])

    def _checked(self, name: str, value: int, limit: int) -> int:
        number = whole_number(name, value)
        if not 0 <= number < limit:
            raise GeometryError(
                f"{name} is {shown(number)}, but {self.source} has {limit}, counted from 0: its shape SC(Z)YX is {self.data_shape}"
            )
        return number

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.source)!r}, {self.original_axes} {self.original_data_shape}, {self.data_dtype})"


def as_data_box(axes_map: AxesMap, box: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of a chunk, given in the axes of the source, as `SC(Z)YX`, clipped to the image.

    Samples and times become one axis, in which a chunk of some times of several samples is not a box; then the box is its
    times of one sample.

    Examples
    --------
    >>> as_data_box(AxesMap("TCYX", (10, 3, 600, 500)), (4, 1, 256, 256))
    (4, 1, 256, 256)
    >>> as_data_box(AxesMap("STYX", (5, 10, 600, 500)), (2, 10, 256, 256))
    (20, 1, 256, 256)
    """
    size = {axis: min(side, axes_map.size(axis)) for axis, side in zip(axes_map.axes, box, strict=True)}
    times = size.get("T", 1)
    samples = size.get("S", 1) * times if times == axes_map.size("T") else times
    return (samples, size.get("C", 1), *(size[axis] for axis in axes_map.spatial))
