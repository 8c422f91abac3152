import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.sinks.ome_zarr import zarr_array
from patchloom.sinks.ome_zarr.shard_grid import ShardGrid
from patchloom.sinks.ome_zarr.zarr_array import ZarrArray
from patchloom.sinks.ome_zarr.zarr_format import STORABLE


class SpyStore:
    """Stands in for TensorStore and counts what is under way."""

    def __init__(self):
        self.running = self.most = self.total = 0

    def __getitem__(self, region):
        return self

    def write(self, block, **options):
        self.running += 1
        self.total += 1
        self.most = max(self.most, self.running)
        return self

    def result(self):
        self.running -= 1


@pytest.mark.parametrize(("limit", "most"), [(1, 1), (2 * 64 * 64 * 2, 2), (1 << 30, 12)])
def test_bytes_in_flight(tmp_path, limit, most):
    """The limit bounds the number of shards that are written at once, whatever the size of the block."""
    grid = ShardGrid((1, 1, 256, 192), (1, 1, 32, 32), (1, 1, 64, 64))
    array = ZarrArray(tmp_path / "0", grid, np.dtype("uint16"), "yx", bytes_in_flight=limit)
    spy = array._store = SpyStore()
    array.write(grid.whole, np.zeros(grid.data_shape, "uint16"))
    assert (spy.total, spy.most, spy.running) == (12, most, 0)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_new_folders_are_synced(tmp_path, monkeypatch, zarr_format):
    """TensorStore syncs a file and its folder, but not the new folders around it."""
    synced = []
    monkeypatch.setattr(zarr_array, "sync_folder", synced.append)
    grid = ShardGrid((2, 2, 64, 64), (1, 1, 32, 32), (1, 1, 32, 32))
    array = ZarrArray(tmp_path / "0", grid, np.dtype("uint16"), "tcyx", zarr_format)
    assert synced == [tmp_path]
    for n_samples in (1, 2):
        region = (slice(n_samples - 1, n_samples), *grid.whole[1:])
        array.write(region, np.ones((1, 2, 64, 64), "uint16"))
        made = {folder for folder in (tmp_path / "0").rglob("*") if folder.is_dir()}
        assert {folder.parent for folder in made} <= set(synced)
        assert len(synced) == len(set(made)) + 1


DTYPES = sorted(STORABLE)


@st.composite
def layouts(draw):
    """An array of any dimensions and dtype, its chunks and shards, and a block as it may lie in memory."""
    n_axes = draw(st.sampled_from([4, 5]))
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=n_axes, max_size=n_axes)))
    chunk = tuple(draw(st.integers(1, size)) for size in shape)
    shard = tuple(draw(st.integers(1, 3)) * size for size in chunk)
    order = draw(st.permutations(range(n_axes)))
    steps = tuple(draw(st.sampled_from([1, 1, 2, -1])) for _ in shape)
    return shape, chunk, shard, order, steps


def laid_out(values, order, steps):
    """Return the same values in another order in memory, and with gaps or backwards along some axes."""
    room = np.zeros([values.shape[axis] * abs(steps[axis]) for axis in order], values.dtype)
    block = room.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    block[...] = values
    return block


@settings(max_examples=100, deadline=None)
@given(layouts(), st.sampled_from(DTYPES), st.sampled_from([2, 3]), st.booleans(), st.integers(0, 2**32 - 1))
def test_zarr_reads_it(tmp_path_factory, layout, dtype, zarr_format, swapped, seed):
    """zarr reads the values that were written, for all layouts."""
    shape, chunk, shard, order, steps = layout
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)
    given_dtype = values.dtype.newbyteorder("S") if swapped else values.dtype
    block = laid_out(values.astype(given_dtype), order, steps)
    grid = ShardGrid(shape, chunk, chunk if zarr_format == 2 else shard)
    axes = "tczyx"[-5:] if len(shape) == 5 else "tcyx"
    folder = tmp_path_factory.mktemp("layout") / "0"
    ZarrArray(folder, grid, values.dtype, axes, zarr_format).write(grid.whole, block)
    np.testing.assert_array_equal(zarr.open_array(folder, mode="r")[...], values)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunk", [(1, 2, 8, 16, 16), (2, 1, 8, 16, 16), (2, 2, 8, 16, 16), (1, 1, 8, 16, 16)])
@pytest.mark.parametrize("n_chunks", [1, 3])
def test_chunks_of_several_channels(tmp_path, chunk, n_chunks, zarr_format):
    """TensorStore 0.1.86 stores zeros for a chunk that it references and that is strided in four dimensions or more."""
    if zarr_format == 2 and n_chunks > 1:
        pytest.skip("there are no shards in Zarr v2")
    shape = (2, 2, 16, 48, 48)
    shard = (*chunk[:2], *(n_chunks * size for size in chunk[2:]))
    values = np.random.default_rng(0).integers(1, 60000, shape).astype("uint16")
    grid = ShardGrid(shape, chunk, shard)
    ZarrArray(tmp_path / "0", grid, values.dtype, "tczyx", zarr_format).write(grid.whole, values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "0", mode="r")[...], values)
