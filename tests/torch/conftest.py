"""What the tests of training share; none of them is run where PyTorch is missing."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

import patchloom as pl

collect_ignore_glob = [] if find_spec("torch") else ["test_*.py", "*/test_*.py"]


@pytest.fixture
def inputs(rng: np.random.Generator) -> list[pl.ImageStack]:
    """Return a series of two images of different sizes, of two samples and three channels."""
    shapes = [(2, 3, 70, 90), (2, 3, 64, 50)]
    return pl.open_stacks([rng.integers(0, 2**16, shape, np.uint16) for shape in shapes], axes="SCYX")


@pytest.fixture
def patching(inputs: list[pl.ImageStack]) -> pl.RandomPatching:
    """Return a plan of 24 random patches of the series."""
    return pl.RandomPatching([stack.data_shape for stack in inputs], patch_size=(16, 16), n_patches=24, seed=5)
