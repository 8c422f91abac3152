"""Test-time augmentation: the mean of predictions over flips and quarter turns of a tile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, NamedTuple, Self

import numpy as np

from patchloom.argument_checks import flag, function
from patchloom.errors import ModelError, ModelOutputError
from patchloom.geometry.symmetries import Symmetry, symmetries
from patchloom.prediction.models.devices import Precision, move_model
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe, tensor_device
from patchloom.prediction.models.outputs import as_outputs, as_pixels
from patchloom.prediction.models.pytorch.torch_model import as_torch_model
from patchloom.tensors.tensor_pixels import Pixels, converted, copied, divided, pixel_dtype_of, rounded


@dataclass(frozen=True, slots=True)
class AugmentedModel:
    """A model whose prediction is the mean over flips and quarter turns of its tiles.

    Each flipped or turned tile goes through the model, its prediction is turned back, and the predictions are averaged. There are
    4 flips in Y and X, or 8 flips and quarter turns, and twice as many with flips along Z; prediction takes as many times longer.
    The result is a model with the same scale and outputs. If a model predicts the same for a tile and, turned back, for the
    turned tile, its predictions do not change: floats are equal bit for bit.

    Parameters
    ----------
    model : callable
        The model. If its output lacks a margin, the margin must be the same on both sides.
    quarter_turns : bool
        Whether tiles are turned by 90° too. The model must then accept tiles with Y and X exchanged, and scale Y and X by the
        same factor.
    flip_z : bool
        Whether tiles are flipped along Z too, in 3D only. Use it only if images may equally be recorded upside down.

    Raises
    ------
    ModelError
        If `quarter_turns`, and the model declares a tile size or a scale that differs in Y and X; or if `flip_z`, and the model
        declares that it is 2D.

    Notes
    -----
    Predictions are added pairwise, so that the mean of equal predictions is exact. They are added in float64 if they are float64
    or integers of 32 or 64 bits, else in float32. The mean of integers and booleans is rounded, halves to even, and has the
    dtype of the model's output. This is right for intensities, but labels have no mean: for a model of classes, average the
    probabilities and postprocess with `Argmax`.

    If tiles are turned, the larger of the declared overlaps of Y and X is used for both.

    Examples
    --------
    >>> def shift_right(batch):
    ...     return np.roll(batch, 1, axis=-1)
    >>> AugmentedModel(shift_right)(np.array([[[[0.0, 0, 0], [0, 8, 0], [0, 0, 0]]]])).tolist()
    [[[[0.0, 2.0, 0.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0]]]]
    """

    model: Model
    quarter_turns: bool = True
    flip_z: bool = False

    def __post_init__(self) -> None:
        flag("quarter_turns", self.quarter_turns)
        flag("flip_z", self.flip_z)
        object.__setattr__(self, "model", as_torch_model(function("model", self.model)))
        declared = describe(self.model)
        for what, sizes in (("tiles", declared.patch_size), ("a scale", declared.scale)):
            if self.quarter_turns and sizes is not None and sizes[-2] != sizes[-1]:
                raise ModelError(
                    f"the model has {what} of {' × '.join(map(str, sizes))}: quarter turns need the same number for Y and X, use "
                    "quarter_turns=False"
                )
        if self.flip_z and declared.n_dims == 2:
            raise ModelError("flip_z is True, and the model is 2D: flips along Z are for 3D, leave flip_z out")

    @property
    def description(self) -> ModelDescription:
        """The description of the model, with overlaps and strides for turned tiles."""
        declared = describe(self.model)
        identity = f"{declared.identity}, augmented with quarter_turns={self.quarter_turns}, flip_z={self.flip_z}"
        overlaps, halo, multiples = declared.overlaps, declared.halo, declared.origin_multiple
        if self.quarter_turns and overlaps is not None:
            overlaps = (*overlaps[:-2], *[max(overlaps[-2:])] * 2)
        if self.quarter_turns and halo is not None:
            halo = (*halo[:-2], *[max(halo[-2:])] * 2)
        if self.quarter_turns and multiples is not None:
            multiples = (*multiples[:-2], *[lcm(*multiples[-2:])] * 2)
        context = None if declared.context is None else self._context(declared.context)
        return replace(
            declared, overlaps=overlaps, halo=halo, context=context, origin_multiple=multiples, identity=identity
        )

    def _context(self, context: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        """Return how far a voxel of the mean looks: the farthest of all turns."""
        farthest = [max(pair) for pair in context[-2:]]
        if self.quarter_turns:
            farthest = [max(farthest)] * 2
        along_z = [(max(pair),) * 2 if self.flip_z else pair for pair in context[:-2]]
        return (*along_z, *((voxels, voxels) for voxels in farthest))

    @property
    def tensor_device(self) -> str | None:
        """The device of the model; see `TakesTensors`."""
        return tensor_device(self.model)

    def on(self, device: str | None, precision: Precision | None, /) -> AugmentedModel:
        """Return the model on a device; see `RunsOnDevice`."""
        return replace(self, model=move_model(self.model, device, precision))

    def __call__(self, batch: Pixels, /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelError
            If `flip_z` and the batch is 2D.
        ModelOutputError
            If the size or the outputs of predictions depend on how the tiles are turned.
        """
        check_batch(batch, tensors=True)
        if self.flip_z and batch.ndim != 5:
            raise ModelError(
                f"flip_z is True, and batch has shape {tuple(batch.shape)}: flips along Z are for 3D, leave flip_z out"
            )
        turns = symmetries(quarter_turns=self.quarter_turns, flip_z=self.flip_z)
        total = self._add_up(batch, turns)
        means = {name: summed.mean(len(turns)) for name, summed in total.items()}
        return means[""] if means.keys() == {""} else means

    def _add_up(self, batch: Pixels, turns: Sequence[Symmetry]) -> dict[str, _Sum]:
        """Add predictions pairwise: as their number is a power of two, sums of equal predictions are exact."""
        if len(turns) == 1:
            return self._predict(batch, turns[0])
        half = len(turns) // 2
        total, other = self._add_up(batch, turns[:half]), self._add_up(batch, turns[half:])
        if total.keys() != other.keys():
            raise ModelOutputError(
                f"the model returned outputs {sorted(total)} for some tiles and {sorted(other)} for the same tiles turned: return "
                "the same outputs for all tiles"
            )
        for name, values in other.items():
            if total[name].values.shape != values.values.shape:
                raise ModelOutputError(
                    f"the model returned shape {tuple(total[name].values.shape)} and, for the same tiles turned, "
                    f"{tuple(values.values.shape)} after turning back: use quarter_turns=False"
                )
            total[name].add(values)
        return total

    def _predict(self, batch: Pixels, symmetry: Symmetry) -> dict[str, _Sum]:
        # A copy, as the model may change its input.
        returned = as_outputs(self.model(copied(symmetry.apply(batch))))
        outputs = {name: as_pixels(output, self.tensor_device) for name, output in returned.items()}
        for output in outputs.values():
            if output.ndim != batch.ndim:
                raise ModelOutputError(
                    f"the model returned shape {tuple(output.shape)} of {pixel_dtype_of(output)} for a batch of shape {tuple(batch.shape)}: it "
                    "must have as many axes"
                )
        return {name: _Sum.of(symmetry.undo(output)) for name, output in outputs.items()}


class _Sum(NamedTuple):
    """The sum of predictions."""

    values: Pixels
    dtype: np.dtype[Any]
    """Dtype of the predictions."""

    @classmethod
    def of(cls, prediction: Pixels) -> Self:
        """Return the sum of one prediction: sums of 16 integers of at most 16 bits fit into float32."""
        dtype = pixel_dtype_of(prediction)
        return cls(copied(prediction, np.result_type(dtype, np.float32)), dtype)

    def add(self, other: _Sum) -> None:
        """Add predictions."""
        total = self.values
        total += other.values

    def mean(self, n_predictions: int) -> Pixels:
        """Return the mean, in the dtype of the predictions."""
        mean = divided(self.values, n_predictions, out=self.values)
        return converted(rounded(mean) if self.dtype.kind in "biu" else mean, self.dtype)
