import pytest

from patchloom.axes import AxesMap
from patchloom.errors import GeometryError, SinkError
from patchloom.sinks import (
    SINK_SUFFIXES,
    SUPPORTED_OUTPUTS,
    MemorySink,
    NpySink,
    OmeZarrSink,
    OutputLock,
    ResumableSink,
    TiffSink,
    open_sink,
    output_kind,
)

GRID = {"axes_map": AxesMap("YX", (64, 64)), "dtype": "uint8", "chunk_shape": (1, 1, 32, 32), "shard_shape": (1, 1, 64, 64)}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.ome.zarr", OmeZarrSink),
        ("a.zarr", OmeZarrSink),
        ("a.OME.Zarr", OmeZarrSink),
        ("a.ome.tif", TiffSink),
        ("a.ome.tiff", TiffSink),
        ("a.tif", TiffSink),
        ("A.TIFF", TiffSink),
        ("a.btf", TiffSink),
        ("a.npy", NpySink),
        (None, MemorySink),
    ],
)
def test_the_name_says_what_is_written(tmp_path, name, kind):
    sink = open_sink(name and tmp_path / name, **GRID)
    assert type(sink) is kind
    assert isinstance(sink, ResumableSink) == (kind is OmeZarrSink)
    assert kind is MemorySink or output_kind(name).resumable == (kind is OmeZarrSink)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.png", "a.zarr.zip", "zarr"])
def test_any_other_ending_is_refused_and_all_that_do_are_named(tmp_path, name):
    with pytest.raises(SinkError, match=r"take a name for OME-Zarr \(.ome.zarr, .zarr\), OME-TIFF"):
        open_sink(tmp_path / name, **GRID)
    assert all(suffix in SUPPORTED_OUTPUTS for suffix in SINK_SUFFIXES)


@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_a_file_is_not_resumed(tmp_path, name):
    (tmp_path / f"{name}.partial").write_bytes(b"half")
    with pytest.raises(SinkError, match=r"cannot be resumed: start afresh with overwrite=True"):
        open_sink(tmp_path / name, **GRID, resume=True)
    with pytest.raises(SinkError, match=r"partial exists: a run was interrupted here: .* cannot be resumed"):
        open_sink(tmp_path / name, **GRID)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{name}.partial"]
    open_sink(tmp_path / name, **GRID, overwrite=True).abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.zarr", "a.tif", "a.npy"])
def test_a_lock_that_the_caller_holds_is_left_to_the_caller(tmp_path, name):
    with OutputLock(tmp_path / name) as lock:
        with pytest.raises(SinkError, match="another run is writing"):
            open_sink(tmp_path / name, **GRID)
        open_sink(tmp_path / name, **GRID, lock=lock).abort()
        with pytest.raises(SinkError, match="another run is writing"):
            OutputLock(tmp_path / name)
    open_sink(tmp_path / name, **GRID).abort()
    assert list(tmp_path.iterdir()) == []


def test_there_are_two_versions_of_ome_zarr(tmp_path):
    with pytest.raises(GeometryError, match=r"version is '0.3': it must be '0.4' or '0.5'"):
        open_sink(tmp_path / "a.zarr", **GRID, version="0.3")
    sink = open_sink(tmp_path / "a.zarr", **GRID, version="0.4")
    assert sink.shard_shape == (1, 1, 32, 32)
    sink.abort()
