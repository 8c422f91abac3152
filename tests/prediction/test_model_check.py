"""A check of a model finds tiles that differ from the whole image, and outputs that differ from the expected ones."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import patchloom as pl
from patchloom.errors import ArgumentError, ModelError, ModelOutputError
from patchloom.prediction.models.expected_outputs import ExpectedOutputs


def blurred(batch: np.ndarray, reach: int = 2) -> np.ndarray:
    """Average over a square, or a cube, of voxels; outside the tile there are zeros."""
    sums = batch.astype(np.float64)
    for axis in range(2, batch.ndim):
        padded = np.pad(sums, [(reach, reach) if other == axis else (0, 0) for other in range(batch.ndim)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=axis)
        sums = windows.mean(axis=-1)
    return sums.astype(np.float32)


class Described:
    """A model with a description."""

    def __init__(self, call: Callable[..., Any], **described: Any) -> None:
        self.call = call
        self.description = pl.ModelDescription(**described)

    def __call__(self, batch: np.ndarray) -> Any:
        return self.call(batch)


def takes_multiples_of_8(batch: np.ndarray) -> np.ndarray:
    assert all(size % 8 == 0 for size in batch.shape[2:])
    return blurred(batch)


@pytest.mark.parametrize(
    "model",
    [
        blurred,
        lambda batch: batch[..., 3:-3, 2:-2],
        lambda batch: batch.repeat(2, -1).repeat(2, -2),
        lambda batch: {"a": blurred(batch), "b": batch},
        Described(takes_multiples_of_8, min_size=(16, 16), size_step=(8, 8), overlaps=(4, 4), origin_multiple=(8, 8)),
        Described(blurred, n_dims=3, in_channels=2, overlaps=(4, 4, 4)),
        Described(lambda batch: blurred(batch)[..., 2:-2, 2:-2], overlaps=(4, 4), min_size=(20, 20), size_step=(8, 8)),
        Described(lambda batch: batch - 0.5, normalize="mean_std"),
        Described(lambda batch: batch[..., ::2, ::2], scale=(Fraction(1, 2),) * 2, overlaps=(8, 8)),
        np.invert,  # takes whole numbers only
    ],
    ids=[
        "blur",
        "margin",
        "enlarging",
        "two outputs",
        "rule",
        "3D",
        "rule and margin",
        "normalized",
        "reducing",
        "uint8",
    ],
)
def test_tiles(model: Any) -> None:
    """Tiles of a model whose overlap suffices are equal to the whole image."""
    found = pl.check_model(model)
    assert found.passed, str(found)
    assert found.tiled
    assert all(tile < side for tile, side in zip(found.patch_size, found.image_size, strict=True))


@pytest.mark.parametrize(
    "model",
    [
        Described(blurred, overlaps=(3, 4)),
        lambda batch: batch / batch.max(axis=(2, 3), keepdims=True),
        lambda batch: batch + np.arange(batch.shape[-1]),
    ],
    ids=["overlap", "whole tile", "position"],
)
def test_different_tiles(model: Any) -> None:
    """A model that depends on more of a tile than its overlap fails."""
    found = pl.check_model(model)
    assert not found.passed
    assert "depends on more of a tile than its overlap of" in str(found)


def test_overlap_is_named() -> None:
    """The overlap that was used is in the result."""
    found = pl.check_model(blurred, overlaps=0, patch_size=32)
    assert (found.passed, found.overlaps, found.patch_size) == (False, (0, 0), (32, 32))
    assert pl.check_model(blurred, overlaps=4, patch_size=32).passed


def test_own_image(rng: np.random.Generator) -> None:
    """An image can be given, in its own axes."""
    image = rng.random((3, 61, 97))
    found = pl.check_model(blurred, image, axes="CYX", patch_size=32, overlaps=4)
    assert (found.passed, found.image_size, found.tiled[0].n_voxels) == (True, (61, 97), image.size)


def test_tolerance() -> None:
    """A difference within the tolerance passes, and some voxels may be mismatched."""
    expected = np.full((1, 1, 10, 100), 2.0)
    found = expected.copy()
    found[0, 0, 0, 0] += 0.5
    assert not pl.Tolerance().compare("", found, expected).passed
    assert pl.Tolerance(absolute=0.5, relative=0).compare("", found, expected).passed
    assert pl.Tolerance(relative=0.25, absolute=0).compare("", found, expected).passed
    assert pl.Tolerance(mismatched_per_million=1000).compare("", found, expected).passed
    assert not pl.Tolerance(mismatched_per_million=999).compare("", found, expected).passed


def test_nan() -> None:
    """NaN is equal to NaN and to nothing else."""
    values = np.array([[[[np.nan, 1.0]]]])
    assert pl.Tolerance().compare("", values, values).passed
    difference = pl.Tolerance().compare("", values, np.ones_like(values))
    assert (difference.passed, difference.largest) == (False, np.inf)


class WithTest:
    """A model that comes with a test image."""

    def __init__(self, image: np.ndarray, expected: np.ndarray, **described: Any) -> None:
        self.known = ExpectedOutputs(image, {"": expected}, pl.Tolerance())
        self.description = pl.ModelDescription(**described)

    def expected_outputs(self) -> ExpectedOutputs:
        return self.known

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return batch * 2


def test_expected_outputs(rng: np.random.Generator) -> None:
    """The whole test image is compared with the expected output, normalized by its own statistics."""
    image = rng.normal(30, 5, (2, 1, 40, 48)).astype(np.float32)
    means, stds = (statistic(image.astype(float), axis=(1, 2, 3), keepdims=True) for statistic in (np.mean, np.std))
    model = WithTest(image, 2 * (image - means) / stds, normalize="mean_std/sample")
    found = pl.check_model(model)
    assert found.passed, str(found)
    assert found.expected[0].n_voxels == image.size
    wrong = pl.check_model(WithTest(image, 2 * image, normalize="mean_std/sample"))
    assert (wrong.passed, wrong.expected[0].passed, wrong.tiled[0].passed) == (False, False, True)
    assert "does not return the expected outputs" in str(wrong)


def test_cut_expected_output() -> None:
    """An expected output without the halo is compared with the middle."""
    image = np.arange(1200.0).reshape(1, 1, 30, 40)
    found = pl.check_model(WithTest(image, 2 * image[..., 4:-4, 4:-4]))
    assert (found.passed, found.expected[0].n_voxels) == (True, 22 * 32)
    with pytest.raises(ModelOutputError, match="one must lie in the middle of the other one"):
        pl.check_model(WithTest(image, image[..., 1:]))
    with pytest.raises(ModelOutputError, match="they must have the same samples and channels"):
        pl.check_model(WithTest(image, image.repeat(2, 1)))


def test_one_size() -> None:
    """Tiles of a model that accepts one size are not compared, which is said."""
    found = pl.check_model(Described(blurred, patch_size=(32, 32)))
    assert found.passed
    assert "tiles are not compared with the whole image" in str(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": np.zeros((8, 8))}, "image and axes belong together"),
        ({"tolerance": 0.1}, "tolerance is 0.1: give a Tolerance"),
        ({"patch_size": 0}, "patch_size"),
    ],
)
def test_refusals(arguments: dict[str, Any], message: str) -> None:
    """Wrong arguments are refused."""
    with pytest.raises(ArgumentError, match=message):
        pl.check_model(blurred, **arguments)


def test_failing_model() -> None:
    """A model that fails is an error."""

    def fails(batch: np.ndarray) -> None:
        raise RuntimeError("no memory")

    with pytest.raises(ModelError, match="no memory"):
        pl.check_model(fails)
