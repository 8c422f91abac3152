"""Reads tiles for the model: with the margin that its output lacks, and with normalized gray values."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from patchloom.errors import SourceError
from patchloom.extraction import PatchExtractor
from patchloom.extraction.rescaling import Rescaling
from patchloom.image_stacks import whole_stack
from patchloom.parallel import MIN_PARALLEL_VOXELS, Runner, n_threads, run_serially, split_range
from patchloom.prediction.candidate_tiles import CandidateTiles
from patchloom.prediction.models.batch_prediction import name_tiles
from patchloom.prediction.planning.tile_layout import TileLayout
from patchloom.prediction.stack_facts import StackFacts
from patchloom.specs.patch_specs import TileSpecs
from patchloom.specs.spec_table import SpecTable


def read_tiles(
    layout: TileLayout,
    extractor: PatchExtractor,
    tiles: SpecTable,
    out: NDArray[Any] | None = None,
    runner: Runner = run_serially,
) -> NDArray[Any]:
    """Read a batch of tiles.

    Parameters
    ----------
    layout : TileLayout
        The tiles.
    extractor : PatchExtractor
        Reads its series.
    tiles : SpecTable
        The tiles, as the plan's tiling has them; of images of one dtype.
    out : array, optional
        The array to fill, of `batch_shape`. If None, a new one.
    runner : callable
        Runs parts of the work, on several cores if it does.

    Returns
    -------
    array
        `(B, C, (Z), Y, X)` in the dtype of the images, or in float32 if they are normalized.

    Raises
    ------
    SourceError
        If pixels cannot be read; the message names the tile.
    """
    batch = np.empty(batch_shape(layout, len(tiles)), layout.batch_dtype(data_idx_of(tiles))) if out is None else out
    parts = split_range(len(tiles), n_threads() if batch.size >= MIN_PARALLEL_VOXELS else 1)
    try:
        runner([partial(_fill, layout, extractor, tiles[part], batch[part]) for part in parts])
    except SourceError:
        for number, place in enumerate(batch):
            _fill_named(layout, extractor, tiles[number : number + 1], place)
        raise
    return batch


def _fill_named(layout: TileLayout, extractor: PatchExtractor, tile: SpecTable, place: NDArray[Any]) -> None:
    try:
        _fill(layout, extractor, tile, place[np.newaxis])
    except SourceError as error:
        raise type(error)(
            f"{error} (needed for {name_tiles(specs_in_images(layout, cast('list[TileSpecs]', tile.to_specs())))})"
        ) from error


def _fill(layout: TileLayout, extractor: PatchExtractor, tiles: SpecTable, batch: NDArray[Any]) -> None:
    located = extractor.locate(_with_margin(tiles, layout.margin))
    extractor.extract_located(located, batch, _rescaling(layout, tiles) if layout.is_normalized else None)


def _rescaling(layout: TileLayout, tiles: SpecTable) -> Rescaling:
    """Look up scale and offset of the sample that each tile lies in."""
    rows = []
    for data_idx, sample_idx in zip(
        *(tiles.columns[name].tolist() for name in ("data_idx", "sample_idx")), strict=True
    ):
        measured = layout.survey.normalizations[data_idx]
        sample = layout.stacks[data_idx].position(sample_idx).sample_idx
        scale, offset = measured.scale[sample], measured.offset[sample]
        rows.append((scale, offset, measured.offset_rest[sample] if measured.offset_rest else (0.0,) * len(offset)))
    return Rescaling.of(*zip(*rows, strict=True))


def candidate_tiles(layout: TileLayout, extractor: PatchExtractor, tiles: SpecTable) -> CandidateTiles:
    """Return tiles that a skip rule can read.

    Parameters
    ----------
    layout : TileLayout
        The tiles.
    extractor : PatchExtractor
        Reads its series through a cache.
    tiles : SpecTable
        Tiles of one image, as the plan's tiling has them.
    """
    assert extractor.cache is not None  # noqa: S101  # a run has one
    specs = specs_in_images(layout, cast("list[TileSpecs]", tiles.to_specs()))
    images = [whole_stack(stack) for stack in extractor.image_stacks]
    return CandidateTiles(images, specs, partial(_read_from_image, layout, extractor, tiles), extractor.cache)


def _read_from_image(layout: TileLayout, extractor: PatchExtractor, tiles: SpecTable) -> list[NDArray[Any]]:
    """Read tiles without the zeros that pad them outside the image."""
    table, stack = _with_margin(tiles, layout.margin), layout.stacks[data_idx_of(tiles)]
    try:
        pixels = extractor.extract_batch(table, dtype=stack.data_dtype)
    except SourceError:
        read_tiles(layout, extractor, tiles)  # raises with the name of the tile
        raise
    inside = list(pixels)
    if layout.request.padding == "constant":
        sizes, starts = stack.data_shape[2:], table.columns["coords"].tolist()
        inside = [
            tile[(slice(None), *(slice(max(-at, 0), size - at) for at, size in zip(start, sizes, strict=True)))]
            for tile, start in zip(pixels, starts, strict=True)
        ]
    return [tile[:, np.newaxis] for tile in inside] if layout.stacks[data_idx_of(tiles)].n_planes else inside


def specs_in_images(layout: TileLayout, specs: Sequence[TileSpecs]) -> Sequence[TileSpecs]:
    """Return where tiles lie in the images as they were given: with Z if the model is run slice by slice.

    Parameters
    ----------
    layout : TileLayout
        The tiles.
    specs : sequence of TileSpecs
        Tiles of the plan's tiling.
    """
    stacks = layout.stacks
    if not any(stacks[spec["data_idx"]].n_planes for spec in specs):
        return specs
    return [_spec_in_image(stacks[spec["data_idx"]], spec) for spec in specs]


def _spec_in_image(facts: StackFacts, spec: TileSpecs) -> TileSpecs:
    if not facts.n_planes:
        return spec
    sample_idx, z = facts.position(spec["sample_idx"])
    first, one_plane = (0,) * len(z), (1,) * len(z)
    return {
        "data_idx": spec["data_idx"],
        "sample_idx": sample_idx,
        "coords": (*z, *spec["coords"]),
        "patch_size": (*one_plane, *spec["patch_size"]),
        "crop_coords": (*first, *spec["crop_coords"]),
        "crop_size": (*one_plane, *spec["crop_size"]),
        "stitch_coords": (*z, *spec["stitch_coords"]),
        "total_tiles": spec["total_tiles"],
    }


def data_idx_of(tiles: SpecTable) -> int:
    """Return the `data_idx` of the first tile."""
    return int(tiles.columns["data_idx"][0])


def batch_shape(layout: TileLayout, n_tiles: int) -> tuple[int, ...]:
    """Return the shape of a batch, `(B, C, (Z), Y, X)`.

    Parameters
    ----------
    layout : TileLayout
        The tiles.
    n_tiles : int
        Number of tiles.
    """
    return (n_tiles, int(layout.stacks[0].data_shape[1]), *layout.patch_size)


def _with_margin(table: SpecTable, margin: Sequence[int]) -> SpecTable:
    if not any(margin):
        return table
    columns = dict(table.columns)
    around = np.asarray(margin, dtype=np.int64)
    columns["coords"] = columns["coords"] - around
    columns["patch_size"] = columns["patch_size"] + 2 * around
    columns["crop_coords"] = columns["crop_coords"] + around
    return SpecTable(columns)
