"""Lateral context: as if the whole image were padded first, at every position, whatever the padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, NotIntegerError, SpecError
from patchloom.extraction import PatchExtractor, extract_lateral_context
from patchloom.extraction.downscaling import halve_by_numpy, halve_sums, resize, sum_dtype
from patchloom.extraction.lateral_context import check_context_fits, context_windows, fill_scales
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ArrayStack
from patchloom.patching import RandomPatching, TiledPatching, UncorrelatedPatching
from patchloom.specs.patch_specs import PatchSpecs
from patchloom.specs.spec_table import SpecTable

PADDINGS: list[Padding] = ["constant", "reflect", "edge", "wrap"]


def window_of_padded(
    sample: np.ndarray,
    coords: Sequence[int],
    size: Sequence[int],
    scale: int,
    padding: Padding,
    *,
    scale_z: bool = True,
) -> tuple[np.ndarray, list[int]]:
    """Pad the whole image far enough, and cut the window of a scale out of it; with how much smaller it has to become."""
    factors = [2**scale if scale_z or axis >= len(size) - 2 else 1 for axis in range(len(size))]
    covered = [side * factor for side, factor in zip(size, factors, strict=True)]
    starts = [at + side // 2 - whole // 2 for at, side, whole in zip(coords, size, covered, strict=True)]
    margins = [
        max(-start, start + whole - limit, 0)
        for start, whole, limit in zip(starts, covered, sample.shape[1:], strict=True)
    ]
    padded = np.pad(sample, [(0, 0), *((margin, margin) for margin in margins)], mode=padding)
    cut = [
        slice(start + margin, start + margin + whole)
        for start, margin, whole in zip(starts, margins, covered, strict=True)
    ]
    return padded[(slice(None), *cut)], factors


def block_mean(window: np.ndarray, factors: Sequence[int]) -> np.ndarray:
    blocks = [n for side, factor in zip(window.shape[1:], factors, strict=True) for n in (side // factor, factor)]
    means = window.astype(np.float64).reshape(len(window), *blocks)
    return means.mean(axis=tuple(range(2, means.ndim, 2))).astype(np.float32)


def expected_mean(
    sample: np.ndarray, spec: PatchSpecs, n_scales: int, padding: Padding, *, scale_z: bool = True
) -> np.ndarray:
    windows = (
        window_of_padded(sample, spec["coords"], spec["patch_size"], scale, padding, scale_z=scale_z)
        for scale in range(n_scales)
    )
    return np.stack([block_mean(*window) for window in windows], axis=1)


def stack(data: np.ndarray) -> ArrayStack:
    return ArrayStack(data, axes="SCYX" if data.ndim == 4 else "SCZYX")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(4, 6), (5, 3)])
def test_every_position(padding: Padding, size: tuple[int, int], rng: np.random.Generator) -> None:
    """Scales are those of the padded image at every position, outside it too."""
    image = rng.integers(0, 2**16, (1, 2, 21, 24), np.uint16)
    extractor = PatchExtractor([stack(image)], padding)
    specs: list[PatchSpecs] = [
        {"data_idx": 0, "sample_idx": 0, "coords": (y, x), "patch_size": size}
        for y in range(-2, 21)
        for x in range(-2, 24)
    ]
    patches = extract_lateral_context(extractor, specs, n_scales=3)
    assert patches.dtype == np.float32
    for patch, spec in zip(patches, specs, strict=True):
        assert np.array_equal(patch, expected_mean(image[0], spec, 3, padding)), spec


@settings(deadline=None, max_examples=60)
@given(data=st.data(), n_dims=st.integers(2, 3), padding=st.sampled_from(PADDINGS), scale_z=st.booleans())
def test_any_geometry(data: st.DataObject, n_dims: int, padding: Padding, scale_z: bool) -> None:
    """Scales are those of the padded image for any sizes and number of scales."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(["u1", "i2", "u4", "f4", "i8", "?"]))
    bits = rng.integers(0, 100, (2, 2, *rng.integers(1, 9, n_dims)))
    image = (bits > 50 if dtype == "?" else bits).astype(dtype)
    size = tuple(rng.integers(1, 6, n_dims).tolist())
    n_scales = data.draw(st.integers(1, 4 if n_dims == 2 else 3))
    coords = tuple(rng.integers(-9, 10, n_dims).tolist())
    spec: PatchSpecs = {"data_idx": 0, "sample_idx": 1, "coords": coords, "patch_size": size}
    patch = extract_lateral_context(PatchExtractor([stack(image)], padding), [spec], n_scales, scale_z=scale_z)[0]
    expected = expected_mean(image[1], spec, n_scales, padding, scale_z=scale_z)
    if dtype == "f4":
        np.testing.assert_allclose(patch, expected, rtol=1e-6, atol=1e-4)
    else:
        assert np.array_equal(patch, expected), "the mean of integers is exact"


