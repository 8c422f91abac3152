"""Numbering patches whose samples differ: nobody is lost, nobody comes twice, and shares are fair."""

from __future__ import annotations

import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, PatchIndexError
from patchloom.patching.flat_index import FlatIndex, UnevenIndex

Series = list[list[int]]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=4))
def test_uneven_index(series: Series) -> None:
    """Every patch of uneven samples is located by its flat index."""
    index = UnevenIndex([len(stack) for stack in series], list(itertools.chain(*series)))
    expected = [
        (data_idx, sample_idx, local)
        for data_idx, stack in enumerate(series)
        for sample_idx, count in enumerate(stack)
        for local in range(count)
    ]
    assert [tuple(index.locate(flat)[:3]) for flat in range(len(index))] == expected
    places = index.locate_many(range(len(index)))
    assert list(zip(*(column.tolist() for column in places[:3]), strict=True)) == expected
    assert [index.n_local[row] for row in places.row] == [series[d][s] for d, s, _ in expected]
    assert [place[0] for place in expected] == [
        data_idx for data_idx in range(len(series)) for _ in index.of_stack(data_idx)
    ]
    assert list(pickle.loads(pickle.dumps(index)).edges) == list(index.edges)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8).filter(any),
    st.integers(1, 10_000),
    st.floats(0, 1, exclude_max=True),
)
def test_spread(weights: list[float], n_patches: int, start: float) -> None:
    """Patches are distributed in proportion to weights."""
    index = UnevenIndex.spread([len(weights)], np.array(weights), n_patches, start)
    shares = np.array(weights) / sum(weights) * n_patches
    counts = np.array(index.n_local)
    assert counts.sum() == n_patches
    assert (np.abs(counts - shares) <= 1 + 1e-6).all()
    assert not counts[np.array(weights) == 0].any()


def test_spread_is_fair() -> None:
    """Over many starts, the expected number of patches is the share."""
    weights = np.array([1.0, 2.5, 0.01, 6.0])
    starts = np.linspace(0, 1, 2000, endpoint=False)
    mean = np.mean([UnevenIndex.spread([4], weights, 7, start).n_local for start in starts], axis=0)
    assert np.allclose(mean, weights / weights.sum() * 7, atol=0.002)


def test_too_long() -> None:
    """A patching of more than 2⁶³ - 1 patches is refused."""
    with pytest.raises(GeometryError, match="at most 2\\*\\*63 - 1 patches"):
        FlatIndex([2**10], [2**60])


@pytest.mark.parametrize("data_idx", [-1, 2])
def test_bad_data_idx(data_idx: int) -> None:
    """Stacks that do not exist are refused."""
    for index in (FlatIndex([1, 1], [2, 3]), UnevenIndex([1, 1], [2, 3])):
        with pytest.raises(PatchIndexError, match=f"data_idx is {data_idx}, but the series has 2 image stacks"):
            index.of_stack(data_idx)
