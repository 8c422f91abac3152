"""Copies between host and device: complete, in every shape, and without overwriting what is still used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from patchloom.tensors.device_stream import BatchUploads, DeviceEvent, DeviceStream, HostCopies

torch = pytest.importorskip("torch")
CPU = torch.device("cpu")


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 7, 5), (2, 9, 4, 3)])
@pytest.mark.parametrize("dtype", ["bool", "uint16", "float32", "float64"])
def test_copy(shape: tuple[int, ...], dtype: str, rng: np.random.Generator) -> None:
    """A block is copied in pieces, into given memory, also with gaps, or into new memory."""
    values = rng.integers(0, 2, shape).astype(dtype)
    copies = HostCopies(CPU, piece_bytes=60)
    with DeviceStream(CPU).used(DeviceEvent.now(CPU)):
        assert np.array_equal(copies.copy(torch.from_numpy(values)), values)
        gaps = np.zeros((*shape[:-1], 2 * shape[-1]), dtype)[..., ::2]
        assert copies.copy(torch.from_numpy(values), gaps) is gaps
        assert np.array_equal(gaps, values)
        other: Any = np.zeros(shape, np.complex128)
        assert copies.copy(torch.from_numpy(values), other).dtype == values.dtype
        turned = torch.from_numpy(values).flip(0).transpose(-1, -2)
        assert np.array_equal(copies.copy(turned), values[::-1].swapaxes(-1, -2))


def test_uploads() -> None:
    """The memory of a slot is reused for batches of one shape and dtype."""
    uploads = BatchUploads(CPU)
    first = uploads.array(0, (4, 1, 3, 3), np.dtype(np.uint16))
    first[...] = 7
    tensor = uploads.upload(0, 3)
    assert tensor.shape == (3, 1, 3, 3)
    assert tensor.dtype == torch.uint16
    uploads.release(0)
    assert np.shares_memory(uploads.array(0, (4, 1, 3, 3), np.dtype(np.uint16)), first)
    assert uploads.array(0, (4, 1, 3, 3), np.dtype(np.float32)).dtype == np.float32
    assert not np.shares_memory(uploads.array(1, (4, 1, 3, 3), np.dtype(np.uint16)), first)
