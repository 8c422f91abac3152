"""Skipping: what is skipped depends on the tiles and the images only, and counts as predicted `fill`."""

from __future__ import annotations

import json
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patchloom import ArrayStack, open_stacks
from patchloom.errors import ArgumentError, ArgumentTypeError, GeometryError
from patchloom.extraction import ChunkCache
from patchloom.prediction import plan, predict
from patchloom.prediction.candidate_tiles import CandidateTiles
from patchloom.prediction.output import writer as outputs
from patchloom.prediction.planning import fit
from patchloom.prediction.postprocessing.steps import AsDtype, Threshold
from patchloom.prediction.skip_rules import SkipDark, SkipOutside
from patchloom.sinks import open_sink
from patchloom.stitching import block_grid

WINDOWS = ["hann", "linear", "mean"]


def stack_of(array: np.ndarray) -> ArrayStack:
    return ArrayStack(array, axes="SCZYX" if array.ndim == 5 else "SCYX")


def quiet(*args: Any, **kwargs: Any) -> Any:
    return predict(*args, **kwargs, progress=False)


def blind_model(batch: np.ndarray, seen: list[np.ndarray] | None = None) -> np.ndarray:
    """A model whose result depends on the whole tile."""
    if seen is not None:
        seen.extend(batch.copy())
    spread = np.tanh(batch.astype(np.float32).max(axis=(-1, -2), keepdims=True) / 100)
    return np.sqrt(batch.astype(np.float32) + 3) * (1 + spread)


def filling_model(batch: np.ndarray, is_skipped: Any, fill: float) -> np.ndarray:
    """Return `fill` for tiles that are skipped."""
    predicted = blind_model(batch)
    for tile, result in zip(batch, predicted, strict=True):
        if is_skipped(tile):
            result[...] = fill
    return predicted


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Tiles of a 2D or 3D image and how they are run."""
    n_dims = draw(st.integers(2, 3))
    patch_size = draw(st.tuples(*[st.integers(2, 8)] * n_dims))
    return {
        "patch_size": patch_size,
        "overlaps": [draw(st.integers(0, size - 1)) for size in patch_size],
        "blend": draw(st.sampled_from([None, *WINDOWS])),
        "seams": draw(st.sampled_from([None, "centered", "grid"])),
        "padding": draw(st.sampled_from(["constant", "reflect", "edge", "wrap"])),
        "origin_multiple": draw(st.sampled_from([1, 1, 2])),
        "batch_size": draw(st.integers(1, 5)),
    }


def sparse_image(draw: Any, n_dims: int) -> np.ndarray:
    shape = draw(st.tuples(st.integers(1, 2), st.integers(1, 2), *[st.integers(3, 14)] * n_dims))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    image = rng.integers(0, 9, shape)
    image[rng.random(shape) < draw(st.sampled_from([0.002, 0.02]))] = 200
    return image.astype(np.uint8)


def legal(shape: Any, options: dict[str, Any]) -> bool:
    try:
        plan(np.zeros(shape, np.uint8), axes=axes_of(options), **options)
    except GeometryError:
        return False
    return True


def axes_of(options: dict[str, Any]) -> str:
    return "SCYX" if len(options["patch_size"]) == 2 else "SCZYX"


def small_blocks(patch: pytest.MonkeyPatch, voxels: int) -> None:
    patch.setattr(fit, "BLOCK_SIZES", [voxels])
    patch.setattr(block_grid, "CHUNK_SIZE", {2: 5, 3: 3})


@settings(deadline=None, max_examples=120)
@given(data=st.data(), options=runs(), fill=st.sampled_from([0, 0.0, -5, 7.3]), voxels=st.integers(40, 3000))
def test_dark(data, options, fill, voxels) -> None:
    """A tile that `SkipDark` skips counts as one for which the model returned `fill`."""
    image = sparse_image(data.draw, len(options["patch_size"]))
    options["overlaps"] = options["overlaps"] if legal(image.shape, options) else [0] * len(options["patch_size"])
    if not legal(image.shape, options):
        options["origin_multiple"] = 1
    model = partial(filling_model, is_skipped=lambda tile: tile.max() <= 20, fill=fill)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, voxels)
        expected = quiet(model, image, axes=axes_of(options), **options)
        result = quiet(blind_model, image, axes=axes_of(options), skip=SkipDark(20, fill), **options)
    assert result.tobytes() == expected.tobytes()


@settings(deadline=None, max_examples=80)
@given(data=st.data(), options=runs(), fill=st.sampled_from([0, -5]), voxels=st.integers(40, 3000))
def test_a_tile_runs_where_it_touches_the_mask(data, options, fill, voxels) -> None:
    """The mask is the image's second channel, by which the other model knows what is skipped."""
    image = sparse_image(data.draw, len(options["patch_size"]))[:, :1]
    mask = image > 20
    options |= {"padding": "constant", "origin_multiple": 1}  # so that a tile shows the model no mask of other places
    model = partial(filling_model, is_skipped=lambda tile: not tile[1].any(), fill=fill)
    both = np.concatenate([image, mask], axis=1)
    with pytest.MonkeyPatch.context() as patch:
        small_blocks(patch, voxels)
        expected = quiet(model, both, axes=axes_of(options), **options)
        result = quiet(blind_model, both, axes=axes_of(options), skip=SkipOutside([stack_of(mask)], fill), **options)
        whole = quiet(blind_model, both, axes=axes_of(options), **options)
    assert result.tobytes() == expected.tobytes()
    inside = np.broadcast_to(mask, result.shape)
    assert np.array_equal(result[inside], whole[inside])


