"""Test-time augmentation: the mean of what a model predicts for a tile seen from several sides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import flag, function
from patchloom.errors import ModelError, ModelOutputError
from patchloom.geometry.symmetries import Symmetry, symmetries
from patchloom.prediction.models.model import Model, ModelDescription, check_batch, describe
from patchloom.prediction.models.model_output import as_array, as_outputs


@dataclass(frozen=True, slots=True)
class AugmentedModel:
    """A model whose prediction is the mean over flips and quarter turns of its tiles, each prediction turned back first.

    It is a model itself, of the same scale and outputs. There are 4 flips in Y and X, or 8 of them and quarter turns, twice
    as many with flips along Z; so many times longer it takes. A model to which it makes no difference how an image lies
    gives the same as without, bit for bit in floats.

    Parameters
    ----------
    model : callable
        The model. What it takes away at the border, if anything, it must take from both sides alike.
    quarter_turns : bool
        Whether tiles are turned by 90° as well. Tiles that are not square then go in with Y and X exchanged too, so the
        model must take these, and it must scale Y and X alike.
    flip_z : bool
        Whether tiles are also reversed along Z; for 3D only, and for axes that look the same from both ends.

    Raises
    ------
    ModelError
        If quarter turns are asked for, and the model declares a tile size or a scale that differs in Y and X; or flips along
        Z, and it says that it is 2D.

    Notes
    -----
    Predictions are added up in float32, or in float64 where they are 32 or 64 bits of integers or float64, pairwise, so that
    equal ones give themselves. Integers and booleans are averaged as numbers, the mean is rounded, halves to even, and has
    the model's dtype: right for gray values, never for labels, which have no mean. Of a model of classes, average the
    probabilities and take the `Argmax` of the result.

    The overlap that a model declares for Y and for X holds for either axis once tiles are turned: the larger one counts.

    Examples
    --------
    >>> def to_the_right(batch):
    ...     return np.roll(batch, 1, axis=-1)
    >>> AugmentedModel(to_the_right)(np.array([[[[0.0, 0, 0], [0, 8, 0], [0, 0, 0]]]])).tolist()
    [[[[0.0, 2.0, 0.0], [2.0, 0.0, 2.0], [0.0, 2.0, 0.0]]]]
    """

    model: Model
    quarter_turns: bool = True
    flip_z: bool = False

    def __post_init__(self) -> None:
        flag("quarter_turns", self.quarter_turns)
        flag("flip_z", self.flip_z)
        declared = describe(function("model", self.model))
        for what, sizes in (("tiles", declared.patch_size), ("a scale", declared.scale)):
            if self.quarter_turns and sizes is not None and sizes[-2] != sizes[-1]:
                raise ModelError(
                    f"quarter turns exchange Y and X, and the model has {what} of {tuple(map(str, sizes))}, which differ in "
                    "these: use quarter_turns=False"
                )
        if self.flip_z and declared.n_dims == 2:
            raise ModelError("flip_z is for 3D, and the model is 2D: leave it out")

    @property
    def description(self) -> ModelDescription:
        """What the model declares, with overlaps and strides that hold for turned tiles."""
        declared = describe(self.model)
        identity = f"{declared.identity}, augmented with quarter_turns={self.quarter_turns}, flip_z={self.flip_z}"
        overlaps, multiples = declared.overlaps, declared.origin_multiple
        if self.quarter_turns and overlaps is not None:
            overlaps = (*overlaps[:-2], *[max(overlaps[-2:])] * 2)
        if self.quarter_turns and multiples is not None:
            multiples = (*multiples[:-2], *[lcm(*multiples[-2:])] * 2)
        return replace(declared, overlaps=overlaps, origin_multiple=multiples, identity=identity)

    def __call__(self, batch: NDArray[Any], /) -> Any:
        """Predict a batch; see `Model`.

        Raises
        ------
        ModelError
            If flips along Z are asked for and the batch is 2D.
        ModelOutputError
            If predictions of the same tiles differ in size or outputs, depending on how the tiles lay.
        """
        check_batch(batch)
        if batch.ndim not in (4, 5):
            raise ModelError(f"batch has shape {batch.shape}: it must be (B, C, (Z), Y, X)")
        if self.flip_z and batch.ndim != 5:
            raise ModelError(f"flip_z is for 3D, and the batch has shape {batch.shape}: leave it out")
        ways = symmetries(quarter_turns=self.quarter_turns, flip_z=self.flip_z)
        total = self._add_up(batch, ways)
        means = {name: _mean(total_of, len(ways)) for name, total_of in total.items()}
        return means[""] if means.keys() == {""} else means

    def _add_up(self, batch: NDArray[Any], ways: Sequence[Symmetry]) -> dict[str, _Sum]:
        """Add predictions up, halves first: with a power of two of them, sums of equal ones are exact."""
        if len(ways) == 1:
            return self._predict(batch, ways[0])
        half = len(ways) // 2
        total, other = self._add_up(batch, ways[:half]), self._add_up(batch, ways[half:])
        if total.keys() != other.keys():
            raise ModelOutputError(
                f"the model returned outputs {sorted(total)} for some tiles and {sorted(other)} for others"
            )
        for name, values in other.items():
            if total[name].values.shape != values.values.shape:
                raise ModelOutputError(
                    f"the model returned {total[name].values.shape} and, for the same tiles turned, what turns back into "
                    f"{values.values.shape}: use quarter_turns=False"
                )
            np.add(total[name].values, values.values, out=total[name].values)
        return total

    def _predict(self, batch: NDArray[Any], symmetry: Symmetry) -> dict[str, _Sum]:
        # A copy: the model may change its input, and the others still need theirs.
        returned = as_outputs(self.model(symmetry.apply(batch).copy()))
        outputs = {name: as_array(output) for name, output in returned.items()}
        for output in outputs.values():
            if output.ndim != batch.ndim:
                raise ModelOutputError(
                    f"the model returned shape {output.shape} of {output.dtype} for tiles of shape {batch.shape}"
                )
        return {
            name: _Sum(symmetry.undo(output).astype(_sum_dtype(output.dtype), order="C"), output.dtype)
            for name, output in outputs.items()
        }


class _Sum(NamedTuple):
    """Predictions added up."""

    values: NDArray[Any]
    dtype: np.dtype[Any]
    """Of the predictions."""


def _sum_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Dtype in which predictions of some dtype are added up: sums of 16 integers of up to 16 bits fit into float32."""
    return np.result_type(dtype, np.float32)


def _mean(total: _Sum, number: int) -> NDArray[Any]:
    mean: NDArray[Any] = np.divide(total.values, number, out=total.values)
    if total.dtype.kind in "biu":
        np.rint(mean, out=mean)
    return mean.astype(total.dtype, copy=False)
