"""The pictures of docs/strategies.md: each is made by the example, and each that the example makes is shown."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]


def test_the_example_makes_the_pictures_that_are_shown(tmp_path):
    runpy.run_path(str(ROOT / "examples" / "strategies.py"))["main"](tmp_path, n_epochs=2)
    shown = re.findall(r"pictures/([\w-]+\.png)", (ROOT / "docs" / "strategies.md").read_text("utf-8"))
    assert sorted(shown) == sorted(path.name for path in tmp_path.iterdir())
