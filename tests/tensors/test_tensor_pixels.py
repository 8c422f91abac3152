"""Arithmetic on tensors has the bits of NumPy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from patchloom.pixel_arrays import round_to
from patchloom.tensors.tensor_pixels import (
    at_least,
    at_most,
    can_round,
    concatenate,
    converted,
    copied,
    divided,
    flipped,
    in_one_place,
    is_tensor,
    kept_on_device,
    moved,
    new_pixels,
    on_device,
    pixel_dtype_of,
    round_tensor,
    rounded,
    square_root,
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


@pytest.mark.parametrize("axes", [(), (-1,), (-2, -3)])
@pytest.mark.parametrize("name", [*TARGETS, "uint64"])
def test_flipped(name: str, axes: tuple[int, ...]) -> None:
    """Tensors of every dtype that batches have are flipped."""
    array = np.random.default_rng(0).integers(0, 2, (2, 3, 4)).astype(name)
    found = flipped(torch.from_numpy(array), axes)
    assert found.numpy().dtype == array.dtype
    assert np.array_equal(found.numpy(), np.flip(array, axes))


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_arithmetic(name: str) -> None:
    """Quotients, roots and whole numbers have the bits of NumPy, and the operands are not changed."""
    array = np.random.default_rng(0).normal(0, 1e4, 1001).astype(name)
    array[:4] = np.nan, np.inf, -0.0, 2.5
    tensor = torch.from_numpy(array.copy())
    for number in (2, 3, 7, 10, 2**20 + 1):
        assert divided(tensor, number).numpy().tobytes() == (array / number).tobytes()
    assert rounded(tensor).numpy().tobytes() == np.rint(array).tobytes()
    assert square_root(tensor.abs()).numpy().tobytes() == np.sqrt(np.abs(array)).tobytes()
    assert tensor.numpy().tobytes() == array.tobytes()
    for bound in (0.0, -0.0, 7.5):
        operand = np.full(1, bound, name)
        on_tensor = torch.from_numpy(operand)
        assert at_least(tensor, on_tensor).numpy().tobytes() == np.clip(array, operand, None).tobytes()
        assert at_most(tensor, on_tensor).numpy().tobytes() == np.clip(array, None, operand).tobytes()
    divided(tensor, 3, out=tensor)
    assert tensor.numpy().tobytes() == (array / 3).tobytes()


@pytest.mark.parametrize("name", ["uint16", "float32"])
def test_copied(name: str) -> None:
    """Copies are of another memory, contiguous, and of the dtype that is asked for."""
    array = np.arange(12).astype(name).reshape(3, 4)
    for pixels in (array.T, torch.from_numpy(array).T):
        same, double = copied(pixels), copied(pixels, np.dtype("float64"))
        assert pixel_dtype_of(same) == name
        assert pixel_dtype_of(double) == np.float64
        for copy in (to_host(same), to_host(double)):
            assert copy.flags.c_contiguous
            assert not np.shares_memory(copy, array)
            assert np.array_equal(copy, array.T)
        assert converted(pixels, np.dtype(name)) is pixels or is_tensor(pixels)
        assert np.shares_memory(to_host(converted(pixels, np.dtype(name))), array)


def test_in_one_place() -> None:
    """Tensors on one device stay there; an array and a tensor become arrays."""
    array, tensor = np.arange(3), torch.arange(3)
    assert in_one_place(tensor, tensor) == (tensor, tensor)
    assert not any(map(is_tensor, in_one_place(array, tensor)))
    assert is_tensor(on_device(array, "cpu"))
    assert on_device(array, None) is array
    swapped = array.astype(">i4")
    assert on_device(swapped, "cpu") is swapped
