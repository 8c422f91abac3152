"""What goes wrong in a long run: each fault has one outcome, and what was finished is never lost.

`PATCHLOOM_TORTURE` says at how many random moments a disk fills up and in how many places a ledger is damaged.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom.errors import ModelError, ModelOutputError, OutputExistsError, SeriesError, SinkError
from patchloom.prediction import plan, predict
from patchloom.prediction.normalization import measuring
from patchloom.prediction.output.ledger import Ledger, ledger_path, read_progress
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

TIMES = int(os.environ.get("PATCHLOOM_TORTURE", "3"))

TILES: dict[str, Any] = {"axes": "TYX", "patch_size": (32, 24), "overlaps": (8, 6), "batch_size": 3}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


@pytest.fixture
def source(tmp_path: Path, rng: np.random.Generator) -> Path:
    """An image that hardly compresses."""
    np.save(tmp_path / "image.npy", rng.integers(0, 2**16, (2, 150, 130), np.uint16))
    return tmp_path / "image.npy"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted("-t", "tmpfs", "-o", "size=2m", "tmpfs", place):
        pytest.skip("mounting a disk takes root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)  # a test that failed may hold a file open


def mounted(*arguments: Any) -> bool:
    """Mount something, if that may be done."""
    command = shutil.which("mount")
    return (
        command is not None and not subprocess.run([command, *arguments], capture_output=True, check=False).returncode
    )


def root_of(batch: np.ndarray) -> np.ndarray:
    """Give what hardly compresses either."""
    return np.sqrt(batch.astype(np.float32) + 1)


class Root:
    """A model that may do something else on one of its batches; the one that is run beforehand counts."""

    identity = "root"

    def __init__(self, number: int = -1, instead: Callable[[np.ndarray], Any] = root_of) -> None:
        self.calls = itertools.count()
        self.number = number
        self.instead = instead

    def __call__(self, batch: np.ndarray) -> Any:
        return (self.instead if next(self.calls) == self.number else root_of)(batch)


class Never(Root):
    """The same model by its identity; it must not run."""

    def __call__(self, batch: np.ndarray) -> Any:
        pytest.fail("the model ran")


def out_of_cheese(_batch: np.ndarray) -> None:
    raise RuntimeError("out of cheese")


def quiet(model: Any, source: Any, output: Any, **changes: Any) -> Any:
    return predict(model, source, output, progress=False, **TILES | changes)


def files(folder: Path) -> dict[str, bytes]:
    """Everything in an output, byte by byte, whatever its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes().replace(folder.name.split(".")[0].encode(), b"NAME")
        if path.name == "zarr.json"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def undisturbed(source: Path) -> dict[str, bytes]:
    whole = quiet(Root(), source, source.with_name("whole.ome.zarr"))
    found = files(whole)
    shutil.rmtree(whole)
    return found


def begin(source: Path, output: Path, number: int = 12, **changes: Any) -> Path:
    """Leave an unfinished output."""
    with pytest.raises(ModelError, match="out of cheese"):
        quiet(Root(number, out_of_cheese), source, output, **changes)
    assert ledger_path(output).exists()
    return output


# A disk that fills up.


def fill(disk: Path, leave: int) -> Path:
    """Leave so many bytes of a disk free, more or less."""
    assert shutil.disk_usage(disk).total == 2 << 20, "or a real disk would be filled"
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - leave)))
    return ballast


