"""The blocks that tiles are being added to, and what comes out when one is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StitchError
from patchloom.geometry.blend_weights import TileWeights, neighbour_shifts
from patchloom.patch_specs import TileSpecs
from patchloom.prediction.batch_prediction import to_dtype
from patchloom.prediction.output_form import OutputForm
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.shared_work import RunTogether, in_parts, n_threads, one_by_one
from patchloom.stitching import add_blended_tile, paste_tile

_WORTH_SHARING = 2**19
"""Voxels of a tile below which it takes longer to divide the work than to do it."""


@dataclass(slots=True)
class _Buffer:
    """One output of one open block."""

    values: NDArray[Any]
    window: tuple[slice, ...]
    """Where it lies in the output."""
    n_added: int = 0
    """Voxels that were pasted, counted in one channel, or tiles that were blended."""


@dataclass(frozen=True)
class OpenBlocks:
    """The open blocks of one image.

    Parameters
    ----------
    plan : PredictionPlan
        The plan.
    data_idx : int
        Which image.
    forms : sequence of OutputForm
        The outputs of the model for this image.
    lend : callable
        Gives for the number of a block, output by output, the memory in which it will be in the end, or `None`.
    run_together : callable
        Runs calls on several cores.
    """

    plan: PredictionPlan
    data_idx: int
    forms: Sequence[OutputForm]
    lend: Callable[[int], Sequence[NDArray[Any] | None]]
    run_together: RunTogether = one_by_one
    _buffers: dict[int, list[_Buffer]] = field(default_factory=dict)

    def add(self, number: int, spec: TileSpecs, tiles: Sequence[NDArray[Any]]) -> None:
        """Add what a tile gives to one block.

        Parameters
        ----------
        number : int
            Number of the block.
        spec : TileSpecs
            The tile, in voxels of the input.
        tiles : sequence of array
            `C(Z)YX` for each output: the prediction without its margin, in voxels of the output.
        """
        if number not in self._buffers:
            window, lent = self.plan.blocks[self.data_idx][number].window, self.lend(number)
            self._buffers[number] = [
                self._empty(form, window, memory) for form, memory in zip(self.forms, lent, strict=True)
            ]
        for form, tile, buffer in zip(self.forms, tiles, self._buffers[number], strict=True):
            if self.plan.blend is None:
                buffer.n_added += paste_tile(tile, _scaled(spec, form), buffer.values, buffer.window)
            else:
                self._blend(tile, spec, form, buffer)
                buffer.n_added += 1

    def _blend(self, tile: NDArray[Any], spec: TileSpecs, form: OutputForm, buffer: _Buffer) -> None:
        """Add a tile to a block; a large one in slabs along the outermost axis, which no two threads share."""
        place = form.place(spec["coords"])
        weights = self._weights(spec, form, tile.shape[1:])
        rows, *window = buffer.window
        if tile.size < _WORTH_SHARING:
            add_blended_tile(tile, place, weights, buffer.values, buffer.window)
            return
        start, stop = max(place[0], rows.start), min(place[0] + tile.shape[1], rows.stop)
        calls = []
        for part in in_parts(stop - start, n_threads()):
            slab = slice(start + part.start, start + part.stop)
            values = buffer.values[:, slab.start - rows.start : slab.stop - rows.start]
            calls.append(partial(add_blended_tile, tile, place, weights, values, (slab, *window)))
        self.run_together(calls)

    def close(self, number: int) -> Callable[[], list[NDArray[Any]]]:
        """Take a block out, complete.

        Returns
        -------
        callable
            Turns it into what is written, `C(Z)YX` for each output; from any thread.

        Raises
        ------
        StitchError
            If the plan has a hole, which would be a fault of Patchloom.
        """
        buffers = self._buffers.pop(number)
        for buffer in buffers:
            blended = self.plan.blend is not None
            voxels = prod(part.stop - part.start for part in buffer.window)
            wanted = self.plan.schedule(self.data_idx).n_serving(number) if blended else voxels
            if buffer.n_added != wanted:
                what = "tiles were added to" if blended else "voxels were predicted of"
                raise StitchError(f"{buffer.n_added} of {wanted} {what} block {number}: the plan has a hole")
        return partial(self._as_written, buffers)

    def _as_written(self, buffers: Sequence[_Buffer]) -> list[NDArray[Any]]:
        if self.plan.reduction is not None:
            return [self.plan.reduction(buffer.values) for buffer in buffers]
        dtypes = [self.plan.stored(form)[1] for form in self.forms]
        return [to_dtype(buffer.values, dtype, []) for buffer, dtype in zip(buffers, dtypes, strict=True)]

    def filled(self, number: int) -> list[NDArray[Any]]:
        """Make a block that needs no model, `C(Z)YX` for each output."""
        window = self.plan.blocks[self.data_idx][number].window
        return [
            np.full((channels, *(part.stop - part.start for part in form.window(window))), self.plan.fill, dtype)
            for form in self.forms
            for channels, dtype in [self.plan.stored(form)]
        ]

    def _empty(self, form: OutputForm, window: Sequence[slice], memory: NDArray[Any] | None) -> _Buffer:
        """Make a buffer: in the memory of the output itself where what is put together there is what is written."""
        dtype, place = self.plan.accumulator(form), form.window(window)
        if memory is None or self.plan.reduction is not None or memory.dtype != dtype:
            memory = np.empty((form.n_channels, *(part.stop - part.start for part in place)), dtype)
        if self.plan.blend is not None:
            memory[...] = 0
        return _Buffer(memory, place)

    def _weights(self, spec: TileSpecs, form: OutputForm, size: tuple[int, ...]) -> TileWeights:
        blend = self.plan.blend
        assert blend is not None  # noqa: S101  # add asks only then
        axes = zip(self.plan.tiling.rules, self.plan.blocks[self.data_idx].spatial_shape, spec["coords"], strict=True)
        shifts = tuple(neighbour_shifts(*axis) for axis in axes)
        if form.is_scaled:
            shifts = tuple(
                tuple(int(shift * factor) for shift in of_axis)
                for of_axis, factor in zip(shifts, form.scale, strict=True)
            )
        return TileWeights(blend, size, shifts)


def _scaled(spec: TileSpecs, form: OutputForm) -> TileSpecs:
    """Turn a tile of the input into one of the output."""
    if not form.is_scaled:
        return spec
    coords, landing = form.place(spec["coords"]), form.place(spec["stitch_coords"])
    ends = form.size([start + size for start, size in zip(spec["stitch_coords"], spec["crop_size"], strict=True)])
    return {
        **spec,
        "coords": coords,
        "patch_size": form.size(spec["patch_size"]),
        "crop_coords": tuple(place - start for place, start in zip(landing, coords, strict=True)),
        "crop_size": tuple(end - place for end, place in zip(ends, landing, strict=True)),
        "stitch_coords": landing,
    }
