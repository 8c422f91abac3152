"""Another name of `patchloom.specs.patch_specs`: patch specifications and their type guards."""

from patchloom.specs.patch_specs import (
    PatchSpecs,
    TileSpecs,
    UncorrelatedPatchSpecs,
    is_tile_specs,
    is_uncorrelated_specs,
)

__all__ = ["PatchSpecs", "TileSpecs", "UncorrelatedPatchSpecs", "is_tile_specs", "is_uncorrelated_specs"]
