"""No output touches an input, however either is spelled."""

import os
from pathlib import Path

import pytest

from patchloom.errors import SinkError
from patchloom.sinks import InputPlaces, check_apart


def make_zarr(path):
    path.mkdir(parents=True)
    (path / "zarr.json").write_text("{}")
    return path


@pytest.mark.parametrize("ending", [".partial", ".replaced", ".ledger", ".lock"])
def test_an_input_that_has_a_name_used_meanwhile_is_kept(tmp_path, ending):
    source = make_zarr(tmp_path / f"a.zarr{ending}")
    with pytest.raises(
        SinkError, match=rf"a\.zarr\{ending}, which the output .*a\.zarr uses during the run, is the input"
    ):
        check_apart(tmp_path / "a.zarr", [source])
    with pytest.raises(SinkError, match=r"uses during the run, contains the input"):
        InputPlaces([source / "0"]).check_names_beside(tmp_path / "a.zarr")


def test_a_hard_link_to_an_input_is_the_input(tmp_path):
    (tmp_path / "a.npy").write_bytes(b"pixels")
    os.link(tmp_path / "a.npy", tmp_path / "b.npy")
    with pytest.raises(SinkError, match=r"b\.npy is the input .*a\.npy"):
        check_apart(tmp_path / "b.npy", [tmp_path / "a.npy"])


@pytest.mark.parametrize(
    "spelling", ["{}/x/../raw.zarr", "{}/raw.zarr/", "{}/link/raw.zarr", "file://{}/raw.zarr", "{}//raw.zarr"]
)
def test_all_spellings_of_an_input_are_the_input(tmp_path, spelling):
    make_zarr(tmp_path / "raw.zarr")
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    spelled = spelling.format(tmp_path)
    for output, source in ((spelled, tmp_path / "raw.zarr"), (tmp_path / "raw.zarr", spelled)):
        with pytest.raises(SinkError, match="is the input"):
            check_apart(output, [source])
        with pytest.raises(SinkError, match="lies inside the input"):
            check_apart(f"{output}/labels/out.zarr", [source])


def test_a_folder_that_is_a_link_elsewhere_is_no_hiding_place(tmp_path):
    make_zarr(tmp_path / "disk" / "raw.zarr")
    (tmp_path / "data").symlink_to(tmp_path / "disk")
    with pytest.raises(SinkError, match="is the input"):
        check_apart(tmp_path / "data" / "raw.zarr", [tmp_path / "disk" / "raw.zarr"])
    with pytest.raises(SinkError, match="contains the input"):
        check_apart(tmp_path / "disk" / "raw.zarr", [tmp_path / "data" / "raw.zarr" / "0"])


def test_many_inputs_and_outputs_are_compared_in_one_pass(tmp_path, monkeypatch):
    looked_at = []
    stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda self, **options: looked_at.append(self) or stat(self, **options))
    inputs = InputPlaces(tmp_path / f"{number}.tif" for number in range(300))
    for number in range(300):
        inputs.check_apart(tmp_path / f"{number}.zarr")
    assert len(looked_at) < 300 * 40


def test_a_path_with_a_nul_is_refused_in_words(tmp_path):
    with pytest.raises(SinkError, match="cannot contain a NUL"):
        check_apart(f"{tmp_path}/a\0.zarr", [])
