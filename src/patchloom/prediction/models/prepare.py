"""From what a user gives as a model to a model that a run can use: networks are wrapped and moved to their device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from patchloom.argument_checks import function
from patchloom.errors import ArgumentError
from patchloom.prediction.models.devices import check_precision, move_model, parse_devices
from patchloom.prediction.models.ensemble_model import EnsembleModel
from patchloom.prediction.models.model import Model
from patchloom.prediction.models.pytorch.torch_model import as_torch_model


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
        If it is not callable, or cannot run on the device, or not in this precision.

    Examples
    --------
    >>> import numpy as np
    >>> prepare_model(np.negative)
    <ufunc 'negative'>
    """
    devices, checked = parse_devices(device), check_precision(precision)
    known: Model = (
        EnsembleModel(model)
        if isinstance(model, (list, tuple))
        else as_torch_model(function("model", model, "load_model makes one from a file"))
    )
    if len(devices) > 1:
        raise ArgumentError(f"device is {device!r}: name one device")
    if not devices and checked is None:
        return known
    return move_model(known, devices[0] if devices else None, checked)