@pytest.mark.parametrize("settings", [{}, {"blend": "hann"}], ids=["crop", "blend"])
def test_full_disk(settings: dict[str, Any], source: Path, disk: Path) -> None:
    """A full disk keeps the finished blocks, and the run is resumed when there is room."""
    expected = files(quiet(Root(), source, source.with_name("out.ome.zarr"), **settings))
    needed = sum(-(-len(content) // 4096) * 4096 for content in expected.values())
    moments = random.Random(5)
    kept = []
    for share in [0.02, 0.5, 0.97, *(moments.random() for _ in range(TIMES - 3))]:
        output = disk / "out.ome.zarr"
        ballast = fill(disk, int(share * needed))
        with pytest.raises(SinkError, match="No space left on device: make room on that disk") as caught:
            quiet(Root(), source, output, **settings)
        assert str(disk) in str(caught.value)
        assert not output.exists()
        assert [thread.name for thread in threading.enumerate() if thread.name.startswith("patchloom")] == []
        progress = read_progress(ledger_path(output))
        notes = getattr(caught.value, "__notes__", [])
        if progress is None:
            assert [entry.name for entry in disk.iterdir()] == ["ballast"], "nothing to go on with, so nothing is left"
        else:
            assert notes == [
                f"{progress[1]} of {progress[0]['n_blocks']} blocks are finished and kept: run the same again to resume"
            ]
            kept.append(progress[1])
        ballast.unlink()
        model = Root()
        quiet(model, source, output, **settings)
        assert files(output) == expected
        assert [entry.name for entry in disk.iterdir()] == ["out.ome.zarr"]
        if progress is not None and progress[1] == progress[0]["n_blocks"]:
            assert next(model.calls) == 1, "only the tile that is run beforehand"
        shutil.rmtree(output)
    assert kept
    assert kept[-1] > 0


def test_no_room_for_ledger(disk: Path) -> None:
    """A ledger without room raises an error and stays true."""
    path = disk / "out.ledger"
    ledger = Ledger(path, {"settings": {"a": 1}})
    ledger.record(0, 1, ["first"])
    ballast = fill(disk, 0)
    long = ["x" * 10_000]
    with pytest.raises(
        SinkError, match=r"the ledger .*out\.ledger cannot be written: No space left on device: make room"
    ):
        ledger.record(0, 2, long)
    ballast.unlink()
    ledger.record(0, 3, long)
    ledger.close()
    again = Ledger(path, {"settings": {"a": 1}})
    assert again.blocks == {(0, 1): ["first"], (0, 3): long}
    again.close()


def test_unbegun_ledger(disk: Path) -> None:
    """A ledger whose first line cannot be written is removed."""
    fill(disk, 0)
    with pytest.raises(SinkError, match="No space left on device"):
        Ledger(disk / "out.ledger", {"settings": {"a": "x" * 10_000}})
    assert [entry.name for entry in disk.iterdir()] == ["ballast"]


# A place where nothing can be written.


def test_read_only_disk(source: Path, disk: Path) -> None:
    """A disk that is read-only is refused before the model runs."""
    assert mounted("-o", "remount,ro", disk)
    for output in (disk / "out.ome.zarr", disk / "out.npy", disk / "out.ome.tif"):
        with pytest.raises(SinkError, match=r"disk/out.* cannot be written to"):
            quiet(Never(), source, output)
    with pytest.raises(SinkError, match=r"disk.* cannot be written to"):
        quiet(Never(), [source], disk / "series")
    assert list(disk.iterdir()) == []


def test_disk_became_read_only(source: Path, disk: Path, undisturbed: dict[str, bytes]) -> None:
    """An unfinished output on a disk that became read-only is resumed when it is writable."""
    output = begin(source, disk / "out.ome.zarr")
    assert mounted("-o", "remount,ro", disk)
    before = files(disk)
    with pytest.raises(SinkError, match="cannot be written to"):
        quiet(Never(), source, output)
    assert files(disk) == before
    assert mounted("-o", "remount,rw", disk)
    quiet(Root(), source, output)
    assert files(output) == undisturbed


# A model that fails.


@pytest.mark.parametrize("number", [0, 1, 9, 20])
def test_model_fails(number: int, source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """The error names the tile, and all blocks before it are kept."""
    output = tmp_path / "out.ome.zarr"
    prepared = plan(source, **TILES)
    order = [tile for block in range(prepared.n_blocks) for tile in prepared.schedules[0].tiles_of(block).tolist()]
    spec = prepared.tiling[order[max(0, number - 1)]]
    where = rf"the tile at \({', '.join(map(str, spec['coords']))}\) of sample {spec['sample_idx']} of image stack 0"
    with pytest.raises(ModelError, match=f"failed on {where}: RuntimeError: out of cheese"):
        quiet(Root(number, out_of_cheese), source, output, batch_size=1)
    assert not output.exists()
    assert ledger_path(output).exists() == (number > 5)
    quiet(Root(), source, output, batch_size=1)
    assert files(output) == undisturbed


def test_nan_to_integers(source: Path, tmp_path: Path) -> None:
    """NaN in integers is an error that names the tile, whose block is not kept."""

    def nan(batch: np.ndarray) -> np.ndarray:
        return root_of(batch) * np.nan

    output = tmp_path / "out.ome.zarr"
    named = r"the model returned NaN for the tiles at \(\d+, \d+\) of sample 0 of image stack 0"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"postprocess": "uint16"}, named),
        ({"postprocess": "uint16", "blend": "hann"}, named),
        ({"postprocess": "threshold:100"}, r"NaN, which 'threshold:100\.0' cannot process"),
    ]
    for settings, message in cases:
        with pytest.raises(ModelOutputError, match=message):
            quiet(Root(12, nan), source, output, **settings)
        assert not output.exists()
        quiet(Root(), source, output, **settings)
        whole = quiet(Root(), source, None, **settings)
        assert np.array_equal(quiet(lambda batch: batch, output, None, axes=None), whole)
        shutil.rmtree(output)


