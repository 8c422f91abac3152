"""Sequential patches cover every image, stay inside it, and overlap by no more than they must."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError
from patchloom.patching import SequentialPatching, TiledPatching


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_covers(data: st.DataObject) -> None:
    """Every voxel is covered by patches that stay inside."""
    n_dims = data.draw(st.integers(2, 3))
    patch = data.draw(st.tuples(*[st.integers(1, 8)] * n_dims))
    overlaps = tuple(data.draw(st.integers(0, side - 1)) for side in patch)
    shape = tuple(side + data.draw(st.integers(0, 15)) for side in patch)
    patching = SequentialPatching([(2, 1, *shape)], patch, overlaps)
    assert list(patching.patch_specs) == list(patching)
    covered = np.zeros((2, *shape), dtype=int)
    for spec in patching:
        window = tuple(
            slice(start, start + size) for start, size in zip(spec["coords"], spec["patch_size"], strict=True)
        )
        assert all(part.start >= 0 and part.stop <= size for part, size in zip(window, shape, strict=True))
        covered[spec["sample_idx"]][window] += 1
    assert (covered > 0).all()
    for axis in range(n_dims):
        starts = sorted({spec["coords"][axis] for spec in patching})
        assert all(after - before == patch[axis] - overlaps[axis] for before, after in pairwise(starts[:-1]))
    tiles = TiledPatching([(2, 1, *shape)], patch, overlaps)
    assert [spec["coords"] for spec in patching] == [spec["coords"] for spec in tiles]


def test_default_overlaps() -> None:
    """By default, patches do not overlap."""
    starts = [spec["coords"] for spec in SequentialPatching([(1, 1, 20, 8)], (8, 8))]
    assert starts == [(0, 0), (8, 0), (12, 0)]
    assert SequentialPatching([(1, 1, 20, 8)], (8, 8), [4, 0])[1]["coords"] == (4, 0)


def test_bad_overlaps() -> None:
    """Overlaps as large as the patch are refused."""
    with pytest.raises(GeometryError, match="overlaps is 8 along Y"):
        SequentialPatching([(1, 1, 20, 8)], (8, 8), (8, 0))
    with pytest.raises(GeometryError, match="overlaps is 8 along Y"):
        SequentialPatching([(1, 1, 20, 8)], 8, 8)
