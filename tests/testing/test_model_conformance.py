"""The suite for models accepts models of every output size, and finds models that depend on their batch."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.testing.model_conformance import ModelConformance


def suite(model) -> ModelConformance:
    class Suite(ModelConformance):
        def make_model(self):
            return model

        def make_batch(self, size):
            return np.random.default_rng(0).random((3, 2, 12, 16))[:size]

    return Suite()


@pytest.mark.parametrize(
    "model",
    [
        np.negative,
        lambda batch: batch.repeat(2, axis=-1).repeat(2, axis=-2),
        lambda batch: batch[..., ::2, ::2],
        lambda batch: batch[:, :1, 2:-2, 2:-2],
    ],
    ids=["same", "larger", "smaller", "margin"],
)
def test_accepted_models(model):
    """Predictions may have any size and number of channels."""
    suite(model).test_batch_sizes()
    suite(model).test_tiles_are_independent()
    suite(model).test_memory_order()


@pytest.mark.parametrize(
    ("model", "test", "message"),
    [
        (lambda batch: batch[:, :, len(batch) :], "test_batch_sizes", "depends on the batch size"),
        (lambda batch: batch[:1], "test_batch_sizes", "not equal"),
        (lambda batch: batch[:, 0], "test_batch_sizes", "not equal"),
        (lambda batch: batch - batch.mean(), "test_tiles_are_independent", "Not equal"),
        (lambda batch: batch.ravel("K").reshape(batch.shape), "test_memory_order", "Not equal"),
    ],
    ids=["size", "tiles", "axes", "mean", "order"],
)
def test_refused_models(model, test, message):
    """A model whose predictions depend on the batch fails."""
    with pytest.raises(AssertionError, match=message):
        getattr(suite(model), test)()
