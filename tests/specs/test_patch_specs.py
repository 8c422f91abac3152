"""The vocabulary: names, fields and the truth tables of the two guards, which CAREamics shares."""

from __future__ import annotations

from itertools import product

import pytest

from patchloom.specs.patch_specs import (
    PatchSpecs,
    TileSpecs,
    UncorrelatedPatchSpecs,
    is_tile_specs,
    is_uncorrelated_specs,
)

PATCH = {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)}


def test_the_fields_are_fixed() -> None:
    patch = ["data_idx", "sample_idx", "coords", "patch_size"]
    assert list(PatchSpecs.__annotations__) == patch
    assert list(TileSpecs.__annotations__) == [*patch, "crop_coords", "crop_size", "stitch_coords", "total_tiles"]
    assert list(UncorrelatedPatchSpecs.__annotations__) == [
        *patch,
        "principal_channel",
        "all_data_idx",
        "all_sample_idx",
        "all_coords",
    ]


@pytest.mark.parametrize("present", list(product([False, True], repeat=4)))
def test_tile_specs_are_told_by_crop_and_stitch_alone(present: tuple[bool, ...]) -> None:
    keys = ("crop_coords", "crop_size", "stitch_coords", "total_tiles")
    spec = PATCH | {key: None for key, there in zip(keys, present, strict=True) if there}
    assert is_tile_specs(spec) is all(present[:3])  # type: ignore[arg-type]


@pytest.mark.parametrize("present", list(product([False, True], repeat=4)))
def test_uncorrelated_specs_are_told_by_the_places_of_all_channels(present: tuple[bool, ...]) -> None:
    keys = ("all_data_idx", "all_sample_idx", "all_coords", "principal_channel")
    spec = PATCH | {key: None for key, there in zip(keys, present, strict=True) if there}
    assert is_uncorrelated_specs(spec) is all(present[:3])  # type: ignore[arg-type]
