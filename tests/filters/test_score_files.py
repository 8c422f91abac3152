"""Scores that are kept: found again as long as they hold, and never longer."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile

from patchloom import ArrayStack, CustomFilter, EntropyFilter, MaxFilter, MeanFilter, open_stacks, score_cells
from patchloom.errors import SinkError
from patchloom.filters.score_files import FOLDER_NAME, score_files
from patchloom.image_stacks import TiffStack, ZarrStack


class Reads:
    """Counts the boxes that stacks read from their files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for stack_type in (TiffStack, ZarrStack):
            monkeypatch.setattr(stack_type, "read", self._counting(stack_type.read))
        monkeypatch.setattr(ZarrStack, "read_regions", self._counting(ZarrStack.read_regions))

    def _counting(self, read):
        def counted(*args):
            self.count += 1
            return read(*args)

        return counted

    def during(self, work) -> int:
        before = self.count
        work()
        return self.count - before


@pytest.fixture
def reads(monkeypatch) -> Reads:
    return Reads(monkeypatch)


@pytest.fixture
def tiff(tmp_path, rng) -> Path:
    path = tmp_path / "data" / "cells.tif"
    path.parent.mkdir()
    tifffile.imwrite(path, rng.integers(0, 99, (40, 50)).astype("uint8"), metadata={"axes": "YX"})
    return path


def scan(path: Path, filters=None, cell_size=(16, 16), **options):
    return score_cells(open_stacks(path, axes="YX"), cell_size, filters or [MaxFilter()], **options)


def kept(path: Path) -> list[Path]:
    return sorted((path.parent / FOLDER_NAME).glob("*"))


def test_second_scan(tiff, reads):
    """A second scan reads no pixel and returns the same scores."""
    (first,) = scan(tiff)
    assert reads.during(lambda: scan(tiff)) == 0
    (again,) = scan(tiff)
    assert np.array_equal(first.scores[0], again.scores[0])
    assert not again.scores[0].flags.writeable


def test_missing_scores(tiff, reads):
    """Only missing scores are computed."""
    scan(tiff, [MaxFilter(), EntropyFilter()])
    assert reads.during(lambda: scan(tiff, [EntropyFilter(), MaxFilter()])) == 0
    mean, highest = scan(tiff, [MeanFilter(), MaxFilter()])
    assert (mean.name, highest.name) == ("MeanFilter()", "MaxFilter()")
    image = tifffile.imread(tiff)
    assert (mean.scores[0][0, 0, 0], highest.scores[0][0, 0, 0]) == (image[:16, :16].mean(), image[:16, :16].max())


@pytest.mark.parametrize(
    "other",
    [
        {"cell_size": (16, 8)},
        {"filters": [EntropyFilter(2)]},
        {"filters": [CustomFilter("b", np.ptp)]},
        {"channels": [0]},
    ],
)
def test_other_questions(tiff, reads, other):
    """Other cells, channels, axes or filters are scored again."""
    scan(tiff, [EntropyFilter(), CustomFilter("a", np.ptp)])
    assert reads.during(lambda: scan(tiff, **other)) > 0


