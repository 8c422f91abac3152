"""Devices that a model may run on, and the precision in which it computes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from patchloom.argument_checks import one_of, shown
from patchloom.errors import ArgumentError, ArgumentTypeError
from patchloom.prediction.models.model import Model

Precision = Literal["float32", "bfloat16", "float16"]
"""Dtype in which a network computes."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,3})?")


@runtime_checkable
class RunsOnDevice(Protocol):
    """A model that can be run on another device."""

    def on(self, device: str | None, precision: Precision | None, /) -> Model:
        """Return the same model on a device; this one is not changed.

        Parameters
        ----------
        device : str, optional
            `"auto"`, `"cpu"`, `"cuda:0"`, …, or `"mps"`. If None, the model stays where it is.
        precision : {"float32", "bfloat16", "float16"}, optional
            Dtype in which the network computes. If None, it does not change.

        Raises
        ------
        ArgumentError
            If this machine has no such device, or the model cannot run on it, or not in this precision.
        """


def parse_devices(devices: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the devices that are named, one for each copy of the model.

    Parameters
    ----------
    devices : str or sequence of str, optional
        `"auto"`, `"cpu"`, `"cuda"` (the same as `"cuda:0"`), `"cuda:1"` or `"mps"`; several in a sequence, or separated by commas.

    Returns
    -------
    tuple of str
        The devices; empty if None are given.

    Raises
    ------
    ArgumentError
        If one is not a device.

    Examples
    --------
    >>> parse_devices("cuda:0, cuda:1"), parse_devices("cuda"), parse_devices(None)
    (('cuda:0', 'cuda:1'), ('cuda:0',), ())
    """
    if devices is None:
        return ()
    if isinstance(devices, str):
        names: Sequence[Any] = [name.strip() for name in devices.split(",")]
    elif isinstance(devices, (list, tuple)):
        names = devices
    else:
        raise ArgumentTypeError(f"device is {shown(devices)}: it must be a text, such as 'cuda:0', or a list of these")
    for name in names:
        if not isinstance(name, str) or not _DEVICE.fullmatch(name):
            raise ArgumentError(f"device is {shown(name)}: it must be 'auto', 'cpu', 'cuda', 'cuda:1', … or 'mps'")
    if not names or (len(names) > 1 and "auto" in names):
        raise ArgumentError(f"device is {shown(devices)}: name one device, or several without 'auto'")
    return tuple("cuda:0" if name == "cuda" else name for name in names)


def check_precision(precision: Any) -> Precision | None:
    """Return a precision, or None if it is not given.

    Raises
    ------
    ArgumentError
        If it is another text.
    """
    return None if precision is None else one_of("precision", precision, get_args(Precision))


def move_model(model: Model, device: str | None, precision: Precision | None) -> Model:
    """Return a model on a device.

    Parameters
    ----------
    model : callable
        The model.
    device : str, optional
        One device, as `parse_devices` returns it. If None, the model stays where it is.
    precision : {"float32", "bfloat16", "float16"}, optional
        Dtype in which the network computes. If None, it does not change.

    Raises
    ------
    ArgumentError
        If the model is a function, which chooses its device itself; or as `RunsOnDevice.on`.

    Examples
    --------
    >>> def double(batch):
    ...     return batch * 2
    >>> move_model(double, "auto", None) is double
    True
    >>> move_model(double, "cuda:0", None)
    Traceback (most recent call last):
        ...
    patchloom.errors.ArgumentError: device is 'cuda:0', and the model is a function, which chooses its device itself: leave
    device out, or give the network, such as a torch.nn.Module
    """
    if isinstance(model, RunsOnDevice):
        return model.on(device, precision)
    for name, value in (("device", None if device == "auto" else device), ("precision", precision)):
        if value is not None:
            raise ArgumentError(
                f"{name} is {value!r}, and the model is a function, which chooses its {name} itself: leave {name} out, or give "
                "the network, such as a torch.nn.Module"
            )
    return model
