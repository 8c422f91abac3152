"""Runs that are stopped by their caller: finished blocks are kept, and the same call resumes them to the same bytes."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import StoppedError
from patchloom.prediction.planning import fit
from patchloom.prediction.running import monitor
from patchloom.stitching import block_grid

OPTIONS: dict[str, Any] = {"axes": "TYX", "patch_size": (32, 24), "overlaps": (8, 6), "batch_size": 3}


def root(batch: np.ndarray) -> np.ndarray:
    return np.sqrt(batch.astype(np.float32) + 1)


def several(batch: np.ndarray) -> dict[str, np.ndarray]:
    return {"root": np.sqrt(batch.astype(np.float32)), "dtype/kind:0": batch, "mask": batch > 40000}


def classes(batch: np.ndarray) -> np.ndarray:
    return np.concatenate([batch > limit for limit in (0, 9000, 40000)], axis=1).astype(np.float32)


def classes_mean(batch: np.ndarray) -> np.ndarray:
    return classes(batch).mean(axis=1, keepdims=True)


def noisy(batch: np.ndarray) -> np.ndarray:
    return batch * np.random.random_sample(batch.shape)  # noqa: NPY002  # of the process, as in models of users


KINDS: dict[str, dict[str, Any]] = {
    "crop": {},
    "blend": {"blend": "hann"},
    "version 0.4": {"seams": "grid", "version": "0.4"},
    "series": {"sources": ["a.npy", "b.npy"], "output": "out"},
    "skip": {"skip": "dark:5000,fill=7"},
    "normalize": {"normalize": "percentiles:1,99/sample"},
    "several outputs": {"model": several},
    "labels": {"model": classes, "postprocess": "argmax", "blend": "linear"},
    "draws": {"model": noisy, "n_draws": 3, "blend": "hann"},
    "halo": {"halo": (4, 3), "overlaps": (14, 10), "blend": "mean"},
    "ensemble": {"model": [root, classes_mean]},
    "keep going": {"sources": ["a.npy", "b.npy"], "output": "out", "keep_going": True},
}


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with images; their outputs have many blocks and several levels."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [2000])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 40, 3: 16})
    monkeypatch.setattr(monitor, "SECONDS_BETWEEN_CALLS", 0)
    monkeypatch.chdir(tmp_path)
    for name in "ab":
        image = rng.integers(5000, 2**16, (2, 150, 130), np.uint16)
        image[:, :70, :90] //= 14  # a dark corner, which may be skipped
        np.save(f"{name}.npy", image)
    return tmp_path


def files(output: Path) -> dict[str, bytes]:
    """Everything in an output, byte by byte."""
    return {str(path.relative_to(output)): path.read_bytes() for path in sorted(output.rglob("*")) if path.is_file()}


def outputs(folder: Path) -> dict[str, dict[str, bytes]]:
    return {str(path.relative_to(folder)): files(path) for path in folder.rglob("*.ome.zarr")}


def run(options: dict[str, Any], **how: Any) -> Any:
    arguments = {"model": root, "sources": "a.npy", "output": "out.ome.zarr"} | OPTIONS | options | how
    arguments["output"] = pl.OmeZarr(arguments["output"], version=arguments.pop("version", "0.5"))
    return pl.predict(**{"progress": False} | arguments)


def stop_after(n_calls: int) -> dict[str, Any]:
    """Return arguments of a run that is stopped by the call of its progress with this number."""
    cancel, calls = Event(), iter(range(10**6))

    def progress(_: pl.Progress) -> None:
        if next(calls) == n_calls:
            cancel.set()

    return {"progress": progress, "stop": cancel}


@pytest.mark.parametrize("kind", KINDS)
def test_resume(kind: str, folder: Path) -> None:
    """A run that its progress stops again and again ends in the same files, for runs of all kinds, and leaves no thread."""
    options, moments = KINDS[kind], random.Random(kind)
    run(options)
    expected = outputs(folder)
    (folder / "again").mkdir()
    threads, n_stopped, is_done = threading.active_count(), 0, False
    output = f"again/{options.get('output', 'out.ome.zarr')}"
    while not is_done:
        try:
            run(options, output=output, **stop_after(moments.randrange(2, 12)))
            is_done = True
        except StoppedError:
            n_stopped += 1
        assert threading.active_count() == threads
    assert n_stopped >= 3
    found = {name.removeprefix("again/"): content for name, content in outputs(folder).items() if "again" in name}
    assert found == expected
    assert not list(folder.rglob("*.ledger")) + list(folder.rglob("*.partial"))


def test_blocks_are_kept(folder: Path) -> None:
    """What was finished is not computed again, and the message contains how much that is."""
    seen: list[pl.Progress] = []
    with pytest.raises(StoppedError, match=r"\d+ of \d+ blocks are finished and kept: run the same again to resume"):
        run({}, **stop_after(12))
    run({}, progress=seen.append)
    n_tiles = pl.plan("a.npy", **OPTIONS).n_tiles_computed
    assert 0 < seen[0].total < n_tiles
    assert (seen[-1].done, seen[-1].label) == (seen[-1].total, "tiles")
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)


@pytest.mark.parametrize("kind", ["crop", "keep going"])
def test_error_of_progress(kind: str, folder: Path) -> None:
    """An error of the function ends the run cleanly, also if the errors of images do not, and the run is resumed."""
    run(KINDS[kind])
    expected = outputs(folder)
    (folder / "again").mkdir()
    again = {**KINDS[kind], "output": f"again/{KINDS[kind].get('output', 'out.ome.zarr')}"}
    threads, calls = threading.active_count(), iter(range(10**6))

    def progress(_: pl.Progress) -> None:
        if next(calls) == 12:
            raise pl.SourceError("the window is closed")

    with pytest.raises(pl.SourceError, match="the window is closed") as caught:
        run(again, progress=progress)
    assert "blocks are finished and kept: run the same again to resume" in caught.value.__notes__[0]
    assert threading.active_count() == threads
    run(again)
    assert {
        name.removeprefix("again/"): found for name, found in outputs(folder).items() if "again" in name
    } == expected


@pytest.mark.parametrize("output", ["out.ome.zarr", "out.npy", "out.ome.tif", None])
def test_stopped_before(output: str | None, folder: Path) -> None:
    """A run whose event is set already, or that is stopped before its first block, leaves nothing."""
    before = sorted(folder.iterdir())
    cancel = Event()
    cancel.set()
    with pytest.raises(StoppedError, match="before it wrote anything"):
        pl.predict(root, "a.npy", output, **OPTIONS, progress=False, stop=cancel)
    with pytest.raises(StoppedError, match="no block is finished and kept"):
        pl.predict(root, "a.npy", output, **OPTIONS, **stop_after(0))
    assert [path for path in sorted(folder.iterdir()) if path.suffix != ".lock"] == before


def test_measuring(folder: Path) -> None:
    """A run is stopped while images are measured, block by block; the model does not run."""
    np.save("large.npy", np.arange(400_000, dtype=np.uint32).reshape(2, 500, 400))
    seen: list[pl.Progress] = []
    cancel = Event()

    def progress(found: pl.Progress) -> None:
        seen.append(found)
        if found.done > found.total / 4:
            cancel.set()

    def never(batch: np.ndarray) -> np.ndarray:
        pytest.fail("the model ran")

    with pytest.raises(StoppedError, match="before it wrote anything"):
        run(
            {"normalize": "percentiles:1,99", "sources": "large.npy", "memory_limit": 2**20},
            model=never,
            progress=progress,
            stop=cancel,
        )
    assert {found.label for found in seen} == {"measuring"}
    assert seen[-1].total == 2 * 400_000  # values of 32 bits are read twice
    assert seen[-1].total / 4 < seen[-1].done < seen[-1].total / 2
    assert not list(folder.glob("out*"))


def test_whole_measuring(folder: Path) -> None:
    """Measuring and tiles are reported from 0 to the end, in the thread of the caller."""
    seen: list[tuple[pl.Progress, int]] = []
    run(
        {"normalize": "mean_std", "model": np.negative},
        progress=lambda found: seen.append((found, threading.get_ident())),
    )
    assert {thread for _, thread in seen} == {threading.get_ident()}
    for label, total in (("measuring", 2 * 150 * 130), ("tiles", None)):
        of_label = [found for found, _ in seen if found.label == label]
        assert (of_label[0].done, of_label[-1].done) == (0, of_label[-1].total)
        assert total in (None, of_label[-1].total)


@pytest.mark.parametrize("progress", [1, "yes", None, int])
def test_wrong_progress(progress: Any) -> None:
    """Something that is neither a flag nor a function is refused."""
    with pytest.raises(pl.ArgumentTypeError, match="progress is"):
        pl.predict(root, np.zeros((20, 30)), axes="YX", patch_size=8, progress=progress)


@pytest.mark.parametrize("stop", [True, Event, "now", lambda: False])
def test_wrong_stop(stop: Any) -> None:
    """Something that cannot be asked is refused."""
    with pytest.raises(pl.ArgumentTypeError, match=r"stop is .* is_set\(\)"):
        pl.predict(root, np.zeros((20, 30)), axes="YX", patch_size=8, stop=stop)
