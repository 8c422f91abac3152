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
from patchloom.geometry.blend_weights import neighbour_shifts, tile_weights
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
        window = self.plan.blocks[self.data_idx][number].window
        if number not in self._buffers:
            lent = self.lend(number)
            self._buffers[number] = [
                self._empty(form, window, memory) for form, memory in zip(self.forms, lent, strict=True)
            ]
        for form, tile, buffer in zip(self.forms, tiles, self._buffers[number], strict=True):
            if self.plan.blend is None:
                buffer.n_added += paste_tile(tile, _scaled(spec, form), buffer.values, form.window(window))
            else:
                self._blend(tile, spec, form, buffer.values, form.window(window))
                buffer.n_added += 1

    def _blend(
        self, tile: NDArray[Any], spec: TileSpecs, form: OutputForm, values: NDArray[Any], window: Sequence[slice]
    ) -> None:
        """Add a tile to a block; a large one in slabs along the outermost axis, which no two threads share."""
        weights, (first, *rest) = self._weights(spec, form), form.place(spec["coords"])
        start, stop = max(first, window[0].start), min(first + tile.shape[1], window[0].stop)
        n_slabs = n_threads() if tile.size >= _WORTH_SHARING else 1
        calls = []
        for part in in_parts(stop - start, n_slabs):
            slab = slice(start + part.start, start + part.stop)
            rows = values[:, slab.start - window[0].start : slab.stop - window[0].start]
            calls.append(partial(add_blended_tile, tile, (first, *rest), weights, rows, (slab, *window[1:])))
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
        window = self.plan.blocks[self.data_idx][number].window
        buffers = self._buffers.pop(number)
        for form, buffer in zip(self.forms, buffers, strict=True):
            blended = self.plan.blend is not None
            voxels = prod(part.stop - part.start for part in form.window(window))
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
        dtype = self.plan.accumulator(form)
        if memory is None or self.plan.reduction is not None or memory.dtype != dtype:
            memory = np.empty((form.n_channels, *(part.stop - part.start for part in form.window(window))), dtype)
        if self.plan.blend is not None:
            memory[...] = 0
        return _Buffer(memory)

    def _weights(self, spec: TileSpecs, form: OutputForm) -> NDArray[np.floating[Any]]:
        blend = self.plan.blend
        assert blend is not None  # noqa: S101  # add asks only then
        axes = zip(
            self.plan.tiling.rules,
            self.plan.blocks[self.data_idx].spatial_shape,
            spec["coords"],
            form.scale,
            strict=True,
        )
        shifts = tuple(
            tuple(int(shift * factor) for shift in neighbour_shifts(rule, size, start))
            for rule, size, start, factor in axes
        )
        return tile_weights(blend, form.size(self.plan.tiling.patch_size), shifts, self.plan.accumulator(form))


def _scaled(spec: TileSpecs, form: OutputForm) -> TileSpecs:
    """Turn a tile of the input into one of the output."""
    if all(factor == 1 for factor in form.scale):
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
