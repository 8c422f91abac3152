"""Networks of PyTorch, as models on any device."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields, replace
from typing import Any
from weakref import WeakKeyDictionary

from patchloom._optional import require
from patchloom.argument_checks import flag, instance, shown
from patchloom.errors import ArgumentError, ArgumentTypeError, ModelError
from patchloom.prediction.models.devices import Precision, check_precision, parse_devices
from patchloom.prediction.models.model import Model, ModelDescription, check_batch
from patchloom.prediction.models.pytorch.evaluation_mode import drawing_mode, evaluation_mode
from patchloom.prediction.models.pytorch.network_facts import (
    check_inputs,
    count_axes,
    explained_errors,
    has_part,
    is_spread,
    move_graphs,
    name_of,
    typical_weight,
)
from patchloom.prediction.models.pytorch.program_description import describe_program
from patchloom.prediction.models.pytorch.tensors import channels_last, from_network, to_tensor
from patchloom.tensors.tensor_pixels import Pixels

_needs_contiguous: WeakKeyDictionary[Any, set[tuple[int, ...]]] = WeakKeyDictionary()
"""Shapes of batches that a network does not take with its channels side by side. A shape decides, so results do not depend on it."""


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A network of PyTorch, as a callable `(B, C, (Z), Y, X) -> tensor`.

    `predict` wraps a `torch.nn.Module` by itself: make a `TorchModel` to add a description. The network runs in evaluation mode
    and without gradients. Afterwards each of its parts is in its own mode again. Hooks are called as always.

    Parameters
    ----------
    module : torch.nn.Module
        The network, as Python, TorchScript, or compiled. A batch is converted to the dtype that most of its weights have. If the
        weights are spread over several devices, they stay there, and the batch goes to the first of them.
    description : ModelDescription
        What is known of its input and output. The number of axes is taken from the convolutions if it is not declared.
    precision : {"float32", "bfloat16", "float16"}, optional
        Dtype in which a network with weights in float32 computes, by `torch.autocast`. If None, that of its weights.
    inputs : mapping of str to object
        Values of further inputs of `module.forward`, by name. Tensors are moved to the device of the network.
    dropout : bool
        Whether layers that drop values are active: `torch.nn.Dropout` and any class with `Drop` in its name.

    Raises
    ------
    ArgumentError
        If an argument has another type or value.
    ModelError
        If the network needs an input that has no value, or its weights are not loaded.

    Notes
    -----
    Outputs are detached; float16 and bfloat16 become float32. Tensors in mappings, sequences and data classes, nested in any way,
    become outputs by name, such as `"out"` or `"levels.0"`.

    Batches are stored with their channels side by side (`torch.channels_last`) where PyTorch computes faster so: for networks without
    instance and group norms, in 2D on a CPU (`benchmarks/bench_models.py`), in 2D and 3D on a GPU. Results differ by
    their rounding only. A network that depends on the order in memory (`Tensor.view`), or is traced, gets contiguous batches.

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
    inputs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    dropout: bool = False
    _device: str | None = field(init=False, repr=False, compare=False, default=None)
    """Where a network without weights runs."""
    _parts: tuple[Any, ...] = field(init=False, repr=False, compare=False, default=())
    _weight: Any = field(init=False, repr=False, compare=False, default=None)
    _by_position: tuple[str, ...] = field(init=False, repr=False, compare=False, default=())
    """Inputs that a traced network takes by their order only."""
    _is_channels_last: bool = field(init=False, repr=False, compare=False, default=False)

    def __post_init__(self) -> None:
        torch = require("torch", extra="torch")
        if not isinstance(self.module, torch.nn.Module):
            raise ArgumentTypeError(f"module is {shown(self.module)}: it must be a torch.nn.Module")
        instance("description", self.description, ModelDescription)
        check_precision(self.precision)
        flag("dropout", self.dropout)
        if not isinstance(self.inputs, Mapping):
            raise ArgumentTypeError(f"inputs is {shown(self.inputs)}: it must be a mapping of names to values")
        object.__setattr__(self, "_by_position", check_inputs(self.module, self.inputs))
        # Found once, not for each batch. A parameter is the same object after a move to another device or dtype.
        weight, own = _typical(self.module)
        parts = tuple(self.module.modules())
        if self.precision not in (None, own) and own != "float32":
            raise ArgumentError(
                f"precision is {self.precision!r}, and {name_of(self.module)} has weights in {own}: leave precision out, or convert "
                "the network by network.float()"
            )
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_weight", weight if isinstance(weight, torch.nn.Parameter) else None)
        if self.description.n_dims is None:
            object.__setattr__(self, "description", replace(self.description, n_dims=count_axes(parts)))
        object.__setattr__(self, "_is_channels_last", self._profits_from_channels_last())

    def __reduce__(self) -> tuple[Any, ...]:
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        return _rebuilt, (values | {"inputs": dict(self.inputs)}, self._device)

    @property
    def device(self) -> str:
        """The device of the network; of its first weights if it is spread over several."""
        return str(self._placement[1])

    @property
    def identity(self) -> str:
        """The identity that the description declares, with the kind of device and the precision; empty if it declares none."""
        declared = self.description.identity
        dropout = " dropout" if self.dropout else ""
        return f"{declared} {self.device.partition(':')[0]} {self.precision}{dropout}" if declared else ""

    @contextmanager
    def identified_parts(self) -> Iterator[Mapping[str, Any]]:
        """Provide what the network computes with, in the state in which it computes."""
        with evaluation_mode(self._parts):
            yield {
                "module": self.module,
                "inputs": dict(self.inputs),
                "precision": self.precision,
                "dropout": self.dropout,
                "kind of device": self.device.partition(":")[0],
                "description": self.description,
            }

    @property
    def tensor_device(self) -> str | None:
        """The device of the network, if it is a GPU: see `TakesTensors`."""
        _, device = self._placement
        return str(device) if device.type == "cuda" else None

    def on(self, device: str | None, precision: Precision | None, /) -> TorchModel:
        """Return the network on a device; see `RunsOnDevice`.

        A copy is made only if the device or the dtype of the weights changes. With `"auto"`, a network that is spread over several
        devices stays there.

        Raises
        ------
        ArgumentError
            If this machine has no such device.
        ModelError
            If the network cannot be copied.
        """
        wanted = self.device if device is None else find_device(device)
        changes = self._changes(device, wanted) | self._conversion(check_precision(precision))
        module = _copied(self.module, changes) if changes else self.module
        _, own = _typical(module)
        kept = precision or self.precision
        description = replace(self.description, out_dtype=None) if "dtype" in changes else self.description
        moved = replace(self, module=module, description=description, precision=None if kept == own else kept)
        object.__setattr__(moved, "_device", wanted)
        return moved

    def with_dropout(self) -> TorchModel:
        """Return the same network with active dropout."""
        active = replace(self, dropout=True)
        object.__setattr__(active, "_device", self._device)
        return active

    def _changes(self, device: str | None, wanted: str) -> dict[str, Any]:
        """Return the device to which the weights have to be moved, if they have to."""
        if is_spread(self.module):
            return {} if device in (None, "auto") else {"device": wanted}
        return {} if wanted == self.device else {"device": wanted}

    def _conversion(self, precision: Precision | None) -> dict[str, Any]:
        """Return the dtype to which the weights have to be converted: autocast, which keeps norms and sums exact, needs float32."""
        weight, own = _typical(self.module)
        is_kept = precision is None or weight is None or own in ("float32", precision)
        return {} if is_kept else {"dtype": require("torch", extra="torch").float32}

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch, an array or a tensor; see `Model`. Returns tensors on the device of the network."""
        torch = require("torch", extra="torch")
        check_batch(batch, tensors=True)
        dtype, device = self._placement
        with torch.inference_mode(), self._mode(), self._autocast(torch, device):
            tensor = to_tensor(batch, dtype, device)
            inputs = {name: _on_device(torch, value, device) for name, value in self.inputs.items()}
            with explained_errors(self.module):
                return from_network(self._run(tensor, inputs))

    def _mode(self) -> AbstractContextManager[None]:
        return drawing_mode(self._parts) if self.dropout else evaluation_mode(self._parts)

    def _run(self, tensor: Any, inputs: Mapping[str, Any]) -> Any:
        ordered = [inputs[name] for name in self._by_position]
        named = {name: value for name, value in inputs.items() if name not in self._by_position}
        shape = tuple(tensor.shape)
        if not self._is_channels_last or tensor.dim() < 4 or shape in _needs_contiguous.get(self.module, ()):
            return self.module(tensor, *ordered, **named)
        try:
            return self.module(channels_last(tensor), *ordered, **named)
        except RuntimeError as error:
            if "view size is not compatible" not in str(error):
                raise
        _needs_contiguous.setdefault(self.module, set()).add(shape)
        return self.module(tensor, *ordered, **named)

    @property
    def _placement(self) -> tuple[Any, Any]:
        """The dtype and the device that the network expects of its input."""
        torch = require("torch", extra="torch")
        weight = typical_weight(self.module) if self._weight is None else self._weight
        if weight is None:
            return torch.float32, torch.device(self._device or "cpu")
        return weight.dtype, weight.device

    def _profits_from_channels_last(self) -> bool:
        torch = require("torch", extra="torch")
        is_traced = isinstance(self.module, (torch.jit.ScriptModule, torch.fx.GraphModule)) or hasattr(
            self.module, "_orig_mod"
        )
        n_dims = {"cpu": (2,), "cuda": (2, 3)}.get(self._placement[1].type, ())
        # A traced network may depend on the order in memory.
        return (
            not is_traced
            and count_axes(self._parts) in n_dims
            and not has_part(self._parts, "InstanceNorm", "GroupNorm")
        )

    def _autocast(self, torch: Any, device: Any) -> Any:
        if self.precision in (None, "float32"):
            return nullcontext()
        return torch.autocast(device.type, getattr(torch, str(self.precision)))


