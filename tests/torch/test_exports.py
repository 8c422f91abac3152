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

sys.meta_path.insert(0, Blocker())
exec(script)
sys.meta_path.pop(0)
sys.modules["lightning"] = None
exec(script)
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


def test_without_lightning() -> None:
    """Without Lightning, all other names can be imported."""
    whole = f"script = {SCRIPT!r}\n{BLOCKED}"
    done = subprocess.run([sys.executable, "-c", whole], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 4
    assert all("is not installed: pip install" in line and "patchloom[lightning]" in line for line in said)


def test_with_lightning(capsys) -> None:
    """With Lightning, all names can be imported."""
    pytest.importorskip("lightning")
    exec(SCRIPT, {})  # the text above
    assert capsys.readouterr().out.splitlines() == ["there"] * 2
