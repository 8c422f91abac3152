"""Positions of a patch: counted, and refused where there are none or too many."""

from __future__ import annotations

import pytest

from patchloom.errors import GeometryError
from patchloom.geometry.patch_positions import position_counts


@pytest.mark.parametrize(("coverage", "expected"), [("inside", [(7, 1)]), ("uniform", [(13, 15)])])
def test_counts(coverage: str, expected: list[tuple[int, int]]) -> None:
    """Positions are counted."""
    assert position_counts([(1, 1, 10, 8)], (4, 8), coverage) == expected  # type: ignore[arg-type]


def test_patch_too_large() -> None:
    """A patch larger than an image is refused, and the message names the image."""
    shapes = [(1, 1, 64, 64), (3, 1, 64, 48)]
    message = "patch_size is 50 along X, but image stack 1 has size 48 there"
    with pytest.raises(GeometryError, match=message):
        position_counts(shapes, (40, 50))
    assert position_counts(shapes, (40, 50), "uniform") == [(103, 113), (103, 97)]


def test_too_many_positions() -> None:
    """Positions that cannot be numbered are refused."""
    with pytest.raises(GeometryError, match="more than 2\\*\\*63 - 1 positions"):
        position_counts([(1, 1, 2**22, 2**22, 2**22)], (1, 1, 1))
    with pytest.raises(GeometryError, match="coverage is 'outside': it must be one of 'inside', 'uniform'"):
        position_counts([(1, 1, 8, 8)], (4, 4), "outside")  # type: ignore[arg-type]
