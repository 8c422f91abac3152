"""Fixtures that many tests share."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

with suppress(ModuleNotFoundError):  # an environment for a few tests may be without
    from hypothesis import HealthCheck, settings

    # No test depends on how fast the machine is.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")


@pytest.fixture
def rng() -> np.random.Generator:
    """Return a generator with a fixed seed, so that a failure repeats."""
    return np.random.default_rng(20261122)


@pytest.fixture(scope="session")
def sample_file() -> Callable[[str, str], Path]:
    """Find a real image or model in a wheel that is installed for its data only; the package is never imported."""

    def find(distribution: str, name: str) -> Path:
        files = importlib.metadata.files(distribution) or []
        return next(Path(str(file.locate())) for file in files if file.name == name)

    return find
