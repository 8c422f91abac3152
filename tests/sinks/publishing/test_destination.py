import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from patchloom.errors import OutputExistsError, SinkError
from patchloom.sinks import check_apart, check_destination
from patchloom.sinks.output_kinds import ZARR
from patchloom.sinks.publishing.destination import publish


def test_free_destination(tmp_path):
    """A free destination is accepted, and nothing is written."""
    check_destination(tmp_path / "a.zarr")
    check_destination(tmp_path / "a.zarr", overwrite=True)
    check_destination(str(tmp_path / "a.zarr"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["s3://bucket/a.zarr", "https://host/a.zarr", "file://host/a.zarr"])
def test_remote_output(path):
    with pytest.raises(SinkError, match="local paths only"):
        check_destination(path)


def test_missing_folder(tmp_path):
    with pytest.raises(SinkError, match="missing does not exist: make it first"):
        check_destination(tmp_path / "missing" / "a.zarr")
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match="file does not exist: make it first"):
        check_destination(tmp_path / "file" / "a.zarr")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is forbidden to root")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SinkError, match="cannot be written to"):
        check_destination(tmp_path / "a.zarr")


def test_overwrite(tmp_path, make_zarr):
    """An existing Zarr is replaced only with `overwrite`."""
    zarr = make_zarr(tmp_path / "a.zarr")
    with pytest.raises(OutputExistsError, match=r"overwrite=True \(--overwrite\)"):
        check_destination(zarr)
    check_destination(zarr, overwrite=True)


@pytest.mark.parametrize("kind", ["file", "empty folder", "folder of images", "home"])
def test_other_kinds_stay(tmp_path, kind):
    """Files and folders that are not a Zarr are never replaced by one."""
    path = tmp_path / "out.zarr"
    if kind == "file":
        path.write_text("thesis")
    elif kind != "home":
        path.mkdir()
        if kind != "empty folder":
            (path / "a.tif").write_text("image")
    else:
        path = Path("/")
    with pytest.raises(OutputExistsError, match="is not a Zarr, so it is not replaced"):
        check_destination(path, overwrite=True, kind=ZARR)


def make_file(path, kind):
    if kind == "BigTIFF":
        tifffile.imwrite(path, np.ones((9, 9), "u1"), bigtiff=True)
    elif kind == "TIFF":
        tifffile.imwrite(path, np.ones((9, 9), "u1"), byteorder=">")
    elif kind == "array":
        path.write_bytes(b"\x93NUMPY")
    elif kind == "folder":
        path.mkdir()
        (path / "zarr.json").write_text("{}")
    else:
        path.write_bytes(b"" if kind == "empty file" else b"my thesis")


@pytest.mark.parametrize("kind", ["TIFF", "BigTIFF", "array", "text", "empty file", "folder"])
@pytest.mark.parametrize("name", ["a.ome.tif", "a.btf", "a.npy", "a.zarr"])
def test_other_files_stay(tmp_path, name, kind):
    """A file is replaced only if its content is of the kind of its name."""
    make_file(tmp_path / name, kind)
    expected = {"npy": {"array"}, "zarr": {"folder"}}.get(name[2:], {"TIFF", "BigTIFF"})
    if kind in expected:
        check_destination(tmp_path / name, overwrite=True)
    else:
        with pytest.raises(OutputExistsError, match="so it is not replaced"):
            check_destination(tmp_path / name, overwrite=True)
    with pytest.raises(OutputExistsError, match="was not changed"):
        check_destination(tmp_path / name)


def test_unknown_ending(tmp_path):
    """A name without the ending of an output is refused."""
    with pytest.raises(SinkError, match=r"choose OME-Zarr"):
        check_destination(tmp_path / "a.png")


@pytest.mark.parametrize("ending", [".partial", ".replaced"])
@pytest.mark.parametrize(("name", "message"), [("a.zarr", "resume it or start afresh"), ("a.tif", "cannot be resumed")])
def test_leftovers(tmp_path, ending, name, message):
    """The message names the files of an interrupted run."""
    (tmp_path / f"{name}{ending}").mkdir()
    with pytest.raises(SinkError, match=rf"{name}{ending} exists: a run was interrupted here: .*{message}"):
        check_destination(tmp_path / name)
    check_destination(tmp_path / name, overwrite=True)
    check_destination(tmp_path / name, resume=True)


@pytest.mark.parametrize(
    ("output", "source", "relation"),
    [
        ("raw.zarr", "raw.zarr", "is the input"),
        ("raw.zarr/out.zarr", "raw.zarr", "lies inside the input"),
        ("folder", "folder/raw.tif", "contains the input"),
        ("x/../raw.zarr", "raw.zarr", "is the input"),
        ("link.zarr", "raw.zarr", "is the input"),
        ("raw.zarr", "link.zarr/0", "contains the input"),
    ],
)
def test_output_at_an_input(tmp_path, make_zarr, monkeypatch, output, source, relation):
    """An output that is an input, is inside one or contains one is refused."""
    monkeypatch.chdir(tmp_path)
    make_zarr(tmp_path / "raw.zarr")
    (tmp_path / "link.zarr").symlink_to(tmp_path / "raw.zarr")
    for given in (source, Path(source), tmp_path / source, (tmp_path / source).as_uri()):
        with pytest.raises(SinkError, match=relation):
            check_apart(output, ["array", "s3://bucket/raw.zarr", given])


@pytest.mark.parametrize(
    "source", ["raw.zarr", "out", "out.zarr2", "folder/out.zarr", "array", "https://host/out.zarr"]
)
def test_output_beside_inputs(tmp_path, monkeypatch, source):
    """An output may be beside its inputs."""
    monkeypatch.chdir(tmp_path)
    check_apart("out.zarr", [source, Path(source)])


def test_failed_rename(tmp_path, make_zarr):
    """If the new output cannot be renamed, the old one stays."""
    old = make_zarr(tmp_path / "a.zarr")
    with pytest.raises(SinkError, match="cannot move the finished output"):
        publish(old, ZARR, overwrite=True)  # another process has removed it
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert (old / "zarr.json").read_text() == "{}"
