"""Seams of a known size are found with the stated probability; an image without seams has none."""

from __future__ import annotations

import numpy as np
import pytest

import patchloom as pl

TILING = pl.TiledPatching([(1, 1, 240, 300)], 64, 16)


def smooth(seed, size=(240, 300)):
    """Return an image like that of a microscope: smooth structures of standard deviation 1, and noise."""
    rng = np.random.default_rng(seed)
    y, x = (np.fft.fftfreq(side)[(slice(None), *[None] * (1 - axis))] for axis, side in enumerate(size))
    low_pass = np.exp(-2 * (np.pi * 4) ** 2 * (y**2 + x**2))  # a Gaussian of 4 voxels
    blurred = np.fft.ifft2(np.fft.fft2(rng.standard_normal(size)) * low_pass).real
    return blurred / blurred.std() + 0.05 * rng.standard_normal(size)


def with_seams(image, offset, rng):
    """Add a constant of its own to each tile's kept part, as a normalization per tile does."""
    seamed = image.copy()
    for tile in TILING:
        start, size = tile["stitch_coords"], tile["crop_size"]
        seamed[tuple(slice(a, a + b) for a, b in zip(start, size, strict=True))] += offset * rng.standard_normal()
    return seamed


def visibility(image):
    return pl.seam_visibility(image[np.newaxis, np.newaxis], TILING)


def test_no_seams_are_not_found():
    """Of 100 images without seams, at most 4 count as having visible ones; at 1 % each, 5 or more are 1 in 300."""
    found = sum(visibility(smooth(seed)).is_visible for seed in range(100))
    assert found <= 4


@pytest.mark.parametrize(("offset", "least"), [(0.15, 48), (0.1, 40)])
def test_power(offset, least):
    """Offsets of tiles of a tenth of the contrast are found in 80 % of images or more, of 0.15 in 96 %."""
    rng = np.random.default_rng(1)
    found = sum(visibility(with_seams(smooth(seed), offset, rng)).is_visible for seed in range(50))
    assert found >= least


def test_expected_value_is_that_of_images_without_seams():
    """The ratio of images without seams has the expected value and the spread that one of these images shows."""
    seen = [visibility(smooth(seed)) for seed in range(60)]
    ratios = np.array([one.ratio for one in seen])
    assert abs(ratios.mean() - np.mean([one.expected for one in seen])) < 3 * ratios.std() / np.sqrt(60)
    assert 0.6 < np.mean([one.spread for one in seen]) / ratios.std() < 1.6


def test_structures_on_the_grid_are_no_seams_of_tiles():
    """An image that jumps everywhere alike, as noise, has a ratio near 1 with a spread."""
    noise = np.random.default_rng(0).random((240, 300))
    found = visibility(noise)
    assert found.ratio == pytest.approx(1, abs=0.05)
    assert 0 < found.spread < 0.05
    assert not found.is_visible


def test_ratio_is_that_of_numpy():
    """The ratio is the mean jump at seams divided by the mean jump elsewhere, weighted by the number of seams."""
    image = smooth(0)
    seams = {0: set(), 1: set()}
    for tile in TILING:
        for axis in (0, 1):
            seams[axis].add(tile["stitch_coords"][axis])
    at, elsewhere = 0.0, 0.0
    for axis, size in enumerate(image.shape):
        jumps = np.abs(np.diff(image, axis=axis)).mean(1 - axis)
        lines = sorted(seams[axis] - {0})
        others = [place for place in range(1, size) if place not in lines]
        at += sum(jumps[place - 1] for place in lines)
        elsewhere += len(lines) * np.mean([jumps[place - 1] for place in others])
    assert visibility(image).ratio == pytest.approx(at / elsewhere)


def test_flat_image_and_one_tile():
    """Without jumps or seams there is no ratio, and nothing is visible."""
    flat = visibility(np.zeros((240, 300)))
    assert np.isnan(flat.ratio)
    assert not flat.is_visible
    single = pl.TiledPatching([(1, 1, 32, 32)], 32, 0)
    assert pl.seam_visibility(np.random.default_rng(0).random((1, 1, 32, 32)), single).n_seams == 0
