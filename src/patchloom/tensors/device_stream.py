"""Work that a device does beside the model: streams, and copies to and from the host by way of page-locked memory.

A GPU works through each stream in order, and through several at the same time. An event marks a moment of a stream; other
streams, or a thread, wait for it. Other devices have no streams here: everything is done at once, by the same code.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, PatchloomError
from patchloom.tensors.tensor_pixels import Tensor, load_torch, pixel_dtype_of, torch_dtype


@contextmanager
def device_failures() -> Iterator[None]:
    """Raise the failure of a device as a `ModelError`: it computes behind the program, and fails whatever is called next.

    Raises
    ------
    ModelError
        If PyTorch raises, unless memory is short.

    Examples
    --------
    >>> with device_failures():
    ...     raise RuntimeError("CUDA error: unspecified launch failure")
    Traceback (most recent call last):
        ...
    patchloom.errors.ModelError: the device failed while it computed predictions: CUDA error: unspecified launch failure
    """
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, PatchloomError) or type(error).__name__ == "OutOfMemoryError":
            raise
        raise ModelError(f"the device failed while it computed predictions: {error}") from error


def current_stream(device: Any) -> Any:
    """Return the stream to which this thread gives work of a device; None if it has no streams."""
    return load_torch().cuda.current_stream(device) if device.type == "cuda" else None


class DeviceEvent:
    """A moment of a stream; on a device without streams it has always passed.

    Parameters
    ----------
    event : torch.cuda.Event, optional
        The event.
    """

    def __init__(self, event: Any = None) -> None:
        self._event = event

    @classmethod
    def now(cls, device: Any) -> DeviceEvent:
        """Mark all work that this thread has given to a device so far."""
        if device.type != "cuda":
            return cls()
        # Blocking: a thread that waits sleeps, instead of keeping a core busy.
        event = load_torch().cuda.Event(blocking=True)
        event.record(current_stream(device))
        return cls(event)

    def wait(self) -> None:
        """Wait in this thread until the work is done."""
        if self._event is not None:
            self._event.synchronize()

    def hold_up(self, stream: Any) -> None:
        """Let a stream wait until the work is done."""
        if self._event is not None:
            stream.wait_event(self._event)


class DeviceStream:
    """A stream beside the one in which a model runs.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self._stream = load_torch().cuda.Stream(device) if device.type == "cuda" else None

    @contextmanager
    def used(self, *after: DeviceEvent) -> Iterator[None]:
        """Give work to this stream, after events of others."""
        with nullcontext() if self._stream is None else load_torch().cuda.stream(self._stream):
            for event in after:
                event.hold_up(self._stream)
            yield


class HostCopies:
    """Copies tensors to arrays, piece by piece: a piece is copied from the device while the one before is put in its place.

    Parameters
    ----------
    device : torch.device
        The device of the tensors.
    piece_bytes : int
        Bytes that are copied at once: few, as it takes long to lock pages.
    """

    def __init__(self, device: Any, piece_bytes: int = 2**25) -> None:
        self._device = device
        self._piece_bytes = piece_bytes
        self._staging: list[Tensor] = []

    def copy(self, tensor: Tensor, out: NDArray[Any] | None = None) -> NDArray[Any]:
        """Copy a tensor in the current stream, and wait for it.

        Parameters
        ----------
        tensor : tensor
            At least two axes.
        out : array, optional
            The array to fill, of the shape and dtype of the tensor. If None, or of another dtype, a new one.

        Returns
        -------
        array
            The copy.
        """
        dtype = pixel_dtype_of(tensor)
        if out is None or out.dtype != dtype:
            out = np.empty(tuple(tensor.shape), dtype)
        pending: tuple[DeviceEvent, Tensor, NDArray[Any]] | None = None
        for number, (channel, rows) in enumerate(self._pieces(tuple(tensor.shape), dtype.itemsize)):
            piece = tensor[channel, rows]
            staged = self._staged(number % 2, piece)
            staged.copy_(piece, non_blocking=True)
            event = DeviceEvent.now(self._device)
            if pending is not None:
                _put(*pending)
            pending = event, staged, out[channel, rows]
        if pending is not None:
            _put(*pending)
        return out

    def _pieces(self, shape: tuple[int, ...], itemsize: int) -> Iterator[tuple[int, slice]]:
        """Yield a channel and rows of the next axis, of at most `piece_bytes` unless one row is larger."""
        step = max(1, self._piece_bytes // max(1, prod(shape[2:]) * itemsize))
        for channel in range(shape[0]):
            for start in range(0, shape[1], step):
                yield channel, slice(start, start + step)

    def _staged(self, slot: int, like: Tensor) -> Tensor:
        """Return page-locked memory for a piece."""
        torch, n_bytes = load_torch(), like.numel() * like.element_size()
        while len(self._staging) <= slot or self._staging[slot].numel() < n_bytes:
            memory = torch.empty(max(n_bytes, 1), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
            self._staging[slot : slot + 1] = [memory]
        return self._staging[slot][:n_bytes].view(like.dtype).view(like.shape)


def _put(event: DeviceEvent, staged: Tensor, place: NDArray[Any]) -> None:
    event.wait()
    place[...] = staged.numpy()


class BatchUploads:
    """Batches that are read into page-locked memory and copied to a device in a stream of their own.

    Memory is reused: a thread that reads waits until the copy of an earlier batch is done, and this copy waits until the device has
    done with the batch before. So the device has the next batch when it ends one, and the host is a few batches ahead at most.

    Parameters
    ----------
    device : torch.device
        The device.
    """

    def __init__(self, device: Any) -> None:
        self.device = device
        self._stream = DeviceStream(device)
        self._slots: defaultdict[int, _Slot] = defaultdict(_Slot)

    def array(self, slot: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the page-locked memory of a slot as an array, once the copy of an earlier batch is done."""
        known, torch = self._slots[slot], load_torch()
        known.copied.wait()
        is_new = known.host is None or tuple(known.host.shape) != shape or pixel_dtype_of(known.host) != dtype
        if is_new:
            pin = self.device.type == "cuda"
            known.host = torch.empty(shape, dtype=torch_dtype(dtype), pin_memory=pin)
            known.on_device = None
        array: NDArray[Any] = known.host.numpy()
        return array

    def upload(self, slot: int, n_tiles: int) -> Tensor:
        """Copy the first tiles of a slot to the device; the current stream waits for them, this thread does not."""
        known, torch = self._slots[slot], load_torch()
        if self.device.type == "cpu":
            return known.host[:n_tiles]
        with self._stream.used(known.released):
            if known.on_device is None:
                known.on_device = torch.empty_like(known.host, device=self.device)
            batch = known.on_device[:n_tiles]
            batch.copy_(known.host[:n_tiles], non_blocking=True)
            known.copied = DeviceEvent.now(self.device)
        if self.device.type == "cuda":
            compute = current_stream(self.device)
            known.copied.hold_up(compute)
            batch.record_stream(compute)
        return batch

    def release(self, slot: int) -> None:
        """Mark the memory of a slot on the device as free, once all work given so far is done."""
        self._slots[slot].released = DeviceEvent.now(self.device)


class _Slot:
    """The memory of one batch."""

    def __init__(self) -> None:
        self.host: Tensor = None
        self.on_device: Tensor = None
        self.copied = DeviceEvent()
        self.released = DeviceEvent()
