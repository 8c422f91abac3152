"""A forked child of a process that has used TensorStore gets an error, instead of being ended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

SCRIPT = """
import os, sys
import numpy as np
import tensorstore as ts
from patchloom import ForkedProcessError, open_stacks

spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": "cells.zarr"}}
if "write first" in sys.argv:
    ts.open(spec, create=True, dtype=ts.uint8, shape=[8, 8]).result()[...] = 7
    os._exit(0)
stacks = open_stacks("cells.zarr", axes="YX") if "use first" in sys.argv else None
child = os.fork()
if child == 0:
    try:
        stack, = stacks or open_stacks("cells.zarr", axes="YX")
        print(stack.extract_patch(0, None, (0, 0), (1, 2)).tolist(), flush=True)
    except ForkedProcessError as error:
        print(error, flush=True)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
"""


def run(folder, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def test_fork_after_use(tmp_path):
    """The child of a process that has read a Zarr gets our error."""
    run(tmp_path, "write first")

    assert "forkserver" in run(tmp_path, "use first")


def test_fork_before_use(tmp_path):
    """The child of a process that has read nothing may read a Zarr."""
    run(tmp_path, "write first")

    assert run(tmp_path) == "[[[7, 7]]]\n"
