"""The extractor of one side reads the image stacks of the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
import tifffile
import zarr
from careamics.dataset.image_stack import FileImageStack, InMemoryImageStack, ZarrImageStack
from careamics.dataset.patch_extractor import PatchExtractor as TheirExtractor

import patchloom as ours
from patchloom.image_stacks import TiffStack, ZarrStack

KINDS = ["array", "tiff", "zarr"]
AXES_AND_SHAPES = [("YX", (70, 50)), ("SCYX", (2, 3, 70, 50)), ("CZYX", (2, 9, 40, 30)), ("TYX", (4, 33, 44))]


def write(kind: str, folder: Path, image: np.ndarray, axes: str) -> Path:
    path = folder / f"image.{'tif' if kind == 'tiff' else 'zarr'}"
    if kind == "tiff":
        tifffile.imwrite(path, image, photometric="minisblack")
    elif kind == "zarr":
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path / "image")}}
        chunks = ts.ChunkLayout(chunk_shape=[min(size, 16) for size in image.shape])
        ts.open(spec, create=True, dtype=image.dtype, shape=image.shape, chunk_layout=chunks).result()[...] = image
        (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    return path


def our_stack(kind: str, folder: Path, image: np.ndarray, axes: str):
    path = write(kind, folder, image, axes)
    if kind == "array":
        return ours.ArrayStack(image, axes)
    return TiffStack(path, axes) if kind == "tiff" else ZarrStack(path / "image", axes)


def their_stack(kind: str, folder: Path, image: np.ndarray, axes: str):
    path = write(kind, folder, image, axes)
    if kind == "array":
        return InMemoryImageStack.from_array(image, axes)
    if kind == "tiff":
        stack = FileImageStack.from_tiff(path, axes)
        stack.load()
        return stack
    return ZarrImageStack(zarr.open_group(path, mode="r"), "image", axes)


def places(shape: tuple[int, ...], rng: np.random.Generator) -> list[dict[str, object]]:
    """Return patches inside the image, across every border, and around the image."""
    size = tuple(min(12, side) for side in shape[2:])
    coords = [tuple(rng.integers(-5, side - 4, ()).item() for side in shape[2:]) for _ in range(30)]
    inside = [{"sample_idx": int(rng.integers(shape[0])), "coords": start, "patch_size": size} for start in coords]
    return [
        *inside,
        {"sample_idx": 0, "coords": (-3,) * len(size), "patch_size": tuple(side + 7 for side in shape[2:])},
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("axes", "shape"), AXES_AND_SHAPES)
class TestExtractors:
    def test_theirs_by_ours(self, kind, axes, shape, tmp_path, rng):
        """Our extractor reads their stacks."""
        image = rng.integers(0, 60_000, shape).astype("uint16")
        stack = their_stack(kind, tmp_path, image, axes)
        assert isinstance(stack, ours.ImageStack)
        ours_of_it = ours.PatchExtractor([stack])
        reference = ours.PatchExtractor([ours.ArrayStack(image, axes)])
        assert ours_of_it.shapes == reference.shapes
        for padding in ("constant", "reflect"):
            one, other = (ours.PatchExtractor(extractor.image_stacks, padding) for extractor in (ours_of_it, reference))
            for place in places(reference.shapes[0], rng):
                assert np.array_equal(one.extract_patch(0, **place), other.extract_patch(0, **place))

    def test_ours_by_theirs(self, kind, axes, shape, tmp_path, rng):
        """Their extractor reads our stacks."""
        image = rng.integers(0, 60_000, shape).astype("uint16")
        stack = our_stack(kind, tmp_path, image, axes)
        theirs = TheirExtractor([stack])
        reference = TheirExtractor([InMemoryImageStack.from_array(image, axes)])
        assert theirs.shapes[0] == tuple(reference.shapes[0])
        assert theirs.n_channels == reference.n_channels
        for place in places(stack.data_shape, rng):
            assert np.array_equal(theirs.extract_patch(0, **place), reference.extract_patch(0, **place))
        channels = [theirs.n_channels - 1]
        place = places(stack.data_shape, rng)[0]
        one, other = (
            extractor.extract_channel_patch(0, channels=channels, **place) for extractor in (theirs, reference)
        )
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_members(kind, tmp_path, rng):
    """Our stacks have the same axes, shapes and dtype as theirs."""
    image = rng.integers(0, 60_000, (4, 33, 44)).astype("uint16")
    (tmp_path / "ours").mkdir()
    (tmp_path / "theirs").mkdir()
    one = our_stack(kind, tmp_path / "ours", image, "TYX")
    other = their_stack(kind, tmp_path / "theirs", image, "TYX")
    for member in ("original_axes", "original_data_shape", "data_shape", "data_dtype"):
        assert getattr(one, member) == getattr(other, member), member


@pytest.mark.parametrize("kind", KINDS)
def test_source(kind, tmp_path, rng):
    """A stack of theirs is accepted as a source, and scored as ours is."""
    image = rng.integers(0, 60_000, (2, 33, 44)).astype("uint16")
    stacks = ours.open_stacks([their_stack(kind, tmp_path, image, "SYX")])
    (scores,) = ours.score_cells(stacks, (16, 16), [ours.MeanFilter()])
    (expected,) = ours.score_cells([ours.ArrayStack(image, "SYX")], (16, 16), [ours.MeanFilter()])
    assert np.allclose(scores.scores[0], expected.scores[0], rtol=1e-6)
