"""Tiny networks, and files that would run code."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

NETWORKS = """
import torch

class Tiny(torch.nn.Module):
    def __init__(self, channels=4):
        super().__init__()
        self.down = torch.nn.Conv2d(1, channels, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(channels)
        self.head = torch.nn.Conv2d(channels, 2, 1)

    def forward(self, batch):
        return self.head(self.norm(self.down(batch)).relu())

def make(channels=4, *, seed=0):
    torch.manual_seed(seed)
    return Tiny(channels)

def nothing():
    return 3

tiny = make()
"""


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A module with networks; it is unloaded after the test."""
    monkeypatch.setattr(sys, "path", sys.path.copy())
    path = tmp_path / "tiny_networks.py"
    path.write_text(NETWORKS)
    yield path
    sys.modules.pop("tiny_networks", None)


class Writes:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def trap(tmp_path):
    """An object that makes a folder when it is unpickled, and that folder."""
    folder = tmp_path / "unpickled"
    assert pickle.dumps(Writes(folder))
    return Writes(folder), folder
