"""Normalization: streamed statistics are NumPy's of the whole image, whatever is read at once and in whatever chunks."""

from __future__ import annotations

import json
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack, PatchExtractor
from patchloom.errors import ArgumentError, GeometryError, SourceError
from patchloom.prediction.normalization.measuring import measure_normalization
from patchloom.prediction.normalization.methods import MeanStd, Percentiles
from patchloom.prediction.normalization.normalization import Normalization
from patchloom.prediction.normalization.streamed_moments import CountedMoments, StreamedMoments

POOLED = {"source": (0, 1, 2, 3), "channel": (0, 2, 3), "sample": (1, 2, 3), "sample_channel": (2, 3)}
DTYPES = ["bool", "uint8", "int16", "uint16", "int32", "uint64", "float16", "float32", "float64"]


class RecordingStack(ArrayStack):
    """An image that counts the bytes that are read, in total and at once."""

    chunk_shape = shard_shape = (1, 1, 8, 8)
    most_bytes = n_bytes = 0

    def read_regions(self, regions, out):
        n_bytes = sum(target.nbytes for target in out)
        self.most_bytes, self.n_bytes = max(self.most_bytes, n_bytes), self.n_bytes + n_bytes
        for region, target in zip(regions, out, strict=True):
            target[...] = self.read_region(region)


def random_image(rng, dtype: str, shape=(2, 3, 23, 31)) -> np.ndarray:
    kind = np.dtype(dtype).kind
    if kind == "f":
        return rng.normal(100, 7, shape).astype(dtype)
    if kind == "b":
        return rng.random(shape) > 0.7
    return rng.integers(np.iinfo(dtype).min // 3, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def expected_values(zero: np.ndarray, spread: np.ndarray, shape) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset of every sample and channel from statistics that keep their axes."""
    return np.broadcast_to(1 / spread, shape), np.broadcast_to(-zero / spread, shape)


@pytest.mark.parametrize("per", POOLED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mean_std(dtype, per, rng):
    """Mean and deviation of each part equal those of NumPy."""
    image = random_image(rng, dtype)
    found = measure_normalization(RecordingStack(image, axes="SCYX"), MeanStd(per), max_bytes=500)
    wide = image.astype(np.float64)
    means, deviations = (f(wide, axis=POOLED[per], keepdims=True)[..., 0, 0] for f in (np.mean, np.std))
    scale, offset = expected_values(means, deviations, (2, 3))
    np.testing.assert_allclose(found.scale, scale, rtol=1e-12)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-12)
    assert (found.method, found.n_ignored, found.n_flat) == (MeanStd(per), 0, 0)


@pytest.mark.parametrize("per", POOLED)
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "bool"])
def test_percentiles(dtype, per, rng):
    """Percentiles of each part equal those of NumPy."""
    image = random_image(rng, dtype)
    stack = RecordingStack(image, axes="SCYX")
    found = measure_normalization(stack, Percentiles(2.5, 90, per), max_bytes=500)
    low, high = np.percentile(image.astype(np.float64), (2.5, 90), axis=POOLED[per], keepdims=True)[..., 0, 0]
    scale, offset = expected_values(low, high - low, (2, 3))
    np.testing.assert_allclose(found.scale, scale, rtol=1e-12)
    np.testing.assert_allclose(found.offset, offset, rtol=1e-12, atol=1e-12)
    assert found.method == Percentiles(2.5, 90, per)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(["uint8", "int16", "float32"]),
    st.sampled_from(["mean_std", "percentiles"]),
    st.sampled_from(sorted(POOLED)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 25), st.integers(1, 25)),
    st.integers(1, 3000),
)
def test_bounded_memory(dtype, method, per, shape, max_bytes) -> None:
    """The result does not depend on the memory for pixels and counts."""
    image = random_image(np.random.default_rng(prod(shape)), dtype, shape)
    whole = measure_normalization(ArrayStack(image, axes="SCYX"), f"{method}/{per}")
    stack = RecordingStack(image, axes="SCYX")
    pieces = measure_normalization(stack, f"{method}/{per}", max_bytes=max_bytes, max_count_bytes=0)  # part after part
    if dtype == "float32" and method == "mean_std":
        np.testing.assert_allclose(pieces.offset, whole.offset, rtol=1e-6)
        assert pieces.n_flat == whole.n_flat
    else:
        assert pieces == whole


