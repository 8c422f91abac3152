"""Forbidden cells: the positions that are left are exactly those that touch none of them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.geometry.cell_orthants import count_positions, free_orthants, unravel_orthants
from patchloom.geometry.grid_cells import cell_box, cell_counts


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_free_orthants(data: st.DataObject) -> None:
    """Free orthants contain exactly the positions that touch no forbidden cell."""
    n_dims = data.draw(st.integers(2, 3))
    patch = data.draw(st.tuples(*[st.integers(1, 4)] * n_dims))
    shape = tuple(size + data.draw(st.integers(0, 9)) for size in patch)
    extents = tuple(size - side + 1 for size, side in zip(shape, patch, strict=True))
    allowed = np.array(
        data.draw(st.lists(st.booleans(), min_size=(n := int(np.prod(cell_counts(shape, patch)))), max_size=n))
    )
    allowed = allowed.reshape(cell_counts(shape, patch))
    voxels = np.kron(allowed, np.ones(patch, dtype=bool))
    grid = cell_counts(extents, patch)
    orthants = free_orthants(allowed, grid).ravel().tolist()
    found = []
    for number, own in enumerate(orthants):
        corner, sides = cell_box(number, extents, patch)
        n_positions = count_positions(own, sides)
        for position in range(n_positions):
            offsets = unravel_orthants(position, n_positions, own, sides)
            assert unravel_orthants(3 * position + 2, 3 * n_positions, own, sides) == offsets
            found.append(tuple(start + offset for start, offset in zip(corner, offsets, strict=True)))
    windows = [
        tuple(slice(c, c + side) for c, side in zip(coords, patch, strict=True)) for coords in np.ndindex(extents)
    ]
    expected = [coords for coords, window in zip(np.ndindex(extents), windows, strict=True) if voxels[window].all()]
    assert sorted(found) == expected
