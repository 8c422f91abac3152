"""An OME-Zarr that a killed process left unfinished is resumed, and ends in the bytes of a run without a kill.

`PATCHLOOM_KILLS` is the number of times that each run is killed.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from patchloom.axes import AxesMap
from patchloom.errors import OutputExistsError, SinkError
from patchloom.sinks import OmeZarrSink

N_KILLS = int(os.environ.get("PATCHLOOM_KILLS", "2"))

RUN = """
import json, os, random, sys, time
from pathlib import Path
import numpy as np
import tensorstore
from patchloom.axes import AxesMap
from patchloom.image_metadata import ImageMetadata
from patchloom.sinks import OmeZarrSink, partial_path
from patchloom.sinks.ome_zarr import metadata
from patchloom.sinks.regions import boxes

path, version = Path(sys.argv[1]), sys.argv[2]
axes_map = AxesMap("TCYX", (2, 2, 200, 310))
image = np.random.default_rng(5).normal(0, 900, axes_map.data_shape).astype("int16")
image[0, :, :128, :200] = 0  # blocks that take no file
begun = partial_path(path).exists()
sink = OmeZarrSink(
    path, axes_map=axes_map, dtype="int16", levels=3, chunk_shape=(1, 1, 64, 32 if version == "0.5" else 64), shard_shape=(1, 2, 64, 64),
    version=version, overwrite=True, resume=begun, metadata=ImageMetadata(name="image"),
)
ledger = path.with_name("ledger")
with ledger.open("a" if begun else "w") as file:
    done = {str(sink.restore(json.loads(line))) for line in ledger.read_text().splitlines() if line.endswith("}")}
    regions = list(boxes(sink.grid.whole, (1, 2, 64, 64)))
    if begun:
        random.shuffle(regions)
    print("ready", flush=True)
    begin = time.monotonic()
    for region in regions:
        if str(region) in done:
            continue
        sink.write(region, image[region])
        file.write(json.dumps(sink.block_record(region)) + chr(10))
        file.flush()
        os.fsync(file.fileno())
sink.finalize()
print(time.monotonic() - begin, len(done), flush=True)
"""


def start(path, version):
    command = [sys.executable, "-W", "error", "-c", RUN, path, version]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def finish(process):
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    seconds, n_restored = output.split()
    return float(seconds), int(n_restored)


def contents(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("version", ["0.5", "0.4"])
def test_repeated_kills(tmp_path, version):
    """A run that is killed several times ends in the bytes of a run without a kill."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = tmp_path / "whole" / "a.zarr", tmp_path / "killed" / "a.zarr"
    seconds, _ = finish(start(whole, version))
    undisturbed = contents(whole)
    moments = random.Random(time.time_ns())
    for _ in range(N_KILLS):
        process = start(killed, version)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.communicate()
        if killed.exists():  # a reader takes what it sees for complete
            assert contents(killed) == undisturbed
    finish(start(killed, version))
    assert contents(killed) == undisturbed
    assert sorted(path.name for path in killed.parent.iterdir()) == ["a.zarr", "ledger"]


GRID = {
    "axes_map": AxesMap("YX", (96, 96)), "dtype": "uint16",
    "chunk_shape": (1, 1, 32, 32), "shard_shape": (1, 1, 64, 64), "levels": 3,
}  # fmt: skip


def image_for(sink, seed=0):
    return np.random.default_rng(seed).integers(1, 999, sink.data_shape, dtype="uint16")


def begun(path, **options):
    """Write all, and be killed before the end."""
    sink = OmeZarrSink(path, **GRID, **options)
    image = image_for(sink)
    sink.write(sink.grid.whole, image)
    record = sink.block_record(sink.grid.whole)
    return sink, image, record


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_leftover_of_tensorstore(tmp_path, version):
    """TensorStore does not truncate the file that it was writing when it was killed, so the sink removes it."""
    sink, image, _record = begun(tmp_path / "a.zarr", version=version)
    stored = next(file for file in (tmp_path / "a.zarr.partial").rglob("*/0/0") if file.is_file())
    before = stored.read_bytes()
    stored.with_name("0.__lock").write_bytes(bytes(10 * len(before)))
    stored.unlink()
    sink.close()
    again = OmeZarrSink(tmp_path / "a.zarr", **GRID, version=version, resume=True)
    again.write(again.grid.whole, image)
    assert stored.read_bytes() == before
    assert not list((tmp_path / "a.zarr.partial").rglob("*lock*"))
    again.abort()


def test_unfinished_levels(tmp_path):
    """Unfinished lower levels are written again."""
    begun(tmp_path / "whole.zarr")[0].finalize()
    expected = contents(tmp_path / "whole.zarr")
    sink, _, record = begun(tmp_path / "a.zarr")
    sink.close()
    partial = tmp_path / "a.zarr.partial"
    for name in ("1/c/0/0", "2/zarr.json", "zarr.json"):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_text("junk")
    again = OmeZarrSink(tmp_path / "a.zarr", **GRID, resume=True)
    again.restore(record)
    found = contents(again.finalize())
    expected["zarr.json"] = expected["zarr.json"].replace(b'"whole"', b'"a"')
    assert found == expected


