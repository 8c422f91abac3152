"""The blocks that tiles are being added to, and what comes out when one is complete."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import StitchError
from patchloom.geometry.blend_weights import TileWeights, tile_extents
from patchloom.parallel import MIN_PARALLEL_VOXELS, Runner, n_threads, run_serially, split_range
from patchloom.prediction.models.batch_prediction import to_dtype
from patchloom.prediction.models.output_spec import OutputSpec
from patchloom.prediction.planning.plan import PredictionPlan
from patchloom.specs.patch_specs import TileSpecs
from patchloom.stitching import add_blended_tile, paste_tile


@dataclass(slots=True)
class _Buffer:
    """One output of one open block."""

    window: tuple[slice, ...]
    """Where it lies in the output."""
    n_added: int = 0
    """Voxels that were pasted or skipped, counted in one channel, or tiles that were blended or skipped."""
    memory: NDArray[Any] | None = None
    """What tiles are added to; None before the first."""
    is_predicted: NDArray[np.bool_] | None = None
    """Where a tile was added, if that must be known at the end."""

    @property
    def values(self) -> NDArray[Any]:
        """What tiles are added to."""
        assert self.memory is not None  # noqa: S101  # a tile was added
        return self.memory


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
    forms : sequence of OutputSpec
        The outputs of the model for this image.
    block_buffers : callable
        Gives for the number of a block, output by output, the memory in which it will be in the end, or `None`.
    runner : callable
        Runs calls on several cores.
    """

    plan: PredictionPlan
    data_idx: int
    forms: Sequence[OutputSpec]
    block_buffers: Callable[[int], Sequence[NDArray[Any] | None]]
    runner: Runner = run_serially
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
        buffers = self._opened(number)
        if buffers[0].memory is None:  # then none has any
            for form, buffer, lent in zip(self.forms, buffers, self.block_buffers(number), strict=True):
                self._allocate(form, buffer, lent)
        for position, (form, tile, buffer) in enumerate(zip(self.forms, tiles, buffers, strict=True)):
            if self.plan.blend is None:
                scaled = _scaled(spec, form)
                buffer.n_added += paste_tile(tile, scaled, buffer.values, buffer.window)
                if buffer.is_predicted is not None:
                    _mark(buffer.is_predicted, buffer.window, scaled["stitch_coords"], scaled["crop_size"])
            else:
                place, weights = form.place(spec["coords"]), self._weights(spec, form, tile.shape[1:])
                self._additions.setdefault(position, []).append(_Addition(tile, place, weights, buffer))
                buffer.n_added += 1
                if buffer.is_predicted is not None:
                    # A tile that was moved inside the image may weigh nothing at an end.
                    weighing = [np.flatnonzero(of_axis) for of_axis in weights.along_axes()]
                    starts = [start + int(of_axis[0]) for start, of_axis in zip(place, weighing, strict=True)]
                    sizes = [int(of_axis[-1] - of_axis[0]) + 1 for of_axis in weighing]
                    _mark(buffer.is_predicted, buffer.window, starts, sizes)

    def skip(self, number: int, spec: TileSpecs) -> None:
        """Add a tile that is skipped to one block: as if the model had returned `fill` everywhere.

        With a postprocessing, which `fill` does not go through, the tile counts as 0 in a blend.

        Parameters
        ----------
        number : int
            Number of the block.
        spec : TileSpecs
            The tile, in voxels of the input.
        """
        if self.plan.blend is not None and self.plan.postprocessing is None and self.plan.fill != 0:
            self.add(number, spec, self._filled_tiles)
            return
        for form, buffer in zip(self.forms, self._opened(number), strict=True):
            # Nothing to write: a block begins as `fill` if tiles are cropped, and adding zeros changes no sum.
            buffer.n_added += 1 if self.plan.blend is not None else _n_kept(_scaled(spec, form), buffer.window)

    @cached_property
    def _filled_tiles(self) -> list[NDArray[Any]]:
        """A prediction of `fill` for each output, `C(Z)YX`; in a blend, integers may be floats."""
        return [
            np.full(
                (form.n_channels, *form.size(self.plan.tiling.patch_size)),
                self.plan.fill,
                form.dtype if form.dtype.kind in "fc" else self.plan.accumulator(form),
            )
            for form in self.forms
        ]

    def _opened(self, number: int) -> list[_Buffer]:
        if number not in self._buffers:
            window = self.plan.blocks[self.data_idx][number].window
            self._buffers[number] = [_Buffer(form.window(window)) for form in self.forms]
        return self._buffers[number]

    def finish(self) -> None:
        """Blend all tiles that were added: in slabs along the outermost axis, so that no two threads share a voxel."""
        for additions in self._additions.values():
            start = min(addition.rows.start for addition in additions)
            stop = max(addition.rows.stop for addition in additions)
            shared = sum(addition.tile.size for addition in additions) >= MIN_PARALLEL_VOXELS
            slabs = [
                slice(start + part.start, start + part.stop)
                for part in split_range(stop - start, n_threads() if shared else 1)
            ]
            self.runner([partial(_add_all, additions, slab) for slab in slabs])
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
        buffers = self._opened(number)
        del self._buffers[number]
        for buffer in buffers:
            blended = self.plan.blend is not None
            voxels = prod(_shape(buffer.window))
            wanted = self.plan.schedule(self.data_idx).n_serving(number) if blended else voxels
            if buffer.n_added != wanted:
                what = "tiles were added to" if blended else "voxels were predicted of"
                raise StitchError(f"{buffer.n_added} of {wanted} {what} block {number}: the plan has a hole")
        return partial(self._as_written, buffers)

    def _as_written(self, buffers: Sequence[_Buffer]) -> list[NDArray[Any]]:
        return [self._output(form, buffer) for form, buffer in zip(self.forms, buffers, strict=True)]

    def _output(self, form: OutputSpec, buffer: _Buffer) -> NDArray[Any]:
        channels, dtype = self.plan.stored(form)
        if buffer.memory is None:  # every tile was skipped
            return np.full((channels, *_shape(buffer.window)), self.plan.fill, dtype)
        if self.plan.postprocessing is None:
            return to_dtype(buffer.values, dtype, [])
        reduced = self.plan.postprocessing(buffer.values)
        if buffer.is_predicted is not None and not buffer.is_predicted.all():
            reduced = np.where(buffer.is_predicted, reduced, np.array(self.plan.fill, dtype))
        return reduced

    def _allocate(self, form: OutputSpec, buffer: _Buffer, lent: NDArray[Any] | None) -> None:
        """Give a buffer memory: that of the output itself if what is put together there is what is written."""
        dtype, shape = self.plan.accumulator(form), _shape(buffer.window)
        if lent is None or self.plan.postprocessing is not None or lent.dtype != dtype:
            lent = np.empty((form.n_channels, *shape), dtype)
        buffer.memory = lent
        if self.plan.blend is not None:
            lent[...] = 0
        elif self.plan.skip is not None:
            lent[...] = self.plan.fill if self.plan.postprocessing is None else 0
        if self.plan.skip is not None and self.plan.postprocessing is not None:
            buffer.is_predicted = np.zeros(shape, np.bool_)

    def _weights(self, spec: TileSpecs, form: OutputSpec, size: tuple[int, ...]) -> TileWeights:
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


def _shape(window: Sequence[slice]) -> tuple[int, ...]:
    return tuple(part.stop - part.start for part in window)


def _n_kept(spec: TileSpecs, window: Sequence[slice]) -> int:
    """Count the voxels that a tile keeps in a window of the image."""
    axes = zip(spec["stitch_coords"], spec["crop_size"], window, strict=True)
    return prod(max(0, min(start + size, part.stop) - max(start, part.start)) for start, size, part in axes)


def _mark(is_predicted: NDArray[np.bool_], window: Sequence[slice], start: Sequence[int], size: Sequence[int]) -> None:
    """Mark a box of the output as predicted, as far as it lies in the window of a block."""
    axes = zip(start, size, window, strict=True)
    is_predicted[tuple(slice(max(a - w.start, 0), max(a + n - w.start, 0)) for a, n, w in axes)] = True


def _add_all(additions: Sequence[_Addition], rows: slice) -> None:
    for addition in additions:
        addition.add(rows)


def _scaled(spec: TileSpecs, form: OutputSpec) -> TileSpecs:
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
