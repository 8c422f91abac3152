"""Predicted tiles → images, whoever runs the network: each block of an image is written once it is complete, and forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.utils.data
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, flag, instance, listed
from patchloom.axes import AxesMap
from patchloom.errors import GeometryError, ModelOutputError, SinkError, SpecError, StitchError
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack, files_read, listed_stacks
from patchloom.local_paths import normalize_path
from patchloom.patching import TiledPatching
from patchloom.pixel_arrays import PIXEL_KINDS, dtype_of_labels
from patchloom.sinks import (
    SINK_SUFFIXES,
    ImageSink,
    InputPlaces,
    Pyramid,
    check_destination,
    check_pyramid,
    check_storable,
    open_sink,
    output_kind,
)
from patchloom.sinks.output_paths import series_destinations
from patchloom.specs.patch_specs import TileSpecs, is_tile_specs
from patchloom.specs.spec_table import SpecTable
from patchloom.specs.spec_validation import validate_specs
from patchloom.stitching import paste_tile
from patchloom.stitching.block_grid import BlockGrid, choose_blocks, choose_chunk


class TileOrder(torch.utils.data.Sampler[int]):
    """Goes through the tiles of a series block by block, so that a `TileWriter` has few blocks open at a time.

    Parameters
    ----------
    tiling : TiledPatching
        The tiles.

    Examples
    --------
    >>> list(TileOrder(TiledPatching([(1, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))))
    [0, 1, 2, 3]
    """

    def __init__(self, tiling: TiledPatching) -> None:
        self.tiling = instance("tiling", tiling, TiledPatching)

    def __len__(self) -> int:
        return len(self.tiling)

    def __iter__(self) -> Iterator[int]:
        for data_idx, grid in enumerate(block_grids(self.tiling)):
            for number in range(len(grid)):
                block = grid[number]
                tiles = self.tiling.tiles_touching(data_idx, block.sample_idx, block.window)
                # A tile that several blocks share comes with the one in which its kept part begins.
                begins = self.tiling.specs(tiles).columns["stitch_coords"]
                starts = [part.start for part in block.window]
                yield from tiles[(begins >= starts).all(axis=1)].tolist()


def block_grids(tiling: TiledPatching) -> list[BlockGrid]:
    """Say in which blocks each image of a series is written."""
    cores = [rule.core for rule in tiling.rules]
    return [choose_blocks(shape, cores, tiling.seams) for shape in tiling.data_shapes]


@dataclass(slots=True)
class _OpenBlock:
    values: NDArray[Any]
    missing: int
    """Voxels that no tile has filled yet, counted in one channel."""
    kept: set[tuple[int, ...]] = field(default_factory=set)
    """Where the tiles that are there land."""


class TileWriter:
    """Stitches predicted tiles of a series, and writes each image block by block.

    Tiles may come in any order, and memory holds the blocks that are begun; in a `TileOrder` these are few.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The images that were predicted.
    tiling : TiledPatching
        Their tiles.
    output : str or Path, optional
        For one image a name that says what is written, as of `patchloom.predict`; for several a folder. Arrays where not
        given.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        As of `patchloom.predict`.
    overwrite : bool
        Whether an output that exists may be replaced.

    Raises
    ------
    GeometryError
        If the tiling is of other images.
    SinkError
        If an output exists, would destroy a source, or has a name that says nothing.

    Examples
    --------
    >>> import patchloom as pl
    >>> image = np.random.default_rng(0).random((100, 80), dtype=np.float32)
    >>> stacks = pl.open_stacks(image, axes="YX")
    >>> tiling = pl.TiledPatching([stacks[0].data_shape], patch_size=(64, 64), overlaps=(16, 16))
    >>> writer = TileWriter(stacks, tiling)
    >>> writer.add(pl.PatchExtractor(stacks).extract_batch(tiling[:]), list(tiling))
    >>> bool((writer.finish()[0] == image).all())
    True
    """

    def __init__(
        self,
        image_stacks: Sequence[ImageStack],
        tiling: TiledPatching,
        output: str | Path | None = None,
        *,
        pyramid: Pyramid | None = "auto",
        overwrite: bool = False,
    ) -> None:
        image_stacks = listed_stacks("image_stacks", image_stacks)
        instance("tiling", tiling, TiledPatching)
        check_pyramid(pyramid)
        flag("overwrite", overwrite)
        if output is not None:
            file_path("output", output)
        shapes = [(stack.data_shape[0], *stack.data_shape[2:]) for stack in image_stacks]
        if [(shape[0], *shape[2:]) for shape in tiling.data_shapes] != shapes:
            raise GeometryError(
                f"the tiling is for images of shapes {tiling.data_shapes}, but there are images of {shapes}"
            )
        self._stacks = list(image_stacks)
        self._data_shapes = tiling.data_shapes
        self._grids = block_grids(tiling)
        self._destinations = _destinations(self._stacks, output)
        self._pyramid = check_pyramid(pyramid)
        self._overwrite = overwrite
        inputs = InputPlaces([*(stack.source for stack in self._stacks), *files_read(*self._stacks)])
        for place in self._destinations:
            if place is not None:
                inputs.check_apart(place)
                _make_folder(place.parent)
                check_destination(place, overwrite=overwrite)
        self._form: tuple[int, np.dtype[Any]] | None = None
        self._open: dict[tuple[int, int], _OpenBlock] = {}
        self._sinks: dict[int, ImageSink] = {}
        self._unwritten = [len(grid) for grid in self._grids]
        self._results: dict[int, NDArray[Any] | Path] = {}

    @property
    def n_open_blocks(self) -> int:
        """How many blocks are begun and not complete."""
        return len(self._open)

    def add(self, tiles: NDArray[Any], specs: Sequence[TileSpecs]) -> None:
        """Add predicted tiles.

        Parameters
        ----------
        tiles : array
            `(B, C, (Z), Y, X)`, as large as the tiles that went in; all of the same channels and dtype.
        specs : sequence of TileSpecs
            Where they belong.

        Raises
        ------
        ModelOutputError
            If the prediction has another size than its tiles, or other channels or another dtype than those before.
        StitchError
            If a tile was added before.
        SpecError
            If there are not as many specifications as tiles, or one is not that of a tile of these images.
        SinkError
            If a block cannot be written.
        """
        specs = self._checked_specs(tiles, specs)
        form = (int(tiles.shape[1]), tiles.dtype)
        if self._form is None:
            check_storable(self._destinations[0], tiles.dtype)
            self._form = form
        if form != self._form:
            raise ModelOutputError(f"tiles have (channels, dtype) {form}, and those before had {self._form}")
        for spec in specs:
            if tiles.shape[2:] != spec["patch_size"]:
                raise ModelOutputError(
                    f"the prediction of {spec} has size {tiles.shape[2:]}: it must be that of the tile"
                )
        for tile, spec in zip(tiles, specs, strict=True):
            for number in self._blocks_met(spec):
                self._add_to_block(tile, spec, number)

    def finish(self) -> list[NDArray[Any] | Path]:
        """Give each image, or where it was written, once all tiles are there.

        Raises
        ------
        StitchError
            If tiles are missing.
        """
        missing = {data_idx: count for data_idx, count in enumerate(self._unwritten) if count}
        if missing:
            raise StitchError(f"tiles are missing: of image stacks {missing} so many blocks are not complete")
        return [self._results[data_idx] for data_idx in range(len(self._grids))]

    def abort(self) -> None:
        """Remove images that are not complete. May be called at any time."""
        for sink in self._sinks.values():
            sink.abort()
        self._sinks.clear()
        self._open.clear()

    def _checked_specs(self, tiles: Any, specs: Sequence[TileSpecs]) -> list[TileSpecs]:
        """Return specifications of plain numbers, once it is known that each is that of a tile of these images."""
        n_dims = len(self._data_shapes[0]) - 2
        if not isinstance(tiles, np.ndarray) or tiles.ndim != n_dims + 2 or tiles.dtype.kind not in PIXEL_KINDS:
            given = f"{tiles.dtype} of shape {tuple(tiles.shape)}" if hasattr(tiles, "dtype") else "no array"
            raise ModelOutputError(
                f"tiles are a {type(tiles).__name__}, {given}: they must be a NumPy array of numbers (B, C, (Z), Y, X)"
            )
        specs = listed("specs", specs, "a sequence of specifications, one a tile")
        if len(tiles) != len(specs):
            raise SpecError(f"there are {len(specs)} specifications for {len(tiles)} tiles: give one for each")
        table = SpecTable.from_specs(specs) if len(specs) else ()
        for spec in table:
            if not is_tile_specs(spec):
                raise SpecError(f"the specification says nothing of cropping and stitching: {spec}")
        validate_specs(table, self._data_shapes)
        return list(cast("Sequence[TileSpecs]", table))

    def _blocks_met(self, spec: TileSpecs) -> Iterator[int]:
        grid = self._grids[spec["data_idx"]]
        kept = zip(spec["stitch_coords"], spec["crop_size"], grid.block_shape, strict=True)
        for position in itertools.product(
            *(range(start // side, -(-(start + size) // side)) for start, size, side in kept)
        ):
            yield grid.number(spec["sample_idx"], position)

    def _add_to_block(self, tile: NDArray[Any], spec: TileSpecs, number: int) -> None:
        data_idx = spec["data_idx"]
        block = self._grids[data_idx][number]
        if (data_idx, number) not in self._open:
            self._open[data_idx, number] = _OpenBlock(
                np.empty((len(tile), *block.shape), tile.dtype), prod(block.shape)
            )
        opened = self._open[data_idx, number]
        if tuple(spec["stitch_coords"]) in opened.kept:
            raise StitchError(f"the tile {spec} was added before")
        opened.kept.add(tuple(spec["stitch_coords"]))
        opened.missing -= paste_tile(tile, spec, opened.values, block.window)
        if not opened.missing:
            del self._open[data_idx, number]
            self._write(data_idx, number, opened.values)

    def _write(self, data_idx: int, number: int, values: NDArray[Any]) -> None:
        if data_idx not in self._sinks:
            if data_idx in self._results:
                raise StitchError(f"image stack {data_idx} is complete: its tiles were added before")
            self._sinks[data_idx] = self._sink(data_idx, len(values), values.dtype)
        block = self._grids[data_idx][number]
        sample = slice(block.sample_idx, block.sample_idx + 1)
        self._sinks[data_idx].write((sample, slice(0, len(values)), *block.window), values[np.newaxis])
        self._unwritten[data_idx] -= 1
        if not self._unwritten[data_idx]:
            self._results[data_idx] = self._sinks.pop(data_idx).finalize()

    def _sink(self, data_idx: int, n_channels: int, dtype: np.dtype[Any]) -> ImageSink:
        stack, grid = self._stacks[data_idx], self._grids[data_idx]
        destination = self._destinations[data_idx]
        source = stack.metadata if isinstance(stack, HasMetadata) else ImageMetadata()
        labels = dtype_of_labels(dtype, np.dtype(stack.data_dtype))
        return open_sink(
            destination,
            axes_map=AxesMap(stack.original_axes, tuple(stack.original_data_shape)).with_channels(n_channels),
            dtype=dtype,
            chunk_shape=(1, 1, *choose_chunk(grid.block_shape)),
            shard_shape=(1, 1, *grid.block_shape),
            metadata=source
            if source.is_rgb and n_channels == 3
            else replace(source, channel_names=(), channel_colors=(), is_rgb=False),
            pyramid="mode" if labels and self._pyramid == "auto" else self._pyramid,
            overwrite=self._overwrite,
        )


def _destinations(stacks: Sequence[ImageStack], output: str | Path | None) -> Sequence[Path | None]:
    if output is None:
        return [None] * len(stacks)
    output = Path(
        normalize_path(output)
    ).absolute()  # what is written then stays there when the working directory changes
    if not str(output).lower().endswith(SINK_SUFFIXES):
        return series_destinations([stack.source for stack in stacks], output)
    if len(stacks) > 1:
        raise SinkError(f"output is {str(output)!r}, but there are {len(stacks)} images: name a folder")
    output_kind(output)
    return [output]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise SinkError(f"{folder}: the folder cannot be made: {error.strerror}; make it first") from error
