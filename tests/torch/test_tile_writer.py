"""Tiles to images: exact in any order, few blocks open in the right one, holes and repeats refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import patchloom as pl
from patchloom.stitching import block_grid
from patchloom.torch import TileOrder, TileWriter


@pytest.fixture(params=["centered", "grid"])
def tiling(request, monkeypatch, inputs) -> pl.TiledPatching:
    """Return tiles of the series, of which each image has several blocks."""
    monkeypatch.setattr(block_grid.choose_blocks, "__defaults__", (40 * 40,))
    monkeypatch.setitem(block_grid._CHUNK_SIZE, 2, 32)
    return pl.TiledPatching([stack.data_shape for stack in inputs], (24, 20), (5, 4), seams=request.param)


def add(writer: TileWriter, stacks, tiling, indices) -> None:
    table = tiling.specs(indices)
    writer.add(pl.PatchExtractor(stacks).extract_batch(table), table.to_specs())


def test_an_identity_gives_the_images_back_in_any_order_of_tiles(inputs, tiling, rng):
    writer = TileWriter(inputs, tiling)

    for indices in np.array_split(rng.permutation(len(tiling)), 9):
        add(writer, inputs, tiling, indices)

    for result, stack in zip(writer.finish(), inputs, strict=True):
        np.testing.assert_array_equal(result, stack.array)


def test_the_tile_order_has_every_tile_once_and_few_blocks_open(inputs, tiling):
    order = list(TileOrder(tiling))
    writer = TileWriter(inputs, tiling)
    most = 0

    for index in order:
        add(writer, inputs, tiling, [index])
        most = max(most, writer.n_open_blocks)

    assert sorted(order) == list(range(len(tiling)))
    n_blocks = sum(map(len, writer._grids))
    assert n_blocks >= 20
    assert most <= (1 if tiling.seams == "grid" else 6)
    writer.finish()


def test_missing_repeated_and_foreign_tiles_are_refused(inputs, tiling):
    writer = TileWriter(inputs, tiling)
    add(writer, inputs, tiling, range(1, len(tiling)))

    with pytest.raises(pl.StitchError, match="missing"):
        writer.finish()
    with pytest.raises((pl.StitchError, pl.SinkError)):
        add(writer, inputs, tiling, [5, 5])
    with pytest.raises(pl.GeometryError, match="tiling is for images"):
        TileWriter(inputs[:1], tiling)


def test_predictions_of_another_form_are_refused(inputs, tiling):
    writer = TileWriter(inputs, tiling)
    add(writer, inputs, tiling, [0])

    with pytest.raises(pl.ModelOutputError, match="before"):
        writer.add(np.zeros((1, 2, 24, 20), np.uint16), [tiling[1]])
    with pytest.raises(pl.ModelOutputError, match="size"):
        writer.add(np.zeros((1, 3, 24, 24), np.uint16), [tiling[1]])


def test_an_output_for_several_images_is_a_folder(tmp_path, inputs, tiling):
    with pytest.raises(pl.SinkError, match="folder"):
        TileWriter(inputs, tiling, tmp_path / "all.ome.zarr")


@pytest.mark.parametrize(
    ("tiles", "change", "error"),
    [
        ([[[[0]]]], {}, pl.ModelOutputError),
        (torch.zeros(2, 3, 24, 20), {}, pl.ModelOutputError),
        (np.zeros((3, 24, 20), np.uint16), {}, pl.ModelOutputError),
        (np.zeros((2, 3, 24, 20), object), {}, pl.ModelOutputError),
        (np.zeros((3, 3, 24, 20), np.uint16), {}, pl.SpecError),
        (None, {"data_idx": 7}, pl.SpecError),
        (None, {"sample_idx": -1}, pl.SpecError),
        (None, {"coords": (0.5, 0)}, pl.SpecError),
        (None, {"stitch_coords": (1000, 0), "coords": (1000, 0)}, pl.SpecError),
        (None, {"crop_size": (25, 20)}, pl.SpecError),
        (None, {"patch_size": (24, 22)}, pl.ModelOutputError),
    ],
)
def test_a_batch_with_anything_wrong_changes_nothing(inputs, tiling, tiles, change, error):
    writer = TileWriter(inputs, tiling)
    good = pl.PatchExtractor(inputs).extract_batch(tiling[:2])

    with pytest.raises(error):
        writer.add(good if tiles is None else tiles, [tiling[0], tiling[1] | change])

    assert not writer.n_open_blocks
    add(writer, inputs, tiling, range(len(tiling)))
    for result, stack in zip(writer.finish(), inputs, strict=True):
        np.testing.assert_array_equal(result, stack.array)


def test_specifications_without_a_place_in_the_image_are_refused(inputs, tiling):
    plan = pl.RandomPatching([stack.data_shape for stack in inputs], (24, 20), seed=1)
    with pytest.raises(pl.SpecError, match="says nothing of cropping"):
        TileWriter(inputs, tiling).add(pl.PatchExtractor(inputs).extract_batch(plan[:1]), [plan[0]])


def test_what_cannot_be_written_is_refused_before_a_block_is_complete(tmp_path):
    image = np.random.default_rng(0).random((100, 80), dtype=np.float32)
    np.save(tmp_path / "a.npy", image)
    stacks = pl.open_stacks(np.load(tmp_path / "a.npy", mmap_mode="r"), axes="YX")
    tiling = pl.TiledPatching([stacks[0].data_shape], patch_size=(64, 64), overlaps=(16, 16))
    with pytest.raises(pl.GeometryError, match="pyramid is 'foo'"):
        TileWriter(stacks, tiling, tmp_path / "out.ome.zarr", pyramid="foo")
    with pytest.raises(pl.SinkError, match="is the input"):
        TileWriter(stacks, tiling, tmp_path / "a.npy", overwrite=True)
    writer = TileWriter(stacks, tiling, tmp_path / "out.ome.tif")
    with pytest.raises(pl.SinkError, match="int64 cannot be stored"):
        writer.add(np.zeros((1, 1, 64, 64), np.int64), [tiling[0]])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