def test_uncorrelated(rng: np.random.Generator) -> None:
    """Each channel of an uncorrelated patch has the surroundings of its own position."""
    images = [rng.integers(0, 255, (2, 3, 40, 50), np.uint8), rng.integers(0, 255, (1, 3, 30, 44), np.uint8)]
    extractor = PatchExtractor([stack(image) for image in images], "reflect")
    plan = UncorrelatedPatching(RandomPatching(extractor.shapes, (8, 8), seed=1), n_channels=3, probability=0.5)
    patches = extract_lateral_context(extractor, plan[:], n_scales=3)
    for patch, spec in zip(patches, plan, strict=True):
        places = zip(spec["all_data_idx"], spec["all_sample_idx"], spec["all_coords"], strict=True)
        for channel, (data_idx, sample_idx, coords) in enumerate(places):
            own: PatchSpecs = {"data_idx": data_idx, "sample_idx": sample_idx, "coords": coords, "patch_size": (8, 8)}
            expected = expected_mean(images[data_idx][sample_idx], own, 3, "reflect")
            assert np.array_equal(patch[channel], expected[channel])


def test_tiles(rng: np.random.Generator) -> None:
    """Tiles have lateral context as patches do."""
    extractor = PatchExtractor([stack(rng.integers(0, 255, (1, 1, 30, 31), np.uint8))], "wrap")
    tiling = TiledPatching(extractor.shapes, (8, 8), (2, 2))
    patches = extract_lateral_context(extractor, tiling[:], n_scales=2)
    assert np.array_equal(patches[:, :, 0], extractor.extract_batch(tiling[:]))
    assert set(context_windows(tiling[:], 2).columns) == {"data_idx", "sample_idx", "coords", "patch_size"}


@pytest.mark.parametrize(("max_bytes", "n_reads"), [(1, 20), (4 * 2048, 5), (10 * 2048 - 1, 3), (1 << 20, 1)])
def test_windows_in_portions(max_bytes: int, n_reads: int, rng: np.random.Generator) -> None:
    """Each window is read once, as many at a time as memory is given for, and the result is the same."""
    extractor = PatchExtractor([stack(rng.integers(0, 255, (1, 2, 64, 64), np.uint8))], "reflect")
    table = RandomPatching(extractor.shapes, (8, 8), n_patches=20)[:]
    expected = extract_lateral_context(extractor, table, 3)
    windows, out = extractor.locate(context_windows(table, 3)), np.empty_like(expected)

    with mock.patch.object(extractor, "extract_located", wraps=extractor.extract_located) as read:
        fill_scales(extractor, windows, out, max_bytes=max_bytes)

    assert np.array_equal(out, expected)
    assert read.call_count == n_reads
    assert sum(call.args[0].n_patches for call in read.call_args_list) == 20


@pytest.mark.parametrize(
    ("shape", "size", "n_scales"), [((1, 2, 60, 70), (16, 12), 3), ((1, 1, 12, 24, 30), (4, 8, 6), 2)]
)
@pytest.mark.parametrize("padding", PADDINGS)
def test_resize(
    shape: tuple[int, ...], size: tuple[int, ...], n_scales: int, padding: Padding, rng: np.random.Generator
) -> None:
    """Resized scales are those of scikit-image."""
    transform = pytest.importorskip("skimage.transform")
    image = rng.poisson(40, shape).astype(np.float32)
    extractor = PatchExtractor([stack(image)], padding)
    for spec in RandomPatching(extractor.shapes, size, n_patches=12, seed=4):
        patch = extract_lateral_context(extractor, [spec], n_scales, downscale="resize")[0]
        for scale in range(n_scales):
            window, _ = window_of_padded(image[0], spec["coords"], size, scale, padding)
            expected = transform.resize(window, (len(window), *size))
            np.testing.assert_allclose(patch[:, scale], expected, rtol=2e-6, atol=1e-5)


@pytest.mark.parametrize(("size", "factor"), [(2, 2), (8, 2), (8, 8), (24, 4), (160, 32)])
def test_resized_axis(size: int, factor: int, rng: np.random.Generator) -> None:
    """A single resized axis is that of scikit-image."""
    transform = pytest.importorskip("skimage.transform")
    image = rng.normal(size=(3, size, 2)).astype(np.float32)
    expected = transform.resize(image, (3, size // factor, 2))
    np.testing.assert_allclose(resize(image, (factor, 1)), expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "i4", "f4", "f8", "u8"])
@pytest.mark.parametrize("halve_z", [True, False])
def test_compiled_sums(dtype: str, halve_z: bool, rng: np.random.Generator) -> None:
    """The compiled loop sums blocks as NumPy does, bit for bit."""
    pytest.importorskip("numba")
    voxels = (rng.random((2, 4, 6, 10)) * 200).astype(dtype)
    sums = halve_sums(voxels, halve_z=halve_z, min_voxels=0)
    expected = np.empty(sums.shape, sum_dtype(voxels.dtype))
    halve_by_numpy(voxels, expected, 1 + halve_z)
    assert sums.dtype == expected.dtype
    assert sums.tobytes() == expected.tobytes()


def test_sums_fit() -> None:
    """Sums of the brightest voxels of 16 bits do not overflow."""
    brightest = np.full((1, 1, 256, 256), 2**16 - 1, np.uint16)
    patch = extract_lateral_context(
        PatchExtractor([stack(brightest)]),
        [{"data_idx": 0, "sample_idx": 0, "coords": (126, 126), "patch_size": (4, 4)}],
        n_scales=7,
    )
    assert (patch == 2**16 - 1).all()


def test_out(rng: np.random.Generator) -> None:
    """A given array is filled and returned."""
    extractor = PatchExtractor([stack(rng.random((1, 2, 40, 40)))])
    table = RandomPatching(extractor.shapes, (8, 8), n_patches=3)[:]
    out = np.full((3, 2, 2, 8, 8), np.nan)
    assert extract_lateral_context(extractor, table, 2, out=out) is out
    np.testing.assert_allclose(out, extract_lateral_context(extractor, table, 2), rtol=1e-6)
    with pytest.raises(GeometryError, match=r"the batch has shape \(3, 2, 3, 8, 8\)"):
        extract_lateral_context(extractor, table, 3, out=out)
    with pytest.raises(GeometryError, match="out is int64"):
        extract_lateral_context(extractor, table, 2, out=out.astype(np.int64))


def test_wrong_arguments(rng: np.random.Generator) -> None:
    """Wrong arguments are refused."""
    extractor = PatchExtractor([stack(rng.random((1, 2, 40, 40)))])
    table = SpecTable.from_specs([{"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)}])
    with pytest.raises(GeometryError, match="n_scales is 0: it must be from 1, the patch alone, to 16"):
        extract_lateral_context(extractor, table, 0)
    with pytest.raises(NotIntegerError, match=r"n_scales is 2\.0"):
        extract_lateral_context(extractor, table, 2.0)  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="downscale is 'median': it must be one of 'mean', 'resize'"):
        extract_lateral_context(extractor, table, 2, downscale="median")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"patch_size": (0, 8)},
        {"patch_size": (8, 8, 8), "coords": (0, 0, 0)},
        {"patch_size": (2**40, 2**40)},
        {"data_idx": 1},
    ],
    ids=str,
)
def test_wrong_specs(change: Any, rng: np.random.Generator) -> None:
    """Specifications that point outside the series are refused."""
    extractor = PatchExtractor([stack(rng.random((1, 2, 40, 40)))])
    spec = {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (8, 8)} | change
    with pytest.raises((SpecError, GeometryError)):
        extract_lateral_context(extractor, [spec], n_scales=2)  # type: ignore[list-item]
    with pytest.raises((SpecError, GeometryError)):
        extractor.extract_batch([spec])  # type: ignore[list-item]


def test_context_too_large() -> None:
    """Context larger than an image is refused, with the number of scales that fit."""
    shapes = [(1, 1, 16, 128, 128), (2, 1, 9, 70, 128)]
    check_context_fits(shapes, (16, 32, 32), 1)
    check_context_fits(shapes, (4, 32, 32), 2)
    with pytest.raises(
        GeometryError, match=r"scale 2 covers 128 voxels along Y, but image stack 1 has 70.* at most 2 scales"
    ):
        check_context_fits(shapes, (2, 32, 32), 3)
    with pytest.raises(GeometryError, match=r"along Z.* take at most 1 scale, or a smaller patch, or scale_z=False"):
        check_context_fits(shapes, (8, 32, 32), 2)
    check_context_fits(shapes, (8, 32, 32), 2, scale_z=False)


@pytest.mark.parametrize("downscale", ["mean", "resize"])
def test_wrong_out(downscale: Any, rng: np.random.Generator) -> None:
    """An array that cannot be filled is refused before anything is read."""
    image = rng.random((1, 1, 40, 40))
    extractor = PatchExtractor([ArrayStack(image, "SCYX")], "reflect")
    before, shape = image.copy(), (2, 1, 2, 8, 8)
    table = RandomPatching([image.shape], (8, 8), seed=1, n_patches=2)[:]
    read_only = np.zeros(shape)
    read_only.flags.writeable = False
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(400), shape, (64, 64, 64, 64, 8))
    of_the_image = image.reshape(-1)[:256].reshape(shape)
    for out in (read_only, overlapping, of_the_image, np.zeros(shape, object), np.zeros(shape, "M8[s]"), [0.0], "out"):
        with pytest.raises(GeometryError, match="out"):
            extract_lateral_context(extractor, table, 2, downscale=downscale, out=out)  # type: ignore[arg-type]
    assert np.array_equal(image, before)
    assert not read_only.any()
    assert not overlapping.any()
