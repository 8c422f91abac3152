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


def test_a_second_scan_reads_no_pixel_and_gives_the_same(tiff, reads):
    (first,) = scan(tiff)
    assert reads.during(lambda: scan(tiff)) == 0
    (again,) = scan(tiff)
    assert np.array_equal(first.scores[0], again.scores[0])
    assert not again.scores[0].flags.writeable


def test_only_what_is_missing_is_scanned(tiff, reads):
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
def test_another_question_is_not_answered_by_an_old_score(tiff, reads, other):
    scan(tiff, [EntropyFilter(), CustomFilter("a", np.ptp)])
    assert reads.during(lambda: scan(tiff, **other)) > 0


def test_a_changed_file_is_scanned_again_and_its_old_scores_are_replaced(tiff, reads):
    scan(tiff)
    n_kept = len(kept(tiff))
    status = tiff.stat()
    tifffile.imwrite(tiff, np.full((40, 50), 200, "uint8"), metadata={"axes": "YX"})
    os.utime(tiff, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    (found,) = scan(tiff)
    assert found.scores[0].min() == 200
    assert len(kept(tiff)) == n_kept == 1


def test_a_chunk_changed_inside_a_zarr_is_noticed(tmp_path, reads):
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


def test_nothing_is_written_inside_a_zarr(tmp_path):
    path = tmp_path / "b.zarr"
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "0")}}
    ts.open(spec, create=True, dtype=ts.uint8, shape=[40, 50]).result()[...] = 1
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    before = sorted(path.rglob("*"))
    scan(path / "0")
    assert sorted(path.rglob("*")) == before
    assert kept(path)


def test_data_may_be_moved_together_with_their_scores(tiff, reads):
    scan(tiff)
    moved = tiff.parent.rename(tiff.parent.with_name("elsewhere")) / tiff.name
    assert reads.during(lambda: scan(moved)) == 0


def test_files_of_one_name_do_not_share_scores_in_one_folder(tmp_path):
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        tifffile.imwrite(tmp_path / str(number) / "a.tif", np.full((20, 20), number, "uint8"), metadata={"axes": "YX"})
    for _ in range(2):
        for number in (1, 2):
            (found,) = scan(tmp_path / str(number) / "a.tif", cache=tmp_path / "scores")
            assert found.scores[0].max() == number
    assert len(list((tmp_path / "scores").iterdir())) == 2
    assert not (tmp_path / "1" / FOLDER_NAME).exists()


def test_images_of_one_file_do_not_share_scores(tmp_path):
    path = tmp_path / "several.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tif:
        for number in (1, 2):
            tif.write(np.full((20, 20), number, "uint8"), metadata={"axes": "YX"})
    for _ in range(2):
        for series in (0, 1):
            (found,) = score_cells([TiffStack(path, series=series)], (16, 16), [MaxFilter()])
            assert found.scores[0].max() == series + 1


def test_scores_of_a_nameless_function_or_of_an_array_are_not_kept(tiff, tmp_path):
    scan(tiff, [lambda cell: cell.max()])
    score_cells([ArrayStack(tifffile.imread(tiff), "YX", source=tiff)], (16, 16), [MaxFilter()])
    assert kept(tiff) == []


def test_a_cache_that_is_not_wanted_is_not_made(tiff):
    scan(tiff, cache=False)
    assert kept(tiff) == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_a_damaged_file_is_as_good_as_none(tiff, damage):
    (first,) = scan(tiff)
    (file,) = kept(tiff)
    file.write_bytes(file.read_bytes()[:-30] if damage is None else damage)
    (again,) = scan(tiff)
    assert np.array_equal(first.scores[0], again.scores[0])
    with np.load(file) as mended:
        assert np.array_equal(mended["scores"], first.scores[0])


def test_a_place_beside_the_data_that_cannot_be_written_costs_nothing_but_time(tiff, reads):
    (tiff.parent / FOLDER_NAME).write_text("in the way")
    assert reads.during(lambda: scan(tiff)) == reads.during(lambda: scan(tiff)) > 0


def test_a_chosen_folder_that_cannot_be_written_is_an_error_before_anything_is_read(tiff, reads):
    in_the_way = tiff.with_suffix(".txt")
    in_the_way.write_text("")

    def refused():
        with pytest.raises(SinkError, match=r"cache is '.*scores', which cannot be written"):
            scan(tiff, cache=in_the_way / "scores")

    assert reads.during(refused) == 0


def test_an_interrupted_scan_keeps_the_stacks_that_were_done(tmp_path, reads, rng):
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


def test_a_write_that_fails_halfway_leaves_nothing(tiff, monkeypatch):
    def full_disk(file, **arrays):
        file.write(b"PK half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full_disk)
    (found,) = scan(tiff)
    assert found.scores[0].shape == (1, 3, 4)
    assert kept(tiff) == []


def test_whatever_bit_of_a_file_flips_its_scores_are_the_same_or_scanned_again(tiff, tmp_path):
    """Every seventh bit, which is each of a byte in turn."""
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
def test_scores_of_another_kind_are_scanned_again(tiff, scores, reads):
    scan(tiff)
    (path,) = kept(tiff)
    with np.load(path) as arrays:
        told = {name: arrays[name] for name in ("state", "question")}
    np.savez(path, **told, **({} if scores is None else {"scores": scores}))
    assert reads.during(lambda: scan(tiff)) == 1