def test_changed_file(tiff, reads):
    """A changed file is scored again, and its old scores are replaced."""
    scan(tiff)
    n_kept = len(kept(tiff))
    status = tiff.stat()
    tifffile.imwrite(tiff, np.full((40, 50), 200, "uint8"), metadata={"axes": "YX"})
    os.utime(tiff, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (found,) = scan(tiff)
    assert found.scores[0].min() == 200
    assert len(kept(tiff)) == n_kept == 1


def test_changed_chunk(tmp_path, reads):
    """A changed chunk of a Zarr is noticed."""
    path = tmp_path / "a.zarr"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    layout = ts.ChunkLayout(chunk_shape=[16, 16])
    store = ts.open(spec, create=True, dtype=ts.uint8, shape=[40, 50], chunk_layout=layout).result()
    store[...] = 1
    assert scan(path)[0].scores[0].max() == 1
    assert reads.during(lambda: scan(path)) == 0
    store[32:40, 48:50] = 2
    assert scan(path)[0].scores[0][0].argmax() == 11
    assert kept(path)


def test_outside_zarr(tmp_path):
    """Nothing is written inside a Zarr."""
    path = tmp_path / "b.zarr"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    ts.open(spec, create=True, dtype=ts.uint8, shape=[40, 50]).result()[...] = 1
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = sorted(path.rglob("*"))
    scan(path / "0")
    assert sorted(path.rglob("*")) == before
    assert kept(path)


def test_moved_data(tiff, reads):
    """Data can be moved together with their scores."""
    scan(tiff)
    moved = tiff.parent.rename(tiff.parent.with_name("elsewhere")) / tiff.name
    assert reads.during(lambda: scan(moved)) == 0


def test_equal_names(tmp_path):
    """Files with the same name do not share scores in one folder."""
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        tifffile.imwrite(tmp_path / str(number) / "a.tif", np.full((20, 20), number, "uint8"), metadata={"axes": "YX"})
    for _ in range(2):
        for number in (1, 2):
            (found,) = scan(tmp_path / str(number) / "a.tif", cache=tmp_path / "scores")
            assert found.scores[0].max() == number
    assert len(list((tmp_path / "scores").iterdir())) == 2
    assert not (tmp_path / "1" / FOLDER_NAME).exists()


def test_images_of_one_file(tmp_path):
    """Images of one file do not share scores."""
    path = tmp_path / "several.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for number in (1, 2):
            tif.write(np.full((20, 20), number, "uint8"), metadata={"axes": "YX"})
    for _ in range(2):
        for series in (0, 1):
            (found,) = score_cells([TiffStack(path, series=series)], (16, 16), [MaxFilter()])
            assert found.scores[0].max() == series + 1


def test_not_kept(tiff, tmp_path):
    """Scores of plain functions and of arrays are not kept."""
    scan(tiff, [lambda cell: cell.max()])
    score_cells([ArrayStack(tifffile.imread(tiff), "YX", source=tiff)], (16, 16), [MaxFilter()])
    assert kept(tiff) == []


def test_no_cache(tiff):
    """With `cache=False` nothing is written."""
    scan(tiff, cache=False)
    assert kept(tiff) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_damaged_file(tiff, damage):
    """A damaged file of scores is ignored."""
    (first,) = scan(tiff)
    (file,) = kept(tiff)
    file.write_bytes(file.read_bytes()[:-30] if damage is None else damage)
    (again,) = scan(tiff)
    assert np.array_equal(first.scores[0], again.scores[0])
    with np.load(file) as mended:
        assert np.array_equal(mended["scores"], first.scores[0])


def test_read_only_folder(tiff, reads):
    """If the folder beside the data cannot be written, scores are not kept."""
    (tiff.parent / FOLDER_NAME).write_text("in the way")
    assert reads.during(lambda: scan(tiff)) == reads.during(lambda: scan(tiff)) > 0


def test_bad_folder(tiff, reads):
    """A given folder that cannot be written is an error before anything is read."""
    in_the_way = tiff.with_suffix(".txt")
    in_the_way.write_text("")

    def refused():
        with pytest.raises(SinkError, match=r"cache is '.*scores', which cannot be written"):
            scan(tiff, cache=in_the_way / "scores")

    assert reads.during(refused) == 0


def test_interrupted_scan(tmp_path, reads, rng):
    """An interrupted scan keeps the scores of finished stacks."""
    for number in range(3):
        tifffile.imwrite(
            tmp_path / f"{number}.tif", rng.integers(0, 9, (20, 20)).astype("uint8"), metadata={"axes": "YX"}
        )
    (tmp_path / "2.tif").write_bytes((tmp_path / "2.tif").read_bytes())
    stacks = open_stacks(tmp_path, axes="YX")
    (tmp_path / "2.tif").unlink()
    with pytest.raises(OSError, match=r"2\.tif"):
        score_cells(stacks, (16, 16), [MaxFilter()])
    assert len(kept(tmp_path / "0.tif")) == 2
    assert reads.during(lambda: score_cells(stacks[:2], (16, 16), [MaxFilter()])) == 0


def test_failed_write(tiff, monkeypatch):
    """A failed write leaves no file."""

    def full_disk(file, **arrays):
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    (found,) = scan(tiff)
    assert found.scores[0].shape == (1, 3, 4)
    assert kept(tiff) == []


def test_flipped_bits(tiff, tmp_path):
    """If any bit of a file of scores flips, the scores are the same or computed again.

    Every seventh bit is flipped, so that all bits of a byte are covered.
    """
    (file,) = score_files(open_stacks(tiff, "YX")[0], (16, 16), None, [MaxFilter()], tmp_path / "scores")
    scores = np.arange(12.0).reshape(1, 3, 4)
    file.write(scores)
    content = file.path.read_bytes()
    n_again = 0
    for position in range(0, 8 * len(content), 7):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << position % 8
        file.path.write_bytes(flipped)
        found = file.read()
        n_again += found is None
        assert found is None or np.array_equal(found, scores)
    assert n_again > len(content) // 7
    file.path.write_bytes(content)
    assert np.array_equal(file.read(), scores)


@pytest.mark.parametrize("scores", [np.zeros((1, 3, 4), "float32"), np.zeros((1, 4, 3)), np.array("x"), None])
def test_other_dtype(tiff, scores, reads):
    """Scores of another dtype or shape are computed again."""
    scan(tiff)
    (path,) = kept(tiff)
    with np.load(path) as arrays:
        told = {name: arrays[name] for name in ("state", "question")}
    np.savez(path, **told, **({} if scores is None else {"scores": scores}))
    assert reads.during(lambda: scan(tiff)) == 1