@pytest.mark.parametrize(("dtype", "n_passes"), [("uint16", 1), ("float32", 2), ("float64", 4)])
@pytest.mark.parametrize("method", ["mean_std", "percentiles"])
def test_bytes_read(dtype, n_passes, method, rng):
    """At most `max_bytes` are read at once, and pixels are read once in each pass."""
    stack = RecordingStack(random_image(rng, dtype, (3, 2, 64, 64)), axes="SCYX")
    measure_normalization(stack, f"{method}/sample_channel", max_bytes=4096)
    assert stack.most_bytes <= 4096
    assert stack.n_bytes == stack.array.nbytes * (n_passes if method == "percentiles" else 1)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_large_image(dtype, rng):
    """An image that is processed in several portions equals NumPy on the whole image."""
    image = random_image(rng, dtype, (1, 1, 400, 450))
    values = image.astype(np.float64)
    found = measure_normalization(ArrayStack(image, axes="SCYX"))
    np.testing.assert_allclose(1 / found.scale[0][0], values.std(), rtol=1e-9)
    np.testing.assert_allclose(-found.offset[0][0] / found.scale[0][0], values.mean(), rtol=1e-9)
    low, high = np.percentile(values, (1, 99.8))
    found = measure_normalization(ArrayStack(image, axes="SCYX"), "percentiles")
    np.testing.assert_allclose(
        (found.scale[0][0], found.offset[0][0]), (1 / (high - low), -low / (high - low)), rtol=1e-12
    )


def test_far_mean(rng):
    """No digits cancel if the mean is far from 0."""
    noise = rng.normal(0, 1e-3, (1, 60_000))
    image = 1e9 + noise
    found = measure_normalization(ArrayStack(image, axes="YX"), max_bytes=1024)
    assert 1 / found.scale[0][0] == pytest.approx(float((image - 1e9).std()), rel=1e-9)


def test_many_counts():
    """The deviation is exact even if sums of squares exceed 64 bits."""
    moments = CountedMoments(np.dtype(np.uint16))
    moments._counts[[0, 65535]] = 10**12  # more voxels than any test can read
    assert moments.result() == (32767.5, 32767.5)


def test_batches(rng):
    """Batches that are rescaled have mean 0 and deviation 1."""
    image = random_image(rng, "uint16")
    stack = ArrayStack(image, axes="SCYX")
    found = measure_normalization(stack, MeanStd("sample_channel"))
    extractor = PatchExtractor([stack])
    for sample_idx in range(2):
        spec = {"data_idx": 0, "sample_idx": sample_idx, "coords": (0, 0), "patch_size": (23, 31)}
        scale, offset = found.scale[sample_idx], found.offset[sample_idx]
        batch = extractor.extract_batch([spec], dtype=np.float64, scale=scale, offset=offset)
        np.testing.assert_allclose(batch.mean(axis=(0, 2, 3)), 0, atol=1e-9)
        np.testing.assert_allclose(batch.std(axis=(0, 2, 3)), 1, rtol=1e-9)


def test_ignored_pixels(rng):
    """NaN and infinite pixels are excluded and counted."""
    image = random_image(rng, "float32")
    image[0, 0, :3] = np.nan
    image[1, 2, 5] = np.inf
    image[1, 1, 6] = -np.inf
    finite = image[np.isfinite(image)].astype(np.float64)
    for method, zero in [("mean_std", finite.mean()), ("percentiles", np.percentile(finite, 1))]:
        found = measure_normalization(ArrayStack(image, axes="SCYX"), method)
        assert -found.offset[0][0] / found.scale[0][0] == pytest.approx(zero, rel=1e-9)
        assert found.n_ignored == image.size - finite.size == 5 * 31


@pytest.mark.parametrize("method", ["mean_std", "percentiles"])
def test_no_finite_pixel(method):
    """The error for a part without a finite pixel names the part."""
    image = np.ones((2, 3, 4, 5))
    image[1, 2] = np.nan
    stack = ArrayStack(image, axes="SCYX")
    with pytest.raises(SourceError, match="array has no finite pixel in sample 1, channel 2"):
        measure_normalization(stack, f"{method}/sample_channel")
    assert measure_normalization(stack, f"{method}/channel").n_ignored == 20


@pytest.mark.parametrize("method", ["mean_std", "percentiles"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "float64"])
def test_flat_image(dtype, method):
    """A part without spread becomes 0 and is counted."""
    image = np.full((2, 1, 300, 300), 0.1 if "float" in dtype else 77, dtype)
    image[1, 0, 0, 0] = 200
    found = measure_normalization(ArrayStack(image, axes="SCYX"), f"{method}/sample", max_bytes=999)
    assert (found.scale[0], found.offset[0]) == ((1.0,), (-float(image[0, 0, 0, 0]),))
    assert found.n_flat == (1 if method == "mean_std" else 2)  # one bright pixel of 90,000 moves no percentile


