"""The engine: results are right, and do not depend on tiles, blocks, batches and memory."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, ModelOutputError, StitchError
from patchloom.image_stacks import ArrayStack
from patchloom.prediction import plan, predict
from patchloom.prediction.planning import fit
from patchloom.prediction.running import batching, engine
from patchloom.stitching import block_grid

WINDOWS = ["hann", "gaussian", "linear", "mean"]


def identity(batch: np.ndarray) -> np.ndarray:
    return batch


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


def memory_needed(image: np.ndarray, **options: Any) -> int:
    """Return the smallest memory limit for an identity model on this image."""
    with pytest.raises(GeometryError, match="needs") as caught:
        plan(image, model=identity, memory_limit=1, measure=True, **options)
    return int(str(caught.value).split("needs ")[1].split(" ")[0])


@settings(deadline=None, max_examples=25)
@given(data=st.data(), n_dims=st.integers(2, 3), seed=st.integers(0, 2**32))
def test_identity(data: st.DataObject, n_dims: int, seed: int) -> None:
    """An identity model gives the image back for all tiles, windows, batches, blocks and memory limits."""
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2), *[st.integers(1, 15)] * n_dims))
    patch_size = data.draw(st.tuples(*[st.integers(1, 9)] * n_dims))
    options: dict[str, Any] = {
        "axes": "SCYX" if n_dims == 2 else "SCZYX",
        "patch_size": patch_size,
        "overlaps": [data.draw(st.integers(0, size - 1)) for size in patch_size],
        "blend": data.draw(st.sampled_from([None, *WINDOWS])),
        "seams": data.draw(st.sampled_from([None, "centered", "grid"])),
        "batch_size": data.draw(st.integers(1, 7)),
    }
    image = np.random.default_rng(seed).uniform(-100, 100, shape).astype(np.float32)
    before = image.copy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "BLOCK_SIZES", [data.draw(st.integers(20, 2000)), 50])
        patch.setattr(fit, "SMALL_BLOCK_SIZES", [30, 10, 1])
        patch.setattr(block_grid, "CHUNK_SIZE", {2: 6, 3: 4})
        least = memory_needed(image, **options)
        result = quiet(identity, image, memory_limit=int(least * data.draw(st.floats(1, 3))), **options)
    if options["blend"] is None:
        assert result.tobytes() == before.tobytes()
    else:
        # Four units in the last place of the values that were added up.
        np.testing.assert_allclose(result, before, rtol=4 * 2**-23, atol=0)
    assert image.tobytes() == before.tobytes()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "uint32", "float64", "bool"])
def test_blended_integers(window: Any, dtype: str, rng: np.random.Generator) -> None:
    """Integers that are blended with themselves are rounded back to themselves."""
    image = (
        rng.integers(0, 2, (40, 50)).astype(bool) if dtype == "bool" else rng.integers(0, 256, (40, 50)).astype(dtype)
    )
    result = quiet(identity, image, axes="YX", patch_size=(16, 12), overlaps=(7, 9), blend=window)
    assert result.dtype == image.dtype
    np.testing.assert_allclose(result, image, rtol=1e-15)


def test_large_integers(rng: np.random.Generator) -> None:
    """Integers that float32 does not hold survive blending."""
    image = rng.integers(2**31, 2**32, (30, 30), np.uint32)
    assert np.array_equal(quiet(identity, image, axes="YX", patch_size=(8, 8), overlaps=(4, 5), blend="hann"), image)


def filter5(batch: np.ndarray) -> np.ndarray:
    """A linear filter of 5 × 5 voxels, as a network with a receptive field is."""
    weights = np.outer([1, -2, 5, 3, 1], [2, 1, 7, -1, 3]) / 100
    padded = np.pad(batch, [(0, 0), (0, 0), (2, 2), (2, 2)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(2, 3))
    return np.einsum("bcyxij,ij->bcyx", windows, weights)


def test_linear_filter(rng: np.random.Generator) -> None:
    """A filter that sees less than the overlap gives what it gives on the whole image, also without its margin."""
    image = rng.random((64, 64))
    whole = filter5(image[None, None])[0, 0]
    cropped = quiet(filter5, image, axes="YX", patch_size=(24, 24), overlaps=(8, 8))
    np.testing.assert_allclose(cropped, whole, rtol=0, atol=1e-12)

    def valid_filter5(batch: np.ndarray) -> np.ndarray:
        return filter5(batch)[:, :, 2:-2, 2:-2]

    for blend in (None, "hann"):
        # A valid convolution never sees a border that is not the image's: tiles agree wherever they overlap.
        tiled = quiet(
            valid_filter5, image, axes="YX", patch_size=(24, 24), overlaps=(8, 8), blend=blend, padding="constant"
        )
        np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-12)


def enlarge(batch: np.ndarray, factor: int = 2) -> np.ndarray:
    return batch.repeat(factor, axis=2).repeat(factor, axis=3)


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("seams", ["centered", "grid"])
def test_larger(blend: Any, seams: Any, rng: np.random.Generator) -> None:
    """A model that enlarges gives a larger image."""
    image = rng.random((3, 29, 41)).astype(np.float32)
    options: dict[str, Any] = {"axes": "CYX", "patch_size": (12, 9), "overlaps": (5, 3), "blend": blend, "seams": seams}
    for factor in (2, 3):
        result = quiet(lambda batch, factor=factor: enlarge(batch, factor), image, **options)
        np.testing.assert_allclose(result, enlarge(image[None], factor)[0], rtol=1e-6)


@pytest.mark.parametrize("blend", [None, "linear"])
def test_larger_without_margin(blend: Any, rng: np.random.Generator) -> None:
    """A model that enlarges and removes a margin still covers the image."""
    image = rng.random((29, 41)).astype(np.float32)

    def model(batch: np.ndarray) -> np.ndarray:
        return enlarge(batch[:, :, 3:-3, 3:-3])

    result = quiet(model, image, axes="YX", patch_size=(20, 20), overlaps=(8, 9), blend=blend)
    np.testing.assert_allclose(result, enlarge(image[None, None])[0, 0], rtol=1e-6)


@pytest.mark.parametrize("size", [(32, 48), (30, 45)])
def test_smaller(size: tuple[int, int], rng: np.random.Generator) -> None:
    """A model that makes images smaller does so for any size."""
    image = rng.random(size)

    def halve(batch: np.ndarray) -> np.ndarray:
        return batch[:, :, ::2, ::2]

    for blend, seams in ((None, None), ("hann", None), (None, "centered"), ("hann", "centered")):
        result = quiet(halve, image, axes="YX", patch_size=(16, 12), overlaps=(5, 3), blend=blend, seams=seams)
        assert result.shape == (-(-size[0] // 2), -(-size[1] // 2))
        np.testing.assert_allclose(result, image[::2, ::2], rtol=1e-12)


def test_several_outputs(rng: np.random.Generator, tmp_path: Any) -> None:
    """Several outputs become several images."""
    image = rng.integers(0, 200, (30, 40), np.uint8)

    def model(batch: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "same": batch,
            "large": enlarge(batch.astype(np.float32)),
            "both": np.concatenate([batch, batch + 1], 1),
        }

    options: dict[str, Any] = {"axes": "YX", "patch_size": (16, 16), "overlaps": (4, 4)}
    result = quiet(model, image, **options)
    assert np.array_equal(result["same"], image)
    assert np.array_equal(result["large"], enlarge(image[None, None])[0, 0])
    assert np.array_equal(result["both"], [image, image + 1])
    written = quiet(model, image, tmp_path / "out.ome.zarr", **options)
    assert {name: path.name for name, path in written.items()} == {
        "same": "out-same.ome.zarr",
        "large": "out-large.ome.zarr",
        "both": "out-both.ome.zarr",
    }
    assert np.array_equal(quiet(identity, written["large"], patch_size=(64, 64)), result["large"])
    assert len(list(tmp_path.iterdir())) == 3
    pair = quiet(lambda batch: (batch, -batch.astype(np.int16)), image, **options)
    assert np.array_equal(pair["1"], -image.astype(np.int16))


def test_changed_output(rng: np.random.Generator) -> None:
    """An output whose size changes during the run is refused."""
    sizes = iter([0, 0, 0, 1])
    with pytest.raises(ModelOutputError, match="before"):
        quiet(
            lambda batch: batch[:, :, next(sizes) :],
            rng.random((30, 30)),
            axes="YX",
            patch_size=(8, 8),
            overlaps=(0, 0),
        )


def test_reads_and_batches(rng: np.random.Generator) -> None:
    """Every tile is read once, one more time for the output specs, and images of a series share batches."""
    reads: Counter[str] = Counter()

    class Counting(ArrayStack):
        def read(self, selection: Any) -> np.ndarray:
            reads[f"{self.data_shape} {selection}"] += 1
            return super().read(selection)

    images = [rng.random((20, 20)), rng.random((24, 20)), rng.random((5, 20))]
    sizes = []

    def model(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch

    stacks = [Counting(image, "YX") for image in images]
    prepared = plan(stacks, patch_size=(8, 8), overlaps=(2, 2))
    results = quiet(model, stacks, patch_size=(8, 8), overlaps=(2, 2), batch_size=4)
    assert all(np.array_equal(result, image) for result, image in zip(results, images, strict=True))
    assert sizes[1:] == [4] * (len(prepared.tiling) // 4) + [len(prepared.tiling) % 4] * (len(prepared.tiling) % 4 > 0)
    first, *others = reads.values()
    assert (first, set(others)) == (2, {1})
    assert len(reads) == len(prepared.tiling)


def test_shared_tiles(rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks share blended tiles if memory allows, and compute them again if not."""
    monkeypatch.setattr(fit, "BLOCK_SIZES", [400])
    monkeypatch.setattr(block_grid, "CHUNK_SIZE", {2: 20, 3: 8})
    image = rng.random((100, 100)).astype(np.float32)
    options: dict[str, Any] = {"axes": "YX", "patch_size": (12, 12), "overlaps": (4, 4), "blend": "hann"}
    rich = plan(image, **options)
    poor = plan(image, memory_limit=memory_needed(image, **options), **options)
    assert (rich.n_shared_axes, rich.n_tiles_computed) == (2, rich.n_tiles)
    assert poor.n_shared_axes == 0
    assert poor.n_tiles_computed > poor.n_tiles
    assert poor.memory.open_blocks < rich.memory.open_blocks / 3
    for prepared in (rich, poor):
        result = quiet(identity, image, memory_limit=prepared.survey.memory_limit, **options)
        np.testing.assert_allclose(result, image, rtol=4 * 2**-23)


def test_low_memory_limit(rng: np.random.Generator) -> None:
    """The error of a memory limit that is too low contains the smallest one that is not."""
    with pytest.raises(GeometryError, match=r"memory_limit is 1000 bytes, and this plan needs \d+ at least"):
        quiet(identity, rng.random((100, 100)), axes="YX", patch_size=(64, 64), memory_limit=1000)


@pytest.mark.parametrize("blend", [None, "hann"])
def test_missing_tile(blend: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block that lacks a tile is never written."""

    def without_one(*args: Any, **kwargs: Any) -> Any:
        for number, batch in enumerate(batching.batches(*args, **kwargs)):
            lost = next((item for item in batch.items if isinstance(item, batching.TileItem)), None)
            yield batching.TileBatch(tuple(item for item in batch.items if number != 2 or item is not lost))

    monkeypatch.setattr(engine, "batches", without_one)
    with pytest.raises(StitchError, match="the plan has a hole"):
        quiet(identity, rng.random((40, 50)), axes="YX", patch_size=(8, 8), overlaps=(4, 4), batch_size=3, blend=blend)
