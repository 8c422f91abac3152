"""Boxes of cells: every element has one number and lies in one cell, cut ones too."""

from __future__ import annotations

import itertools
from math import prod

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.geometry.grid_cells import cell_box, cell_counts, cell_sides, unravel_by_cells
from patchloom.geometry.patch_positions import unravel

Box = tuple[tuple[int, ...], tuple[int, ...]]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Extents of a small box, and the size of its cells."""
    n_dims = draw(st.integers(2, 3))
    return draw(st.tuples(*[st.integers(1, 9)] * n_dims)), draw(st.tuples(*[st.integers(1, 5)] * n_dims))


def plain(columns: list[np.ndarray]) -> list[tuple[int, ...]]:
    return list(zip(*(np.broadcast_to(column, columns[-1].shape).tolist() for column in columns), strict=True))


@settings(deadline=None)
@given(boxes())
def test_unravel(box: Box) -> None:
    """Every element of a box has exactly one number."""
    extents, cell_size = box
    everything = list(itertools.product(*map(range, extents)))
    numbers = range(len(everything))
    assert [tuple(unravel(number, extents)) for number in numbers] == everything
    by_cells = [tuple(unravel_by_cells(number, extents, cell_size)) for number in numbers]
    cell_of = [tuple(c // size for c, size in zip(coords, cell_size, strict=True)) for coords in by_cells]
    cells = [cell for cell, _ in itertools.groupby(cell_of)]
    assert len(cells) == len(set(cells)), "all elements of a cell follow each other"
    sizes = [cell_of.count(cell) for cell in cells]
    whole = sizes.count(prod(cell_size))
    assert sizes[:whole] == [prod(cell_size)] * whole, "whole cells come first"
    assert cells[:whole] == sorted(cells[:whole])
    assert sorted(by_cells) == everything
    assert plain(unravel(np.array(numbers), extents)) == everything
    assert plain(unravel_by_cells(np.array(numbers), extents, cell_size)) == by_cells
    many_extents = [np.full(len(everything), extent) for extent in extents]
    assert plain(unravel_by_cells(np.array(numbers), many_extents, cell_size)) == by_cells


@settings(deadline=None)
@given(boxes())
def test_partition(box: Box) -> None:
    """Cells partition a box."""
    extents, cell_size = box
    covered = np.zeros(extents, dtype=int)
    counts = cell_counts(extents, cell_size)
    held = np.broadcast_to(np.prod(np.broadcast_arrays(*cell_sides(extents, cell_size)), axis=0), counts).ravel()
    for number in range(int(np.prod(counts))):
        corner, sides = cell_box(number, extents, cell_size)
        covered[tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))] += 1
        assert np.prod(sides) == held[number]
    assert (covered == 1).all()
