"""Fixtures for the tests of samplers and loaders."""

from __future__ import annotations

import pytest


@pytest.fixture
def dataset(inputs, patching):
    """Return a dataset of 24 patches with targets."""
    from patchloom.torch import PatchDataset  # noqa: PLC0415  # PyTorch may be missing

    return PatchDataset(inputs, patching, inputs)
