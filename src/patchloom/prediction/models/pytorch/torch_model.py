"""Networks of PyTorch, as models on any device."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from numpy.typing import NDArray

from patchloom._optional import require
from patchloom.argument_checks import instance, shown
from patchloom.errors import ArgumentError, ArgumentTypeError
from patchloom.prediction.models.devices import Precision, check_precision, parse_devices
from patchloom.prediction.models.model import Model, ModelDescription, check_batch


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A network of PyTorch, as a callable `(B, C, (Z), Y, X) -> tensor`.

    The network runs in evaluation mode and without gradients; its own mode is restored after each batch. `predict` wraps a
    `torch.nn.Module` by itself: make a `TorchModel` to add a description.

    Parameters
    ----------
    module : torch.nn.Module
        The network. A batch is converted to the dtype of its parameters, and moved to their device.
    description : ModelDescription
        What is known of its input and output.
    precision : {"float32", "bfloat16", "float16"}, optional
        Dtype in which it computes, by `torch.autocast`. If None, or if it is `"float32"`, that of its parameters. Outputs are
        float32 in any case.

    Raises
    ------
    ArgumentTypeError
        If `module` is not a network of PyTorch.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> model = TorchModel(torch.nn.Conv2d(1, 2, 3, padding=1), ModelDescription(overlaps=(2, 2)))
    >>> model(np.zeros((1, 1, 8, 8), np.uint16)).shape
    torch.Size([1, 2, 8, 8])
    """

    module: Any
    description: ModelDescription = field(default_factory=ModelDescription)
    precision: Precision | None = None

    def __post_init__(self) -> None:
        torch = require("torch", extra="torch")
        if not isinstance(self.module, torch.nn.Module):
            raise ArgumentTypeError(f"module is {shown(self.module)}: it must be a torch.nn.Module")
        instance("description", self.description, ModelDescription)
        check_precision(self.precision)

    @property
    def device(self) -> str:
        """The device of the network."""
        return str(self._first_tensor.device)

    def on(self, device: str | None, precision: Precision | None, /) -> TorchModel:
        """Return the network on a device; see `RunsOnDevice`."""
        wanted = self.device if device is None else find_device(device)
        check_precision(precision)
        module = self.module
        if wanted != self.device:
            module = copy.deepcopy(module).to(wanted)  # the network of the user stays where it is
        return replace(self, module=module, precision=precision or self.precision)

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`. Returns tensors on the device of the network."""
        torch = require("torch", extra="torch")
        check_batch(batch)
        known = self._first_tensor
        tensor = torch.from_numpy(batch).to(known.device).to(known.dtype)
        with torch.inference_mode(), _evaluating(self.module), self._autocast(torch):
            return _as_float32(torch, self.module(tensor))

    @property
    def _first_tensor(self) -> Any:
        """The first parameter or buffer of floats; a network without any gets float32 on the CPU."""
        torch = require("torch", extra="torch")
        tensors = (*self.module.parameters(), *self.module.buffers())
        return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))

    def _autocast(self, torch: Any) -> Any:
        if self.precision in (None, "float32"):
            return nullcontext()
        return torch.autocast(self.device.partition(":")[0], getattr(torch, str(self.precision)))


def as_torch_model(model: Any) -> Model:
    """Return a network of PyTorch as a `TorchModel`, and any other model as it is.

    Parameters
    ----------
    model : callable
        The model.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(model, torch.nn.Module):
        return TorchModel(model)
    return model  # type: ignore[no-any-return]  # a callable


def find_device(device: str) -> str:
    """Return the name that PyTorch has for a device of this machine.

    Parameters
    ----------
    device : str
        As `parse_devices` returns it.

    Raises
    ------
    ArgumentError
        If this machine has no such device.

    Examples
    --------
    >>> find_device("cpu")
    'cpu'
    """
    torch = require("torch", extra="torch")
    there = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    there += ["mps"] if torch.backends.mps.is_available() else []
    (device,) = parse_devices(instance("device", device, str))
    if device == "auto":
        return (*there, "cpu")[0]
    if device not in (*there, "cpu"):
        raise ArgumentError(
            f"device is {device!r}, which PyTorch does not find on this machine: choose one of {', '.join([*there, 'cpu'])}"
        )
    return device


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Put a network in evaluation mode, and its parts back into their own modes afterwards."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _as_float32(torch: Any, returned: Any) -> Any:
    """Convert outputs that NumPy has no dtype for, or a lower precision, to float32."""
    if isinstance(returned, torch.Tensor):
        is_low = returned.dtype in (torch.bfloat16, torch.float16)
        return returned.float() if is_low else returned
    if isinstance(returned, Mapping):
        return {name: _as_float32(torch, value) for name, value in returned.items()}
    if isinstance(returned, (tuple, list)):
        return tuple(_as_float32(torch, value) for value in returned)
    return returned
