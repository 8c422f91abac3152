"""Runs that are killed, and go on: the output has the same bytes as if nothing had happened. `make torture` kills more."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom.errors import OutputExistsError, SinkError
from patchloom.prediction import predict
from patchloom.prediction.output.ledger import Ledger, ledger_path
from patchloom.prediction.planning import fit
from patchloom.prediction.skip_rules import SkipDark
from patchloom.sinks import OmeZarr, OmeZarrSink
from patchloom.stitching import block_grid

KILLS = int(os.environ.get("PATCHLOOM_TORTURE", "3"))

SCRIPT = """
import json, sys, time
import numpy as np
from patchloom.prediction import predict
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

block_grid.CHUNK_SIZE = {2: 40, 3: 16}
fit.BLOCK_SIZES = [2000]
arguments = json.loads(sys.argv[1])
pause = arguments.pop("pause")

def model(batch):
    time.sleep(pause)
    return np.sqrt(batch.astype(np.float32) + 1)

model.identity = "root"  # however long it takes
print("begun", flush=True)
predict(model, "image.npy", arguments.pop("output"), axes="TYX", progress=False, batch_size=3, **arguments)
"""

CROP: dict[str, Any] = {"patch_size": (32, 24), "overlaps": (8, 6)}
BLEND: dict[str, Any] = {**CROP, "blend": "hann"}


def start(folder: Path, **arguments: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, json.dumps(arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(run: subprocess.Popen[str]) -> None:
    _, errors = run.communicate()
    assert run.returncode == 0, errors


def files(folder: Path) -> dict[str, bytes]:
    """Everything in an output, byte by byte."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def image(tmp_path: Path, rng: np.random.Generator) -> np.ndarray:
    pixels = rng.integers(0, 2**16, (2, 150, 130), np.uint16)
    np.save(tmp_path / "image.npy", pixels)
    return pixels


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize("settings", [CROP, BLEND], ids=["crop", "blend"])
@pytest.mark.usefixtures("image")
def test_kills(settings: dict[str, Any], tmp_path: Path) -> None:
    """A run that is killed again and again ends in the same bytes."""
    finish(start(tmp_path, pause=0, output="whole.ome.zarr", **settings))
    expected = files(tmp_path / "whole.ome.zarr")

    moments = random.Random(7)
    killed = 0
    while killed < KILLS:
        output = tmp_path / "killed.ome.zarr"
        while killed < KILLS and not output.exists():
            run = start(tmp_path, pause=0.02, output=output.name, **settings)
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(moments.uniform(0.02, 0.9))
            run.send_signal(signal.SIGKILL)
            run.communicate()
            killed += 1
        if ledger_path(output).exists() or not output.exists():
            finish(start(tmp_path, pause=0, output=output.name, **settings))
        assert files(output) == {
            name: content.replace(b"whole", b"killed") if name == "zarr.json" else content
            for name, content in expected.items()
        }
        left = {path.name for path in tmp_path.iterdir()} - {"killed.ome.zarr.lock"}
        assert left == {"image.npy", "whole.ome.zarr", "killed.ome.zarr"}
        shutil.rmtree(output)


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("limit", [10**9, 60_000])
def test_same_batches(
    blend: Any, limit: int, tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed run that skips tiles gives the model the same batches, and the same bytes."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    pixels = np.where(rng.random((2, 150, 130)) < 0.002, 900, 5).astype(np.uint16)
    np.save(tmp_path / "image.npy", pixels)
    settings: dict[str, Any] = {
        "blend": blend,
        "memory_limit": limit,
        "skip": SkipDark(100, fill=7),
        "batch_size": 3,
    }

    batches: list[bytes] = []

    def model(batch: np.ndarray) -> np.ndarray:
        batches.append(batch.tobytes())
        if len(batches) == stop_at:
            raise RuntimeError
        return batch + batch.max(axis=(-1, -2), keepdims=True)

    stop_at = 0
    go_on(tmp_path / "whole.ome.zarr", model, **settings)
    expected, undisturbed = files(tmp_path / "whole.ome.zarr"), list(batches)
    assert len(undisturbed) > 25
    for moment in range(2, len(undisturbed), 7):
        output = tmp_path / f"killed{moment}.ome.zarr"
        batches.clear()
        stop_at = moment
        with pytest.raises(RuntimeError):
            go_on(output, model, **settings)
        n_first = len(batches)
        stop_at = 0
        go_on(output, model, **settings, resume_anyway=True)  # the model keeps its batches
        assert set(batches) == set(undisturbed)
        if moment > len(undisturbed) // 2 and limit == 10**9:
            assert len(batches) < n_first + len(undisturbed)
        found = {name: content for name, content in files(output).items() if name != "zarr.json"}
        assert found == {name: content for name, content in expected.items() if name != "zarr.json"}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])


@pytest.fixture
def interrupted(tmp_path: Path, image: np.ndarray, small_blocks: None) -> Path:
    """An output that a failing model left unfinished."""
    output = tmp_path / "out.ome.zarr"
    with pytest.raises(RuntimeError):
        go_on(output, Copy(fail_at=30))
    assert ledger_path(output).exists()
    return output


