"""Reads parts of the outputs of a run, arrays or files, in the coordinates of what was predicted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SourceChangedError
from patchloom.image_stacks import ArrayStack, ImageStack, open_stacks
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.planning.tile_layout import TileLayout


class WrittenOutput:
    """The outputs of one image.

    Parameters
    ----------
    layout : TileLayout
        The tiles of the run, with known outputs.
    data_idx : int
        Index of the image.
    result : array or Path, or mapping of these
        The result that `predict` returns for the image.

    Raises
    ------
    SourceError
        If a file cannot be opened.
    SourceChangedError
        If an output has another shape than that which the run writes.
    """

    def __init__(self, layout: TileLayout, data_idx: int, result: Any) -> None:
        self._layout, self._data_idx = layout, data_idx
        named = result if isinstance(result, Mapping) else {"": result}
        self._stacks = {
            output.name: self._open(output, named[output.name]) for output in layout.survey.outputs[data_idx]
        }

    def read(self, output: OutputSpec, sample_idx: int, start: Sequence[int], stop: Sequence[int]) -> NDArray[Any]:
        """Read a box of one output, `C(Z)YX`.

        Parameters
        ----------
        output : OutputSpec
            The output.
        sample_idx : int
            Index of the sample in what was predicted.
        start, stop : sequence of int
            The box in the image, `(z,) y, x` in voxels of the input.
        """
        origin = output.scale_coords(self._layout.predicted_origin(self._data_idx))
        first = tuple(a - b for a, b in zip(output.scale_coords(start), origin, strict=True))
        end = tuple(a - b for a, b in zip(output.scale_size(stop), origin, strict=True))
        size = tuple(b - a for a, b in zip(first, end, strict=True))
        sample, z = self._layout.stacks[self._data_idx].output_position(sample_idx)
        box = self._stacks[output.name].extract_patch(sample, None, (*z, *first), (*(1 for _ in z), *size))
        return box[:, 0] if z else box

    def _open(self, output: OutputSpec, result: NDArray[Any] | Path) -> ImageStack:
        facts, layout = self._layout.stacks[self._data_idx], self._layout
        n_channels, _ = layout.output_channels_and_dtype(output)
        axes = AxesMap(facts.original_axes, facts.original_data_shape).with_channels(n_channels).axes
        if isinstance(result, (str, Path)):
            (stack,) = open_stacks([result], axes if str(result).lower().endswith(".npy") else None)
        else:
            stack = ArrayStack(np.asarray(result), axes)
        n_samples, _, *sides = layout.predicted_shape(self._data_idx)
        first, end = facts.output_ranges["Z"] if facts.n_planes else (0, 1)
        planes = (end - first,) if facts.n_planes else ()
        window = [slice(at, at + side) for at, side in zip(layout.predicted_origin(self._data_idx), sides, strict=True)]
        shape = tuple(part.stop - part.start for part in output.scale_window(window))
        expected = (n_samples // (end - first), n_channels, *planes, *shape)
        if tuple(stack.data_shape) != expected:
            raise SourceChangedError(
                f"{stack.source} has shape {tuple(stack.data_shape)}, and the run writes {expected} (SC(Z)YX): give the output of "
                "this plan"
            )
        return stack
