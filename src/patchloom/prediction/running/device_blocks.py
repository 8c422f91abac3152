"""Blocks on a device: allocated there if its memory suffices, postprocessed there, and copied to the host when complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.prediction.models.memory_errors import is_out_of_memory
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.postprocessing.casting import to_dtype
from patchloom.prediction.postprocessing.steps import Postprocessing
from patchloom.prediction.postprocessing.tensor_steps import convert_on_device, process_on_device
from patchloom.prediction.running.progress import warn_user
from patchloom.stitching.assembler import BlockAssembler
from patchloom.tensors.device_stream import DeviceEvent, DeviceStream, HostCopies, device_failures
from patchloom.tensors.tensor_pixels import Pixels, Tensor, free_bytes, is_tensor, to_host

_Step = Callable[[NDArray[Any]], NDArray[Any]]
"""Done to a block on the host."""


class DeviceBlocks:
    """The blocks of a run that are put together on a device.

    Parameters
    ----------
    plan : Plan
        The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._device: Any = None
        """Where blocks are put together; None before the first tensor, or if all is done on the host."""
        self._on_host = False
        self._finishing: tuple[DeviceStream, HostCopies] | None = None

    def placed(self, outputs: Sequence[Sequence[Pixels]]) -> Sequence[Sequence[Pixels]]:
        """Return the predictions of a batch where blocks are put together: on the host, or on the first of several devices."""
        tensors = [part for parts in outputs for part in parts if is_tensor(part)]
        if not tensors:
            return outputs
        if self._device is None and not self._on_host:
            self._choose_place(tensors[0].device)
        if self._on_host:
            return [list(map(to_host, parts)) for parts in outputs]
        if all(part.device == self._device for part in tensors):
            return outputs
        return [
            [part.to(self._device, non_blocking=True) if is_tensor(part) else part for part in parts]
            for parts in outputs
        ]

    def allocate(self, assembler: BlockAssembler, block_idx: int, tile: Tensor) -> None:
        """Allocate a block on the device, or on the host if the device has no memory left."""
        try:
            assembler.allocate(block_idx, like=tile)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._use_host("has no memory left")
            assembler.allocate(block_idx)

    def given(self, values: Tensor) -> DeviceEvent:
        """Return the moment when all tiles of a block have been added to it."""
        return DeviceEvent.now(values.device)

    def finished(
        self,
        values: Tensor,
        postprocess: Postprocessing | None,
        dtype: np.dtype[Any],
        *,
        given: Sequence[DeviceEvent],
        buffer: NDArray[Any] | None,
    ) -> NDArray[Any]:
        """Postprocess or convert a block as far as possible on its device, copy it to the host, and do the rest there.

        Parameters
        ----------
        values : tensor
            The block, `C(Z)YX`.
        postprocess : Postprocessing, optional
            What is done to it. If None, it is converted.
        dtype : numpy dtype
            The dtype that is written.
        given : sequence of DeviceEvent
            When its tiles have been added.
        buffer : array, optional
            Memory of the output for the block.
        """
        stream, copies = self._finishing_on(values.device)
        everything: Sequence[_Step] = [postprocess or partial(to_dtype, dtype=dtype, specs=[])]
        with device_failures(), stream.used(*given):
            try:
                processed, rest = _processed(values, postprocess, dtype) or (values, everything)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                processed, rest = values, everything
            copied = copies.copy(processed, None if rest else buffer)
        return reduce(lambda block, step: step(block), rest, copied)

    def _finishing_on(self, device: Any) -> tuple[DeviceStream, HostCopies]:
        """Return the stream for finished blocks and its memory; they belong to the thread that writes."""
        if self._finishing is None:
            self._finishing = DeviceStream(device), HostCopies(device)
        return self._finishing

    def _choose_place(self, device: Any) -> None:
        free, memory = free_bytes(device), self._plan.memory
        needed = memory.open_blocks + memory.writing
        if free is not None and free < needed:
            self._use_host(f"has {free / 2**20:.0f} MiB left, and the blocks of this run take {needed / 2**20:.0f} MiB")
        else:
            self._device = device

    def _use_host(self, reason: str) -> None:
        self._on_host = True
        warn_user(f"the device {reason}: predictions are stitched in the memory of the host")


def _processed(
    values: Tensor, postprocess: Postprocessing | None, dtype: np.dtype[Any]
) -> tuple[Tensor, Sequence[_Step]] | None:
    """Return a block after what can be done to it on its device, and what is still to be done; None if nothing can be done there."""
    if postprocess is not None:
        return process_on_device(postprocess, values)
    converted = convert_on_device(values, dtype)
    return None if converted is None else (converted, [])
