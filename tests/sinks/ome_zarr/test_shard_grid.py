import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from patchloom.errors import SinkError
from patchloom.sinks.ome_zarr.shard_grid import ShardGrid


@st.composite
def grids(draw):
    n_axes = draw(st.sampled_from([4, 5]))
    sizes = st.lists(st.integers(1, 12), min_size=n_axes, max_size=n_axes)
    shape, chunk = draw(sizes), draw(sizes)
    return ShardGrid(shape, chunk, [size * draw(st.integers(1, 3)) for size in chunk])


@given(grids())
def test_partition(grid):
    """The shards, and the chunks, cover every voxel once."""
    for parts in (grid.shards(grid.whole), grid.chunks(grid.whole)):
        seen = np.zeros(grid.data_shape, int)
        for part in parts:
            seen[part] += 1
        assert (seen == 1).all()


@given(grids())
def test_shard_indices(grid):
    """Each shard has its own index."""
    seen = np.zeros(grid.counts, int)
    for shard in grid.shards(grid.whole):
        seen[grid.shard_indices(shard)] += 1
    assert (seen == 1).all()


@given(grids())
def test_clipping(grid):
    """Clipped shards are whole chunks, and not larger than the image needs."""
    for size, chunk, shard in zip(grid.data_shape, grid.chunk_shape, grid.shard_shape, strict=True):
        assert shard % chunk == 0
        assert chunk <= size
        assert shard - chunk < size


@given(grids(), st.data())
def test_part_of_a_shard(grid, data):
    """A region that contains a part of a shard is refused."""
    region = []
    for size in grid.data_shape:
        start = data.draw(st.integers(0, size - 1))
        region.append(slice(start, data.draw(st.integers(start + 1, size))))
    region = tuple(region)
    touched = [
        shard
        for shard in grid.shards(grid.whole)
        if all(a.start < b.stop and b.start < a.stop for a, b in zip(shard, region, strict=True))
    ]
    whole = all(
        b.start <= a.start and a.stop <= b.stop for shard in touched for a, b in zip(shard, region, strict=True)
    )
    if not whole:
        with pytest.raises(SinkError, match="contains a part of a shard"):
            grid.shard_indices(region)
    else:
        indices = grid.shard_indices(region)
        assert np.prod([part.stop - part.start for part in indices]) == len(touched)
