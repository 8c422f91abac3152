"""Descriptions of models are checked when they are made."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from patchloom import ArgumentError, ModelDescription, OutputSpec


def test_plain_values() -> None:
    """NumPy numbers and lists become plain numbers and tuples; one number stands for all axes if their number is declared."""
    made = ModelDescription(patch_size=[np.int64(64), 32], batch_size=np.uint8(4), scale=(0.5, 2))  # type: ignore[arg-type]
    assert made.n_dims == 2
    assert made == ModelDescription(patch_size=(64, 32), batch_size=4, scale=(Fraction(1, 2), Fraction(2)))
    assert type(made.batch_size) is int
    assert ModelDescription(n_dims=3, overlaps=8).overlaps == (8, 8, 8)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": 2.0}, "batch_size is 2.0"),
        ({"in_channels": True}, "in_channels is True"),
        ({"n_dims": 4}, "n_dims is 4"),
        ({"patch_size": (64, -1)}, "patch_size is -1 along X"),
        ({"patch_size": 64}, "patch_size is 64"),
        ({"patch_size": (8, 8, 8, 8)}, "it has 4 numbers and must have 2 or 3"),
        ({"scale": "22"}, "scale is '22'"),
        ({"identity": 3}, "identity is 3"),
        ({"patch_size": (64, 64), "overlaps": (8, 8, 8)}, "overlaps is .* must have 2"),
        ({"n_dims": 2, "scale": (1, 1, 1)}, "scale is"),
        ({"scale": (Fraction(2, 3), 1)}, "one over a whole number"),
        ({"scale": (0, 1)}, "one over a whole number"),
        ({"scale": (float("nan"), 1)}, "one over a whole number"),
        ({"out_dtype": "object"}, "out_dtype is 'object'"),
        ({"out_dtype": "real"}, "out_dtype is 'real'"),
        ({"out_channel_names": "nuclei"}, "out_channel_names is 'nuclei'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_description(declared: dict[str, Any], message: str) -> None:
    """A value that is not allowed is refused with its name."""
    with pytest.raises(ArgumentError, match=message):
        ModelDescription(**declared)


@pytest.mark.parametrize("wrong", [{"n_channels": 0}, {"scale": (1,)}, {"margin": (0, 0, 0)}, {"margin": (-1, 0)}])
def test_wrong_output_spec(wrong: dict[str, Any]) -> None:
    """A spec with an impossible number is refused."""
    right = {"n_channels": 1, "dtype": np.dtype("uint8"), "scale": (Fraction(1), Fraction(1)), "margin": (0, 0)}
    with pytest.raises(ArgumentError):
        OutputSpec(**right | wrong)
