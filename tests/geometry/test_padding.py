"""Padding of one axis: what is read and where it goes is what numpy.pad puts there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.geometry.padding import Padding, axis_source, source_indices, source_runs

WINDOWS = {
    "start": st.integers(-40, 40),
    "size": st.integers(1, 40),
    "image_size": st.integers(1, 12),
    "padding": st.sampled_from(["constant", "reflect", "edge", "wrap"]),
}


@given(**WINDOWS)
def test_equals_numpy(start: int, size: int, image_size: int, padding: Padding) -> None:
    """An axis is padded as `numpy.pad` pads the whole image."""
    image = np.arange(1, image_size + 1)
    margin = 100
    expected = np.pad(image, margin, mode=padding)[start + margin : start + margin + size]
    source = axis_source(start, size, image_size, padding)
    read = np.concatenate([image[:0], *(image[first:last] for first, last in source.runs)])
    window = np.zeros(size, int)
    window[source.inside] = read[source.positions]
    assert window.tolist() == expected.tolist()
    assert all(0 <= first < last <= image_size for first, last in source.runs)
    assert set(read) == set(expected) - {0}, "nothing is read that is not needed"


@given(
    start=st.integers(-(2**63), 2**63 - 1),
    size=st.integers(1, 30),
    image_size=st.integers(1, 20),
    padding=st.sampled_from(["constant", "reflect", "edge", "wrap"]),
)
def test_far_windows(start: int, size: int, image_size: int, padding: Padding) -> None:
    """A period, or the image's size, nearer there is the same to see."""
    period = {"wrap": image_size, "reflect": max(2 * image_size - 2, 1)}.get(padding)
    near = start % period - period if period else min(max(start, -2 * size), image_size + size)
    np.testing.assert_array_equal(
        source_indices(start, size, image_size, padding), source_indices(near, size, image_size, padding)
    )


@given(**WINDOWS)
def test_runs(start: int, size: int, image_size: int, padding: Padding) -> None:
    """Runs contain exactly the positions."""
    positions = axis_source(start, size, image_size, padding).positions
    filled = np.full(len(positions), -1)
    for to, of in source_runs(positions):
        assert (filled[to] == -1).all()
        filled[to] = np.arange(image_size)[of]
    assert filled.tolist() == positions.tolist()


@pytest.mark.parametrize(("padding", "n_runs"), [("reflect", 3), ("edge", 3), ("wrap", 3), ("constant", 1)])
def test_few_runs(padding: Padding, n_runs: int) -> None:
    """A window around the whole image is a few runs."""
    assert len(source_runs(axis_source(-20, 140, 100, padding).positions)) <= n_runs
