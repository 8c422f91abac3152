"""Docstrings run in an empty folder; those of modules whose extra is not installed are not run."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

collect_ignore_glob = [] if find_spec("torch") else ["patchloom/torch/*"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what an example writes behind."""
    monkeypatch.chdir(tmp_path)
