"""Specifications of patches: the position of a patch, the kept part of a tile, and the position of each channel.

Specifications are plain dictionaries of `int` and tuples of `int`, so they can be pickled, collated and converted to JSON. The
functions at the end distinguish the three kinds by their keys only, so they also accept CAREamics' dictionaries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict, TypeGuard


class PatchSpecs(TypedDict):
    """The position and size of one patch in a series of image stacks.

    Spatial sequences are `(z,) y, x` in voxels. `coords` may be negative, and `coords + patch_size` may exceed the size of
    the image: the extractor pads.

    Examples
    --------
    >>> spec: PatchSpecs = {"data_idx": 0, "sample_idx": 2, "coords": (0, 96), "patch_size": (64, 64)}
    """

    data_idx: int
    """Index of the image stack in the series."""

    sample_idx: int
    """Index of the sample in the image stack."""

    coords: Sequence[int]
    """First voxel of the patch: top left, first slice. Two numbers in 2D, three in 3D."""

    patch_size: Sequence[int]
    """Size along each spatial axis."""


class TileSpecs(PatchSpecs):
    """A patch, the part of its prediction that is kept, and the position of that part in the image.

    Examples
    --------
    >>> tile: TileSpecs = {
    ...     "data_idx": 0, "sample_idx": 0, "coords": (0, 48), "patch_size": (64, 64),
    ...     "crop_coords": (0, 8), "crop_size": (56, 48), "stitch_coords": (0, 56), "total_tiles": 4,
    ... }
    """

    crop_coords: Sequence[int]
    """First voxel that is kept, relative to the tile."""

    crop_size: Sequence[int]
    """Size of the kept part along each spatial axis."""

    stitch_coords: Sequence[int]
    """Position in the image of the first voxel that is kept."""

    total_tiles: int
    """Number of tiles of the image stack, all samples together."""


class UncorrelatedPatchSpecs(PatchSpecs):
    """A patch whose channels were drawn at different positions, for the training of MicroSplit.

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
    """For each channel, the index of the image stack it was drawn from."""

    all_sample_idx: Sequence[int]
    """For each channel, the index of the sample it was drawn from."""

    all_coords: Sequence[Sequence[int]]
    """For each channel, the first voxel of the patch."""


def is_tile_specs(specs: PatchSpecs) -> TypeGuard[TileSpecs]:
    """Return whether an object is a specification with the fields for cropping and stitching a tile.

    Examples
    --------
    >>> is_tile_specs({"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)})
    False
    """
    return _is_mapping(specs) and "crop_coords" in specs and "crop_size" in specs and "stitch_coords" in specs


def is_uncorrelated_specs(specs: PatchSpecs) -> TypeGuard[UncorrelatedPatchSpecs]:
    """Return whether an object is a specification with the position of each channel.

    Examples
    --------
    >>> is_uncorrelated_specs({"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)})
    False
    """
    return _is_mapping(specs) and "all_data_idx" in specs and "all_sample_idx" in specs and "all_coords" in specs


def _is_mapping(specs: Any) -> bool:
    return isinstance(specs, Mapping)
