"""What planning needs to know about an image, without the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Self

import numpy as np

from patchloom.geometry.checks import listed_shapes
from patchloom.image_stacks import (
    HasFiles,
    HasStorageGrid,
    HoldsPixels,
    ImageStack,
    PlanePosition,
    opened_stack,
    whole_stack,
)
from patchloom.image_stacks.fingerprint import fingerprint
from patchloom.local_paths import is_url
from patchloom.patching.region_tiling import TileRegion
from patchloom.prediction.image_region import axis_sizes
from patchloom.prediction.plain_data import parse_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class StackFacts:
    """All that planning needs to know about an image stack.

    The first five are those of the `ImageStack`: of the whole image, with the channels that are chosen. For a 2D model, the Z slices of a 3D image are its samples.
    """

    source: str
    original_axes: str
    original_data_shape: tuple[int, ...]
    data_shape: tuple[int, ...]
    data_dtype: np.dtype[Any]

    chunk_shape: tuple[int, ...] | None
    """The box that is decoded at once, `SC(Z)YX`; None if the stack is not stored in chunks, or is in memory."""

    in_memory: bool
    """Whether its pixels are there without being read."""

    n_planes: int
    """Number of Z slices that became samples; 0 if none did."""

    place: str | None
    """Absolute path or URL by which `open_stacks` opens it again; None if it is not a file."""

    state: str
    """Its `"quick"` fingerprint."""

    region: tuple[tuple[int, ...], ...] | None = None
    """Start and stop of the region that is predicted, along S, T, Z if the image has it, Y and X; None for the whole image."""

    @classmethod
    def of(
        cls, stack: ImageStack, state: str | None = None, region: Mapping[str, tuple[int, int]] | None = None
    ) -> Self:
        """Return the facts about a stack; no pixel is read.

        Parameters
        ----------
        stack : ImageStack
            The stack that the model is run on.
        state : str, optional
            Its `"quick"` fingerprint, if that is known already.
        region : mapping, optional
            Start and stop along each axis, from `region_ranges`.
        """
        image, opened = whole_stack(stack), opened_stack(stack)
        in_memory = isinstance(stack, HoldsPixels) and stack.pixels is not None
        chunk_shape = stack.chunk_shape if isinstance(stack, HasStorageGrid) and not in_memory else None
        return cls(
            source=str(stack.source),
            original_axes=stack.original_axes,
            original_data_shape=_plain(stack.original_data_shape),
            data_shape=_plain(stack.data_shape),
            data_dtype=np.dtype(stack.data_dtype),
            chunk_shape=None if chunk_shape is None else _plain(chunk_shape),
            in_memory=in_memory,
            n_planes=0 if image is stack else int(image.data_shape[2]),
            place=place_of(opened),
            state=fingerprint(opened, "quick").digest if state is None else state,
            region=None if region is None else tuple(region.values()),
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of the image as it was given, `SC(Z)YX`."""
        if not self.n_planes:
            return self.data_shape
        n_slices, n_channels, *plane = self.data_shape
        return (n_slices // self.n_planes, n_channels, self.n_planes, *plane)

    @property
    def tile_region(self) -> TileRegion | None:
        """The region in samples and spatial axes of the stack; None for the whole image."""
        if self.region is None:
            return None
        sizes = list(axis_sizes(self.original_axes, self.original_data_shape, self.image_shape).values())
        n_outer = len(self.region) - len(self.data_shape) + 2
        ranges = [(start, stop) for start, stop in self.region]
        return TileRegion(tuple(sizes[:n_outer]), tuple(ranges[:n_outer]), tuple(ranges[n_outer:]))

    @property
    def output_ranges(self) -> dict[str, tuple[int, int]]:
        """Start and stop of what is predicted along S, T, Z if the image has it, Y and X."""
        sizes = axis_sizes(self.original_axes, self.original_data_shape, self.image_shape)
        region = self.region or tuple((0, size) for size in sizes.values())
        return {axis: (start, stop) for axis, (start, stop) in zip(sizes, region, strict=True)}

    @property
    def n_bytes(self) -> int:
        """Size of the image, decoded."""
        return prod(self.data_shape) * self.data_dtype.itemsize

    def position(self, sample_idx: int) -> PlanePosition:
        """Find where a sample of the stack lies in the image that was given.

        Parameters
        ----------
        sample_idx : int
            Which sample of the stack.
        """
        if not self.n_planes:
            return PlanePosition(sample_idx, ())
        sample, z = divmod(sample_idx, self.n_planes)
        return PlanePosition(sample, (z,))

    def output_position(self, sample_idx: int) -> PlanePosition:
        """Find where a sample of what is predicted lies in the output.

        Parameters
        ----------
        sample_idx : int
            Which sample, counted in the region.
        """
        if not self.n_planes:
            return PlanePosition(sample_idx, ())
        start, stop = self.output_ranges["Z"]
        sample, z = divmod(sample_idx, stop - start)
        return PlanePosition(sample, (z,))

    @property
    def identity(self) -> list[Any]:
        """What identifies this image in a run: its place or name, axes, shape and dtype."""
        return [self.place or self.source, self.original_axes, list(self.original_data_shape), str(self.data_dtype)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that go to JSON."""
        return asdict(self) | {"data_dtype": str(self.data_dtype)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the facts that `to_dict` was made of, before or after JSON.

        Raises
        ------
        TypeError, ValueError
            If they are not the facts about an image.
        """
        facts = cls(**parse_fields(cls, values))
        (shape,) = listed_shapes("data_shape", [facts.data_shape])
        chunk_shape = shape if facts.chunk_shape is None else facts.chunk_shape
        if len(shape) < 4 or len(chunk_shape) != len(shape) or min(*shape, *chunk_shape) < 1:
            raise ValueError(f"image has shape {shape} and chunks of {chunk_shape}")
        if facts.n_planes < 0 or (facts.n_planes and shape[0] % facts.n_planes):
            raise ValueError(f"image has {shape[0]} samples, which are not {facts.n_planes} slices each")
        if facts.region is not None:
            sizes = axis_sizes(facts.original_axes, facts.original_data_shape, facts.image_shape).values()
            for (start, stop), size in zip(facts.region, sizes, strict=True):
                if not 0 <= start < stop <= size:
                    raise ValueError(f"the region {facts.region} is not inside the image of {facts.image_shape}")
        return facts


def place_of(image: ImageStack) -> str | None:
    """Return the absolute path or URL by which `open_stacks` opens an image again; None if it is not a file.

    Parameters
    ----------
    image : ImageStack
        The image.
    """
    if not isinstance(image, HasFiles):
        return None
    source = str(image.source)
    return source if is_url(source) else str(Path(source).absolute())


def _plain(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(map(int, shape))