def test_nan_to_floats(source: Path) -> None:
    """NaN in floats stays where it is."""

    def nan(batch: np.ndarray) -> np.ndarray:
        return root_of(batch) * np.nan

    expected = quiet(Root(), source, None, batch_size=1)
    for settings in ({}, {"blend": "hann"}):
        result = quiet(Root(12, nan), source, None, batch_size=1, **settings)
        lost = np.isnan(result)
        assert 0 < lost.sum() <= 32 * 24
        np.testing.assert_allclose(result[~lost], expected[~lost], rtol=1e-6)


def test_series_with_failure(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """An image that failed is resumed while the others are done."""
    pixels = np.load(source)
    bad = pixels.copy()
    bad[1, 100:, 100:] = 0
    np.save(tmp_path / "bad.npy", bad)
    sources, folder = [tmp_path / "bad.npy", source], tmp_path / "out"

    class FailsInTheDark(Root):
        def __call__(self, batch: np.ndarray) -> Any:
            return out_of_cheese(batch) if (batch == 0).all(axis=(1, 2, 3)).any() else root_of(batch)

    with pytest.raises(SeriesError, match="1 of 2 images failed, the others are done") as caught:
        quiet(FailsInTheDark(), sources, folder, keep_going=True)
    assert caught.value.results == [None, folder / "image.ome.zarr"]
    assert files(folder / "image.ome.zarr") == undisturbed
    assert not (folder / "bad.ome.zarr").exists()
    model = Root()
    quiet(model, sources, folder, keep_going=True)
    assert next(model.calls) < plan(sources, **TILES).n_tiles / 3 / 2, "only what was missing of the one that failed"
    assert {path.name for path in folder.iterdir()} == {"image.ome.zarr", "bad.ome.zarr"}


# A ledger that is damaged, and an output that is.


def damages(content: bytes, chance: random.Random) -> Iterator[bytes]:
    """Damage a ledger in one of the ways that disks, editors and kills do."""
    lines = content.splitlines(keepends=True)
    while True:
        place = chance.randrange(len(content))
        line = chance.randrange(1, len(lines))
        yield content[:place]
        yield content[:place] + bytes([content[place] ^ (1 << chance.randrange(8))]) + content[place + 1 :]
        yield content[:place] + bytes(200) + content[place + 200 :]
        yield b"".join([*lines[:line], *lines[line + 1 :]])
        yield b"".join([*lines[:line], lines[line].replace(b'"block": ', b'"block": 1'), *lines[line + 1 :]])


def test_damaged_ledger(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A damaged ledger is refused if its first line is damaged, else resumed to the same bytes."""
    output = begin(source, tmp_path / "out.ome.zarr")
    kept = tmp_path / "kept"
    kept.mkdir()
    partial, ledger = tmp_path / "out.ome.zarr.partial", ledger_path(output)
    shutil.copytree(partial, kept / "partial")
    content = ledger.read_bytes()
    is_refused, is_lost = [], []
    n_damages = 5 * max(1, TIMES // 3)
    for damaged in itertools.islice(damages(content, random.Random(3)), n_damages):
        ledger.write_bytes(damaged)
        is_lost.append(damaged.partition(b"\n")[0] != content.partition(b"\n")[0])
        is_refused.append(False)
        try:
            quiet(Root(), source, output)
        except SinkError as error:
            assert "--overwrite" in str(error)  # noqa: PT017  # whether it is refused depends on the damage
            is_refused[-1] = True
            quiet(Root(), source, output, overwrite=True)
        assert files(output) == undisturbed
        assert not ledger.exists()
        shutil.rmtree(output)
        shutil.copytree(kept / "partial", partial)
    assert is_refused == is_lost, "a ledger is refused if the line that describes the run is damaged, and only then"


def test_lost_ledger(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """An unfinished output without a ledger is refused until `overwrite` is given."""
    output = begin(source, tmp_path / "out.ome.zarr")
    ledger_path(output).unlink()
    with pytest.raises(SinkError, match=r"a run was interrupted here.*--overwrite"):
        quiet(Never(), source, output)
    quiet(Root(), source, output, overwrite=True)
    assert files(output) == undisturbed


def test_lost_output(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A lost unfinished output is written again."""
    output = begin(source, tmp_path / "out.ome.zarr")
    shutil.rmtree(tmp_path / "out.ome.zarr.partial")
    quiet(Root(), source, output)
    assert files(output) == undisturbed
    shutil.rmtree(output)
    quiet(Root(), source, output)
    assert files(output) == undisturbed


def test_lost_output_of_series(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A lost output of a series is written again, and only it."""
    np.save(tmp_path / "second.npy", np.load(source)[:, ::-1])
    sources, folder = [source, tmp_path / "second.npy"], tmp_path / "out"
    n_batches = plan(source, **TILES).n_tiles // 3
    begin(sources, folder, number=n_batches + 12)  # type: ignore[arg-type]  # a series
    shutil.rmtree(folder / "image.ome.zarr")
    quiet(Root(), sources, folder)
    assert files(folder / "image.ome.zarr") == undisturbed
    assert (folder / "second.ome.zarr").exists()


def test_another_array(source: Path, tmp_path: Path) -> None:
    """Another array in memory does not resume an output."""
    image = np.load(source)
    output = begin(image, tmp_path / "out.ome.zarr")
    with pytest.raises(SinkError, match="contents of the sources"):
        quiet(Root(), image[:, ::-1], output)
    quiet(Root(), image.copy(), output)


# Two runs, and time.

SCRIPT = """
import json, sys, time
import numpy as np
from patchloom.prediction import predict
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

block_grid.CHUNK_SIZE = {2: 40, 3: 16}
fit.BLOCK_SIZES = [2000]
source, output, pause, settings = json.loads(sys.argv[1])

def model(batch):
    time.sleep(pause)
    return np.sqrt(batch.astype(np.float32) + 1)

print("begun", flush=True)
predict(model, source, output, progress=False, **settings)
"""


def start(source: Path, output: Path, pause: float) -> subprocess.Popen[str]:
    arguments = json.dumps([str(source), str(output), pause, TILES])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_second_process(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """A second process is refused at once, and the first one finishes."""
    output = tmp_path / "out.ome.zarr"
    first = start(source, output, pause=0.1)
    while not ledger_path(output).exists():
        assert first.poll() is None, first.communicate()[1]
        time.sleep(0.01)
    second = start(source, output, pause=0)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "SinkError" in errors
    assert "another run is writing this output: wait for it or choose another output" in errors
    assert first.poll() is None, "the first is still at it"
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    assert files(output) == undisturbed


def test_processes_together(source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Of processes that start together, one writes."""
    output = tmp_path / "out.ome.zarr"
    runs = [start(source, output, pause=0.05) for _ in range(3)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert sorted(run.returncode for run in runs) == [0, 1, 1], errors
    for run, error in zip(runs, errors, strict=True):
        assert (
            run.returncode == 0 or "another run is writing this output" in error or OutputExistsError.__name__ in error
        )
    assert files(output) == undisturbed


def test_claim_before_measuring(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output is locked before its images are measured."""
    output = tmp_path / "out.ome.zarr"
    measure = measuring.measure_parts
    refused = []

    def meanwhile(*args: Any, **kwargs: Any) -> Any:
        with pytest.raises(SinkError, match="another run is writing this output") as caught:
            quiet(Never(), source, output, normalize="mean_std")
        refused.append(caught.value)
        return measure(*args, **kwargs)

    monkeypatch.setattr(measuring, "measure_parts", meanwhile)
    quiet(np.abs, source, output, normalize="mean_std")
    assert len(refused) == 1


@pytest.mark.parametrize("when", [0, 10**9, 4 * 10**18], ids=["1970", "a second later", "the year 2096"])
def test_wrong_clock(when: int, source: Path, tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    """Times that a wrong clock wrote do no harm."""
    os.utime(source, ns=(when, when))
    output = begin(source, tmp_path / "out.ome.zarr")
    for path in (ledger_path(output), *tmp_path.joinpath("out.ome.zarr.partial").rglob("*")):
        os.utime(path, ns=(10**18 - when // 4, 10**18 - when // 4))
    model = Root()
    quiet(model, source, output)
    assert next(model.calls) < plan(source, **TILES).n_tiles / 3 - 5, "it went on where it was"
    assert files(output) == undisturbed


@pytest.mark.parametrize("shift", [-(10**9), 10**9], ids=["earlier", "later"])
def test_changed_source(shift: int, source: Path, tmp_path: Path) -> None:
    """A source that changed is refused, for all clocks."""
    output = begin(source, tmp_path / "out.ome.zarr")
    changed = source.stat().st_mtime_ns + shift
    pixels = np.load(source)
    np.save(source, pixels[:, ::-1])
    os.utime(source, ns=(changed, changed))
    with pytest.raises(SinkError, match=r"sources: .*image\.npy"):
        quiet(Root(), source, output)
    np.save(source, pixels)
    os.utime(source, ns=(changed - shift, changed - shift))
    with pytest.raises(SinkError, match=r"sources: .*image\.npy"):  # nobody can tell that it is as it was
        quiet(Root(), source, output)
    quiet(Root(), source, output, resume_anyway=True)


def test_backward_clock(
    source: Path, tmp_path: Path, undisturbed: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that runs backward changes nothing."""
    now = itertools.count(2_000_000_000, -3600)
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    monkeypatch.setattr(time, "time_ns", lambda: next(now) * 10**9)
    output = begin(source, tmp_path / "out.ome.zarr")
    seconds = []
    quiet(Root(), source, output, report=lambda reports: seconds.append(reports[0].seconds))
    assert files(output) == undisturbed
    assert 0 < seconds[0] < 60
