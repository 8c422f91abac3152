"""No output touches an input, however either is spelled."""

import os
from pathlib import Path

import pytest

from patchloom.errors import SinkError
from patchloom.sinks import InputPlaces, check_apart


@pytest.mark.parametrize("ending", [".partial", ".replaced", ".ledger", ".lock"])
def test_names_beside(tmp_path, make_zarr, ending):
    """An input that has one of the names beside an output is not overwritten."""
    source = make_zarr(tmp_path / f"a.zarr{ending}")
    with pytest.raises(
        SinkError, match=rf"a\.zarr\{ending}, which the output .*a\.zarr uses during the run, is the input"
    ):
        check_apart(tmp_path / "a.zarr", [source])
    with pytest.raises(SinkError, match=r"uses during the run, contains the input"):
        InputPlaces([source / "0"]).check_names_beside(tmp_path / "a.zarr")


def test_hard_link(tmp_path):
    """A hard link to an input counts as the input."""
    (tmp_path / "a.npy").write_bytes(b"pixels")
    os.link(tmp_path / "a.npy", tmp_path / "b.npy")
    with pytest.raises(SinkError, match=r"b\.npy is the input .*a\.npy"):
        check_apart(tmp_path / "b.npy", [tmp_path / "a.npy"])


@pytest.mark.parametrize(
    "spelling", ["{}/x/../raw.zarr", "{}/raw.zarr/", "{}/link/raw.zarr", "file://{}/raw.zarr", "{}//raw.zarr"]
)
def test_spellings(tmp_path, make_zarr, spelling):
    """All spellings of the path of an input count as the input."""
    make_zarr(tmp_path / "raw.zarr")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    spelled = spelling.format(tmp_path)
    for output, source in ((spelled, tmp_path / "raw.zarr"), (tmp_path / "raw.zarr", spelled)):
        with pytest.raises(SinkError, match="is the input"):
            check_apart(output, [source])
        with pytest.raises(SinkError, match="lies inside the input"):
            check_apart(f"{output}/labels/out.zarr", [source])


def test_linked_folder(tmp_path, make_zarr):
    """An input is found through a linked folder."""
    make_zarr(tmp_path / "disk" / "raw.zarr")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with pytest.raises(SinkError, match="is the input"):
        check_apart(tmp_path / "data" / "raw.zarr", [tmp_path / "disk" / "raw.zarr"])
    with pytest.raises(SinkError, match="contains the input"):
        check_apart(tmp_path / "disk" / "raw.zarr", [tmp_path / "data" / "raw.zarr" / "0"])


def test_one_pass(tmp_path, monkeypatch):
    """The number of file accesses grows with the number of inputs and outputs, not with their product."""
    looked_at = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: looked_at.append(self) or stat(self, **options))
    inputs = InputPlaces(tmp_path / f"{number}.tif" for number in range(300))
    for number in range(300):
        inputs.check_apart(tmp_path / f"{number}.zarr")
    assert len(looked_at) < 300 * 40


def test_nul(tmp_path):
    with pytest.raises(SinkError, match="cannot contain a NUL"):
        check_apart(f"{tmp_path}/a\0.zarr", [])
