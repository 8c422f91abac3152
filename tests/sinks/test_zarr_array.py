import numpy as np
import pytest

from patchloom.sinks import zarr_array
from patchloom.sinks.shard_grid import ShardGrid
from patchloom.sinks.zarr_array import ZarrArray


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
def test_so_many_shards_are_written_at_once_as_fit_the_limit_however_large_the_block(
    tmp_path, monkeypatch, limit, most
):
    monkeypatch.setattr(zarr_array, "BYTES_IN_FLIGHT", limit)
    grid = ShardGrid((1, 1, 256, 192), (1, 1, 32, 32), (1, 1, 64, 64))
    array = ZarrArray(tmp_path / "0", grid, np.dtype("uint16"), "yx")
    spy = array._store = SpyStore()
    array.write(grid.whole, np.zeros(grid.data_shape, "uint16"))
    assert (spy.total, spy.most, spy.running) == (12, most, 0)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_names_of_new_folders_are_durable_when_a_write_returns(tmp_path, monkeypatch, zarr_format):
    """TensorStore syncs a file and the folder it is in, but not the folders it had to make for that."""
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
