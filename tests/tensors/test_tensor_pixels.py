"""Arithmetic on tensors has the bits of NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from patchloom.pixel_arrays import round_to
from patchloom.tensors.tensor_pixels import (
    can_round,
    concatenate,
    is_tensor,
    kept_on_device,
    moved,
    new_pixels,
    pixel_dtype_of,
    round_tensor,
    to_host,
)

torch = pytest.importorskip("torch")

NAMES = ["bool", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]
TARGETS = [*NAMES, "uint16", "uint32"]


def values_of(name: str) -> np.ndarray:
    """Values at the ends of all ranges, halves and signed zeros, and what rounds up to an end."""
    ends = [float(end) for kind in "bhilBHIL" for end in (np.iinfo(kind).min, np.iinfo(kind).max)]
    near = [end + step for end in ends for step in (-1.5, -1, -0.5, 0, 0.5, 1, 1.5)]
    halves = [0.5, 1.5, 2.5, -0.5, -1.5, 0.0, -0.0, 0.49999997, 65504, 65520, 1e-8, 6e-8]
    floats = np.array([*near, *halves, np.inf, -np.inf, 3.4e38, 1e300])
    if name == "bool":
        return np.array([True, False])
    if np.dtype(name).kind in "iu":
        limits = np.iinfo(name)
        kept = [value for value in near if limits.min <= value <= limits.max and value < 2**63]
        return np.array([int(value) for value in kept] + [limits.min, limits.max], dtype=name)
    with np.errstate(over="ignore"):
        return floats.astype(name)


@pytest.mark.parametrize(("source", "target"), list(itertools.product(NAMES, TARGETS)))
def test_round(source: str, target: str) -> None:
    """Numbers are rounded to every dtype as `round_to` rounds arrays."""
    values, dtype = values_of(source), np.dtype(target)
    if not can_round(values.dtype, dtype):
        assert (source, target) == ("float64", "float16")
        return
    before = values.copy()
    found = round_tensor(torch.from_numpy(values), dtype).numpy()
    with np.errstate(all="ignore"):
        expected = round_to(before, dtype)
    assert found.dtype == dtype
    assert found.tobytes() == expected.tobytes()
    assert values.tobytes() == before.tobytes()


def test_kept_on_device() -> None:
    """Tensors on the named device are kept, detached and without dtypes that NumPy does not have; others are not."""
    tensor = torch.ones(2, requires_grad=True)
    assert kept_on_device(tensor) is None
    kept = kept_on_device(tensor, "cpu")
    assert not kept.requires_grad
    assert kept_on_device(torch.ones(2, dtype=torch.bfloat16), "cpu").dtype == torch.float32
    for other in (np.ones(2), [1], torch.ones(2, dtype=torch.complex64), torch.ones(2).to_sparse()):
        assert kept_on_device(other, "cpu") is None
    assert kept_on_device(torch.ones(2), "cuda:0") is None


def test_places() -> None:
    """Pixels are allocated and moved to where others lie."""
    array, tensor = np.arange(3, dtype=np.int16), torch.arange(3)
    assert pixel_dtype_of(tensor) == np.int64
    assert is_tensor(new_pixels((2, 3), np.dtype("uint16"), tensor))
    assert new_pixels((2, 3), np.dtype("uint16"), array).dtype == np.uint16
    assert is_tensor(moved(array, tensor))
    assert moved(array, array) is array
    assert np.array_equal(to_host(tensor), array)
    assert is_tensor(concatenate([tensor, tensor]))
    assert len(concatenate([array, array])) == 6
