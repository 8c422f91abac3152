"""Tiles → images block by block: exact in any order, few blocks open in the right one, holes and repeats refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import patchloom as pl

BLOCK_VOXELS = 256 * 256


@pytest.fixture
def inputs(rng: np.random.Generator) -> list[pl.ImageStack]:
    """Return a series of two images of different sizes, of two samples and three channels."""
    shapes = [(2, 3, 600, 700), (2, 3, 520, 300)]
    return pl.open_stacks([rng.integers(0, 2**16, shape, np.uint16) for shape in shapes], axes="SCYX")


@pytest.fixture(params=["centered", "grid"])
def tiling(request: pytest.FixtureRequest, inputs: list[pl.ImageStack]) -> pl.TiledPatching:
    """Return tiles of the series, of which each image has several blocks."""
    return pl.TiledPatching([stack.data_shape for stack in inputs], (120, 100), (25, 20), seams=request.param)


def new_writer(inputs: list[pl.ImageStack], tiling: pl.TiledPatching, **options: Any) -> pl.TileWriter:
    return pl.TileWriter(inputs, tiling, block_voxels=BLOCK_VOXELS, **options)


def add(writer: pl.TileWriter, stacks: list[pl.ImageStack], tiling: pl.TiledPatching, indices: Any) -> None:
    table = tiling.specs(indices)
    writer.add(pl.PatchExtractor(stacks).extract_batch(table), table.to_specs())


@pytest.mark.parametrize("blend", [None, "hann"])
def test_any_order(blend: Any, inputs: list[pl.ImageStack], tiling: pl.TiledPatching, rng: np.random.Generator) -> None:
    """Tiles of an image give the image back in any order, cropped or blended."""
    writer = new_writer(inputs, tiling, blend=blend)

    for indices in np.array_split(rng.permutation(len(tiling)), 9):
        add(writer, inputs, tiling, indices)

    for result, stack in zip(writer.finish(), inputs, strict=True):
        np.testing.assert_array_equal(result, stack.array)


@pytest.mark.parametrize("blend", ["hann", "gaussian", "linear", "mean"])
def test_blend(blend: Any, rng: np.random.Generator) -> None:
    """Tiles that disagree are blended to the bytes of `predict`, also over several blocks."""
    image = rng.random((600, 700), np.float32)
    (stack,) = pl.open_stacks(image, axes="YX")
    tiling = pl.TiledPatching([stack.data_shape], (120, 100), (25, 70))
    tiles = pl.PatchExtractor([stack]).extract_batch(tiling[:])
    tiles += tiles[..., :1, :1]
    whole, by_block = pl.TileWriter([stack], tiling, blend=blend), new_writer([stack], tiling, blend=blend)

    for writer in (whole, by_block):
        for batch in np.array_split(np.arange(len(tiling)), 7):
            writer.add(tiles[batch], tiling.specs(batch).to_specs())

    expected = pl.predict(
        lambda batch: batch + batch[..., :1, :1],
        image,
        axes="YX",
        patch_size=(120, 100),
        overlaps=(25, 70),
        blend=blend,
        progress=False,
    )
    assert whole.finish()[0].tobytes() == by_block.finish()[0].tobytes() == expected.tobytes()


def test_blend_of_labels(inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """Integers that are most likely labels are not blended."""
    writer = new_writer(inputs, tiling, blend="hann")
    with pytest.raises(pl.ModelOutputError, match="most likely labels"):
        writer.add(np.zeros((1, 1, 120, 100), np.int32), [tiling[0]])


@pytest.mark.parametrize("blend", [None, "hann"])
def test_tile_order(blend: Any, inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """A `TileOrder` has every tile once, and few blocks are open at a time."""
    order = list(pl.TileOrder(tiling, block_voxels=BLOCK_VOXELS))
    writer = new_writer(inputs, tiling, blend=blend)
    most = 0

    for index in order:
        add(writer, inputs, tiling, [index])
        most = max(most, writer.n_open_blocks)

    assert len(order) == len(pl.TileOrder(tiling))
    assert sorted(order) == list(range(len(tiling)))
    n_blocks = sum(len(image.schedule.blocks) for image in writer._images)
    assert n_blocks >= 20
    assert most <= (9 if blend else 6 if tiling.seams == "centered" else 1)
    writer.finish()


def test_missing_repeated_and_foreign_tiles(inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """Missing, repeated and foreign tiles are refused."""
    writer = new_writer(inputs, tiling)
    add(writer, inputs, tiling, range(1, len(tiling)))

    with pytest.raises(pl.StitchError, match="missing"):
        writer.finish()
    with pytest.raises(pl.StitchError, match="was added before"):
        add(writer, inputs, tiling, [0, 0])
    for index in (1, len(tiling) // 2, len(tiling) - 1):
        with pytest.raises(pl.StitchError, match="was added before"):
            add(writer, inputs, tiling, [0, index])
    with pytest.raises(pl.SpecError, match="is not a tile of this tiling"):
        writer.add(np.zeros((1, 3, 120, 100), np.uint16), [tiling[0] | {"crop_size": (3, 3)}])
    add(writer, inputs, tiling, [0])
    for result, stack in zip(writer.finish(), inputs, strict=True):
        np.testing.assert_array_equal(result, stack.array)
    with pytest.raises(pl.StitchError, match="was added before"):
        add(writer, inputs, tiling, [0])
    with pytest.raises(pl.GeometryError, match="tiling is for images"):
        pl.TileWriter(inputs[:1], tiling)


def test_other_channels_or_size(inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """Predictions with other channels than those before, or of another size than their tiles, are refused."""
    writer = new_writer(inputs, tiling)
    add(writer, inputs, tiling, [0])

    with pytest.raises(pl.ModelOutputError, match="before"):
        writer.add(np.zeros((1, 2, 120, 100), np.uint16), [tiling[1]])
    with pytest.raises(pl.ModelOutputError, match="size"):
        writer.add(np.zeros((1, 3, 120, 120), np.uint16), [tiling[1]])


def test_output_of_a_series(tmp_path: Path, inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """The output for several images is a folder."""
    with pytest.raises(pl.SinkError, match="folder"):
        pl.TileWriter(inputs, tiling, tmp_path / "all.ome.zarr")


@pytest.mark.parametrize(
    ("tiles", "change", "error"),
    [
        ([[[[0]]]], {}, pl.ModelOutputError),
        (np.zeros((3, 120, 100), np.uint16), {}, pl.ModelOutputError),
        (np.zeros((2, 3, 120, 100), object), {}, pl.ModelOutputError),
        (np.zeros((3, 3, 120, 100), np.uint16), {}, pl.SpecError),
        (None, {"data_idx": 7}, pl.SpecError),
        (None, {"sample_idx": -1}, pl.SpecError),
        (None, {"coords": (0.5, 0)}, pl.SpecError),
        (None, {"stitch_coords": (5000, 0), "coords": (5000, 0)}, pl.SpecError),
        (None, {"crop_size": (125, 100)}, pl.SpecError),
        (None, {"patch_size": (120, 102)}, pl.ModelOutputError),
    ],
)
def test_wrong_batch(
    inputs: list[pl.ImageStack], tiling: pl.TiledPatching, tiles: Any, change: dict[str, Any], error: type[Exception]
) -> None:
    """A batch with anything wrong changes nothing."""
    writer = new_writer(inputs, tiling)
    good = pl.PatchExtractor(inputs).extract_batch(tiling[:2])

    with pytest.raises(error):
        writer.add(good if tiles is None else tiles, [tiling[0], tiling[1] | change])

    assert not writer.n_open_blocks
    add(writer, inputs, tiling, range(len(tiling)))
    for result, stack in zip(writer.finish(), inputs, strict=True):
        np.testing.assert_array_equal(result, stack.array)


def test_specs_of_patches(inputs: list[pl.ImageStack], tiling: pl.TiledPatching) -> None:
    """Specifications that are not those of tiles are refused."""
    plan = pl.RandomPatching([stack.data_shape for stack in inputs], (120, 100), seed=1)
    with pytest.raises(pl.SpecError, match="is not a tile of this tiling"):
        pl.TileWriter(inputs, tiling).add(pl.PatchExtractor(inputs).extract_batch(plan[:1]), [plan[0]])


def test_refused_early(tmp_path: Path) -> None:
    """What cannot be written is refused before a block is complete."""
    image = np.random.default_rng(0).random((100, 80), dtype=np.float32)
    np.save(tmp_path / "a.npy", image)
    stacks = pl.open_stacks(np.load(tmp_path / "a.npy", mmap_mode="r"), axes="YX")
    tiling = pl.TiledPatching([stacks[0].data_shape], patch_size=(64, 64), overlaps=(16, 16))
    with pytest.raises(pl.ArgumentError, match="pyramid is 'foo'"):
        pl.TileWriter(stacks, tiling, tmp_path / "out.ome.zarr", pyramid="foo")
    with pytest.raises(pl.SinkError, match="is the input"):
        pl.TileWriter(stacks, tiling, tmp_path / "a.npy", overwrite=True)
    writer = pl.TileWriter(stacks, tiling, tmp_path / "out.ome.tif")
    with pytest.raises(pl.SinkError, match="int64 cannot be stored"):
        writer.add(np.zeros((1, 1, 64, 64), np.int64), [tiling[0]])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]