def test_extreme_spreads():
    """A spread that is too small counts as none; one that is too large is refused."""
    tiny = np.array([[0.0, 5e-324]])
    assert measure_normalization(ArrayStack(tiny, axes="YX"), Percentiles(0, 100)).n_flat == 1
    for method in ("mean_std", "percentiles:0,100"):
        with pytest.raises(SourceError, match="whose spread is too large for float64"):
            measure_normalization(ArrayStack(np.array([[-1.7e308, 1.7e308]]), axes="YX"), method)


def test_json(rng):
    """JSON stores a normalization exactly."""
    found = measure_normalization(
        ArrayStack(random_image(rng, "float32"), axes="SCYX"), Percentiles(per="sample_channel")
    )
    again = Normalization.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert hash(again) == hash(found)
    assert all(type(number) is float for numbers in (*again.scale, *again.offset) for number in numbers)


def test_undo(rng):
    """`undo` restores the pixel values, of selected channels too."""
    image = random_image(rng, "uint16").astype(np.float64)
    found = measure_normalization(ArrayStack(image, axes="SCYX"), MeanStd("sample_channel"))
    scale, offset = (np.array(numbers[1])[:, None, None] for numbers in (found.scale, found.offset))
    normalized = image[1] * scale + offset
    np.testing.assert_allclose(found.undo(normalized, 1), image[1], rtol=1e-9)
    np.testing.assert_allclose(found.undo(normalized[[2, 0]], 1, channels=(2, 0)), image[1, [2, 0]], rtol=1e-9)
    assert found.undo(normalized.astype(np.float32), 1).dtype == np.float32
    assert found.undo(np.ones((3, 2, 2), np.uint8), 1).dtype == np.float32
    with pytest.raises(GeometryError, match="for each of 2 predicted channels, give one of the 3 channels"):
        found.undo(normalized[:2], 1)
    with pytest.raises(GeometryError, match="channels is"):
        found.undo(normalized[:1], 1, channels=(3,))
    with pytest.raises(GeometryError, match="sample_idx is 2: it must be from 0 to 1"):
        found.undo(normalized, 2)


def test_undo_of_any_channels(rng):
    """Any number of channels is restored if all channels have the same scale and offset."""
    found = measure_normalization(ArrayStack(random_image(rng, "uint8"), axes="SCYX"), MeanStd("sample"))
    restored = found.undo(np.ones((5, 2, 2)), 0)
    np.testing.assert_allclose(restored, (1 - found.offset[0][0]) / found.scale[0][0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "minmax"}, "method is 'minmax': it must be mean_std or percentiles:1,99.8"),
        ({"method": "mean_std/tile"}, "per is 'tile'"),
        ({"method": "percentiles:99,1"}, "two numbers from 0 to 100, the lower one first"),
        ({"method": "percentiles:1,101"}, "percentiles are 1.0 and 101.0"),
        ({"method": "percentiles:5"}, "give two percentiles after the colon"),
        ({"method": "percentiles:nan,99"}, "percentiles are nan and 99.0"),
        ({"method": 3}, r"method is 3: give MeanStd\(\) or Percentiles"),
        ({"max_bytes": 0}, "max_bytes is 0: it must be at least 1"),
    ],
)
def test_invalid_arguments(arguments, message):
    """Invalid arguments are refused before pixels are read."""

    class Unread(ArrayStack):
        def read(self, selection):
            raise AssertionError("read")

    with pytest.raises(ArgumentError, match=message):
        measure_normalization(Unread(np.zeros((4, 4)), axes="YX"), **arguments)


def test_complex():
    """Complex images are refused."""
    with pytest.raises(SourceError, match="complex64"):
        measure_normalization(ArrayStack(np.zeros((4, 4), np.complex64), axes="YX"))


@pytest.mark.parametrize(
    ("scale", "offset"), [(((1.0,),), ((1.0, 2.0),)), (((0.0,),), ((1.0,),)), (((1.0,),), ((float("nan"),),))]
)
def test_invalid_values(scale, offset):
    """Values that are not a normalization are refused."""
    with pytest.raises(GeometryError):
        Normalization("mean_std", scale, offset)


def test_portions(rng):
    """Moments of any portions are merged to those of all values."""
    values = rng.normal(-5, 3, 1000)
    moments = StreamedMoments()
    for portion in np.split(values, np.sort(rng.integers(1, 999, 30))):
        if len(portion):
            moments.add(portion)
    np.testing.assert_allclose(moments.result(), (values.mean(), values.std()), rtol=1e-13)
