"""Tiles on one axis: every voxel kept once, inside its tile, with context on both sides of every seam."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.errors import GeometryError
from patchloom.geometry.tile_rule import Seams, TileRule, TileWindow

SIZES = np.arange(1, 81)
CASES = [(patch, overlap) for patch in range(1, 33) for overlap in range(patch)]


def rows_of_tiles(rule: TileRule) -> tuple[np.ndarray, np.ndarray, np.ndarray, TileWindow]:
    """All tiles of all axis sizes at once: sizes, tile numbers, last-tile marks, windows."""
    counts = rule.count(SIZES)
    sizes = np.repeat(SIZES, counts)
    tiles = np.concatenate([np.arange(count) for count in counts])
    windows = rule.window(tiles, sizes, np.repeat(counts, counts))
    return sizes, tiles, tiles == np.repeat(counts, counts) - 1, windows


@pytest.mark.parametrize("seams", ["centered", "grid"])
@pytest.mark.parametrize(("multiple", "of_seams"), [(1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (4, 2), (3, 3), (4, 4)])
def test_partition(seams: Seams, multiple: int, of_seams: int) -> None:
    """Kept windows partition every axis, with the promised context, and seams are multiples."""
    cases = 0
    for patch, overlap in CASES:
        try:
            rule = TileRule(patch, overlap, seams, multiple, seam_multiple=of_seams)
        except GeometryError:
            assert multiple > 1, "without a multiple every overlap below the patch size leaves a step"
            continue
        sizes, tiles, last, (start, keep_start, keep_stop) = rows_of_tiles(rule)
        cases += len(SIZES)
        # Partition: the first keeps from 0, each next from where the one before stopped, the last to the end.
        assert (keep_start[tiles == 0] == 0).all()
        assert (keep_start[1:][~last[:-1]] == keep_stop[:-1][~last[:-1]]).all()
        assert (keep_stop[last] == sizes[last]).all()
        assert (keep_stop > keep_start).all()
        # Crop windows lie inside the tile, tiles start inside the image and on the grid.
        assert (start <= keep_start).all()
        assert (keep_stop <= start + patch).all()
        assert (start >= 0).all()
        assert (start % multiple == 0).all()
        assert (keep_start % of_seams == 0).all()
        assert (start + patch <= np.maximum(sizes, patch) + multiple - 1).all()
        # Context on both sides of every seam. A seam on the grid may be so near the image's border that the image
        # itself has less; then the tile must see all that there is.
        left = np.flatnonzero(~last)
        seam, image_size = keep_stop[left], sizes[left]
        context = np.full_like(seam, overlap // 2)
        before, after = context, context
        if seams == "grid":
            before, after = np.minimum(context, seam), np.minimum(context, image_size - seam)
        assert (start[left] + patch - seam >= after).all()
        assert (seam - start[left + 1] >= before).all()
    if multiple == 1:
        assert cases == 42_240


def test_fewest_tiles() -> None:
    """Centered seams take the fewest tiles."""
    for patch, overlap in CASES:
        fewest = np.maximum(1, np.ceil((SIZES - overlap) / (patch - overlap)))
        assert (TileRule(patch, overlap).count(SIZES) == fewest).all()


def test_arrays() -> None:
    """Formulas give the same for plain `int` and for arrays."""
    for patch, overlap in [(7, 3), (8, 0), (32, 31), (9, 4)]:
        for seams in ("centered", "grid"):
            rule = TileRule(patch, overlap, seams)
            for size in (1, 8, 9, 50):
                count = rule.count(size)
                assert type(count) is int
                singly = [rule.window(tile, size, count) for tile in range(count)]
                together = rule.window(np.arange(count), np.full(count, size), np.full(count, count))
                assert all(type(number) is int for window in singly for number in window)
                assert list(zip(*(column.tolist() for column in together), strict=True)) == singly


def test_touching() -> None:
    """The tiles that touch a window are those whose kept part meets it."""
    for patch, overlap in [(7, 3), (8, 0), (10, 9), (9, 4)]:
        for seams in ("centered", "grid"):
            rule = TileRule(patch, overlap, seams)
            for size in (5, 17, 40):
                count = rule.count(size)
                kept = [rule.window(tile, size, count)[1:] for tile in range(count)]
                for start in range(size):
                    for stop in range(start + 1, size + 1):
                        meeting = [tile for tile, (low, high) in enumerate(kept) if low < stop and high > start]
                        assert list(rule.touching(start, stop, size)) == meeting


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "patch_size is 0 along X"),
        ((8, 8), "overlaps is 8 along X and patch_size is 8"),
        ((8, -1), "overlaps is -1 along X"),
        ((8, 2, "middle"), "seams is 'middle'"),
        ((8, 2, "centered", 0), "origin_multiple is 0"),
        ((8, 6, "centered", 4), "leaves no step"),
    ],
)
def test_bad_numbers(arguments: tuple[int, ...], message: str) -> None:
    """Numbers that are not valid are refused."""
    with pytest.raises(GeometryError, match=message):
        TileRule(*arguments)
