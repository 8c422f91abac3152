"""Maps of the difference between two grids: NumPy's own tiles give the same, and exact tilings give nothing."""

from __future__ import annotations

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import GeometryError

IMAGE = np.random.default_rng(5).random((100, 117), np.float32)


def blurred(batch, reach=10):
    """Return a mean over 2 × reach + 1 columns, with zeros outside of the tile."""
    padded = np.pad(batch, [(0, 0)] * (batch.ndim - 1) + [(reach, reach)])
    return sum(padded[..., at : at + batch.shape[-1]] for at in range(2 * reach + 1)) / (2 * reach + 1)


def cropped(starts, seams):
    """Stitch tiles of 40 columns at some starts by hand."""
    parts = [
        blurred(IMAGE[:, start : start + 40])[:, first - start : stop - start]
        for start, first, stop in zip(starts, [0, *seams], [*seams, IMAGE.shape[1]], strict=True)
    ]
    return np.concatenate(parts, axis=1)


def test_numpy_gives_the_same():
    """Tiles of 40 with overlaps of 12 begin at 0, 28, 56, 77, and in the second prediction at 0, 14, 42, 70, 77."""
    found = pl.seam_map(blurred, IMAGE, axes="YX", patch_size=(100, 40), overlaps=(0, 12))
    expected = np.abs(cropped([0, 28, 56, 77], [34, 62, 90]) - cropped([0, 14, 42, 70, 77], [27, 48, 76, 93]))
    assert found.shape == IMAGE.shape
    assert found.max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("blend", ["none", "hann", "mean"])
def test_exact_tilings_differ_by_rounding(blend):
    """With a halo of the reach, both grids give the same, cropped and blended."""
    found = pl.seam_map(blurred, IMAGE, axes="YX", patch_size=50, overlaps=20, halo=10, blend=blend)
    assert found.max() < 1e-6


def test_slices_channels_and_sizes():
    """Outputs with channels, of other sizes, of a 2D model on a stack have their own maps, with the axes of the result."""

    def model(batch):
        centered = batch - batch.mean(axis=(2, 3), keepdims=True)
        return {"two": np.concatenate([batch, centered], axis=1), "small": batch[..., ::2, ::2]}

    stack = np.stack([IMAGE, IMAGE[::-1]])
    found = pl.seam_map(model, stack, axes="ZYX", patch_size=(40, 40))
    result = pl.predict(model, stack, axes="ZYX", patch_size=(40, 40), progress=False)
    assert {name: array.shape for name, array in found.items()} == {name: array.shape for name, array in result.items()}
    assert found["small"].max() == 0
    channels = found["two"].max(axis=tuple(axis for axis, size in enumerate(found["two"].shape) if size > 2))
    assert (np.sort(channels.reshape(-1)) > 0).sum() == 2  # of both slices, the second channel


def test_labels_are_1_where_they_differ():
    """Of labels, the map contains 0 and 1."""

    def model(batch):
        centered = batch - batch.mean(axis=(2, 3), keepdims=True)
        return np.concatenate([centered, -centered], axis=1)

    found = pl.seam_map(model, IMAGE, axes="YX", patch_size=16, overlaps=0, postprocess="argmax")
    assert set(np.unique(found)) == {0, 1}


def test_one_tile_is_refused():
    """An image that one tile covers has nothing to shift."""
    with pytest.raises(GeometryError, match="one tile covers the image"):
        pl.seam_map(blurred, IMAGE, axes="YX", patch_size=128)