class Copy:
    """An identity model that may fail on one of its batches, and is the same model if it does not."""

    identity = "copy"

    def __init__(self, fail_at: int = -1) -> None:
        self.calls = itertools.count()
        self.fail_at = fail_at

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if next(self.calls) == self.fail_at:
            raise RuntimeError
        return batch


def go_on(output: Path | OmeZarr, model: Any = None, **changes: Any) -> Any:
    folder = Path(output.path if isinstance(output, OmeZarr) else output).parent
    return predict(model or Copy(), folder / "image.npy", output, axes="TYX", progress=False, **CROP | changes)


def assert_complete(output: Path, image: np.ndarray) -> None:
    found = predict(Copy(), output, patch_size=(64, 64), progress=False)
    assert np.array_equal(found, image)
    assert {path.name for path in output.parent.iterdir()} == {"image.npy", "out.ome.zarr"}


@pytest.mark.parametrize("lost", [1, 7, 40])
def test_cut_ledger(interrupted: Path, image: np.ndarray, lost: int) -> None:
    """A ledger whose last line was cut off is resumed."""
    ledger = ledger_path(interrupted)
    ledger.write_bytes(ledger.read_bytes()[:-lost])
    go_on(interrupted)
    assert_complete(interrupted, image)


@pytest.mark.parametrize("garbage", [b"", b"\0" * 100, b"{}\n", b'["settings"]\n'])
def test_empty_ledger(interrupted: Path, image: np.ndarray, garbage: bytes) -> None:
    """A ledger without a first line is refused until `overwrite` is given."""
    ledger_path(interrupted).write_bytes(garbage)
    with pytest.raises(SinkError, match="overwrite"):
        go_on(interrupted)
    go_on(interrupted, overwrite=True)
    assert_complete(interrupted, image)


def test_lost_output(interrupted: Path, image: np.ndarray) -> None:
    """An unfinished output that was lost is written again."""
    partial = interrupted.with_name("out.ome.zarr.partial")
    for path in sorted(partial.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    partial.rmdir()
    go_on(interrupted)
    assert_complete(interrupted, image)


def test_lost_shard(interrupted: Path, image: np.ndarray) -> None:
    """A shard that was lost is written again."""
    shards = [
        path
        for path in interrupted.with_name("out.ome.zarr.partial").rglob("*")
        if path.is_file() and path.name != "zarr.json"
    ]
    shards[0].unlink()
    go_on(interrupted)
    assert_complete(interrupted, image)


def test_another_plan(interrupted: Path, image: np.ndarray) -> None:
    """Another plan is refused with the settings that differ."""
    with pytest.raises(SinkError, match=r"blend: None before, hann now"):
        go_on(interrupted, blend="hann")
    np.save(interrupted.parent / "image.npy", image[:, ::-1])
    os.utime(interrupted.parent / "image.npy", ns=(1, 1))
    with pytest.raises(SinkError, match=r"contents of the sources: .*image\.npy has changed"):
        go_on(interrupted)


@pytest.mark.parametrize(
    "spelled",
    [{"patch_size": 24}, {"patch_size": [np.int64(24), 24]}, {"overlaps": 6}, {"memory_limit": 2**30}, {"seams": None}],
    ids=["patch_size", "integers", "overlaps", "memory_limit", "default"],
)
@pytest.mark.usefixtures("small_blocks")
def test_same_plan(tmp_path: Path, image: np.ndarray, spelled: dict[str, Any]) -> None:
    """Arguments that mean the same are the same run."""
    output, square, resumed = tmp_path / "out.ome.zarr", {"patch_size": (24, 24), "overlaps": (6, 6)}, Copy()
    with pytest.raises(RuntimeError) as stopped:
        go_on(output, Copy(fail_at=30), **square)
    assert "blocks are finished" in stopped.value.__notes__[0]
    go_on(output, resumed, **square | spelled)
    assert_complete(output, image)


def test_relative_path(interrupted: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was started with absolute paths is resumed with relative ones; an image that changed is noticed."""
    monkeypatch.chdir(interrupted.parent)
    np.save("image.npy", image[:, ::-1])
    with pytest.raises(SinkError, match=r"contents of the sources: .*image\.npy has changed"):
        go_on(Path(interrupted.name))
    np.save("image.npy", image)
    go_on(Path(interrupted.name), resume_anyway=True)  # the file has another time
    assert_complete(interrupted, image)


@pytest.mark.parametrize("missing", ["outputs", "stacks"])
def test_ledger_without_plan(interrupted: Path, missing: str) -> None:
    """A ledger whose plan cannot be run is damaged."""
    ledger = ledger_path(interrupted)
    first, *rest = ledger.read_bytes().splitlines(keepends=True)
    header = json.loads(first.split(b" ", 1)[1])
    header["survey"][missing] = []
    value = json.dumps(header).encode()
    ledger.write_bytes(b"".join([b"%08x %s\n" % (zlib.crc32(value), value), *rest]))
    with pytest.raises(SinkError, match="is damaged, so the finished blocks are not known"):
        go_on(interrupted)


def test_second_run(tmp_path: Path, image: np.ndarray) -> None:
    """A second run on the same output is refused at once."""
    output = tmp_path / "out.ome.zarr"
    refused = []

    def model(batch: np.ndarray) -> np.ndarray:
        if output.with_name("out.ome.zarr.ledger").exists() and not refused:
            with pytest.raises(SinkError, match="another run is writing this output") as caught:
                go_on(output)
            refused.append(caught)
        return batch

    go_on(output, model)
    assert refused
    assert_complete(output, image)


def test_shown_output(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that was shown before the kill stays as it is."""

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"same": batch, "more": batch + 1}

    finalize = OmeZarrSink.finalize
    shown = []

    def killed_after_the_first(sink: OmeZarrSink) -> Path:
        if shown:
            raise KeyboardInterrupt
        shown.append(finalize(sink))
        return shown[0]

    output = tmp_path / "out.ome.zarr"
    monkeypatch.setattr(OmeZarrSink, "finalize", killed_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        go_on(output, model)
    assert [path.exists() for path in (tmp_path / "out-same.ome.zarr", tmp_path / "out-more.ome.zarr")] == [True, False]
    monkeypatch.setattr(OmeZarrSink, "finalize", finalize)
    written = go_on(output, model)
    for name, expected in (("same", image), ("more", image + 1)):
        assert np.array_equal(predict(Copy(), written[name], patch_size=(64, 64), progress=False), expected)
    assert {path.name for path in tmp_path.iterdir()} == {"image.npy", "out-same.ome.zarr", "out-more.ome.zarr"}


def test_all_shown(tmp_path: Path, image: np.ndarray) -> None:
    """A run that was killed when all was shown computes nothing."""
    output = tmp_path / "out.ome.zarr"
    with pytest.MonkeyPatch.context() as patch:

        def killed(ledger: Ledger, data_idx: int) -> None:
            raise KeyboardInterrupt

        patch.setattr(Ledger, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            go_on(output)
    assert output.exists()
    assert ledger_path(output).exists()
    model = Copy()
    go_on(output, model)
    assert next(model.calls) == 0, "the ledger tells what the model returns"
    assert_complete(output, image)


def test_overwrite(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that replaces an output is resumed without `overwrite`."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    output = tmp_path / "out.ome.zarr"
    go_on(output, lambda batch: batch * 0)
    with pytest.raises(RuntimeError):
        go_on(output, Copy(fail_at=30), overwrite=True)
    go_on(output)
    assert_complete(output, image)


@pytest.mark.parametrize(
    "other", [{"pyramid": "nearest"}, {"pyramid": None}, {"version": "0.4"}], ids=["nearest", "none", "0.4"]
)
def test_another_format(interrupted: Path, image: np.ndarray, other: dict[str, Any]) -> None:
    """An output is not resumed in another version, nor with another pyramid."""
    before = files(interrupted.parent)
    name, value = next(iter(other.items()))
    word = {"pyramid": "pyramid: auto before", "version": "version of OME-Zarr: 0.5 before"}[name]
    with pytest.raises(SinkError, match=f"{word}, {value} now"):
        go_on(OmeZarr(interrupted, **other))
    assert files(interrupted.parent) == before
    go_on(interrupted)
    assert_complete(interrupted, image)


def test_shard_lost_at_end(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is lost before the output is shown is written again."""
    output = tmp_path / "out.ome.zarr"
    finalize = OmeZarrSink.finalize

    def lose_one(sink: OmeZarrSink) -> Path:
        next(path for path in output.with_name("out.ome.zarr.partial").rglob("c/*/*") if path.is_dir()).rename(
            tmp_path / "lost"
        )
        return finalize(sink)

    with monkeypatch.context() as patch:
        patch.setattr(OmeZarrSink, "finalize", lose_one)
        with pytest.raises(SinkError, match="was changed after it was written"):
            go_on(output)
    assert not output.exists()
    shutil.rmtree(tmp_path / "lost")
    go_on(output)
    assert_complete(output, image)


def test_output_appeared(tmp_path: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output that appeared meanwhile is refused before a block is computed."""
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    sources = [tmp_path / f"{number}.npy" for number in range(3)]
    for source in sources:
        np.save(source, image)
    options: dict[str, Any] = {"axes": "TYX", "progress": False, **CROP}
    with pytest.raises(RuntimeError):
        predict(Copy(fail_at=30), sources, tmp_path / "out", **options)
    predict(Copy(), sources[2], tmp_path / "out" / "2.ome.zarr", **options)
    model = Copy()
    with pytest.raises(OutputExistsError, match=r"2\.ome\.zarr exists already"):
        predict(model, sources, tmp_path / "out", **options)
    assert next(model.calls) == 0, "the ledger tells what the model returns"
