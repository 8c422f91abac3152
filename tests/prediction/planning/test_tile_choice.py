"""The tiles of a probed model: large enough for its reach, accepted by it, and with the fewest computed voxels that memory allows."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import patchloom as pl
from patchloom.prediction.planning.tile_choice import choose_tiles
from patchloom.prediction.probe.model_probe import ProbedOutput
from patchloom.prediction.probe.report import Reach
from patchloom.prediction.probe.size_search import SizeRule

GIB = 2**30
RULE = SizeRule(16, 8)


def probed(
    reach: tuple[int, int] | None = (20, 17), *, rule: SizeRule = RULE, n_dims: int = 2, **changes: Any
) -> pl.ModelProbe:
    """Return a probe of a network of stride 8 that takes 100 bytes a voxel."""
    ones, zeros = (Fraction(1),) * n_dims, (Fraction(0),) * n_dims
    margin = changes.pop("margin", 0)
    found = pl.ModelProbe(
        n_dims=n_dims,
        n_channels=1,
        dtype="float32",
        sizes=(rule,) * n_dims,
        outputs=(ProbedOutput("", 1, "float32", ones, (Fraction(margin),) * n_dims),),
        reach=None
        if reach is None
        else Reach(
            (reach[0],) * n_dims, (reach[1],) * n_dims, (8,) * n_dims, ones, (Fraction(margin),) * n_dims, "NaN"
        ),
        checked_by=None,
        takes_batches=True,
        repeat_difference=0.0,
        batch_difference=0.0,
        size_differences=(),
        largest_size=(128,) * n_dims,
        tolerance=1e-4,
        border=zeros,  # type: ignore[arg-type]
        seconds_per_tile=0.1,
        bytes_per_tile=100 * 128**n_dims,
        remarks=(),
    )
    return replace(found, **changes)


def test_one_tile() -> None:
    """An image that fits into memory is one tile, of the next size that the network takes."""
    choice = choose_tiles(probed(), (623, 502), GIB)
    assert (choice.patch_size, choice.origin_multiple) == ((624, 504), (8, 8))
    assert choice.computed == pytest.approx(624 * 504 / (623 * 502))


def test_many_tiles() -> None:
    """Tiles of a large image share both sides of the reach, and start on the stride."""
    choice = choose_tiles(probed(), (20_000, 30_000), GIB)
    assert (choice.overlaps, choice.halo, choice.is_enough) == ((40, 40), (20, 20), True)
    assert all(side % 8 == 0 for side in choice.patch_size)
    assert 1 < choice.computed < 1.15


def test_memory() -> None:
    """Less memory means smaller tiles, and more computed voxels."""
    choices = [choose_tiles(probed(), (5000, 5000), n_bytes) for n_bytes in (GIB, GIB // 64, GIB // 512)]
    for choice, n_bytes in zip(choices, (GIB, GIB // 64, GIB // 512), strict=True):
        assert 100 * prod(choice.patch_size) <= n_bytes
    assert [choice.computed for choice in choices] == sorted(choice.computed for choice in choices)


def test_reach_beyond_memory() -> None:
    """If memory does not allow tiles that are large enough, the largest ones share half of a tile."""
    choice = choose_tiles(probed((400, 400)), (5000, 5000), 100 * 256**2)
    assert not choice.is_enough
    assert choice.patch_size == (256, 256)
    assert choice.overlaps == (128, 128)


def test_margin() -> None:
    """What the output lacks is a part of the overlap; only what the network sees beyond it is a halo."""
    choice = choose_tiles(probed((12, 12), margin=10), (3000, 3000), GIB)
    assert (choice.overlaps, choice.halo) == ((24, 24), (2, 2))
    inside = choose_tiles(probed((10, 10), margin=10), (3000, 3000), GIB)
    assert (inside.overlaps, inside.halo) == ((20, 20), (0, 0))


def test_uncertain() -> None:
    """A reach that is a lower bound, or not known, gets more than it asks for."""
    certain = probed((60, 60))
    assert certain.reach is not None
    lower = replace(certain, reach=replace(certain.reach, is_lower_bound=True, method="noise"))
    assert choose_tiles(lower, (9000, 9000), GIB).overlaps == (180, 180)
    assert choose_tiles(probed(None), (9000, 9000), GIB).overlaps == (128, 128)


def test_blended() -> None:
    """Blended tiles share voxels beyond their halos."""
    choice = choose_tiles(probed(), (9000, 9000), GIB, is_blended=True)
    assert choice.halo == (20, 20)
    assert min(choice.overlaps) > 40


def test_fixed() -> None:
    """The only size that a model takes is chosen."""
    choice = choose_tiles(probed(rule=SizeRule(128, is_fixed=True)), (9000, 90), GIB)
    assert choice.patch_size == (128, 128)


@given(
    least=st.integers(1, 60),
    step=st.sampled_from([1, 4, 8, 16]),
    reach=st.integers(0, 60),
    sizes=st.tuples(st.integers(1, 3000), st.integers(1, 3000)),
    n_bytes=st.sampled_from([GIB, GIB // 100, GIB // 1000]),
)
def test_any(least: int, step: int, reach: int, sizes: tuple[int, int], n_bytes: int) -> None:
    """Every choice is a tiling: sizes that the model takes, and as many tiles as it counts."""
    rule = SizeRule(least, step)
    choice = choose_tiles(probed((reach, reach), rule=rule), sizes, n_bytes)
    assert all(rule.at_least(side) == side for side in choice.patch_size)
    covered = [side >= size for side, size in zip(choice.patch_size, sizes, strict=True)]
    if not choice.is_enough:
        return
    assert all(shared == 2 * reach for shared in choice.overlaps)
    overlaps = [0 if is_covered else shared for is_covered, shared in zip(covered, choice.overlaps, strict=True)]
    tiling = pl.TiledPatching(
        [(1, 1, *sizes)], choice.patch_size, overlaps, seams="centered", origin_multiple=choice.origin_multiple
    )
    assert len(tiling) * prod(choice.patch_size) / prod(sizes) == pytest.approx(choice.computed)
