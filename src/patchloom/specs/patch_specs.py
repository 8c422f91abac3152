"""The vocabulary: where a patch comes from, where a tile goes back, where each channel was drawn.

Specifications are plain dictionaries of `int` and tuples of `int`, so that they pickle, collate and go to JSON. The
functions at the end tell the three kinds apart; they look at keys only, and answer alike for CAREamics' dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeGuard


class PatchSpecs(TypedDict):
    """Where one patch lies in a series of image stacks.

    Spatial sequences are `(z,) y, x` in voxels. `coords` may be negative, and `coords + patch_size` may pass the end of
    the image: the extractor pads.

    Examples
    --------
    >>> spec: PatchSpecs = {"data_idx": 0, "sample_idx": 2, "coords": (0, 96), "patch_size": (64, 64)}
    """

    data_idx: int
    """Which image stack of the series."""

    sample_idx: int
    """Which sample of that stack."""

    coords: Sequence[int]
    """The first voxel inside: top-left, first slice. Two numbers in 2D, three in 3D."""

    patch_size: Sequence[int]
    """The extent along each spatial axis."""


class TileSpecs(PatchSpecs):
    """A patch that knows which part of its prediction is kept, and where that part lands in the image.

    Examples
    --------
    >>> tile: TileSpecs = {
    ...     "data_idx": 0, "sample_idx": 0, "coords": (0, 48), "patch_size": (64, 64),
    ...     "crop_coords": (0, 8), "crop_size": (56, 48), "stitch_coords": (0, 56), "total_tiles": 4,
    ... }
    """

    crop_coords: Sequence[int]
    """First voxel kept, counted from the tile's own corner."""

    crop_size: Sequence[int]
    """Extent of the part kept."""

    stitch_coords: Sequence[int]
    """Where the first voxel kept lands, counted from the image's corner."""

    total_tiles: int
    """How many tiles the image stack has, all samples together."""


class UncorrelatedPatchSpecs(PatchSpecs):
    """A patch whose channels were drawn at different places, as MicroSplit training wants them.

    The fields of `PatchSpecs` describe the principal channel.

    Examples
    --------
    >>> spec: UncorrelatedPatchSpecs = {
    ...     "data_idx": 0, "sample_idx": 0, "coords": (5, 7), "patch_size": (64, 64),
    ...     "principal_channel": 0,
    ...     "all_data_idx": (0, 3), "all_sample_idx": (0, 1), "all_coords": ((5, 7), (90, 12)),
    ... }
    """

    principal_channel: int
    """The channel that `data_idx`, `sample_idx` and `coords` describe."""

    all_data_idx: Sequence[int]
    """For each channel, the image stack it was drawn from."""

    all_sample_idx: Sequence[int]
    """For each channel, the sample it was drawn from."""

    all_coords: Sequence[Sequence[int]]
    """For each channel, the first voxel inside."""


def is_tile_specs(specs: PatchSpecs) -> TypeGuard[TileSpecs]:
    """Whether a specification says where its tile is cropped and stitched; anything else does not.

    Examples
    --------
    >>> is_tile_specs({"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)})
    False
    """
    return _is_mapping(specs) and "crop_coords" in specs and "crop_size" in specs and "stitch_coords" in specs


def is_uncorrelated_specs(specs: PatchSpecs) -> TypeGuard[UncorrelatedPatchSpecs]:
    """Whether a specification says where each of its channels was drawn; anything else does not.

    Examples
    --------
    >>> is_uncorrelated_specs({"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)})
    False
    """
    return _is_mapping(specs) and "all_data_idx" in specs and "all_sample_idx" in specs and "all_coords" in specs


def _is_mapping(specs: Any) -> bool:
    return isinstance(specs, Mapping)
