"""Activations equal those of PyTorch, on blocks of any dtype and size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from patchloom import ModelOutputError, predict
from patchloom.prediction.postprocessing.activations import Sigmoid, Softmax

PEERS = {"sigmoid": (Sigmoid(), torch.sigmoid), "softmax": (Softmax(), lambda block: torch.softmax(block, dim=0))}


@pytest.mark.parametrize("shape", [(3, 9, 300, 100), (2, 700, 300)])
@pytest.mark.parametrize("name", PEERS)
def test_as_pytorch(name, shape, rng):
    """Scores of any size become the probabilities that PyTorch computes."""
    step, peer = PEERS[name]
    block = (rng.normal(0, 30, shape)).astype(np.float32)
    before = block.copy()
    np.testing.assert_allclose(step(block), peer(torch.from_numpy(block)).numpy(), rtol=1e-5, atol=1e-7)
    assert np.array_equal(block, before)


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("dtype", ["uint8", "int32", "float16", "float32", "float64"])
def test_dtype(name, dtype, rng):
    """The result has the declared dtype: floats of at least 32 bits."""
    step, peer = PEERS[name]
    block = rng.integers(0, 9, (2, 5, 6)).astype(dtype)
    processed = step(block)
    assert (len(processed), processed.dtype) == step.output(2, block.dtype)
    assert processed.dtype == (np.float64 if dtype in ("int32", "float64") else np.float32)
    np.testing.assert_allclose(processed, peer(torch.from_numpy(block).double()).numpy(), rtol=1e-6)


@pytest.mark.parametrize("name", PEERS)
def test_extremes(name):
    """Infinite scores and NaN raise no warning; NaN stays NaN."""
    step, peer = PEERS[name]
    block = np.array([[[np.inf, -np.inf, np.nan, 1e30]], [[0, 0, 0, -1e30]]], np.float32)
    np.testing.assert_array_equal(step(block), peer(torch.from_numpy(block)).numpy())


def test_one_channel():
    """A softmax of one channel is refused: it would be 1 everywhere."""
    with pytest.raises(ModelOutputError, match="the model returns one channel: return a channel for each class"):
        Softmax().output(1, np.dtype("float32"))


def test_after_blending(rng):
    """Tiles are blended before an activation, and not after it."""
    image = rng.normal(0, 5, (2, 40, 50)).astype(np.float32)
    options = {"axes": "CYX", "patch_size": 16, "overlaps": 8, "blend": "hann", "progress": False}
    blended = predict(lambda batch: batch, image, **options)
    probabilities = predict(lambda batch: batch, image, postprocess="softmax", **options)
    np.testing.assert_allclose(probabilities, Softmax()(blended), rtol=1e-6)
