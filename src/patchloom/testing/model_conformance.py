"""A test suite for models."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.prediction.models.model import Model


class ModelConformance:
    """Tests for a model. Inherit it in a test class, and define `make_model` and `make_batch`.

    Examples
    --------
    >>> class TestNegative(ModelConformance):
    ...     def make_model(self):
    ...         return np.negative
    ...
    ...     def make_batch(self, size):
    ...         return np.random.default_rng(0).random((size, 1, 16, 16))
    >>> TestNegative().test_tiles_are_independent()
    """

    def make_model(self) -> Model:
        """Return the model to test."""
        raise NotImplementedError

    def make_batch(self, size: int) -> NDArray[Any]:
        """Return `size` different tiles, `(B, C, (Z), Y, X)`, of a size that the model accepts."""
        raise NotImplementedError

    def compare(self, actual: NDArray[Any], expected: NDArray[Any]) -> None:
        """Check that two predictions of the same tiles agree; by default to the precision of float32."""
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_batch_sizes(self) -> None:
        """Predictions have the same shape in batches of any size: the last batch may be smaller than the others."""
        model = self.make_model()
        shapes = set()
        for size in (1, 2, 3):
            batch = self.make_batch(size)
            predicted = np.asarray(model(batch.copy()))
            np.testing.assert_equal((len(predicted), predicted.ndim), (size, batch.ndim))
            shapes.add(predicted.shape[1:])
        np.testing.assert_equal(len(shapes), 1, "the shape of a prediction depends on the batch size")

    def test_tiles_are_independent(self) -> None:
        """The prediction of a tile does not depend on the other tiles of its batch."""
        model, batch = self.make_model(), self.make_batch(3)
        together = np.asarray(model(batch.copy()))
        for index in range(len(batch)):
            self.compare(np.asarray(model(batch[index : index + 1].copy()))[0], together[index])

    def test_memory_order(self) -> None:
        """The prediction does not depend on the memory order: a batch may be a view that is not contiguous."""
        model, batch = self.make_model(), self.make_batch(2)
        expected = np.asarray(model(batch.copy()))
        self.compare(np.asarray(model(np.asfortranarray(batch))), expected)

    def test_pickle(self) -> None:
        """A pickled model predicts the same, as it must in other processes."""
        model, batch = self.make_model(), self.make_batch(1)
        arrived = pickle.loads(pickle.dumps(model))  # noqa: S301  # our own pickle
        self.compare(np.asarray(arrived(batch.copy())), np.asarray(model(batch.copy())))
