"""The inputs of a network: one is the image, the others are bound to constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import shown
from patchloom.digests import text_digest
from patchloom.errors import ArgumentError, ArgumentTypeError, ModelError
from patchloom.prediction.models.onnx.tensors import (
    declared_sizes,
    tensor_dtype,
    tensor_names,
    tensor_texts,
)
from patchloom.prediction.models.tensor_layout import shape_text


class BoundInput:
    """An input of a network with the value that it gets in each call.

    Parameters
    ----------
    tensor : NodeArg
        The input, as onnxruntime declares it.
    value : number or array
        Its value. It is repeated along axes for which the network declares another size.
    image : NodeArg
        The input for the image: a symbolic size of the same name, such as that of the batch, is the size of the image.
    name : str
        Name of the network in messages.

    Raises
    ------
    ArgumentError
        If the value is not an array of numbers, or does not fit.
    """

    def __init__(self, tensor: Any, value: Any, image: Any, name: str) -> None:
        self.name: str = tensor.name
        self._value = _as_dtype(tensor, value, tensor_dtype(tensor, name), name)
        self._shape = tuple(tensor.shape)
        self._image_axes = {size: axis for axis, size in enumerate(image.shape) if isinstance(size, str)}
        if self._shape:  # else it is a scalar, or not declared
            self._fit_shape(tensor, name)

    def for_image(self, shape: Sequence[int]) -> NDArray[Any]:
        """Return the value for an image tensor of some shape."""
        if not self._shape or self._shape == self._value.shape:
            return self._value
        target = [self._size(size, own, shape) for size, own in zip(self._shape, self._value.shape, strict=True)]
        return np.ascontiguousarray(np.broadcast_to(self._value, target))

    def depends_on(self, axes: Sequence[int]) -> bool:
        """Return whether the shape depends on the size of the image along one of some axes."""
        return any(self._image_axes.get(size) in axes for size in self._shape)

    @property
    def digest(self) -> str:
        """A text that differs for other values."""
        return text_digest(f"{self.name} {self._value.dtype} {self._value.shape} {self._value.tobytes().hex()}")[:16]

    def _size(self, declared: Any, own: int, shape: Sequence[int]) -> int:
        if isinstance(declared, int):
            return declared
        return shape[self._image_axes[declared]] if own == 1 and declared in self._image_axes else own

    def _fit_shape(self, tensor: Any, name: str) -> None:
        missing = len(self._shape) - self._value.ndim
        axes = zip(self._shape[max(missing, 0) :], self._value.shape, strict=False)
        fits = missing >= 0 and all(not isinstance(size, int) or own in (1, size) for size, own in axes)
        if not fits:
            raise ArgumentError(
                f"inputs[{self.name!r}] has shape {self._value.shape}, and {name} takes {shape_text(declared_sizes(tensor))}: give "
                "an array of this shape, or a number"
            )
        self._value = self._value.reshape((1,) * missing + self._value.shape)


def _as_dtype(tensor: Any, value: Any, dtype: np.dtype[Any], name: str) -> NDArray[Any]:
    """Return a value in the dtype of an input; floats may be rounded, integers must be kept."""
    try:
        array = np.asarray(value)
    except Exception:  # noqa: BLE001  # other libraries raise any error
        array = np.asarray(None)
    if isinstance(value, type) or array.dtype.kind not in "buif":
        raise ArgumentTypeError(
            f"inputs[{tensor.name!r}] is {shown(value)}: it must be a number or an array of numbers, for {tensor_texts([tensor])}"
        )
    with np.errstate(all="ignore"):
        cast = array.astype(dtype)
        fits = dtype.kind == "f" or np.array_equal(cast.astype(array.dtype), array)
    if not fits:
        raise ArgumentError(
            f"inputs[{tensor.name!r}] is {shown(value)}, which does not fit into {dtype}, the dtype that {name} declares: give "
            "values of this dtype"
        )
    return cast


def choose_inputs(session: Any, given: Mapping[str, Any], name: str) -> tuple[Any, list[BoundInput]]:
    """Return the input for the image, and the others with their values.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The network. Inputs with a default in the file need no value.
    given : mapping of str to number or array
        Values of inputs, by name.
    name : str
        Name of the network in messages.

    Raises
    ------
    ArgumentError
        If there is no such input, or a value does not fit.
    ModelError
        If not exactly one input is without a value.
    """
    inputs = session.get_inputs()
    tensors = {tensor.name: tensor for tensor in (*inputs, *session.get_overridable_initializers())}
    for input_name in given:
        if input_name not in tensors:
            raise ArgumentError(
                f"inputs has the name {shown(input_name)}, and {name} has {tensor_names(list(tensors.values()))}: name one of these"
            )
    free = [tensor for tensor in inputs if tensor.name not in given]
    if not free:
        raise ArgumentError(f"inputs has a value for each input of {name}: leave out the input that takes the image")
    if len(free) > 1:
        other = next((tensor.name for tensor in free if len(tensor.shape) < 3), free[-1].name)
        raise ModelError(
            f"{name} has {len(free)} inputs without a value: {tensor_texts(free)}; one of them takes the image: give each other one "
            f"a number or an array, such as inputs={{{other!r}: 0.5}} (--input {other}=0.5)"
        )
    return free[0], [BoundInput(tensors[bound], value, free[0], name) for bound, value in given.items()]
