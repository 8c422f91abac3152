"""The demo's image and network, blended: killed at random moments and resumed, the output has the same bytes.

Each run takes half a minute, so this is a part of `make torture`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from patchloom.prediction.output.ledger import ledger_path, read_progress

KILLS = int(os.environ.get("PATCHLOOM_TORTURE", "0")) // 5

RUN = [sys.executable, "-c", "from patchloom.cli import main; main()"]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of an output."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.skipif(not KILLS, reason="takes minutes: make torture")
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
def test_killed_demo(tmp_path: Path, sample_file: Callable[[str, str], Path]) -> None:
    """A blended prediction of the demo's image that is killed and resumed has the same bytes."""
    image, model = (
        sample_file("napari-czann-segment", name) for name in ("PGC_20X.czi", "PGC_20X_nucleus_detector.czseg")
    )

    def start(folder: Path) -> subprocess.Popen[bytes]:
        folder.mkdir(exist_ok=True)
        # So little memory that there are twelve blocks. With one block, no run would be resumed.
        settings = ["--model", str(model), "--blend", "hann", "--memory-limit", "120MiB", "--quiet"]
        command = [*RUN, "predict", str(image), "--output", str(folder / "nuclei.ome.zarr"), *settings]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    began = time.monotonic()
    whole = start(tmp_path / "whole")
    errors = whole.communicate()[1]
    assert whole.returncode == 0, errors
    seconds = time.monotonic() - began
    expected = contents(tmp_path / "whole" / "nuclei.ome.zarr")

    folder, moments = tmp_path / "killed", random.Random(time.time_ns())
    output = folder / "nuclei.ome.zarr"
    n_resumed = 0
    for killed in range(KILLS):
        run = start(folder)
        # Within one whole run: early, late, and now and then after the rest is done.
        time.sleep(moments.uniform(0.1, 0.9) * seconds / (1 + killed % 2))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        if output.exists():
            assert contents(output) == expected
            shutil.rmtree(folder)
            continue
        progress = read_progress(ledger_path(output))
        n_resumed += progress is not None and progress[1] > 0
    last = start(folder)
    errors = last.communicate()[1]
    assert last.returncode == 0, errors
    assert contents(output) == expected
    assert [path.name for path in folder.iterdir()] == ["nuclei.ome.zarr"]
    assert n_resumed, "no kill came when some blocks were finished: kill more often"