def _rebuilt(values: Mapping[str, Any], device: str | None) -> TorchModel:
    model = TorchModel(**values)
    object.__setattr__(model, "_device", device)
    return model


def _typical(module: Any) -> tuple[Any, str]:
    """Return the typical weight of a network, and the name of its dtype."""
    weight = typical_weight(module)
    return weight, "float32" if weight is None else str(weight.dtype).removeprefix("torch.")


def _copied(module: Any, changes: Mapping[str, Any]) -> Any:
    """Return a copy on another device or in another dtype; the network of the user stays as it is."""
    try:
        moved = copy.deepcopy(module).to(**changes)
    except Exception as error:  # code of the user may raise any error
        (name, value), *_ = changes.items()
        raise ModelError(
            f"{name_of(module)} cannot be copied ({type(error).__name__}: {' '.join(str(error).split())}): convert it yourself by "
            f"network.to({name}={value!r}), and leave {'device' if name == 'device' else 'precision'} out"
        ) from error
    if "device" in changes:
        move_graphs(moved, changes["device"])
    return moved


def _on_device(torch: Any, value: Any, device: Any) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value


def as_torch_model(model: Any) -> Model:
    """Return a network of PyTorch as a `TorchModel`, and any other model as it is.

    Parameters
    ----------
    model : callable
        The model: a `torch.nn.Module`, a `functools.partial` of one with further inputs by name, or a program of `torch.export`.
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return model  # type: ignore[no-any-return]  # a callable
    if isinstance(model, torch.nn.Module):
        return TorchModel(model)
    if isinstance(model, type) and issubclass(model, torch.nn.Module):
        raise ArgumentTypeError(
            f"model is the class {model.__name__}: make a network of it, such as {model.__name__}()"
        )
    if isinstance(model, functools.partial) and isinstance(model.func, torch.nn.Module):
        if model.args:
            raise ArgumentError(
                "model is a functools.partial with values by position, and the first input is the batch: bind the others by name"
            )
        return TorchModel(model.func, inputs=model.keywords)
    exported = sys.modules.get("torch.export")
    if exported is not None and isinstance(model, exported.ExportedProgram):
        module = model.module()
        return TorchModel(module, describe_program(model, module))
    return model  # type: ignore[no-any-return]


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
            f"device is {device!r}, and PyTorch does not find it on this machine, only {', '.join([*there, 'cpu'])}: choose one of "
            "these, or 'auto'"
        )
    return device
