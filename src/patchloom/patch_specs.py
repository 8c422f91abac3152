"""Patch specifications and their guards, importable by this name too; see `patchloom.specs.patch_specs`."""

from patchloom.specs.patch_specs import (
    PatchSpecs,
    TileSpecs,
    UncorrelatedPatchSpecs,
    is_tile_specs,
    is_uncorrelated_specs,
)

__all__ = ["PatchSpecs", "TileSpecs", "UncorrelatedPatchSpecs", "is_tile_specs", "is_uncorrelated_specs"]
