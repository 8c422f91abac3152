"""All options of a run together, on random images: every voxel is what a tiling written in NumPy gives."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial, reduce
from math import lcm
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import zarr
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from patchloom.errors import GeometryError, ModelError
from patchloom.geometry.blend_weights import shared_weights, tile_extents
from patchloom.geometry.tile_rule import TileRule
from patchloom.image_stacks import ArrayStack
from patchloom.prediction import plan, predict
from patchloom.prediction.models.model import ModelDescription
from patchloom.prediction.planning import fit
from patchloom.prediction.skip_rules import SkipOutside
from patchloom.stitching import block_grid

SCALES = [Fraction(1), Fraction(1), Fraction(2), Fraction(1, 2)]


@dataclass
class Network:
    """A model whose outputs depend on all of a tile, so that a tile at another place gives other values."""

    scale: tuple[Fraction, ...]
    margin: tuple[int, ...]
    fails_at: float = float("inf")
    n_calls: int = 0

    @property
    def description(self) -> ModelDescription:
        return ModelDescription(scale=self.scale, identity="the same network, whenever it fails")

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        self.n_calls += 1
        if self.n_calls == self.fails_at:
            raise RuntimeError("no memory")
        predictions = np.stack([self.predicted(tile) for tile in batch])
        batch[...] = 0  # a batch is the model's to change
        return {"one": predictions[:, :1], "two/three": predictions[:, 1:]}

    def predicted(self, tile: np.ndarray) -> np.ndarray:
        values = tile.sum(axis=0, dtype=np.float64) + tile.sum(dtype=np.float64) % 13
        for axis, (factor, lost) in enumerate(zip(self.scale, self.margin, strict=True)):
            kept = np.arange(lost, values.shape[axis] - lost, factor.denominator).repeat(factor.numerator)
            values = values.take(kept, axis)
        return np.stack([values, values * 2, 5 - values])


class Axis(NamedTuple):
    """One axis of an image and how tiles cover it, without the margin."""

    size: int
    patch: int
    overlap: int
    seams: Any
    multiple: int
    scale: Fraction

    def tiles(self, blend: Any) -> list[tuple[int, np.ndarray]]:
        """Start of each tile, and the weights of the voxels of its output: cropped ones are 0."""
        before = self.overlap // 2
        core = self.patch - self.overlap
        if self.seams == "grid":
            before += -before % self.multiple
            core = min(core, self.patch - before - self.overlap // 2)
        core -= core % self.multiple
        rest = max(self.size - self.patch, 0)
        count = 1 if not rest else -(-rest // core) + 1 if self.seams == "centered" else -(-self.size // core)
        if self.seams == "centered":
            before = (self.patch - core) // 2
        first_seam = before if self.seams == "centered" else 0
        last = rest + -rest % self.multiple
        starts = [min(max(first_seam + core * tile - before, 0), last) for tile in range(count)]
        seams = [0, *(first_seam + core * tile for tile in range(1, count)), self.size]
        if blend is None:
            return [(start, self._kept(start, *seams[tile : tile + 2])) for tile, start in enumerate(starts)]
        rule = TileRule(self.patch, self.overlap, self.seams, self.multiple)
        return [(start, self._blended(blend, rule, start)) for start in starts]

    def _kept(self, start: int, keep_start: int, keep_stop: int) -> np.ndarray:
        voxels = np.arange(int(self.patch * self.scale)) + int(start * self.scale)
        return ((voxels >= keep_start * self.scale) & (voxels < keep_stop * self.scale)).astype(float)

    def _blended(self, blend: Any, rule: TileRule, start: int) -> np.ndarray:
        extents = tile_extents(blend, rule, self.size, start)
        scaled = tuple((int(begin * self.scale), int(end * self.scale)) for begin, end in extents)
        return shared_weights(blend, int(self.patch * self.scale), scaled)


def expected(image: np.ndarray, mask: np.ndarray, network: Network, options: dict[str, Any]) -> np.ndarray:
    """Predictions of one sample, `C(Z)YX`; the mask is `(Z)YX`."""
    axes = [
        Axis(size, side - 2 * lost, max(0, shared - 2 * lost), options["seams"], lcm(2, scale.denominator), scale)
        for size, side, shared, lost, scale in zip(
            mask.shape, options["patch_size"], options["overlaps"], network.margin, network.scale, strict=True
        )
    ]
    around = [(lost, axis.patch + 2 + lost) for axis, lost in zip(axes, network.margin, strict=True)]
    padded = np.pad(image, [(0, 0), *around], mode=options["padding"])
    whole = np.zeros((3, *(int((axis.size + axis.patch + 2) * axis.scale) for axis in axes)))
    for tile in itertools.product(*(axis.tiles(options["blend"]) for axis in axes)):
        starts = [start for start, _ in tile]
        window = tuple(slice(start, start + axis.patch) for start, axis in zip(starts, axes, strict=True))
        pixels = padded[
            (slice(None), *(slice(at, at + side) for at, side in zip(starts, options["patch_size"], strict=True)))
        ]
        values = network.predicted(pixels) if mask[window].any() else options["skip"].fill
        weights = reduce(np.multiply.outer, [of_axis for _, of_axis in tile])
        places = [int(start * axis.scale) for start, axis in zip(starts, axes, strict=True)]
        target = tuple(slice(at, at + side) for at, side in zip(places, weights.shape, strict=True))
        whole[(slice(None), *target)] += values * weights
    return whole[(slice(None), *(slice(-int(-axis.size * axis.scale // 1)) for axis in axes))]


@st.composite
def networks_and_options(draw: Any) -> tuple[Network, dict[str, Any]]:
    n_dims = draw(st.integers(2, 3))
    margin = draw(st.tuples(*[st.sampled_from([0, 0, 2])] * n_dims))
    patch_size = tuple(2 * draw(st.integers(2, 4)) + 2 * lost for lost in margin)
    options = {
        "patch_size": patch_size,
        "overlaps": tuple(draw(st.integers(0, size // 2)) for size in patch_size),
        "blend": draw(st.sampled_from([None, "hann", "linear", "mean"])),
        "seams": draw(st.sampled_from(["centered", "grid"])),
        "padding": draw(st.sampled_from(["reflect", "edge", "wrap", "constant"])),
        "origin_multiple": 2,
        "batch_size": draw(st.integers(1, 4)),
    }
    scale = draw(st.tuples(*[st.sampled_from(SCALES)] * n_dims))
    if min(scale) < 1:
        options["seams"] = "grid"
    return Network(scale, margin), options


@settings(deadline=None, max_examples=40)
@given(data=st.data(), run=networks_and_options(), seed=st.integers(0, 2**32))
def test_all_options(data: Any, run: Any, seed: int) -> None:
    """Every voxel is that of a tiling written in NumPy, for all options together."""
    network, options = run
    rng = np.random.default_rng(seed)
    n_dims = len(network.scale)
    images, masks = [], []
    for dtype in data.draw(st.lists(st.sampled_from(["uint8", "int16", "float64", "bool"]), min_size=1, max_size=3)):
        n_spatial = data.draw(st.integers(n_dims, 3))
        sizes = data.draw(st.tuples(*[st.integers(1, 13)] * n_spatial))
        images.append(rng.integers(0, 50, (data.draw(st.integers(1, 2)), 2, *sizes)).astype(dtype))
        masks.append(rng.random((1, 1, *sizes)) < data.draw(st.sampled_from([0.01, 0.1, 1])))
    axes = ["SCYX" if image.ndim == 4 else "SCZYX" for image in images]
    stacks = [ArrayStack(image.copy(), axes=names) for image, names in zip(images, axes, strict=True)]
    fill = data.draw(st.sampled_from([0, -3]))
    options["skip"] = SkipOutside([ArrayStack(mask, axes=names) for mask, names in zip(masks, axes, strict=True)], fill)
    try:
        plan(stacks, **options)
    except GeometryError:
        assume(False)
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setattr(fit, "BLOCK_SIZES", [data.draw(st.sampled_from([1, 100, 2000])), 50])
        patch.setattr(block_grid, "CHUNK_SIZE", {2: 4, 3: 4})
        run_into = partial(predict, sources=stacks, output=data.draw(st.sampled_from([None, Path(folder, "out")])))
        try:
            results = run_into(replace(network, fails_at=data.draw(st.integers(2, 6))), progress=False, **options)
        except ModelError:  # it goes on where it was
            results = run_into(network, progress=False, **options)
        for image, mask, result in zip(images, masks, results, strict=True):
            whole = expected_of_image(image, mask[0, 0], network, options)
            for name, channels in {"one": whole[:, :1], "two/three": whole[:, 1:]}.items():
                values = pixels_of(result[name]).reshape(channels.shape)
                if options["blend"] is None:
                    np.testing.assert_array_equal(values, channels)
                else:
                    np.testing.assert_allclose(values, channels, rtol=1e-12, atol=1e-9)


def expected_of_image(image: np.ndarray, mask: np.ndarray, network: Network, options: dict[str, Any]) -> np.ndarray:
    """Predictions of an image, `SC(Z)YX`: slice by slice, if the network is 2D."""
    if mask.ndim == len(network.scale):
        return np.stack([expected(sample, mask, network, options) for sample in image])
    slices = [expected_of_image(image[:, :, z], mask[z], network, options) for z in range(len(mask))]
    return np.stack(slices, axis=2)


def pixels_of(result: Any) -> np.ndarray:
    """What was returned, or is in the OME-Zarr that was written."""
    return np.asarray(zarr.open_group(result, mode="r")["0"][...] if isinstance(result, Path) else result)
