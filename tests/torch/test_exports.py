"""The names of patchloom.torch, with Lightning and without."""

from __future__ import annotations

import subprocess
import sys

import pytest

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lightning", "pytorch_lightning"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

if sys.argv[1] == "refused":
    sys.meta_path.insert(0, Blocker())
elif sys.argv[1] == "None":
    sys.modules["lightning"] = None
"""
SCRIPT = """
from patchloom.torch import *
import patchloom.torch, inspect, pydoc

assert PatchLoader is patchloom.torch.PatchLoader
assert all(hasattr(patchloom.torch, name) for name in dir(patchloom.torch))
assert set(patchloom.torch.__all__) <= set(dir(patchloom.torch))
inspect.getmembers(patchloom.torch)
assert "PatchDataset" in pydoc.render_doc(patchloom.torch)
try:
    patchloom.torch.PatchDataModule
    print("there")
except ImportError as error:
    print(error)
try:
    from patchloom.torch import StitchingWriter
    print("there")
except ImportError as error:
    print(error)
"""


def run(how: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", BLOCKED + SCRIPT, how], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("how", ["refused", "None"])
def test_all_names_but_lightnings_are_there_without_it(how: str) -> None:
    said = run(how)
    assert len(said) == 2
    assert all("is not installed: pip install" in line and "patchloom[lightning]" in line for line in said)


def test_all_names_are_there_with_it() -> None:
    pytest.importorskip("lightning")
    assert run("there") == ["there"] * 2
