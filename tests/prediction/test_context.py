"""A model that declares how far it looks: tiled, cropped and blended, it gives what the whole image gives."""

import os

import numpy as np
import pytest
import torch
from tests.prediction.probe.random_networks import accepted_sizes, answer, draw, make_module

import patchloom as pl

N_NETWORKS = int(os.environ.get("PATCHLOOM_NETWORKS", "8"))
WINDOWS = [None, "hann", "gaussian", "linear", "mean"]


def _describe(spec):
    known = [answer(spec, axis) for axis in range(spec.n_dims)]
    return pl.ModelDescription(
        min_size=accepted_sizes(spec),
        size_step=tuple(one.stride for one in known),
        origin_multiple=tuple(one.stride for one in known),
        context=tuple((one.before, one.after) for one in known),
    )


def _whole(module, spec, image):
    """Predict the whole image, mirrored at its end up to the next size that the network takes."""
    strides = [answer(spec, axis).stride for axis in range(spec.n_dims)]
    least = accepted_sizes(spec)
    missing = [
        (0, max(0, low - side) + -max(0, side - low) % stride)
        for side, low, stride in zip(image.shape, least, strides, strict=True)
    ]
    with torch.no_grad():
        return module(torch.from_numpy(np.pad(image, missing, mode="reflect"))[None, None])[0, 0].numpy()


SPECS = [
    spec
    for spec in map(draw, range(4 * N_NETWORKS))
    if not spec.is_valid and spec.head != "half" and (spec.n_dims == 2 or spec.depth < 2)
][:N_NETWORKS]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_random_networks(spec):
    """Tiled equals whole for a random network, on an image whose size is no multiple of its stride, with any blending."""
    module, description = make_module(spec), _describe(spec)
    model = pl.TorchModel(module, description)
    needed = [
        2 * max(sides) + 4 * step for sides, step in zip(description.context, description.origin_multiple, strict=True)
    ]
    patch = [
        low + -(-max(0, n - low) // s) * s
        for n, low, s in zip(needed, description.min_size, description.size_step, strict=True)
    ]
    # Short axes of 3D images are in one tile, larger than the image.
    size = [
        side + 2 * step + 5 + 3 * axis if axis or spec.n_dims == 2 else 2 * step + 1
        for axis, (side, step) in enumerate(zip(patch, description.size_step, strict=True))
    ]
    image = np.random.default_rng(spec.seed).standard_normal(size).astype(np.float32)
    expected = _whole(module, spec, image)
    scale = [answer(spec, axis).scale for axis in range(spec.n_dims)]
    inside = tuple(slice(0, int(side * factor)) for side, factor in zip(size, scale, strict=True))
    for blend in WINDOWS:
        result = pl.predict(
            model, image, axes="ZYX"[-spec.n_dims :], patch_size=patch, blend=blend, padding="reflect", progress=False
        )
        np.testing.assert_allclose(result, expected[inside], atol=2e-5 * np.abs(expected).max(), rtol=0)


def test_explicit_overlap():
    """A given overlap is not changed, also if the context needs more."""
    planned = pl.plan(np.zeros((100, 90)), axes="YX", model=_Model((20, 17)), patch_size=48, overlaps=16)
    assert (planned.tiling.overlaps, planned.tiling.halo) == ((16, 16), (8, 8))


def test_default_overlap():
    """By default, tiles share the context on both sides, and are no larger than the image needs."""
    planned = pl.plan(np.zeros((300, 30)), axes="YX", model=_Model((20, 17)), patch_size=128)
    assert (planned.layout.patch_size, planned.tiling.halo, planned.tiling.overlaps[0]) == ((128, 32), (20, 0), 40)


class _Model:
    def __init__(self, context):
        self.description = pl.ModelDescription(size_step=(4, 4), context=(context,) * 2)

    def __call__(self, batch):
        return batch
