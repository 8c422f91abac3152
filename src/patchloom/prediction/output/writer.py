"""Writes the outputs of a run: one sink for each image and output of the model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import SourceChangedError
from patchloom.image_stacks import ImageStack, SourceWatch
from patchloom.prediction.models.outputs import OutputSpec
from patchloom.prediction.output.ledger import Ledger
from patchloom.prediction.output.result_metadata import result_metadata
from patchloom.prediction.output.shown_outputs import RecordedBlocks, ShownOutput, by_image, settle
from patchloom.prediction.planning.plan import Plan
from patchloom.prediction.postprocessing.labels import holds_labels
from patchloom.prediction.request import RunOptions
from patchloom.sinks import (
    CountsFinalizing,
    HasBuffer,
    ImageSink,
    OmeZarr,
    OutputLock,
    Pyramid,
    ResumableSink,
    check_destination,
    is_output_of,
    open_sink,
    output_kind,
    partial_path,
)
from patchloom.sinks.output_paths import output_path
from patchloom.stitching.block_grid import choose_chunk

Result = NDArray[Any] | Path | dict[str, Any]
"""An image or its path; a dictionary of these, by name, if the model has several outputs."""


class OutputWriter:
    """Writes the blocks of all images of a run; a context manager.

    Blocks that the ledger lists are done. When the context ends, unfinished outputs are kept if they can be resumed and removed
    otherwise.

    Parameters
    ----------
    plan : Plan
        The plan, with known outputs.
    stacks : sequence of ImageStack
        Its series.
    destinations : sequence of Path or None
        Path of each output; None for an array.
    options : RunOptions
        How outputs are written, and whether outputs that exist may be replaced.
    spelled : sequence of Path or None, optional
        The same paths as the user spelled them, for the results. If None, `destinations`.
    ledger : Ledger, optional
        Contains the blocks that are done. If None, the run cannot be resumed.
    lock : OutputLock, optional
        The lock on the output of a single image, held by the caller.
    watch : SourceWatch, optional
        Notices images that change while they are read; made with `thoroughly`. If None, nothing is checked.
    count_steps : callable, optional
        Takes the number of steps in which an output is finalized; returns a function that is called with 1 after each. What that
        raises ends the run.
    """

    def __init__(
        self,
        plan: Plan,
        stacks: Sequence[ImageStack],
        destinations: Sequence[Path | None],
        options: RunOptions,
        *,
        spelled: Sequence[Path | None] | None = None,
        ledger: Ledger | None = None,
        lock: OutputLock | None = None,
        watch: SourceWatch | None = None,
        count_steps: Callable[[int], Callable[[int], None]] | None = None,
    ) -> None:
        self._plan = plan
        self._stacks = stacks
        self._options = options
        self._watch = watch
        self._count_steps = count_steps
        self._destinations = destinations
        self._spelled = destinations if spelled is None else spelled
        self._ledger = ledger
        self._lock = lock
        self._sinks: dict[int, list[ImageSink]] = {}
        self._done: dict[int, set[int]] = {data_idx: set() for data_idx in range(len(plan.survey.stacks))}
        self._arrays = Lock()  # one thread asks a sink in memory for buffers while another writes to it
        self._recorded: dict[int, RecordedBlocks] = {}  # by an earlier run
        self.resumed: dict[int, frozenset[int]] = {}
        """Blocks of each image that an earlier run finished."""
        self.completed_at: dict[int, float] = {}
        """When this run completed each image, in seconds of `time.monotonic`."""
        self.results: dict[int, Result] = {}
        """The result of each image that is complete."""

    def __enter__(self) -> Self:
        if self._ledger is not None:
            self._recorded = by_image(self._ledger.blocks)
            for data_idx in range(len(self._plan.survey.stacks)):
                self._take_over(data_idx)
        self.resumed = {data_idx: frozenset(blocks) for data_idx, blocks in self._done.items()}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with ExitStack() as every:  # also when closing one of them fails
            for data_idx in list(self._sinks):
                every.callback(self._let_go, data_idx)

    def is_done(self, data_idx: int, block_idx: int) -> bool:
        """Return whether a block was written, now or by an earlier run."""
        return block_idx in self._done[data_idx]

    def block_buffers(self, data_idx: int, block_idx: int) -> Sequence[NDArray[Any] | None]:
        """Return the memory of the output at a block, `C(Z)YX`, or None, for each output."""
        if self._destinations[data_idx] is not None:
            return [None] * len(self._plan.survey.outputs[data_idx])
        self._open_once(data_idx)
        with self._arrays:
            return [
                self._as_block(data_idx, sink.buffer(self._region(data_idx, block_idx, output_spec)))
                if isinstance(sink, HasBuffer)
                else None
                for sink, output_spec in zip(self._sinks[data_idx], self._plan.survey.outputs[data_idx], strict=True)
            ]

    def write(self, data_idx: int, block_idx: int, outputs: Sequence[NDArray[Any]]) -> None:
        """Write one block to all outputs, record it in the ledger, and complete the image if it was the last.

        Raises
        ------
        SourceChangedError
            If the image has changed: all tiles of the block were read before, so what is written is of one image.
        SinkError
            If an output cannot be written.
        """
        if self._watch is not None:
            self._watch.check([data_idx])
        self._open_once(data_idx)
        records = []
        for sink, output_spec, values in zip(
            self._sinks[data_idx], self._plan.survey.outputs[data_idx], outputs, strict=True
        ):
            region = self._region(data_idx, block_idx, output_spec)
            with self._arrays if self._destinations[data_idx] is None else nullcontext():
                sink.write(region, self._as_written(data_idx, values))
            if isinstance(sink, ResumableSink):
                records.append(sink.block_record(region))
        if self._ledger is not None:
            self._ledger.record(data_idx, block_idx, records)
        self._done[data_idx].add(block_idx)
        if len(self._done[data_idx]) == len(self._plan.blocks[data_idx]):
            self._finalize(data_idx)

    def finalize_complete(self) -> None:
        """Complete the images whose last block was written by a run that was killed right after.

        Raises
        ------
        SinkError
            If an image cannot be completed.
        """
        for data_idx in list(self._sinks):
            if len(self._done[data_idx]) == len(self._plan.blocks[data_idx]):
                self._finalize(data_idx)

    def _let_go(self, data_idx: int) -> None:
        """Close the outputs of an image that is not complete: keep what can be resumed, remove the others."""
        for sink in self._sinks.pop(data_idx, []):
            if self._ledger is not None and isinstance(sink, ResumableSink) and self._done[data_idx]:
                sink.close()
            else:
                sink.abort()

    @property
    def n_kept(self) -> int:
        """Number of blocks that a later run does not have to compute again."""
        return 0 if self._ledger is None else len(self._ledger.blocks)

    def _check_unchanged(self, data_idx: int) -> None:
        """Check all files of an image whose blocks are all written.

        Only this check notices a chunk of a Zarr that was rewritten in place. Any block may contain the new values, so all are
        discarded.
        """
        if self._watch is None:
            return
        self._watch.check([data_idx])
        try:
            self._watch.check_thoroughly(data_idx)
        except SourceChangedError:
            if self._ledger is not None:
                self._ledger.discard(data_idx)
            self._done[data_idx].clear()
            raise

    def _finalize(self, data_idx: int) -> None:
        self._check_unchanged(data_idx)
        results = [self._finalize_one(sink) for sink in self._sinks[data_idx]]
        del self._sinks[data_idx]
        self.results[data_idx] = self._named(data_idx, results)
        if self._ledger is not None:
            self._ledger.finish(data_idx)
        self.completed_at[data_idx] = time.monotonic()

    def _finalize_one(self, sink: ImageSink) -> NDArray[Any] | Path:
        if self._count_steps is None or not isinstance(sink, CountsFinalizing) or not sink.n_steps:
            return sink.finalize()
        return sink.finalize(self._count_steps(sink.n_steps))

    def _take_over(self, data_idx: int) -> None:
        """Find the blocks of an image that an earlier run finished, and resume its unfinished outputs."""
        paths = self._paths(data_idx)
        for path in paths:
            settle(path, keep_unfinished=data_idx in self._recorded, lock=self._lock)
        shown = [self._is_shown(data_idx, output_idx) for output_idx in range(len(paths))]
        if all(shown):
            self._done[data_idx] = set(range(len(self._plan.blocks[data_idx])))
            self.results[data_idx] = self._named(data_idx, paths)
            return
        for path, is_shown in zip(paths, shown, strict=True):
            check_destination(path, overwrite=self._options.overwrite or is_shown, resume=True)
        if any(partial_path(path).exists() for path in paths):
            self._resume(data_idx)

    def _resume(self, data_idx: int) -> None:
        """Open the unfinished outputs of an earlier run, and restore their blocks."""
        self._sinks[data_idx] = sinks = self._open(data_idx, keep_shown=True)
        for block_idx, records in self._recorded[data_idx].items():
            known = block_idx < len(self._plan.blocks[data_idx])
            if known and len(records) == len(sinks) and _restored(sinks, records):
                self._done[data_idx].add(block_idx)
        is_complete = len(self._done[data_idx]) == len(self._plan.blocks[data_idx])
        if not is_complete and any(isinstance(sink, ShownOutput) for sink in sinks):
            # A block is written to all outputs at once, so complete ones are written again together with an output that lost a block.
            for sink in sinks:
                sink.abort()
            self._done[data_idx].clear()
            del self._sinks[data_idx]

    def _open_once(self, data_idx: int) -> None:
        """Open the outputs of an image, unless the other thread has: either may need them first."""
        with self._arrays:
            if data_idx not in self._sinks:
                self._sinks[data_idx] = self._open(data_idx)

    def _open(self, data_idx: int, *, keep_shown: bool = False) -> list[ImageSink]:
        """Open all outputs of an image; unfinished ones of an earlier run are resumed."""
        sinks: list[ImageSink] = []
        try:
            for output_idx in range(len(self._plan.survey.outputs[data_idx])):
                sinks.append(self._open_one(data_idx, output_idx, keep_shown=keep_shown))  # noqa: PERF401  # all that were opened are closed
        except BaseException:
            self._sinks[data_idx] = sinks
            self._let_go(data_idx)
            raise
        return sinks

    def _open_one(self, data_idx: int, output_idx: int, *, keep_shown: bool) -> ImageSink:
        output_spec, destination = self._plan.survey.outputs[data_idx][output_idx], self._destinations[data_idx]
        path = None if destination is None else output_path(destination, output_spec.name)
        is_shown = self._is_shown(data_idx, output_idx)
        if path is not None and is_shown and keep_shown:
            return ShownOutput(path)
        stack, grid = self._stacks[data_idx], self._plan.blocks[data_idx]
        n_channels, dtype = self._plan.layout.output_channels_and_dtype(output_spec)
        facts = self._plan.survey.stacks[data_idx]
        axes_map = AxesMap(stack.original_axes, tuple(stack.original_data_shape)).with_samples(
            *(stop - start for start, stop in map(facts.output_ranges.__getitem__, "ST"))
        )
        first_plane, end_plane = facts.output_ranges["Z"] if facts.n_planes else (0, 0)
        planes = (end_plane - first_plane,) if facts.n_planes else ()
        one_plane, block_shape = (1,) * len(planes), output_spec.scale_size(grid.block_shape)
        return open_sink(
            path
            if path is None or not output_kind(path).resumable
            else OmeZarr(path, self._options.version, self._halving(data_idx, output_spec)),
            axes_map=axes_map.with_channels(n_channels).with_spatial(
                (*planes, *output_spec.scale_size(grid.spatial_shape))
            ),
            dtype=dtype,
            chunk_shape=(1, 1, *one_plane, *choose_chunk(block_shape, self._options.chunks)),
            shard_shape=(1, 1, *one_plane, *block_shape),
            metadata=result_metadata(stack, self._plan, data_idx, output_spec),
            overwrite=self._options.overwrite or is_shown,
            resume=path is not None and data_idx in self._recorded and partial_path(path).exists(),
            lock=self._lock if len(self._plan.survey.stacks) == 1 and not output_spec.name else None,
        )

    def _halving(self, data_idx: int, output_spec: OutputSpec) -> Pyramid | None:
        """Choose how levels are made by the dtype that the model returns, not by the one that is written."""
        if self._options.pyramid != "auto":
            return self._options.pyramid
        request, batch_dtype = self._plan.layout.request, self._plan.layout.batch_dtype(data_idx)
        step = None if request.n_draws else request.postprocess
        is_labels = holds_labels(output_spec.dtype, batch_dtype, postprocess=step, blend=request.blend)
        return "mode" if is_labels else "mean"

    def _is_shown(self, data_idx: int, output_idx: int) -> bool:
        """Return whether an earlier run completed an output; it may have been killed before it could record that."""
        if self._ledger is None or data_idx not in self._recorded:
            return False
        path, recorded = self._paths(data_idx)[output_idx], self._recorded[data_idx]
        if partial_path(path).exists() or len(recorded) < len(self._plan.blocks[data_idx]):
            return False
        if data_idx in self._ledger.finished:
            return path.exists()
        return is_output_of(
            path, [record for records in recorded.values() for record in records[output_idx : output_idx + 1]]
        )

    def _region(self, data_idx: int, block_idx: int, output_spec: OutputSpec) -> tuple[slice, ...]:
        grid = self._plan.blocks[data_idx]
        block = grid[block_idx]
        sample_idx, z = self._plan.survey.stacks[data_idx].output_position(block.sample_idx)
        first = output_spec.scale_coords(grid.origin)
        return (
            slice(sample_idx, sample_idx + 1),
            slice(0, self._plan.layout.output_channels_and_dtype(output_spec)[0]),
            *(slice(plane, plane + 1) for plane in z),
            *(
                slice(part.start - start, part.stop - start)
                for part, start in zip(output_spec.scale_window(block.window), first, strict=True)
            ),
        )

    def _as_written(self, data_idx: int, values: NDArray[Any]) -> NDArray[Any]:
        """Return a view of a block, `C(Z)YX`, for its sink, `SC(Z)YX`: a slice gets its Z axis back."""
        return values[np.newaxis, :, np.newaxis] if self._plan.survey.stacks[data_idx].n_planes else values[np.newaxis]

    def _as_block(self, data_idx: int, memory: NDArray[Any]) -> NDArray[Any]:
        """Return a view of the memory of a sink, `SC(Z)YX`, as a block."""
        return memory[0, :, 0] if self._plan.survey.stacks[data_idx].n_planes else memory[0]

    def _paths(self, data_idx: int) -> list[Path]:
        return self._with_names(data_idx, self._destinations[data_idx])

    def _with_names(self, data_idx: int, destination: Path | None) -> list[Path]:
        names = [output_spec.name for output_spec in self._plan.survey.outputs[data_idx]]
        return [] if destination is None else [output_path(destination, name) for name in names]

    def _named(self, data_idx: int, results: Sequence[NDArray[Any] | Path]) -> Result:
        names = [output_spec.name for output_spec in self._plan.survey.outputs[data_idx]]
        results = self._with_names(data_idx, self._spelled[data_idx]) or results
        return results[0] if names == [""] else dict(zip(names, results, strict=True))


def _restored(sinks: Sequence[ImageSink], records: Sequence[Any]) -> bool:
    """Restore a block that all outputs still have; return whether they do."""
    pairs = [(sink, record) for sink, record in zip(sinks, records, strict=True) if isinstance(sink, ResumableSink)]
    if not all(sink.has_block(record) for sink, record in pairs):
        return False
    for sink, record in pairs:
        sink.restore(record)
    return True