@settings(deadline=None, max_examples=40)
@given(data=st.data(), options=runs())
def test_same_tiles(data, options) -> None:
    """Blocks, batches and memory do not change which tiles are skipped."""
    image = sparse_image(data.draw, len(options["patch_size"]))
    options |= {"origin_multiple": 1}
    axes = axes_of(options)
    ran, results = [], []
    for _ in range(3):
        seen: list[np.ndarray] = []
        change = {"batch_size": data.draw(st.integers(1, 5)), "memory_limit": 10 ** data.draw(st.integers(6, 9))}
        with pytest.MonkeyPatch.context() as patch:
            small_blocks(patch, data.draw(st.integers(40, 3000)))
            results.append(
                quiet(partial(blind_model, seen=seen), image, axes=axes, skip=SkipDark(20), **options | change)
            )
        ran.append({tile.tobytes() for tile in seen[1:]})
    assert ran[0] == ran[1] == ran[2]
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=0 if options["blend"] is None else 1e-5)


@pytest.mark.parametrize("blend", [None, "hann"])
@pytest.mark.parametrize("postprocessing", [Threshold(4), AsDtype("uint8", 3)])
def test_fill_with_postprocessing(postprocessing, blend, rng, monkeypatch) -> None:
    """The fill value is not postprocessed."""
    small_blocks(monkeypatch, 400)
    image = rng.integers(0, 9, (40, 50)).astype(np.uint8)
    image[12:20, 30:37] = 100
    tiles: dict[str, Any] = {"axes": "YX", "patch_size": (9, 8), "overlaps": (4, 3), "blend": blend}
    result = quiet(blind_model, image, skip=SkipDark(20, 77), postprocess=postprocessing, **tiles)
    zeros = partial(filling_model, is_skipped=lambda tile: tile.max() <= 20, fill=0)
    expected = quiet(zeros, image, postprocess=postprocessing, **tiles)
    ran = quiet(
        lambda batch: (batch.max(axis=(-1, -2), keepdims=True) > 20) + np.zeros(batch.shape, "f4"), image, **tiles
    )
    covered = ran > 0
    assert np.array_equal(result, np.where(covered, expected, 77))
    assert 0 < covered.sum() < covered.size / 2


def test_scaled_output(rng: np.random.Generator) -> None:
    """Tiles of a scaled output are filled alike."""
    image = rng.integers(0, 9, (30, 40)).astype(np.uint8)
    image[5:8, 20:24] = 100

    def doubled(batch: np.ndarray, fill: float | None = None) -> np.ndarray:
        result = batch[:, :, 2:-2, 2:-2].repeat(2, axis=2).repeat(2, axis=3).astype(np.float32) + 1
        for tile, of_tile in zip(batch, result, strict=True):
            of_tile[...] = of_tile if fill is None or tile.max() > 20 else fill
        return result

    for blend in (None, "hann"):
        options: dict[str, Any] = {"axes": "YX", "patch_size": (12, 12), "overlaps": (6, 6), "blend": blend}
        expected = quiet(partial(doubled, fill=-3), image, **options)
        assert np.array_equal(quiet(doubled, image, skip=SkipDark(20, -3), **options), expected)


def test_what_wraps_around_is_looked_at() -> None:
    """The only bright voxel lies at the other side, where padding gets it from."""
    image = np.zeros((8, 18), np.uint8)
    image[4, 0] = 100
    seen: list[np.ndarray] = []
    options: dict[str, Any] = {"axes": "YX", "patch_size": (8, 8), "overlaps": (0, 4), "origin_multiple": (1, 4)}
    quiet(partial(blind_model, seen=seen), image, padding="wrap", skip=SkipDark(20), **options)
    assert [tile[0, 4].tolist().index(100) for tile in seen[1:]] == [0, 6]


