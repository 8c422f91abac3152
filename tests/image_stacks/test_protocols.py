"""Regions of any stack: together where it can, and otherwise one by one, asked for in the plainest way."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.image_stacks import Region, read_regions

IMAGE = np.arange(2 * 3 * 8 * 9).reshape(2, 3, 8, 9)
REGIONS = [Region(1, slice(1, 3), (slice(2, 6), slice(0, 9))), Region(0, slice(0, 1), (slice(7, 8), slice(3, 5)))]


class OneByOne:
    """A stack as other libraries have them."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    def extract_patch(self, sample_idx, channels, coords, patch_size):
        self.asked.append((sample_idx, channels, coords, patch_size))
        window = tuple(slice(start, start + size) for start, size in zip(coords, patch_size, strict=True))
        return IMAGE[(sample_idx, channels, *window)]


class Together:
    def __init__(self) -> None:
        self.batches: list[list[Region]] = []

    def read_regions(self, regions, out) -> None:
        self.batches.append(list(regions))
        for (sample_idx, channels, window), target in zip(regions, out, strict=True):
            target[...] = IMAGE[(sample_idx, channels, *window)]


@pytest.mark.parametrize("make", [OneByOne, Together])
def test_targets(make):
    """Regions are written to their targets in the dtype of the target."""
    out = [np.zeros((2, 4, 9), "float32"), np.zeros((1, 1, 2), "uint16")]
    read_regions(make(), REGIONS, out)
    assert np.array_equal(out[0], IMAGE[1, 1:3, 2:6, :])
    assert np.array_equal(out[1], IMAGE[0, 0:1, 7:8, 3:5])


def test_reads_regions():
    """A stack that reads many regions together is called once."""
    stack = Together()
    read_regions(stack, REGIONS, [np.zeros((2, 4, 9)), np.zeros((1, 1, 2))])
    assert stack.batches == [REGIONS]


def test_other_stacks():
    """Other stacks get plain lists of channels."""
    stack = OneByOne()
    read_regions(stack, REGIONS, [np.zeros((2, 4, 9)), np.zeros((1, 1, 2))])
    assert stack.asked == [(1, [1, 2], [2, 0], [4, 9]), (0, [0], [7, 3], [1, 2])]
