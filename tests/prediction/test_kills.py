"""Runs of all kinds are killed at random moments, and go on until they are done: no byte differs, and no file is left over.

`PATCHLOOM_KILLS` says how many kills there are, all kinds of runs together: `make kills` makes 200 of them.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from patchloom.prediction.output.ledger import ledger_path

SCRIPT = '''
"""One run, whose model takes its time."""

import json
import sys
import time

import numpy as np

from patchloom import OmeZarr, predict
from patchloom.prediction.planning import fit
from patchloom.stitching import block_grid

block_grid.CHUNK_SIZE = {2: 40, 3: 16}
fit.BLOCK_SIZES = [2000]


def root(batch):
    time.sleep(PAUSE)
    return np.sqrt(batch.astype(np.float32) + 1)


def several(batch):
    time.sleep(PAUSE)
    return {"root": np.sqrt(batch.astype(np.float32)), "dtype/kind:0": batch, "mask": batch > 40000}


def noisy(batch):
    time.sleep(PAUSE / 3)
    return batch * np.random.random(batch.shape).astype(np.float32)


def classes(batch):
    time.sleep(PAUSE)
    return np.concatenate([batch > limit for limit in (0, 9000, 40000)], axis=1).astype(np.float32)


class Tensors:
    """Stitched as those on a GPU are."""

    tensor_device = "cpu"

    def __call__(self, batch):
        import torch

        return torch.from_numpy(root(batch if isinstance(batch, np.ndarray) else batch.numpy()))


if __name__ == "__main__":
    options = json.loads(sys.argv[1])
    PAUSE = 0.01
    options["model"] = {"several": several, "classes": classes, "noisy": noisy, "tensors": Tensors()}.get(options.get("model"), root)
    options["output"] = OmeZarr(options["output"], options.pop("version", "0.5"))
    print("begun", flush=True)
    tiles = {"axes": "TYX", "patch_size": (32, 24), "overlaps": (8, 6), "batch_size": 3}
    predict(**tiles | options, progress=False)
    print("done", flush=True)
'''

KINDS: dict[str, dict[str, Any]] = {
    "crop": {},
    "blend": {"blend": "hann"},
    "grid": {"seams": "grid", "version": "0.4"},
    "series": {"sources": ["a.npy", "b.npy", "c.npy"], "output": "out"},
    "overwrite": {"overwrite": True},
    "overwritten series": {"overwrite": True, "sources": ["a.npy", "b.npy"], "output": "out"},
    "skip": {"skip": "dark:5000,fill=7"},
    "normalize": {"normalize": "percentiles:1,99/sample"},
    "several outputs": {"model": "several"},
    "tensors": {"model": "tensors", "blend": "hann", "postprocess": "uint16*30"},
    "labels": {"model": "classes", "postprocess": "argmax", "blend": "linear"},
    "draws": {"model": "noisy", "n_draws": 3, "blend": "hann"},
    "halo": {"halo": (4, 3), "overlaps": (14, 10), "blend": "mean"},
}

KILLS = -(-int(os.environ.get("PATCHLOOM_KILLS", "0")) // len(KINDS))
"""Number of kills of each kind."""


def make_sources(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for name in "abc":
        image = rng.integers(5000, 2**16, (2, 150, 130), np.uint16)
        image[:, :70, :90] //= 14  # a dark corner, which may be skipped
        np.save(folder / f"{name}.npy", image)


def start(folder: Path, options: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "run.py", json.dumps({"sources": "a.npy", "output": "out.ome.zarr"} | options)]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n", process.communicate()[1]
    return process


def finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors


def files(folder: Path) -> dict[str, bytes]:
    """All files, but for the sources and the script, and for locks that nobody holds any more."""
    names = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".npy", ".py", ".lock"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in names}


def shown(folder: Path) -> dict[str, dict[str, bytes]]:
    """What a user takes for an output."""
    return {str(path.relative_to(folder)): files(path) for path in folder.rglob("*.ome.zarr")}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.skipif(not KILLS, reason="takes minutes: make kills")
@pytest.mark.parametrize("kind", KINDS)
def test_kills(kind: str, tmp_path: Path) -> None:
    """A run that is killed again and again ends in the same files, for runs of all kinds."""
    options, moments = KINDS[kind], random.Random(kind)
    template, whole, killed = (tmp_path / name for name in ("template", "whole", "killed"))
    template.mkdir()
    make_sources(template)
    (template / "run.py").write_text(SCRIPT)
    if "overwrite" in options:
        finish(
            start(
                template,
                {name: value for name, value in options.items() if name != "overwrite"} | {"postprocess": "uint8"},
            )
        )
    old = shown(template)
    shutil.copytree(template, whole)
    process, began = start(whole, options), time.monotonic()
    finish(process)
    seconds = time.monotonic() - began
    expected, new = files(whole), shown(whole)

    n_killed = 0
    while n_killed < KILLS:
        shutil.rmtree(killed, ignore_errors=True)
        shutil.copytree(template, killed)
        ledger = ledger_path(killed / options.get("output", "out.ome.zarr"))
        is_done = False
        while not is_done:
            afresh = "overwrite" in options and not ledger.exists()
            process, began = start(killed, options | {"overwrite": afresh}), time.monotonic()
            if n_killed == KILLS:
                finish(process)
                break
            with suppress(subprocess.TimeoutExpired):
                process.wait(moments.uniform(0, seconds))
                seconds = min(seconds, time.monotonic() - began)  # a machine that was busy is not any more
            process.send_signal(signal.SIGKILL)
            output, errors = process.communicate()
            n_killed += process.returncode == -signal.SIGKILL
            assert process.returncode in (0, -signal.SIGKILL), errors
            # It may be killed between its last rename and its last word.
            is_done = "done" in output or (not ledger.exists() and shown(killed) == new)
            for name, content in shown(killed).items():  # a reader takes what it sees for complete
                assert content in (new[name], old.get(name))
        if n_killed == KILLS or is_done:
            assert files(killed) == expected
            assert list(killed.rglob("*.lock")) == [] or is_done
