import pytest

from patchloom.axes import AxesMap
from patchloom.errors import PatchloomError, SinkError
from patchloom.sinks import (
    SINK_SUFFIXES,
    SUPPORTED_OUTPUTS,
    MemorySink,
    NpySink,
    OmeZarr,
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
def test_endings(tmp_path, name, kind):
    """The ending of the name selects the sink."""
    sink = open_sink(name and tmp_path / name, **GRID)
    assert type(sink) is kind
    assert isinstance(sink, ResumableSink) == (kind is OmeZarrSink)
    assert kind is MemorySink or output_kind(name).resumable == (kind is OmeZarrSink)
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.png", "a.zarr.zip", "zarr"])
def test_unknown_ending(tmp_path, name):
    """Another ending is refused, and the message lists all endings."""
    with pytest.raises(SinkError, match=r"choose OME-Zarr \(.ome.zarr, .zarr\), OME-TIFF"):
        open_sink(tmp_path / name, **GRID)
    assert all(suffix in SUPPORTED_OUTPUTS for suffix in SINK_SUFFIXES)


@pytest.mark.parametrize("name", ["a.tif", "a.npy"])
def test_files_are_not_resumed(tmp_path, name):
    """TIFF and NumPy files cannot be resumed."""
    (tmp_path / f"{name}.partial").write_bytes(b"half")
    with pytest.raises(SinkError, match=r"cannot be resumed: start afresh with overwrite=True"):
        open_sink(tmp_path / name, **GRID, resume=True)
    with pytest.raises(SinkError, match=r"partial exists: a run was interrupted here: .* cannot be resumed"):
        open_sink(tmp_path / name, **GRID)
    assert [entry.name for entry in tmp_path.iterdir()] == [f"{name}.partial"]
    open_sink(tmp_path / name, **GRID, overwrite=True).abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.zarr", "a.tif", "a.npy"])
def test_lock_of_the_caller(tmp_path, name):
    """A lock that the caller holds is not released by the sink."""
    with OutputLock(tmp_path / name) as lock:
        with pytest.raises(SinkError, match="another run is writing"):
            open_sink(tmp_path / name, **GRID)
        open_sink(tmp_path / name, **GRID, lock=lock).abort()
        with pytest.raises(SinkError, match="another run is writing"):
            OutputLock(tmp_path / name)
    open_sink(tmp_path / name, **GRID).abort()
    assert list(tmp_path.iterdir()) == []


def test_options(tmp_path):
    """An `OmeZarr` selects version, pyramid and chunks; the name alone gives the defaults."""
    sink = open_sink(OmeZarr(tmp_path / "a.zarr", version="0.4", pyramid=None), **GRID)
    assert (sink.version, sink.method, sink.chunk_shape, sink.shard_shape) == ("0.4", None, *2 * [(1, 1, 32, 32)])
    sink.abort()
    sink = open_sink(OmeZarr(tmp_path / "a.zarr", pyramid="mode", chunks=(16, 32)), **GRID)
    assert (sink.version, sink.method, sink.chunk_shape, sink.shard_shape) == (
        "0.5",
        "mode",
        (1, 1, 16, 32),
        (1, 1, 64, 64),
    )
    sink.abort()
    sink = open_sink(tmp_path / "a.zarr", **GRID)
    assert (sink.version, sink.method, sink.chunk_shape) == ("0.5", "mean", (1, 1, 32, 32))
    sink.abort()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"version": "0.3"}, "version is '0.3': it must be '0.4' or '0.5'"),
        ({"pyramid": "median"}, "pyramid is 'median'"),
        ({"chunks": 0}, "chunks is 0: it must be at least 1"),
        ({"chunks": 2.5}, "chunks"),
        ({"path": "a.tif"}, "which is not an OME-Zarr"),
        ({"path": 7}, "path is 7"),
    ],
)
def test_wrong_options(wrong, message):
    """Options are checked where they are given."""
    with pytest.raises(PatchloomError, match=message):
        OmeZarr(**{"path": "a.ome.zarr"} | wrong)
