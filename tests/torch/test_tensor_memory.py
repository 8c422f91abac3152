"""Memory of tensors is reused once nothing refers to it."""

from __future__ import annotations

import torch

from patchloom.torch import PatchDataset
from patchloom.torch.loading.patch_keys import PatchKeys
from patchloom.torch.tensor_memory import RecycledMemory


def test_same_memory(inputs, patching):
    """A batch takes the memory of the batch before, if that is released."""
    batches = PatchDataset(inputs, patching).read_batches(PatchKeys.of(range(24)), 4, RecycledMemory(keep=1))

    assert len({next(batches).input.data_ptr() for _ in range(6)}) == 1  # nothing holds a batch while the next is read


def test_memory_dtypes():
    """Memory can be of any dtype."""
    memory = RecycledMemory(keep=1)

    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.uint16, torch.int64):
        tensor = memory((3, 2), dtype)
        assert (tensor.shape, tensor.dtype) == ((3, 2), dtype)
        place = tensor.data_ptr()
        del tensor
        assert memory((3, 2), dtype).data_ptr() == place
