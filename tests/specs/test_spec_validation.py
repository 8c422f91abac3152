"""Validation says everything that is wrong with a specification, in one error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchloom.errors import SpecError
from patchloom.specs.spec_validation import validate_specs

SHAPES = [(2, 3, 40, 30), (1, 3, 20, 20)]
PATCH: dict[str, Any] = {"data_idx": 0, "sample_idx": 1, "coords": (-4, 25), "patch_size": (16, 16)}
TILE = PATCH | {"crop_coords": (4, 0), "crop_size": (12, 5), "stitch_coords": (0, 25), "total_tiles": 12}
UNCORRELATED = PATCH | {
    "principal_channel": 1,
    "all_data_idx": (1, 0),
    "all_sample_idx": (0, 1),
    "all_coords": ((3, 4), (-4, 25)),
}


@pytest.mark.parametrize("spec", [PATCH, TILE, UNCORRELATED])
def test_a_right_specification_of_each_kind_passes(spec: Any) -> None:
    validate_specs(spec, SHAPES)
    validate_specs([spec, spec], SHAPES)


@pytest.mark.parametrize(
    ("spec", "change", "faults"),
    [
        (PATCH, {"data_idx": 2}, ["data_idx is 2, but the series has 2 image stacks"]),
        (PATCH, {"data_idx": -1}, ["data_idx is -1"]),
        (PATCH, {"sample_idx": 2}, ["sample_idx is 2, but image stack 0 has 2 samples"]),
        (PATCH, {"coords": (1, 2, 3)}, ["coords has 3 numbers, but image stack 0 is 2D", "patch_size has 2 numbers"]),
        (PATCH, {"patch_size": (0, -1)}, ["patch_size[0] is 0", "patch_size[1] is -1"]),
        (PATCH, {"data_idx": np.int64(0)}, ["data_idx is np.int64(0) of type int64: it must be a plain int"]),
        (PATCH, {"coords": (0, 1.0)}, ["coords[1] is 1.0 of type float"]),
        (PATCH, {"sample_idx": True}, ["sample_idx is True of type bool"]),
        (TILE, {"crop_size": (13, 5)}, ["crop_coords[0] + crop_size[0] is 17, but the tile has size 16"]),
        (TILE, {"stitch_coords": (1, 25)}, ["stitch_coords[0] is 1, but coords + crop_coords is 0"]),
        (TILE, {"crop_size": (12, 6)}, ["stitch_coords[1] + crop_size[1] is 31, but the image has size 30"]),
        (TILE, {"total_tiles": 0}, ["total_tiles is 0"]),
        (TILE, {"crop_coords": (4,)}, ["crop_coords has 1 numbers, coords has 2"]),
        (TILE, {"patch_size": (16,)}, ["patch_size has 1 numbers, coords has 2"]),
        (TILE, {"patch_size": ()}, ["patch_size has 0 numbers, coords has 2"]),
        (UNCORRELATED, {"all_sample_idx": (1, 1)}, ["all_sample_idx[0] is 1, but image stack 1 has 1 sample"]),
        (UNCORRELATED, {"all_coords": ((3, 4),)}, ["all_coords has 1 entries, all_data_idx has 2"]),
        (UNCORRELATED, {"principal_channel": 2}, ["principal_channel is 2, but there are 2 channels"]),
        (
            UNCORRELATED,
            {"coords": (-4, 24)},
            ["all_coords[1] is (-4, 25), but coords of the principal channel is (-4, 24)"],
        ),
        (PATCH, {"data_idx": 5, "patch_size": (0, 4)}, ["data_idx is 5", "patch_size[0] is 0", "2 faults"]),
    ],
)
def test_every_fault_is_named(spec: dict[str, Any], change: dict[str, Any], faults: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        validate_specs(spec | change, SHAPES)  # type: ignore[arg-type]
    assert all(fault in str(caught.value) for fault in faults), str(caught.value)


def test_missing_fields_and_the_position_among_many_are_named() -> None:
    lacking = {key: value for key, value in TILE.items() if key not in {"total_tiles", "coords"}}
    with pytest.raises(
        SpecError, match="specification 1: coords is missing\n  specification 1: total_tiles is missing"
    ):
        validate_specs([PATCH, lacking], SHAPES)  # type: ignore[list-item]
