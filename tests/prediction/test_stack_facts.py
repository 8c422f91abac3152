"""Facts about a stack are what planning needs, without a pixel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from patchloom.image_stacks import ArrayStack, as_planes, open_stacks
from patchloom.prediction.stack_facts import StackFacts


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A stack in chunks, `CZYX`."""
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((2, 6, 40, 30), np.uint16), chunks=(1, 2, 16, 16))
    return tmp_path / "a.zarr"


def test_file(stored: Path) -> None:
    """A stack that is stored in chunks has their shape, and opens by its name."""
    (stack,) = open_stacks(stored, "CZYX")
    facts = StackFacts.of(stack)
    assert (facts.source, facts.original_axes, facts.original_data_shape) == (str(stored), "CZYX", (2, 6, 40, 30))
    assert (facts.data_shape, facts.data_dtype, facts.chunk_shape) == ((1, 2, 6, 40, 30), np.uint16, (1, 1, 2, 16, 16))
    assert (facts.in_memory, facts.n_planes, facts.place) == (False, 0, str(stored))


def test_slices(stored: Path) -> None:
    """Slices are samples, which are found in the image again."""
    (stack,) = open_stacks(stored, "CZYX")
    facts = StackFacts.of(as_planes(stack))
    assert (facts.data_shape, facts.image_shape, facts.n_planes) == ((6, 2, 40, 30), stack.data_shape, 6)
    assert facts.position(4) == (0, (4,))


def test_array() -> None:
    """An array in memory has no chunks, and no name to open it by."""
    facts = StackFacts.of(ArrayStack(np.zeros((3, 4)), "YX"))
    assert (facts.in_memory, facts.chunk_shape, facts.place, facts.n_bytes) == (True, None, None, 96)
