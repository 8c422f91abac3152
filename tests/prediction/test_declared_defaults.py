"""What a model declares is the default of an argument; what is given, `"none"` included, is used instead."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import patchloom as pl

IMAGE = np.random.default_rng(0).normal(50, 20, (2, 90, 70)).astype(np.float32)
COMMON: dict[str, Any] = {"axes": "CYX", "progress": False}


@dataclass(frozen=True)
class Blur:
    """The mean of a row and the next one, with wrong values at the border of a tile."""

    description: pl.ModelDescription = field(default_factory=pl.ModelDescription)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return (batch + np.roll(batch, 1, axis=-2)) / 2


def declaring(**declared: Any) -> Blur:
    return Blur(pl.ModelDescription(**declared))


@pytest.mark.parametrize(
    ("name", "value", "other"),
    [
        ("blend", "gaussian", "hann"),
        ("postprocess", "softmax|argmax", "sigmoid"),
        ("normalize", "mean_std", "percentiles"),
    ],
)
def test_text(name, value, other):
    """Blending, postprocessing and normalization are declared, given or declined."""
    options = {**COMMON, "patch_size": 32, "overlaps": 8}
    model = declaring(**{name: value})

    def run(model, *given):
        return pl.predict(model, IMAGE, **options, **dict(given))

    np.testing.assert_array_equal(run(model), run(Blur(), (name, value)))
    np.testing.assert_array_equal(run(model, (name, other)), run(Blur(), (name, other)))
    np.testing.assert_array_equal(run(model, (name, "none")), run(Blur()))
    planned = pl.plan(IMAGE, model=model, **{"axes": "CYX", "patch_size": 32, "overlaps": 8, name: "none"})
    again = pl.PredictionPlan.from_json(planned.to_json())
    np.testing.assert_array_equal(again.run(model, sources=IMAGE, progress=False), run(Blur()))


def test_resume_declined(tmp_path):
    """A run is resumed as one and the same, whether a default is declined or the model declares none."""
    options = {**COMMON, "patch_size": 32, "overlaps": 8}
    left = [3]

    class Failing(Blur):
        def __call__(self, batch):
            if not left[0]:
                raise RuntimeError("stop")
            left[0] -= 1
            return super().__call__(batch)

    model = Failing(pl.ModelDescription(blend="gaussian", identity="one"))
    with pytest.raises(pl.ModelError):
        pl.predict(model, IMAGE, tmp_path / "out.ome.zarr", blend="none", memory_limit=2**20, **options)
    left[0] = 1000
    plain = Failing(pl.ModelDescription(identity="one"))
    path = pl.predict(plain, IMAGE, tmp_path / "out.ome.zarr", memory_limit=2**20, **options)
    (written,) = pl.open_stacks(path)
    np.testing.assert_array_equal(
        written.extract_patch(0, None, (0, 0), (90, 70)), pl.predict(Blur(), IMAGE, **options)
    )


def test_preferred_sizes():
    """A preferred tile and batch size are used if none is given, and others are accepted."""
    model = declaring(preferred_patch_size=(48, 32), preferred_batch_size=3, size_step=(16, 16))
    layout = pl.plan(IMAGE, model=model, axes="CYX").layout
    assert (layout.patch_size, layout.batch_size) == ((48, 32), 3)
    layout = pl.plan(IMAGE, model=model, axes="CYX", patch_size=64, batch_size=2).layout
    assert (layout.patch_size, layout.batch_size) == ((64, 64), 2)


@pytest.mark.parametrize("size", [20, 200, 300])
def test_large_overlap(size):
    """Along an axis that one tile covers, a declared overlap may be larger than the tile; elsewhere, the tile is larger."""
    model = declaring(size_step=(4, 4, 4), origin_multiple=(4, 4, 4), overlaps=(116, 116, 116))
    planned = pl.plan(np.zeros((21, size, 130), np.uint8), model=model, axes="ZYX")
    overlaps, patch_size = planned.tiling.overlaps, planned.layout.patch_size
    assert patch_size == (24, {20: 20, 200: 200, 300: 232}[size], 132)
    assert all(voxels < side for voxels, side in zip(overlaps, patch_size, strict=True))
    assert size < 300 or overlaps[1] >= 116


def test_too_large_overlap():
    """A tile that is given and does not cover the image must be larger than the declared overlap."""
    with pytest.raises(pl.GeometryError, match="overlap"):
        pl.plan(np.zeros((200, 100), np.uint8), model=declaring(overlaps=(64, 64)), axes="YX", patch_size=(64, 128))


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"blend": "cosine"}, "blend is 'cosine'"),
        ({"postprocess": 3}, "postprocess is 3"),
        ({"preferred_patch_size": (0, 8)}, "preferred_patch_size"),
        ({"preferred_batch_size": 0}, "preferred_batch_size is 0"),
        ({"preferred_patch_size": (8, 8), "n_dims": 3}, "preferred_patch_size"),
    ],
)
def test_bad_declarations(declared, message):
    """A description refuses values that no run could use."""
    with pytest.raises(pl.ArgumentError, match=message):
        pl.ModelDescription(**declared)
