"""The outputs of a network that are images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import ModelError, ModelOutputError
from patchloom.prediction.models.onnx.tensors import declared_sizes, tensor_dtype, tensor_names
from patchloom.prediction.models.tensor_layout import TensorLayout, possible_layouts, shape_text


@dataclass(frozen=True, slots=True)
class ImageOutput:
    """An output of a network; made by `choose_outputs`."""

    name: str
    """Its name in the network."""

    dtype: np.dtype[Any]
    """Its dtype."""

    n_channels: int | None
    """Number of its channels; None if it is not declared."""

    layout: TensorLayout
    """The layout of the input. An output has the same, or no channel axis."""

    def to_batch(
        self, predicted: NDArray[Any], batch: NDArray[Any], input_shape: Sequence[int], network: str
    ) -> NDArray[Any]:
        """View what the network returned as a batch.

        Parameters
        ----------
        predicted : array
            What the network returned.
        batch : array
            The batch `(B, C, (Z), Y, X)` that it was returned for.
        input_shape : sequence of int
            Shape of the batch as the network got it, for messages.
        network : str
            Name of the network in messages.

        Returns
        -------
        array
            `(B, C', (Z), Y, X)`.

        Raises
        ------
        ModelOutputError
            If it is not one image for each tile.
        """
        layout = output_layout(self.layout, predicted.ndim)
        if layout is not None and 0 not in predicted.shape:
            result = layout.to_batch(predicted)
            if len(result) == len(batch) and not self._has_channels_elsewhere(predicted, batch):
                return result
        raise ModelOutputError(
            f"{network}: output {self.name!r} has shape {predicted.shape}, and the input had {tuple(input_shape)} "
            f"({self.layout.letters}): both must have the same batch size, and the same axes except for channels; choose another "
            "output="
        )

    def _has_channels_elsewhere(self, predicted: NDArray[Any], batch: NDArray[Any]) -> bool:
        """Return whether an output has the size of the input only if it has another layout than the input."""
        possible = possible_layouts(predicted.ndim)
        if self.layout not in possible:
            return False
        fitting = [layout for layout in possible if layout.to_batch(predicted).shape[2:] == batch.shape[2:]]
        return bool(fitting) and self.layout not in fitting


def output_layout(layout: TensorLayout, n_axes: int) -> TensorLayout | None:
    """Return the layout of an output of `n_axes` axes: that of the input, with or without channels; None if neither fits."""
    return next((known for known in (layout, layout.without_channels()) if len(known.letters) == n_axes), None)


def choose_outputs(
    session: Any, wanted: Sequence[str] | None, layout: TensorLayout, name: str
) -> tuple[ImageOutput, ...]:
    """Return the outputs that are used.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        The network.
    wanted : sequence of str, optional
        Names of outputs. If None, all of them.
    layout : TensorLayout
        The layout of the input.
    name : str
        Name of the network in messages.

    Raises
    ------
    ModelError
        If there is no such output, or it is not declared as an image.
    """
    tensors = {tensor.name: tensor for tensor in session.get_outputs()}
    for output in wanted or ():
        if output not in tensors:
            raise ModelError(
                f"output is {output!r}, and {name} has {tensor_names(list(tensors.values()))}: choose one of these"
            )
    images = [tensor for tensor in tensors.values() if not tensor.shape or output_layout(layout, len(tensor.shape))]
    chosen = [tensors[output] for output in tensors if wanted is None or output in wanted]
    for tensor in chosen:
        if tensor not in images:
            remedy = (
                f"choose {tensor_names(images)} with output=" if images else "export a network that returns an image"
            )
            raise ModelError(
                f"{name}: output {tensor.name!r} of shape {shape_text(declared_sizes(tensor))} is not an image of the layout "
                f"{layout.letters}: {remedy}"
            )
    return tuple(
        ImageOutput(tensor.name, tensor_dtype(tensor, name), _count_channels(tensor, layout), layout)
        for tensor in chosen
    )


def _count_channels(tensor: Any, layout: TensorLayout) -> int | None:
    sizes = declared_sizes(tensor)
    own = output_layout(layout, len(sizes))
    return own.batch_shape(sizes)[1] if own is not None else None
