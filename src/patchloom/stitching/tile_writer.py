"""Predicted tiles of any network → images: each block of an image is written once all its tiles are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.argument_checks import file_path, flag, instance, listed, shown
from patchloom.axes import AxesMap
from patchloom.errors import GeometryError, ModelOutputError, SinkError, SpecError, StitchError
from patchloom.geometry.blend_weights import BlendWindow, check_blend, tile_weights
from patchloom.geometry.checks import whole_number
from patchloom.image_metadata import ImageMetadata
from patchloom.image_stacks import HasMetadata, ImageStack, files_read, listed_stacks
from patchloom.local_paths import normalize_path
from patchloom.patching import TiledPatching
from patchloom.pixel_arrays import PIXEL_KINDS, dtype_of_labels, round_to
from patchloom.sinks import (
    SINK_SUFFIXES,
    ImageSink,
    InputPlaces,
    OmeZarr,
    Pyramid,
    check_destination,
    check_pyramid,
    check_storable,
    open_sink,
    output_kind,
)
from patchloom.sinks.output_paths import series_destinations
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable
from patchloom.stitching.assembler import BlockAssembler
from patchloom.stitching.blend import blend_dtype
from patchloom.stitching.block_grid import MAX_BLOCK_VOXELS, choose_blocks, choose_chunk
from patchloom.stitching.tile_schedule import TileSchedule


class TileOrder:
    """The tiles of a series, block by block: in this order a `TileWriter` has few blocks open at a time.

    It serves as the sampler of a loader.

    Parameters
    ----------
    tiling : TiledPatching
        The tiles.
    block_voxels : int
        As of `TileWriter`.

    Examples
    --------
    >>> list(TileOrder(TiledPatching([(1, 1, 100, 80)], patch_size=(64, 64), overlaps=(16, 16))))
    [0, 1, 2, 3]
    """

    def __init__(self, tiling: TiledPatching, *, block_voxels: int = MAX_BLOCK_VOXELS) -> None:
        self.tiling = instance("tiling", tiling, TiledPatching, "stitch_tiles takes the tiles of any tiling")
        self.block_voxels = whole_number("block_voxels", block_voxels, least=1)

    def __len__(self) -> int:
        return len(self.tiling)

    def __iter__(self) -> Iterator[int]:
        for schedule in _schedules(self.tiling, self.block_voxels, whole_tiles=False):
            for block_idx in range(len(schedule.blocks)):
                yield from schedule.tiles_of(block_idx).tolist()


def _schedules(tiling: TiledPatching, block_voxels: int, *, whole_tiles: bool) -> Iterator[TileSchedule]:
    """Divide each image into blocks, and its tiles among these; each tile belongs to one block."""
    steps = [rule.step for rule in tiling.rules]
    for data_idx, shape in enumerate(tiling.data_shapes):
        grid = choose_blocks(shape, steps, tiling.seams, block_voxels)
        yield TileSchedule(tiling, data_idx, grid, len(steps), whole_tiles=whole_tiles)


class TileWriter:
    """Stitches predicted tiles of a series, and writes each image block by block.

    Tiles may be added in any order. Memory holds the blocks of which some tiles, but not all, were added; in a `TileOrder` these
    are few. Blended tiles are summed in the order in which they are added: another order may change a voxel by its rounding.

    Parameters
    ----------
    image_stacks : sequence of ImageStack
        The images that were predicted.
    tiling : TiledPatching
        Their tiles.
    output : str or Path, optional
        For one image an `.ome.zarr`, `.ome.tif` or `.npy` to write, as in `patchloom.predict`; for several a folder. If None,
        arrays are returned.
    blend : {"hann", "gaussian", "linear", "mean"}, optional
        Blend overlapping tiles with this window, as in `patchloom.predict`. If None, each voxel is cropped from one tile.
    pyramid : {"auto", "mean", "mode", "nearest"} or None
        As in `patchloom.predict`.
    overwrite : bool
        Whether an output that exists may be replaced.
    block_voxels : int
        Maximum number of voxels of a block, in one channel. A block stays in memory until all its tiles are added, and is written
        as one shard.

    Raises
    ------
    GeometryError
        If the tiling is of other images.
    SinkError
        If an output exists, would destroy a source, or has a name of no known format.

    Examples
    --------
    >>> import patchloom as pl
    >>> image = np.random.default_rng(0).random((100, 80), dtype=np.float32)
    >>> stacks = pl.open_stacks(image, axes="YX")
    >>> tiling = pl.TiledPatching([stacks[0].data_shape], patch_size=(64, 64), overlaps=(16, 16))
    >>> writer = pl.TileWriter(stacks, tiling)
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
        blend: BlendWindow | None = None,
        pyramid: Pyramid | None = "auto",
        overwrite: bool = False,
        block_voxels: int = MAX_BLOCK_VOXELS,
    ) -> None:
        stacks = listed_stacks("image_stacks", image_stacks)
        self._tiling: TiledPatching = instance(
            "tiling", tiling, TiledPatching, "stitch_tiles takes the tiles of any tiling"
        )
        self._blend = None if blend is None else check_blend(blend)
        self._pyramid = check_pyramid(pyramid)
        self._overwrite = flag("overwrite", overwrite)
        whole_number("block_voxels", block_voxels, least=1)
        if output is not None:
            file_path("output", output)
        shapes = [stack.data_shape for stack in stacks]
        if [(shape[0], *shape[2:]) for shape in tiling.data_shapes] != [(shape[0], *shape[2:]) for shape in shapes]:
            raise GeometryError(
                f"the tiling is for images of shapes {shown(tiling.data_shapes)}, but the image stacks have shapes {shown(shapes)}: "
                "make the tiling from the data_shape of each stack"
            )
        destinations = _destinations(stacks, output)
        inputs = InputPlaces([*(stack.source for stack in stacks), *files_read(*stacks)])
        for place in destinations:
            if place is not None:
                inputs.check_apart(place)
                _make_folder(place.parent)
                check_destination(place, overwrite=overwrite)
        schedules = _schedules(tiling, block_voxels, whole_tiles=blend is not None)
        self._images = [_ImageState(*image) for image in zip(stacks, destinations, schedules, strict=True)]
        self._kind: tuple[int, np.dtype[Any]] | None = None

    @property
    def n_open_blocks(self) -> int:
        """Number of blocks that are begun and not complete."""
        return sum(image.assembler.n_open for image in self._images if image.assembler is not None)

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
            If the prediction has another size than its tiles, or other channels or another dtype than those before, or if
            labels are to be blended.
        StitchError
            If a tile was added before.
        SpecError
            If there are not as many specifications as tiles, or one is not that of a tile of these images.
        SinkError
            If a block cannot be written.
        """
        rows = self._checked_specs(tiles, specs)
        self._check_kind((int(tiles.shape[1]), tiles.dtype))
        blocks = self._blocks_of_new(rows)
        for tile, spec, (tile_idx, block_indices) in zip(tiles, rows, blocks, strict=True):
            self._add(tile, spec, tile_idx, block_indices)
        for data_idx in {spec["data_idx"] for spec in rows}:
            self._write_complete(self._images[data_idx])

    def finish(self) -> list[NDArray[Any] | Path]:
        """Return each image, or the path at which it was written, after all tiles were added.

        Raises
        ------
        StitchError
            If tiles are missing.
        """
        missing = {
            data_idx: len(image.schedule.blocks) - len(image.written) for data_idx, image in enumerate(self._images)
        }
        missing = {data_idx: n_blocks for data_idx, n_blocks in missing.items() if n_blocks}
        if missing:
            listed_blocks = ", ".join(f"{n_blocks} of image stack {data_idx}" for data_idx, n_blocks in missing.items())
            raise StitchError(f"tiles are missing; incomplete blocks: {listed_blocks}; add all tiles first")
        return [cast("NDArray[Any] | Path", image.result) for image in self._images]

    def abort(self) -> None:
        """Remove images that are not complete. May be called at any time."""
        for image in self._images:
            if image.sink is not None:
                image.sink.abort()
            image.sink = image.assembler = None

    def _checked_specs(self, tiles: Any, specs: Sequence[TileSpecs]) -> list[TileSpecs]:
        """Check the arguments of `add`; return specifications of plain integers."""
        n_dims = len(self._tiling.patch_size)
        if not isinstance(tiles, np.ndarray) or tiles.ndim != n_dims + 2 or tiles.dtype.kind not in PIXEL_KINDS:
            given = f" of {tiles.dtype} and shape {tuple(tiles.shape)}" if hasattr(tiles, "dtype") else ""
            raise ModelOutputError(
                f"tiles is a {type(tiles).__name__}{given}: it must be a NumPy array of numbers, (B, C, (Z), Y, X)"
            )
        specs = listed("specs", specs, "a sequence of specifications, one a tile")
        if len(tiles) != len(specs):
            raise SpecError(f"there are {len(specs)} specifications for {len(tiles)} tiles: give one for each")
        rows = cast("list[TileSpecs]", SpecTable.from_specs(specs).to_specs()) if len(specs) else []
        for spec in rows:
            if tiles.shape[2:] != spec["patch_size"]:
                raise ModelOutputError(
                    f"the prediction of {spec} has size {tiles.shape[2:]}: it must be that of the tile"
                )
        return rows

    def _check_kind(self, kind: tuple[int, np.dtype[Any]]) -> None:
        """Check that tiles have the channels and the dtype of those before."""
        if self._kind is None:
            check_storable(self._images[0].destination, kind[1])
            source_dtypes = {np.dtype(image.stack.data_dtype) for image in self._images}
            if self._blend is not None and kind[1].kind in "iu" and source_dtypes != {kind[1]}:
                raise ModelOutputError(
                    f"blend is {self._blend!r} and tiles are {kind[1]}, most likely labels, whose mean makes no sense: leave "
                    "blend out, or give floats if they are intensities"
                )
            self._kind = kind
        if kind != self._kind:
            raise ModelOutputError(f"tiles have (channels, dtype) {kind}, and those before had {self._kind}")

    def _blocks_of_new(self, specs: Sequence[TileSpecs]) -> list[tuple[int, list[int]]]:
        """Find the index and the blocks of each tile; refuse tiles that were added before."""
        found: dict[int, list[int]] = {}
        indices = self._tiling.indices_of(specs).tolist() if specs else []
        for spec, tile_idx in zip(specs, indices, strict=True):
            image = self._images[spec["data_idx"]]
            blocks = image.schedule.blocks_of(tile_idx)
            if tile_idx in found or image.was_added(tile_idx, blocks[0]):
                raise StitchError(f"the tile {spec} was added before: add each tile once")
            found[tile_idx] = blocks
        return list(found.items())

    def _add(self, tile: NDArray[Any], spec: TileSpecs, tile_idx: int, blocks: Sequence[int]) -> None:
        image = self._images[spec["data_idx"]]
        if image.assembler is None:
            image.assembler = self._assembler(image.schedule)
        weights = None
        if self._blend is not None:
            shape = image.schedule.blocks.spatial_shape
            weights = tile_weights(self._blend, self._tiling.rules, shape, spec["coords"])
        for block_idx in blocks:
            image.assembler.add(block_idx, tile, spec, weights)
        image.added.setdefault(blocks[0], set()).add(tile_idx)
        image.touched.update(blocks)

    def _assembler(self, schedule: TileSchedule) -> BlockAssembler:
        n_channels, dtype = cast("tuple[int, np.dtype[Any]]", self._kind)
        if self._blend is not None:
            dtype = blend_dtype(self._tiling.rules, [shape[2:] for shape in self._tiling.data_shapes], dtype)
        return BlockAssembler(
            lambda block_idx: schedule.blocks[block_idx].window,
            n_channels,
            dtype,
            n_blended_tiles=None if self._blend is None else schedule.n_serving,
        )

    def _write_complete(self, image: _ImageState) -> None:
        """Write the blocks of an image that the tiles added last completed, and the image if these were the last."""
        assembler = cast("BlockAssembler", image.assembler)
        assembler.flush()
        for block_idx in sorted(filter(assembler.is_complete, image.touched)):
            n_channels, dtype = cast("tuple[int, np.dtype[Any]]", self._kind)
            values = round_to(cast("NDArray[Any]", assembler.take(block_idx).values), dtype)
            if image.sink is None:
                image.sink = self._open_sink(image)
            block = image.schedule.blocks[block_idx]
            sample = slice(block.sample_idx, block.sample_idx + 1)
            image.sink.write((sample, slice(0, n_channels), *block.window), values[np.newaxis])
            image.written.add(block_idx)
            image.added.pop(block_idx, None)
        image.touched.clear()
        if image.sink is not None and len(image.written) == len(image.schedule.blocks):
            image.result = image.sink.finalize()
            image.sink = image.assembler = None

    def _open_sink(self, image: _ImageState) -> ImageSink:
        n_channels, dtype = cast("tuple[int, np.dtype[Any]]", self._kind)
        stack, block_shape = image.stack, image.schedule.blocks.block_shape
        source = stack.metadata if isinstance(stack, HasMetadata) else ImageMetadata()
        if not (source.is_rgb and n_channels == 3):
            source = replace(source, channel_names=(), channel_colors=(), is_rgb=False)
        has_labels = self._blend is None and dtype_of_labels(dtype, np.dtype(stack.data_dtype))
        path = image.destination
        pyramid: Pyramid | None = "mode" if has_labels and self._pyramid == "auto" else self._pyramid
        return open_sink(
            path if path is None or not output_kind(path).resumable else OmeZarr(path, pyramid=pyramid),
            axes_map=AxesMap(stack.original_axes, tuple(stack.original_data_shape)).with_channels(n_channels),
            dtype=dtype,
            chunk_shape=(1, 1, *choose_chunk(block_shape)),
            shard_shape=(1, 1, *block_shape),
            metadata=source,
            overwrite=self._overwrite,
        )


@dataclass
class _ImageState:
    """How far one image is."""

    stack: ImageStack
    destination: Path | None
    schedule: TileSchedule
    assembler: BlockAssembler | None = None
    sink: ImageSink | None = None
    added: dict[int, set[int]] = field(default_factory=dict)
    """For each block that is not written, the tiles that were added and of whose blocks it is the first."""
    touched: set[int] = field(default_factory=set)
    """Blocks to which tiles were added since complete ones were last written."""
    written: set[int] = field(default_factory=set)
    result: NDArray[Any] | Path | None = None

    def was_added(self, tile_idx: int, first_block: int) -> bool:
        """Return whether a tile was added before."""
        return first_block in self.written or tile_idx in self.added.get(first_block, ())


def _destinations(stacks: Sequence[ImageStack], output: str | Path | None) -> Sequence[Path | None]:
    if output is None:
        return [None] * len(stacks)
    # An absolute path stays the same when the working directory changes.
    output = Path(normalize_path(output)).absolute()
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
