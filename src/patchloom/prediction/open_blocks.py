"""The blocks that tiles are being added to, and what comes out when one is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StitchError
from patchloom.geometry.blend_weights import TileWeights, tile_extents
from patchloom.patch_specs import TileSpecs
from patchloom.prediction.batch_prediction import to_dtype
from patchloom.prediction.output_form import OutputForm
from patchloom.prediction.plan import PredictionPlan
from patchloom.prediction.shared_work import WORTH_SHARING, RunTogether, in_parts, n_threads, one_by_one
from patchloom.stitching import add_blended_tile, paste_tile


@dataclass(slots=True)
class _Buffer:
    """One output of one open block."""

    values: NDArray[Any]
    window: tuple[slice, ...]
    """Where it lies in the output."""
    n_added: int = 0
    """Voxels that were pasted, counted in one channel, or tiles that were blended."""


class _Addition(NamedTuple):
    """A tile that is to be blended into a block."""

    tile: NDArray[Any]
    place: tuple[int, ...]
    weights: TileWeights
    buffer: _Buffer

    @property
    def rows(self) -> slice:
        """Where it changes the block, along the outermost axis."""
        start, window = self.place[0], self.buffer.window[0]
        return slice(max(start, window.start), min(start + self.tile.shape[1], window.stop))

    def add(self, rows: slice) -> None:
        """Add the part of it that lies in some rows."""
        window = self.buffer.window
        first, last = max(rows.start, self.rows.start), min(rows.stop, self.rows.stop)
        if first < last:
            values = self.buffer.values[:, first - window[0].start : last - window[0].start]
            add_blended_tile(self.tile, self.place, self.weights, values, (slice(first, last), *window[1:]))


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
    _additions: dict[int, list[_Addition]] = field(default_factory=dict)
    """What is still to be added, by the position of the output."""

    def add(self, number: int, spec: TileSpecs, tiles: Sequence[NDArray[Any]]) -> None:
        """Add what a tile gives to one block, now or when `finish` is called: until then the tiles are needed.

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
        outputs = zip(self.forms, tiles, self._buffers[number], strict=True)
        for position, (form, tile, buffer) in enumerate(outputs):
            if self.plan.blend is None:
                buffer.n_added += paste_tile(tile, _scaled(spec, form), buffer.values, buffer.window)
            else:
                weights = self._weights(spec, form, tile.shape[1:])
                addition = _Addition(tile, form.place(spec["coords"]), weights, buffer)
                self._additions.setdefault(position, []).append(addition)
                buffer.n_added += 1

    def finish(self) -> None:
        """Blend all tiles that were added: in slabs along the outermost axis, so that no two threads share a voxel."""
        for additions in self._additions.values():
            start = min(addition.rows.start for addition in additions)
            stop = max(addition.rows.stop for addition in additions)
            shared = sum(addition.tile.size for addition in additions) >= WORTH_SHARING
            slabs = [
                slice(start + part.start, start + part.stop)
                for part in in_parts(stop - start, n_threads() if shared else 1)
            ]
            self.run_together([partial(_add_all, additions, slab) for slab in slabs])
        self._additions.clear()

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
        self.finish()
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
        extents = tuple(tile_extents(blend, *axis) for axis in axes)
        if form.is_scaled:
            extents = tuple(
                tuple((int(begin * factor), int(end * factor)) for begin, end in of_axis)
                for of_axis, factor in zip(extents, form.scale, strict=True)
            )
        return TileWeights(blend, size, extents)


def _add_all(additions: Sequence[_Addition], rows: slice) -> None:
    for addition in additions:
        addition.add(rows)


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
