"""Fixtures for the tests of publishing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def make_zarr() -> Callable[[Path], Path]:
    """Make a folder that looks like a Zarr."""

    def make(path: Path) -> Path:
        path.mkdir(parents=True)
        (path / "zarr.json").write_text("{}")
        return path

    return make