def test_negative_threshold() -> None:
    """Zeros around the image do not count."""
    image = np.full((8, 18), -9, np.int16)
    options: dict[str, Any] = {"axes": "YX", "patch_size": (8, 8), "overlaps": (0, 4), "origin_multiple": (1, 4)}
    result = quiet(lambda batch: batch, image, padding="constant", skip=SkipDark(-5, 1), **options)
    assert (result == 1).all()


def test_first_block_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """An array is made once, if one thread writes the first block while the other asks for the memory of the second."""
    small_blocks(monkeypatch, 25)
    made: list[Any] = []

    def slowly(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        made.append(open_sink(*args, **kwargs))
        return made[-1]

    monkeypatch.setattr(outputs, "open_sink", slowly)
    image = np.zeros((5, 20), np.uint8)
    image[:, 5:] = 100
    result = quiet(lambda batch: batch, image, axes="YX", patch_size=(5, 5), overlaps=(0, 0), skip=SkipDark(20, 7))
    assert len(made) == 1
    assert np.array_equal(result, np.where(image == 0, 7, image))


def test_incomplete_rule() -> None:
    """A rule decides on every tile."""

    class Forgetful:
        identity, images, fill = "{}", (), 0

        def check(self, image_stacks: Any) -> None:
            pass

        def skips(self, tiles: Any) -> list[bool]:
            return [True] * (len(tiles.specs) - 1)

    with pytest.raises(GeometryError, match="skip returned 1 decisions for 2 tiles"):
        quiet(blind_model, np.zeros((8, 8)), axes="YX", patch_size=(4, 4), skip=Forgetful(), batch_size=2)


def candidate(stack: ArrayStack, spec: Any) -> CandidateTiles:
    return CandidateTiles([stack], [spec], lambda: pytest.fail("the mask is enough"), ChunkCache())


@settings(deadline=None, max_examples=150)
@given(data=st.data(), n_dims=st.integers(2, 3))
def test_coarse_mask(data, n_dims) -> None:
    """A tile is skipped if its voxels of a coarse mask are all zero."""
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2), *[st.integers(1, 14)] * n_dims))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    factors = [data.draw(st.integers(1, size), label="factor") for size in shape[2:]]
    rounding = data.draw(st.sampled_from(["up", "down"]))
    coarse = [size // f if rounding == "down" else -(-size // f) for size, f in zip(shape[2:], factors, strict=True)]
    mask = rng.random((data.draw(st.sampled_from([1, shape[0]])), 1, *coarse)) < 0.15
    stack, rule = stack_of(np.ones(shape)), SkipOutside([stack_of(mask)])
    rule.check([stack])

    starts = [data.draw(st.integers(-2, size - 1)) for size in shape[2:]]
    sides = [data.draw(st.integers(max(1, 1 - start), 9)) for start in starts]
    sample_idx = data.draw(st.integers(0, shape[0] - 1))
    exact = [size % side == 0 for size, side in zip(shape[2:], coarse, strict=True)]
    sample = mask[min(sample_idx, len(mask) - 1)].any(axis=0)
    for axis, (f, size) in enumerate(zip(factors, shape[2:], strict=True)):  # the mask as large as its image
        factor = size // coarse[axis] if exact[axis] else f
        sample = sample.take(np.minimum(np.arange(size) // factor, coarse[axis] - 1), axis=axis)
    window = tuple(slice(max(start, 0), start + side) for start, side in zip(starts, sides, strict=True))
    wanted = bool(sample[window].any())

    spec = {"data_idx": 0, "sample_idx": sample_idx, "coords": tuple(starts), "patch_size": tuple(sides)}
    (skipped,) = rule.skips(candidate(stack, spec))
    assert not (skipped and wanted)
    if all(exact):
        assert skipped is not wanted


def test_wrong_mask():
    """A mask that does not fit its image is refused with both shapes."""
    image = stack_of(np.zeros((2, 1, 20, 30)))
    for shape, message in [
        ((1, 1, 20, 17), "along X, no whole factor scales 17 to 30"),
        ((1, 1, 40, 30), "along Y, no whole factor scales 40 to 20"),
        ((3, 1, 20, 30), "with the same number of samples, or with one sample for all"),
        ((1, 1, 2, 20, 30), "both must be 2D, or both 3D"),
    ]:
        with pytest.raises(GeometryError, match=message):
            SkipOutside([stack_of(np.zeros(shape))]).check([image])
    with pytest.raises(GeometryError, match="there are 1 masks and 2 images"):
        SkipOutside([image]).check([image, image])


def test_wrong_threshold():
    """Thresholds and channels that are not allowed are refused."""
    for arguments in [{"threshold": float("nan")}, *({"threshold": 0, "channels": c} for c in [(), (-1,), (0.5,)])]:
        with pytest.raises(GeometryError):
            SkipDark(**arguments)
    with pytest.raises(
        GeometryError, match=r"channels contains 2: it must be from 0 to 0, as array has 1 channel\(s\)"
    ):
        SkipDark(0, channels=(2,)).check([stack_of(np.zeros((1, 1, 4, 4)))])
    with pytest.raises(GeometryError, match="complex"):
        SkipDark(0).check([stack_of(np.zeros((1, 1, 4, 4), complex))])


def test_identity(rng, tmp_path: Path):
    """The identity of a rule contains all that matters."""
    masks = [rng.random((1, 1, 8, 8)) > 0.5 for _ in range(2)]
    identities = [SkipOutside([stack_of(mask)]).identity for mask in (*masks, masks[0].copy())]
    assert identities[0] == identities[2] != identities[1]
    np_file = tmp_path / "mask.tif"
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite(np_file, masks[0][0, 0].astype(np.uint8))
    before = SkipOutside(open_stacks(np_file, axes="YX")).identity
    tifffile.imwrite(np_file, np.zeros((8, 8), np.uint8), description="changed")
    after = SkipOutside(open_stacks(np_file, axes="YX")).identity
    dark = [rule.identity for rule in (SkipDark(1), SkipDark(2), SkipDark(1, channels=(0,)), SkipDark(1.0))]
    assert dark[0] == dark[3]
    assert len({*identities, before, after, *dark}) == 2 + 2 + 3
    assert all(json.loads(identity)["skip"] for identity in (*identities, before, *dark))


def test_chunks_read_once(rng: np.random.Generator) -> None:
    """Rule and model share the chunks that are read."""

    class Counting(ArrayStack):
        chunk_shape = shard_shape = (1, 1, 32, 32)
        pixels = None
        chunks: list[Any]

        def read_regions(self, regions: Any, out: Any) -> None:
            self.chunks += [tuple(part.start // 32 for part in region.window) for region in regions]
            for region, target in zip(regions, out, strict=True):
                target[...] = self.read_region(region)

    image = np.where(rng.random((1, 1, 256, 320)) < 0.0005, 255, 0).astype(np.uint8)
    mask = np.ones((1, 1, 256, 320), bool)
    for rule, n_reads in ((SkipDark(20), 80), (SkipOutside([Counting(mask, axes="SCYX")]), 160)):
        stack = Counting(image, axes="SCYX")
        stacks = [stack, *rule.images]
        for each in stacks:
            each.chunks = []
        quiet(blind_model, stack, patch_size=(40, 40), overlaps=(10, 10), skip=rule)
        assert 80 <= sum(len(each.chunks) for each in stacks) <= n_reads + 4  # those of the tile that shows the outputs


def test_is_dark(rng):
    """A tile is dark if no voxel of its channels is above the threshold."""
    pixels = rng.integers(0, 9, (3, 4, 5))
    for threshold, channels in product(range(-1, 10), [None, (1,), (0, 2)]):
        bright = pixels[slice(None) if channels is None else list(channels)].max() > threshold
        assert SkipDark(threshold, channels=channels).is_dark(pixels) is not bool(bright)


@pytest.mark.parametrize("skip", [SkipDark, 60, [SkipDark(60)]])
@pytest.mark.parametrize("run", [partial(quiet, blind_model), plan])
def test_wrong_rule(run: Any, skip: Any) -> None:
    """The error for an object that is not a rule shows a rule."""
    with pytest.raises(ArgumentTypeError, match=r"skip is .*must be a SkipRule; give one, such as SkipDark\(10\)"):
        run(np.zeros((20, 30)), axes="YX", patch_size=(8, 8), skip=skip)


@pytest.mark.parametrize("text", ["dark", "dark:", "dark:bright", "dark:3,fill=", "dark:3,fill=x", "bright:3"])
def test_wrong_text(text: str) -> None:
    """The error for a text that is not a rule shows a rule."""
    with pytest.raises(ArgumentError, match="write dark:100, or dark:100,fill=5"):
        plan(np.zeros((20, 30)), axes="YX", patch_size=8, skip=text)


def test_path_for_model() -> None:
    """A path in place of a model is refused with the function that loads it."""
    with pytest.raises(ArgumentTypeError, match=r"model is 'net\.onnx' .* load_model\('net\.onnx'\)"):
        quiet("net.onnx", np.zeros((20, 30)), axes="YX", patch_size=(8, 8))
