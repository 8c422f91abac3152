"""Run a model over images of any size and put the predictions back together."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from patchloom.axes import AxesMap
from patchloom.errors import ModelOutputError, SinkError, StitchError
from patchloom.extraction import PatchExtractor
from patchloom.geometry.padding import Padding
from patchloom.geometry.tile_rule import Seams
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack, Source, is_series
from patchloom.patch_specs import PatchSpecs, TileSpecs
from patchloom.prediction.batch_prediction import name_tiles, predict_batch, to_dtype
from patchloom.prediction.blocks import Block
from patchloom.prediction.destinations import series_destinations
from patchloom.prediction.models.model import Model, ModelDescription
from patchloom.prediction.plan import PredictionPlan, plan
from patchloom.prediction.progress import Advance, show_progress
from patchloom.sinks import ImageSink, MemorySink, OmeZarrSink, check_apart, check_destination
from patchloom.stitching import paste_tile

if TYPE_CHECKING:
    from collections.abc import Iterator


def predict(
    model: Model,
    sources: Source | Sequence[Source],
    output: str | Path | None = None,
    *,
    axes: str | Sequence[str | None] | None = None,
    patch_size: Sequence[int] | None = None,
    overlaps: Sequence[int] | None = None,
    seams: Seams | None = None,
    padding: Padding = "reflect",
    batch_size: int = 1,
    dtype: Any = None,
    pyramid: Literal["mean", "nearest"] | None = "mean",
    overwrite: bool = False,
    progress: bool = True,
) -> Any:
    """Predict images of any size, tile by tile.

    Memory does not grow with the image where the output is a file: one block of the output and one batch of tiles are
    held at a time.

    Parameters
    ----------
    model : callable
        Takes a batch `(B, C, (Z), Y, X)` in the sources' dtype and returns an array-like `(B, C', (Z), Y, X)`: any
        number of channels, any dtype, the same size.
    sources : path, URL, array, ImageStack or sequence of these
        The images, as `open_stacks` takes them.
    output : str or Path, optional
        An `.ome.zarr` to write; a folder of them for a series. Arrays are returned where not given.
    axes, patch_size, overlaps, seams, padding, batch_size, dtype
        As in `plan`.
    pyramid : {"mean", "nearest"} or None
        How the lower levels of an OME-Zarr are made; `"nearest"` for labels, `None` for none.
    overwrite : bool
        Whether an output that exists may be replaced. It stays whole until the new one is complete.
    progress : bool
        Whether to show progress on standard error.

    Returns
    -------
    array or Path, or list of these
        The image in its source's own axes (with more than one channel, a source without `C` gets one before its spatial
        axes), or where it was written; a list, one for each image, where `sources` is a series.

    Raises
    ------
    GeometryError, AxesError, SourceError
        As in `plan`, before anything is read or written.
    SinkError
        If the output exists, would destroy a source, or cannot be written.
    ModelError
        If the model fails or returns something unusable; the message says on which tile. Nothing of that image is left.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.random.default_rng(0).integers(0, 255, (100, 80), np.uint8)
    >>> result = predict(lambda batch: batch, image, axes="YX", patch_size=(64, 64), progress=False)
    >>> bool((result == image).all()), result.dtype
    (True, dtype('uint8'))
    """
    prepared = plan(
        sources,
        model=model,
        axes=axes,
        patch_size=patch_size,
        overlaps=overlaps,
        seams=seams,
        padding=padding,
        batch_size=batch_size,
        dtype=dtype,
    )
    series = is_series(sources)
    destinations = _destinations(prepared.stacks, output, series=series)
    results = run_plan(prepared, model, destinations, pyramid=pyramid, overwrite=overwrite, progress=progress)
    return results if series else results[0]


def run_plan(
    prepared: PredictionPlan,
    model: Model,
    destinations: Sequence[Path | None],
    *,
    pyramid: Literal["mean", "nearest"] | None = "mean",
    overwrite: bool = False,
    progress: bool = True,
) -> list[NDArray[Any] | Path]:
    """Run a plan.

    Parameters
    ----------
    prepared : PredictionPlan
        What `plan` made for these sources and this model.
    model : callable
        As in `predict`.
    destinations : sequence of Path or None
        Where each image is written; `None` for an array.
    pyramid, overwrite, progress
        As in `predict`.

    Returns
    -------
    list of array or Path
        One result for each image.

    Raises
    ------
    SinkError, ModelError
        As in `predict`.
    """
    results: list[NDArray[Any] | Path] = []
    places = [destination for destination in destinations if destination is not None]
    with _folders({place.parent for place in places}):
        for place in places:
            check_apart(place, [stack.source for stack in prepared.stacks])
            check_destination(place, overwrite=overwrite)
        with show_progress("tiles", prepared.n_tiles_computed, shown=progress) as advance:
            for data_idx, destination in enumerate(destinations):
                results.append(_ImageRun(prepared, model, data_idx, destination, pyramid, overwrite, advance).run())
    return results


@dataclass(frozen=True, slots=True)
class _ImageRun:
    """One image on its way through the model."""

    prepared: PredictionPlan
    model: Model
    data_idx: int
    destination: Path | None
    pyramid: Literal["mean", "nearest"] | None
    overwrite: bool
    advance: Advance

    def run(self) -> NDArray[Any] | Path:
        """Compute and write all blocks; leave nothing behind if that fails."""
        extractor = PatchExtractor(self.prepared.stacks, padding=self.prepared.padding)
        grid = self.prepared.blocks[self.data_idx]
        values = self._predict_block(extractor, grid[0], expected=None)
        expected = (len(values), values.dtype)
        sink = self._open_sink(*expected)
        try:
            _write_block(sink, grid[0], values)
            for number in range(1, len(grid)):
                _write_block(sink, grid[number], self._predict_block(extractor, grid[number], expected))
            return sink.finalise()
        except BaseException:  # Ctrl-C as well: what is half-written is of no use to anybody
            sink.abort()
            raise

    def _predict_block(
        self, extractor: PatchExtractor, block: Block, expected: tuple[int, np.dtype[Any]] | None
    ) -> NDArray[Any]:
        """Compute one block as `C(Z)YX`; the first batch decides channels and dtype where nothing is expected yet."""
        tiling, batch_size = self.prepared.tiling, self.prepared.batch_size
        indices = tiling.tiles_touching(self.data_idx, block.sample_idx, block.window)
        values: NDArray[Any] | None = None
        copied = 0
        for start in range(0, len(indices), batch_size):
            table = tiling.specs(indices[start : start + batch_size])
            specs: list[TileSpecs] = table.to_specs()  # type: ignore[assignment]  # a tiling has no other specs
            batch = extractor.extract_batch(table, dtype=self.prepared.stacks[self.data_idx].data_dtype)
            prediction = predict_batch(self.model, batch, specs)
            if self.prepared.dtype is not None:
                prediction = to_dtype(prediction, self.prepared.dtype, specs)
            expected = expected or (prediction.shape[1], prediction.dtype)
            _check_alike(prediction, expected, specs)
            if values is None:
                values = np.empty((prediction.shape[1], *block.shape), prediction.dtype)
            copied += sum(
                paste_tile(tile, spec, values, block.window) for tile, spec in zip(prediction, specs, strict=True)
            )
            self.advance(len(specs))
        if values is None or copied != prod(block.shape):
            raise StitchError(f"{copied} voxels were predicted for a block of {prod(block.shape)}: the plan has a hole")
        return values

    def _open_sink(self, n_channels: int, dtype: np.dtype[Any]) -> ImageSink:
        stack, grid = self.prepared.stacks[self.data_idx], self.prepared.blocks[self.data_idx]
        axes_map = AxesMap(stack.original_axes, tuple(stack.original_data_shape)).with_channels(n_channels)
        if self.destination is None:
            return MemorySink(axes_map, dtype)
        return OmeZarrSink(
            self.destination,
            axes_map=axes_map,
            dtype=dtype,
            chunk_shape=(1, 1, *grid.chunk_shape),
            shard_shape=(1, 1, *grid.block_shape),
            metadata=_result_metadata(stack, self.prepared.model, n_channels),
            pyramid=self.pyramid,
            overwrite=self.overwrite,
        )


def _write_block(sink: ImageSink, block: Block, values: NDArray[Any]) -> None:
    sample = slice(block.sample_idx, block.sample_idx + 1)
    sink.write((sample, slice(0, len(values)), *block.window), values[np.newaxis])


def _check_alike(prediction: NDArray[Any], expected: tuple[int, np.dtype[Any]], specs: Sequence[PatchSpecs]) -> None:
    if (prediction.shape[1], prediction.dtype) != expected:
        raise ModelOutputError(
            f"the model returned {prediction.shape[1]} channels of {prediction.dtype} for {name_tiles(specs)}, and "
            f"{expected[0]} of {expected[1]} for the tiles before"
        )


def _result_metadata(stack: ImageStack, model: ModelDescription, n_channels: int) -> ImageMetadata:
    """Voxel sizes of the source; channels of the model, else of the source where there are as many."""
    source = stack.metadata if isinstance(stack, HasMetadata) else ImageMetadata()
    names, colors = model.out_channel_names, model.out_channel_colors
    if not names and n_channels == stack.data_shape[1]:
        names, colors = source.channel_names, source.channel_colors
    return replace(
        source,
        channel_names=names if len(names) == n_channels else (),
        channel_colors=colors if len(colors) == n_channels else (),
    )


def _destinations(stacks: Sequence[ImageStack], output: str | Path | None, *, series: bool) -> Sequence[Path | None]:
    if output is None:
        return [None] * len(stacks)
    is_zarr = str(output).lower().endswith(".zarr")
    if series and is_zarr:
        raise SinkError(
            f"output is {str(output)!r}, but the sources are a series: name a folder, which gets one .ome.zarr for each"
        )
    if series:
        return series_destinations([stack.source for stack in stacks], Path(output))
    if not is_zarr:
        raise SinkError(f"output is {str(output)!r}, and only OME-Zarr is written: use a name that ends in .ome.zarr")
    return [Path(output)]


@contextmanager
def _folders(folders: set[Path]) -> Iterator[None]:
    """Make the folders that outputs go to; one that is still empty after a failure is removed again."""
    made = [folder for folder in sorted(folders) if not folder.exists() and folder.parent.is_dir()]
    for folder in made:
        folder.mkdir()
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise
