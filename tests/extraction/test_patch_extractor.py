"""Extraction: every patch is what numpy.pad of the whole image would give, bit for bit, by every way to ask."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, SourceError, SpecError
from patchloom.extraction import ChunkCache, PatchExtractor
from patchloom.extraction.rescaling import Rescaling
from patchloom.geometry.padding import Padding
from patchloom.image_stacks import ArrayStack, Region, open_stacks
from patchloom.specs.patch_specs import PatchSpecs

PADDINGS: list[Padding] = ["constant", "reflect", "edge", "wrap"]


def padded_patch(
    data: np.ndarray, sample: int, coords: Sequence[int], size: Sequence[int], padding: Padding
) -> np.ndarray:
    """What NumPy gives: the whole image padded until the window lies inside, then the window."""
    before = [max(-start, 0) for start in coords]
    after = [max(start + extent - limit, 0) for start, extent, limit in zip(coords, size, data.shape[2:], strict=True)]
    whole = np.pad(data[sample], [(0, 0), *zip(before, after, strict=True)], mode=padding)
    window = [slice(start + pad, start + pad + n) for start, pad, n in zip(coords, before, size, strict=True)]
    return whole[(slice(None), *window)]


def stack(data: np.ndarray) -> ArrayStack:
    return ArrayStack(data, axes="SCYX" if data.ndim == 4 else "SCZYX")


class OneByOne:
    """A stack that has only what the protocol asks for, as another library's has."""

    def __init__(self, data: np.ndarray) -> None:
        self._whole = stack(data)
        self.source = self._whole.source
        self.data_shape = self._whole.data_shape
        self.data_dtype = self._whole.data_dtype
        self.original_axes = self._whole.original_axes
        self.original_data_shape = self._whole.original_data_shape

    def extract_patch(
        self, sample_idx: int, channels: Sequence[int] | None, coords: Sequence[int], patch_size: Sequence[int]
    ) -> np.ndarray:
        assert all(
            0 <= start < start + size <= limit
            for start, size, limit in zip(coords, patch_size, self.data_shape[2:], strict=True)
        ), "the extractor pads: a stack is never asked for what it does not have"
        return self._whole.extract_patch(sample_idx, channels, coords, patch_size)


@settings(deadline=None, max_examples=150)
@given(data=st.data(), n_dims=st.integers(2, 3), padding=st.sampled_from(PADDINGS), seed=st.integers(0, 2**32))
def test_padding(data: st.DataObject, n_dims: int, padding: Padding, seed: int) -> None:
    """Padding equals that of NumPy for the whole image, at any position."""
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 3), *[st.integers(1, 7)] * n_dims))
    size = data.draw(st.tuples(*[st.integers(1, 12)] * n_dims))
    coords = data.draw(st.tuples(*[st.integers(-20, 20)] * n_dims))
    sample = data.draw(st.integers(0, shape[0] - 1))
    image = np.random.default_rng(seed).integers(0, 2**16, shape, np.uint16)
    expected = padded_patch(image, sample, coords, size, padding)
    for source in (stack(image), OneByOne(image)):
        patch = PatchExtractor([source], padding).extract_patch(0, sample, coords, size)
        assert patch.dtype == image.dtype
        assert np.array_equal(patch, expected)


@pytest.mark.parametrize("padding", PADDINGS)
def test_every_position(padding: Padding, rng: np.random.Generator) -> None:
    """Padding is right at every position around a small image."""
    image = rng.integers(0, 255, (1, 1, 5, 4), np.uint8)
    extractor = PatchExtractor([stack(image)], padding)
    for y in range(-9, 10):
        for x in range(-9, 10):
            expected = padded_patch(image, 0, (y, x), (3, 7), padding)
            assert np.array_equal(extractor.extract_patch(0, 0, (y, x), (3, 7)), expected), (y, x)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i8", "f4", "f8", "?"])
def test_dtype(dtype: str, rng: np.random.Generator) -> None:
    """Pixels keep the dtype of the source, bit for bit."""
    bits = rng.integers(0, 256, (1, 2, 9, 8 * np.dtype(dtype).itemsize), np.uint8)
    image = bits > 127 if dtype == "?" else bits.view(dtype)
    patch = PatchExtractor([stack(image)], "wrap").extract_patch(0, 0, (-2, 3), (9, 8))
    assert patch.dtype == image.dtype
    assert patch.tobytes() == np.roll(np.roll(image[0], 2, axis=1), -3, axis=2).tobytes()


def series(rng: np.random.Generator) -> list[np.ndarray]:
    return [rng.integers(0, 2**16, (2, 3, 20, 17), np.uint16), rng.integers(0, 2**16, (1, 3, 9, 30), np.uint16)]


def random_specs(rng: np.random.Generator, images: list[np.ndarray], n: int) -> list[PatchSpecs]:
    def spec() -> PatchSpecs:
        data_idx = int(rng.integers(len(images)))
        coords = tuple(int(rng.integers(-6, limit + 2)) for limit in images[data_idx].shape[2:])
        sample_idx = int(rng.integers(len(images[data_idx])))
        return {"data_idx": data_idx, "sample_idx": sample_idx, "coords": coords, "patch_size": (8, 6)}

    return [spec() for _ in range(n)]


@pytest.mark.parametrize("padding", PADDINGS)
def test_batch_and_single_patches(padding: Padding, rng: np.random.Generator) -> None:
    """A batch contains the patches that are read singly."""
    images = series(rng)
    extractor = PatchExtractor([stack(images[0]), OneByOne(images[1])], padding)
    specs = random_specs(rng, images, 40)
    batch = extractor.extract_batch(specs)
    assert batch.dtype == np.uint16
    assert np.array_equal(batch, [extractor.extract(spec) for spec in specs])
    again = extractor.extract_batch(specs, out=np.full(batch.shape, 7, np.float32))
    assert again.dtype == np.float32
    assert np.array_equal(again, batch)


def test_scale_and_offset(rng: np.random.Generator) -> None:
    """Scale and offset are applied to every voxel, padding included."""
    images = series(rng)
    extractor = PatchExtractor([stack(image) for image in images])
    specs = random_specs(rng, images, 10)
    raw = extractor.extract_batch(specs).astype(np.float32)
    scale, offset = np.array([2.0, 0.5, 3.0], np.float32), np.array([1.0, -1.0, 0.25], np.float32)
    expected = raw * scale[:, None, None] + offset[:, None, None]
    batch = extractor.extract_batch(specs, scale=scale.tolist(), offset=offset.tolist())
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, expected)
    np.testing.assert_array_equal(extractor.extract_batch(specs, scale=2.0), raw * 2)


class Stored(ArrayStack):
    """An image in chunks, which has to be read."""

    chunk_shape = shard_shape = (1, 1, 16, 16)
    pixels = None


@pytest.mark.parametrize("kind", [ArrayStack, Stored])
@pytest.mark.parametrize("offsets", [[0.5, -3.0], [0.5, -4000.0], [-1e6, -4000.0]])
@pytest.mark.parametrize("dtypes", [("u2", "u2"), ("u4", "i2"), ("f8", "u8")])
def test_numbers_of_each_patch(
    kind: type[ArrayStack], offsets: list[float], dtypes: tuple[str, str], rng: np.random.Generator
) -> None:
    """Each patch is rescaled by its own numbers, to the bits that it has when it is read alone."""
    images = [image.astype(dtype) for image, dtype in zip(series(rng), dtypes, strict=True)]
    specs = random_specs(rng, images, 30)
    scale, offset = rng.uniform(0.5, 2, (30, 3)), rng.choice(offsets, (30, 3))
    with ChunkCache() as cache:
        extractor = PatchExtractor([kind(image, "SCYX") for image in images], "reflect", cache=cache)
        batch = extractor.extract_batch(specs, scale=scale, offset=offset)
        alone = [
            extractor.extract_batch([spec], scale=numbers[0], offset=numbers[1])[0]
            for spec, numbers in zip(specs, zip(scale, offset, strict=True), strict=True)
        ]
        assert batch.dtype == np.float32
        assert np.array_equal(batch, alone)
        raw = extractor.extract_batch(specs, dtype=np.float64)
    expected = raw * scale[:, :, None, None] + offset[:, :, None, None]
    np.testing.assert_allclose(batch, expected, rtol=1e-6, atol=1e-2)


def test_half_floats_are_rescaled_from_the_source(rng: np.random.Generator) -> None:
    """A float16 batch is computed from the pixels themselves, which float16 does not hold."""
    image = rng.integers(60_000, 2**16, (1, 1, 9, 9), np.uint16)

    batch = PatchExtractor([stack(image)]).extract_batch([SPEC], dtype=np.float16, scale=1 / 1000, offset=-60)

    np.testing.assert_allclose(batch[0], image[0, :, :4, :4] / 1000 - 60, rtol=1e-3, atol=1e-3)


def test_a_scale_of_zero(rng: np.random.Generator) -> None:
    """A scale of 0 gives the offset, however large."""
    extractor = PatchExtractor([stack(rng.random((1, 1, 9, 9)))])
    assert (extractor.extract_batch([SPEC], scale=0, offset=1e6) == 1e6).all()


def test_uncorrelated(rng: np.random.Generator) -> None:
    """Each channel of an uncorrelated patch is read at its own position."""
    images = series(rng)
    extractor = PatchExtractor([stack(image) for image in images], "reflect")
    drawn = [random_specs(rng, images, 3) for _ in range(5)]
    specs: list[Any] = [
        places[1]
        | {
            "principal_channel": 1,
            "all_data_idx": tuple(place["data_idx"] for place in places),
            "all_sample_idx": tuple(place["sample_idx"] for place in places),
            "all_coords": tuple(place["coords"] for place in places),
        }
        for places in drawn
    ]
    expected = [[extractor.extract(place)[channel] for channel, place in enumerate(places)] for places in drawn]
    assert np.array_equal(extractor.extract_batch(specs), expected)
    assert np.array_equal(extractor.extract(specs[0]), expected[0])


@pytest.mark.parametrize("uncorrelated", [False, True])
def test_located_batches(uncorrelated: bool, rng: np.random.Generator) -> None:
    """Patches that were located together can be read in batches."""
    images = series(rng)
    extractor = PatchExtractor([stack(image) for image in images], "reflect")
    specs = random_specs(rng, images, 23)
    if uncorrelated:
        specs = [
            spec
            | {
                "principal_channel": 0,
                "all_data_idx": tuple(other["data_idx"] for other in others),
                "all_sample_idx": tuple(other["sample_idx"] for other in others),
                "all_coords": tuple(other["coords"] for other in others),
            }
            for spec, others in zip(specs, (rng.permutation(specs)[: extractor.n_channels] for _ in specs), strict=True)
        ]
    whole = extractor.extract_batch(specs, dtype=np.float32, scale=[1, 2, 3], offset=0.5)

    located = extractor.locate(specs)

    assert located.n_patches == 23
    for start, stop in ((0, 23), (5, 12), (12, 13), (7, 7)):
        out = np.empty((stop - start, *whole.shape[1:]), np.float32)
        extractor.extract_located(located.of_patches(start, stop), out, Rescaling.of([1, 2, 3], [0.5] * 3))
        assert np.array_equal(out, whole[start:stop])


def test_copy(rng: np.random.Generator) -> None:
    """A patch is a copy: writing to it does not change the source."""
    image = rng.integers(0, 255, (1, 1, 8, 8), np.uint8)
    before = image.copy()
    for coords in [(0, 0), (-1, 2)]:
        PatchExtractor([stack(image)], "edge").extract_patch(0, 0, coords, (8, 8))[...] = 0
    assert np.array_equal(image, before)


def test_pickle(rng: np.random.Generator) -> None:
    """A pickled extractor reads the same patches."""
    images = series(rng)
    extractor = PatchExtractor([stack(image) for image in images], "wrap")
    copied = pickle.loads(pickle.dumps(extractor))
    specs = random_specs(rng, images, 5)
    assert np.array_equal(copied.extract_batch(specs), extractor.extract_batch(specs))
    assert copied.shapes == [image.shape for image in images]


def test_source_error(rng: np.random.Generator) -> None:
    """An error of the source is raised."""

    class Broken(ArrayStack):
        def read_regions(self, regions: Sequence[Region], out: Sequence[np.ndarray]) -> None:
            raise SourceError("disk.tif: gone")

    with pytest.raises(SourceError, match="gone"):
        PatchExtractor([Broken(rng.random((4, 4)), axes="YX")]).extract_patch(0, 0, (0, 0), (2, 2))


SPEC: PatchSpecs = {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (4, 4)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data_idx": 2}, "data_idx is 2, but the series has 2 image stacks"),
        ({"data_idx": -1}, "data_idx is -1"),
        ({"sample_idx": 2}, "sample_idx is 2, but image stack 0 has 2 samples"),
        ({"coords": (0, 0, 0), "patch_size": (4, 4, 4)}, "specifications are 3D, but the series is 2D"),
        ({"coords": (0, 0, 0)}, r"patch_size has shape \(1, 2\): it must have shape \(1, 3\)"),
    ],
)
def test_wrong_specs(change: Any, message: str, rng: np.random.Generator) -> None:
    """Specifications that point outside the series are refused."""
    extractor = PatchExtractor([stack(image) for image in series(rng)])
    with pytest.raises(SpecError, match=message):
        extractor.extract(SPEC | change)


def test_wrong_sizes(rng: np.random.Generator) -> None:
    """Sizes that do not fit are refused."""
    extractor = PatchExtractor([stack(image) for image in series(rng)])
    with pytest.raises(SpecError, match=r"patches of one size; there are \(4, 4\), \(4, 5\)"):
        extractor.extract_batch([SPEC, SPEC | {"patch_size": (4, 5)}])  # type: ignore[list-item]
    with pytest.raises(GeometryError, match="patch_size is 0 along Y"):
        extractor.extract(SPEC | {"patch_size": (0, 4)})  # type: ignore[arg-type]
    with pytest.raises(GeometryError, match="out has shape \\(1, 3, 4, 5\\), but the batch has shape \\(1, 3, 4, 4\\)"):
        extractor.extract_batch([SPEC], out=np.empty((1, 3, 4, 5)))
    with pytest.raises(
        GeometryError,
        match="scale has shape \\(2,\\): give one number, or one for each of 3 channels, or that for each of 1 patches",
    ):
        extractor.extract_batch([SPEC], scale=[1.0, 2.0])
    with pytest.raises(GeometryError, match="need a batch of floats"):
        extractor.extract_batch([SPEC], dtype=np.uint16, scale=2.0)


def test_wrong_series(rng: np.random.Generator) -> None:
    """Stacks that differ in dimensions or channels are refused."""
    flat, deep = stack(rng.random((1, 1, 4, 4))), stack(rng.random((1, 1, 4, 4, 4)))
    with pytest.raises(ValueError, match="empty"):
        PatchExtractor([])
    with pytest.raises(GeometryError, match="3D"):
        PatchExtractor([flat, deep])
    with pytest.raises(GeometryError, match="channel"):
        PatchExtractor([flat, stack(rng.random((1, 2, 4, 4)))])
    with pytest.raises(GeometryError, match="padding is 'symmetric': it must be one of 'constant'"):
        PatchExtractor([flat], "symmetric")  # type: ignore[arg-type]


NO_PLACE_FOR_PIXELS = {
    "read-only": lambda shape: np.broadcast_to(np.float32(7), shape),
    "overlapping": lambda shape: np.lib.stride_tricks.as_strided(np.full(64, 7, "f4"), shape, (4, 4, 4, 4)),
    "list": lambda shape: np.zeros(shape).tolist(),
    "text": lambda shape: "out",
    "object": lambda shape: np.full(shape, 7, object),
    "words": lambda shape: np.full(shape, "7", "U5"),
    "dates": lambda shape: np.full(shape, 7, "M8[s]"),
    "structured": lambda shape: np.zeros(shape, [("a", "f4")]),
}


@pytest.mark.parametrize("n_patches", [1, 16])
@pytest.mark.parametrize("kind", NO_PLACE_FOR_PIXELS)
def test_wrong_out(kind: str, n_patches: int, rng: np.random.Generator) -> None:
    """An array that cannot be filled is refused and not changed."""
    extractor = PatchExtractor([stack(rng.random((1, 1, 9, 9), np.float32))])
    out: Any = NO_PLACE_FOR_PIXELS[kind]((n_patches, 1, 3, 4))
    before = pickle.dumps(out)
    with pytest.raises(GeometryError, match="out"):
        extractor.extract_batch([SPEC | {"patch_size": (3, 4)}] * n_patches, out=out)
    assert pickle.dumps(out) == before


@pytest.mark.parametrize("n_patches", [1, 16])
def test_shared_memory(n_patches: int, rng: np.random.Generator) -> None:
    """A batch that shares memory with an image is refused."""
    memory = rng.random((40, 2, 9, 9))
    image = memory[:1, :1]
    before = memory.copy()
    extractor = PatchExtractor([stack(image)])
    specs: Any = [SPEC | {"patch_size": (9, 9)}] * n_patches
    with pytest.raises(GeometryError, match="shares memory with the image"):
        extractor.extract_batch(specs, out=memory[:n_patches, :1])
    assert np.array_equal(memory, before)
    extractor.extract_batch(specs, out=memory[:n_patches, 1:])  # lies between the image's rows
    assert (memory[:n_patches, 1] == before[0, 0]).all()


@pytest.mark.parametrize("dtype", ["u2", ">u2", "f4", ">f8"])
@pytest.mark.parametrize("n_patches", [1, 16])
def test_unaligned_out(dtype: str, n_patches: int, tmp_path: Path, rng: np.random.Generator) -> None:
    """An array of any alignment and byte order is filled."""
    image = rng.integers(0, 60_000, (20, 20), np.uint16)
    stored = zarr.create_array(tmp_path / "image.zarr", shape=image.shape, chunks=(8, 8), dtype=image.dtype)
    stored[...] = image
    for stacks in (open_stacks(tmp_path / "image.zarr", axes="YX"), [ArrayStack(image, "YX")]):
        extractor = PatchExtractor(stacks, "reflect")
        starts = rng.integers(-3, 17, (n_patches, 2)).tolist()
        specs: Any = [SPEC | {"coords": tuple(start), "patch_size": (4, 4)} for start in starts]
        out = np.zeros(n_patches * 16 * np.dtype(dtype).itemsize + 1, "u1")[1:].view(dtype).reshape(n_patches, 1, 4, 4)
        assert not out.flags.aligned
        assert extractor.extract_batch(specs, out=out) is out
        for patch, start in zip(out, starts, strict=True):
            assert np.array_equal(patch, padded_patch(image[None, None], 0, start, (4, 4), "reflect"))


@pytest.mark.parametrize("dtype", ["no such dtype", object, "U5", "M8[s]"])
def test_wrong_dtype(dtype: Any) -> None:
    """A dtype that is not of numbers is refused."""
    extractor = PatchExtractor([stack(np.zeros((1, 1, 9, 9)))])
    with pytest.raises(GeometryError, match=r"dtype is .*must be a dtype of numbers"):
        extractor.extract_batch([SPEC], dtype=dtype)


@pytest.mark.parametrize(
    "spec",
    [
        {"data_idx": 0, "sample_idx": 0, "coords": (0, 0)},
        {"data_idx": 0, "coords": (0, 0), "patch_size": (2, 2)},
        {},
        None,
        "spec",
        SPEC | {"coords": (1.9, 2)},
        SPEC | {"data_idx": 0.5},
    ],
)
def test_not_a_spec(spec: Any) -> None:
    """An object that is not a specification is refused."""
    with pytest.raises(SpecError):
        PatchExtractor([stack(np.zeros((1, 1, 9, 9)))]).extract(spec)


@pytest.mark.parametrize("name", ["scale", "offset"])
@pytest.mark.parametrize(
    "number", [1e39, -1e300, 10**400, float("nan"), float("inf"), [1.0, float("-inf")], [[1.0], [1, 2]], "2"]
)
def test_numbers_not_finite(name: str, number: Any) -> None:
    """A scale or offset that the dtype of the batch does not hold is refused by name."""
    extractor = PatchExtractor([ArrayStack(np.zeros((2, 8, 8)), "CYX")])
    with pytest.raises(GeometryError, match=f"{name} is .*: it must be a finite float32"):
        extractor.extract_batch([SPEC], **{name: number})
