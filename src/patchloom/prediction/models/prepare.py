"""From what a user gives as a model to a model that a run can use: networks are wrapped and moved to their device."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from patchloom.errors import ArgumentError
from patchloom.prediction.models.callables import check_callable
from patchloom.prediction.models.devices import Precision, RunsOnDevice, check_precision, move_model, parse_devices
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.pytorch.torch_model import as_torch_model
from patchloom.prediction.models.replicas import ReplicatedModel


def prepare_model(model: Any, device: str | Sequence[str] | None = None, precision: str | None = None) -> Model:
    """Return a model that a run can use.

    Parameters
    ----------
    model : callable, or sequence of callable
        A callable on batches, a network of PyTorch, or several of them, which are averaged.
    device : str or sequence of str, optional
        As in `predict`.
    precision : {"float32", "bfloat16", "float16"}, optional
        As in `predict`.

    Returns
    -------
    Model
        The model, on its device.

    Raises
    ------
    ArgumentError
        If it is not callable, or cannot run on a device, or not in this precision.

    Examples
    --------
    >>> import numpy as np
    >>> prepare_model(np.negative)
    <ufunc 'negative'>
    """
    devices, checked = parse_devices(device), check_precision(precision)
    known: Model = (
        EnsembleModel(model) if isinstance(model, (list, tuple)) else as_torch_model(check_callable("model", model))
    )
    if len(devices) > 1:
        return _replicated(known, devices, checked)
    if not devices and checked is None:
        return known
    return move_model(known, devices[0] if devices else None, checked)


def _replicated(model: Model, devices: Sequence[str], precision: Precision | None) -> ReplicatedModel:
    if not isinstance(model, RunsOnDevice):
        raise ArgumentError(
            f"device is {', '.join(devices)!r}, and the model is a function, which chooses its device itself: leave device out, or "
            "give the network, such as a torch.nn.Module"
        )
    replicas = [move_model(model, device, precision) for device in devices]
    # Two replicas on one device do not share a network, whose mode each of them sets.
    apart = [
        copy.deepcopy(replica) if device in devices[:number] else replica
        for number, (replica, device) in enumerate(zip(replicas, devices, strict=True))
    ]
    return ReplicatedModel(tuple(apart))
