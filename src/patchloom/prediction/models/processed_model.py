"""Arithmetic on single voxels before and after a model, such as a normalization by the statistics of its training data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import add, mul, sub, truediv
from typing import Any, Literal

import numpy as np

from patchloom.argument_checks import instance
from patchloom.errors import ModelError
from patchloom.prediction.models.devices import Precision, move_model
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe, tensor_device
from patchloom.tensors.tensor_pixels import Pixels, at_least, at_most, converted, is_tensor, moved

Operation = Literal["add", "subtract", "multiply", "divide", "at_least", "at_most"]

_ARITHMETIC: dict[Operation, Callable[[Any, Any], Any]] = {
    "add": add,
    "subtract": sub,
    "multiply": mul,
    "divide": truediv,
    "at_least": at_least,
    "at_most": at_most,
}


@dataclass(frozen=True, slots=True)
class VoxelStep:
    """An operation on each voxel, in float32.

    Parameters
    ----------
    operation : {"add", "subtract", "multiply", "divide", "at_least", "at_most"}
        The operation. `"at_least"` and `"at_most"` replace values beyond a bound by it.
    operand : tuple of float
        The other operand: one number for all channels, or one for each. It is rounded to float32.
    """

    operation: Operation
    operand: tuple[float, ...]


def apply_steps(values: Any, steps: Sequence[VoxelStep]) -> Any:
    """Apply steps to a batch, in float32.

    Parameters
    ----------
    values : array or tensor
        `(B, C, (Z), Y, X)`, of NumPy or PyTorch; it is not changed.
    steps : sequence of VoxelStep
        The steps, in order.

    Returns
    -------
    array or tensor
        As `values`, on the same device; in float32 if there are steps.

    Raises
    ------
    ModelError
        If a step has operands for another number of channels.

    Examples
    --------
    >>> steps = [VoxelStep("subtract", (10, 20)), VoxelStep("at_least", (0,))]
    >>> apply_steps(np.array([[[[5, 15]], [[25, 35]]]]), steps).tolist()
    [[[[0.0, 5.0]], [[5.0, 15.0]]]]
    """
    for step in steps:
        n_channels = int(values.shape[1])
        if len(step.operand) not in (1, n_channels):
            raise ModelError(
                f"the model has numbers for {len(step.operand)} channels to {step.operation}, and the batch has {n_channels}: give "
                "an image with as many channels as the model was trained on"
            )
        values = _apply(values, step)
    return values


def _apply(values: Any, step: VoxelStep) -> Any:
    operand: Any = np.array(step.operand, np.float32).reshape(-1, *[1] * (values.ndim - 2))
    values = converted(values, np.dtype(np.float32))
    operand = moved(
        operand, like=values
    )  # as a tensor: a GPU multiplies by the inverse of a number, which rounds twice
    return _ARITHMETIC[step.operation](values, operand)


@dataclass(frozen=True, slots=True)
class ProcessedModel:
    """A model with arithmetic on each voxel before and after it, as a model.

    Parameters
    ----------
    model : callable
        The model.
    before, after : sequence of VoxelStep
        What is done to each batch, and to each output of the model.

    Examples
    --------
    >>> def double(batch):
    ...     return batch * 2
    >>> model = ProcessedModel(double, before=[VoxelStep("subtract", (1,))], after=[VoxelStep("add", (0.5,))])
    >>> model(np.full((1, 1, 1, 2), 3, np.uint8)).tolist()
    [[[[4.5, 4.5]]]]
    """

    model: Model
    before: tuple[VoxelStep, ...] = ()
    after: tuple[VoxelStep, ...] = ()

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            steps = tuple(instance(name, step, VoxelStep) for step in getattr(self, name))
            object.__setattr__(self, name, steps)

    @property
    def description(self) -> ModelDescription:
        """The description of the model, with an identity that names the steps too."""
        declared = describe(self.model)
        return replace(declared, identity=f"{declared.identity}, before {self.before}, after {self.after}")

    @property
    def tensor_device(self) -> str | None:
        """The device of the model; see `TakesTensors`."""
        return tensor_device(self.model)

    def on(self, device: str | None, precision: Precision | None, /) -> ProcessedModel:
        """Return the model on a device; see `RunsOnDevice`."""
        return replace(self, model=move_model(self.model, device, precision))

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch; see `Model`."""
        check_batch(batch, tensors=True)
        returned = self.model(apply_steps(batch, self.before))
        return _to_each(returned, self.after) if self.after else returned


def _to_each(returned: Any, steps: Sequence[VoxelStep]) -> Any:
    if isinstance(returned, Mapping):
        return {name: _to_each(output, steps) for name, output in returned.items()}
    if isinstance(returned, (tuple, list)):
        return tuple(_to_each(output, steps) for output in returned)
    return apply_steps(returned if is_tensor(returned) else np.asarray(returned), steps)