def test_repeated_finalize(tmp_path, monkeypatch):
    """After a failure, `finalize` may be called again."""
    begun(tmp_path / "whole.zarr")[0].finalize()
    sink, _, _ = begun(tmp_path / "a.zarr")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", lambda self, target: (_ for _ in ()).throw(OSError(28, "No space")))
        with pytest.raises(SinkError, match=r"cannot move the finished output.*No space"):
            sink.finalize()
    found = contents(sink.finalize())
    assert found.keys() == contents(tmp_path / "whole.zarr").keys()


def test_damaged_file(tmp_path):
    """A missing or truncated file is noticed, and its block can be written again."""
    for damage in (Path.unlink, lambda file: os.truncate(file, 100)):
        sink, image, record = begun(tmp_path / "a.zarr", overwrite=True)
        damage(next(file for file in (tmp_path / "a.zarr.partial" / "0").rglob("c/1/0")))
        sink.close()
        again = OmeZarrSink(tmp_path / "a.zarr", **GRID, overwrite=True, resume=True)
        assert not again.has_block(record)
        with pytest.raises(SinkError, match=r"the block at .* is missing or changed"):
            again.restore(record)
        again.write(again.grid.whole, image)
        again.finalize()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"dtype": "float32"}, "its dtype is uint16, not float32: start afresh"),
        ({"axes_map": AxesMap("YX", (96, 100))}, r"its shape is \(96, 96\), not \(96, 100\)"),
        ({"axes_map": AxesMap("CYX", (1, 96, 96))}, r"its shape is \(96, 96\), not \(1, 96, 96\)"),
        ({"shard_shape": (1, 1, 96, 64)}, r"its shard shape is \(64, 64\), not \(96, 64\)"),
        (
            {"chunk_shape": (1, 1, 16, 16), "dtype": "uint8"},
            r"its dtype is uint16, not uint8, its chunk shape is \(32, 32\), not \(16, 16\)",
        ),
    ],
)
def test_other_image(tmp_path, other, message):
    """The differences to the unfinished image are listed, and the unfinished image stays."""
    begun(tmp_path / "a.zarr")[0].close()
    before = contents(tmp_path)
    with pytest.raises(SinkError, match=message):
        OmeZarrSink(tmp_path / "a.zarr", **(GRID | other), resume=True)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", ["folder only", "no array yet"])
def test_kill_at_the_start(tmp_path, damage):
    """A run that was killed while it made its first files is resumed."""
    (tmp_path / "a.zarr.partial").mkdir()
    if damage == "no array yet":
        (tmp_path / "a.zarr.partial" / "0").mkdir()
        (tmp_path / "a.zarr.partial" / "0" / "zarr.json.__lock").write_text('{"half')
    sink = OmeZarrSink(tmp_path / "a.zarr", **GRID, resume=True)
    sink.write(sink.grid.whole, image_for(sink))
    assert (sink.finalize() / "0" / "zarr.json").exists()


def test_overwrite_unfinished(tmp_path):
    """With `overwrite` an unfinished image is discarded."""
    begun(tmp_path / "a.zarr")[0].close()
    with pytest.raises(SinkError, match="a run was interrupted here: resume it or start afresh"):
        OmeZarrSink(tmp_path / "a.zarr", **GRID)
    sink = OmeZarrSink(tmp_path / "a.zarr", **GRID, overwrite=True)
    assert not list((tmp_path / "a.zarr.partial" / "0").rglob("c"))
    sink.abort()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("shown", [False, True])
def test_kill_during_replacement(tmp_path, resume, shown):
    """Between the renames the old image is set aside; after them the new one is shown and the old one not yet removed."""
    old = begun(tmp_path / "a.zarr")[0].finalize()
    if shown:
        (tmp_path / "a.zarr.replaced").mkdir()
        (tmp_path / "a.zarr.replaced" / "zarr.json").write_text("old")
        expected = contents(old)
    else:
        expected = contents(old)
        old.rename(tmp_path / "a.zarr.replaced")
    (tmp_path / "a.zarr.partial").mkdir()
    if not shown and not resume:
        with pytest.raises(SinkError, match="a run was interrupted here"):
            OmeZarrSink(old, **GRID)
    sink = OmeZarrSink(old, **GRID, overwrite=True, resume=resume)
    assert contents(old) == expected
    sink.write(sink.grid.whole, image_for(sink, seed=9))
    sink.finalize()
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.zarr"]
    assert contents(old) != expected


def test_resume_beside_finished(tmp_path):
    """An unfinished image beside a finished one is resumed only with `overwrite`."""
    begun(tmp_path / "a.zarr")[0].finalize()
    begun(tmp_path / "a.zarr", overwrite=True)[0].close()
    with pytest.raises(OutputExistsError):
        OmeZarrSink(tmp_path / "a.zarr", **GRID, resume=True)
    OmeZarrSink(tmp_path / "a.zarr", **GRID, resume=True, overwrite=True).abort()
    assert (tmp_path / "a.zarr").is_dir()
