"""What was lost or changed after it was written is noticed before an output is shown."""

import itertools
import os
import shutil

import numpy as np
import pytest
import zarr

from patchloom.axes import AxesMap
from patchloom.errors import SinkError
from patchloom.sinks import NpySink, OmeZarrSink, TiffSink, partial_path

SHAPE = (1, 2, 96, 80)
IMAGE = np.random.default_rng(0).integers(1, 999, SHAPE, dtype="uint16")
WHOLE = tuple(slice(0, size) for size in SHAPE)


def written(path, version="0.5", image=IMAGE, **options):
    sink = OmeZarrSink(
        path,
        axes_map=AxesMap("CYX", SHAPE[1:]),
        dtype="uint16",
        chunk_shape=(1, 1, 16, 16),
        shard_shape=(1, 1, 32, 32),
        levels=3,
        version=version,
        **options,
    )
    sink.write(WHOLE, image)
    return sink


def stored_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


DAMAGES = {
    "lost": lambda file: file.unlink(),
    "cut off": lambda file: os.truncate(file, file.stat().st_size - 1),
    "emptied": lambda file: os.truncate(file, 0),
    "longer": lambda file: os.truncate(file, file.stat().st_size + 1),
}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_changed_shard(tmp_path, version, damage):
    """An OME-Zarr with a changed or missing file is not published."""
    n_files = len(stored_files(partial_path(written(tmp_path / "count.zarr", version).path)))
    for number in range(0, n_files, 9 if version == "0.4" else 3):
        path = tmp_path / f"{number}.zarr"
        sink = written(path, version)
        DAMAGES[damage](stored_files(partial_path(path))[number])
        with pytest.raises(SinkError, match=r"was changed (after|while) it was written"):
            sink.finalize()
        assert not path.exists()
        sink.close()


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_changed_level(tmp_path, version, monkeypatch):
    """An OME-Zarr with a changed lower level is not published."""
    written(tmp_path / "whole.zarr", version).finalize()
    levels = [file for level in "12" for file in stored_files(tmp_path / "whole.zarr" / level)]
    write_documents = OmeZarrSink._write_documents
    for number, file in enumerate(levels[::7]):
        path = tmp_path / f"{number}.zarr"
        lost = partial_path(path) / file.relative_to(tmp_path / "whole.zarr")

        def lose_one(sink, lost=lost):
            write_documents(sink)
            lost.unlink()

        with monkeypatch.context() as patch:
            patch.setattr(OmeZarrSink, "_write_documents", lose_one)
            sink = written(path, version)
            with pytest.raises(SinkError, match=r"was changed (after|while) it was written"):
                sink.finalize()
        assert not path.exists()
        sink.finalize()  # the levels are made again
        np.testing.assert_array_equal(zarr.open_group(path, mode="r")["0"][...], IMAGE[0])


def test_new_shard(tmp_path):
    """A file that appears for a shard of zeros is noticed."""
    sink = written(tmp_path / "a.zarr", image=np.zeros(SHAPE, "uint16"))
    other = written(tmp_path / "b.zarr")
    shutil.copytree(partial_path(other.path) / "0", partial_path(sink.path) / "0", dirs_exist_ok=True)
    with pytest.raises(SinkError, match="but 0 were written at S 0:1, C 0:1, Y 0:32, X 0:32"):
        sink.finalize()


def test_restored_blocks(tmp_path):
    """The files of restored blocks are checked, too."""
    first = written(tmp_path / "a.zarr")
    record = first.block_record(WHOLE)
    first.close()
    options = {"axes_map": AxesMap("CYX", SHAPE[1:]), "dtype": "uint16", "levels": 3}
    grid = {"chunk_shape": (1, 1, 16, 16), "shard_shape": (1, 1, 32, 32)}
    second = OmeZarrSink(tmp_path / "a.zarr", **options, **grid, resume=True)
    second.restore(record)
    next(file for file in stored_files(partial_path(second.path)) if file.name == "2").unlink()
    with pytest.raises(SinkError, match="was changed after it was written"):
        second.finalize()
    assert not (tmp_path / "a.zarr").exists()


@pytest.mark.parametrize(("name", "kind"), [("a.npy", NpySink), ("a.tif", TiffSink)])
@pytest.mark.parametrize("damage", [*DAMAGES, "replaced"])
def test_changed_file(tmp_path, name, kind, damage):
    """A changed TIFF or NumPy file is not published."""
    sink = kind(tmp_path / name, axes_map=AxesMap("CYX", SHAPE[1:]), dtype="uint16")
    for channel, rows in itertools.product(range(2), (slice(0, 48), slice(48, 96))):
        region = (slice(0, 1), slice(channel, channel + 1), rows, slice(0, 80))
        sink.write(region, IMAGE[region])
    partial = partial_path(tmp_path / name)
    if damage == "replaced":
        content = partial.read_bytes()
        partial.unlink()
        partial.write_bytes(bytes(len(content)))
    else:
        DAMAGES[damage](partial)
    with pytest.raises(SinkError, match=r"was changed while it was written|cannot be completed"):
        sink.finalize()
    assert not (tmp_path / name).exists()
    sink.abort()
