"""What every model must do, as a suite of tests to inherit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from patchloom.prediction.models.model import Model


class ModelConformance:
    """Tests for a model; inherit it in a class that pytest collects, and give the model and something to feed it.

    Examples
    --------
    >>> class TestNegative(ModelConformance):
    ...     def make_model(self):
    ...         return np.negative
    ...
    ...     def make_batch(self, size):
    ...         return np.random.default_rng(0).random((size, 1, 16, 16))
    >>> TestNegative().test_a_tile_is_predicted_alike_alone_and_in_a_batch()
    """

    def make_model(self) -> Model:
        """Return the model to be tested."""
        raise NotImplementedError

    def make_batch(self, size: int) -> NDArray[Any]:
        """Return so many tiles, no two of them alike, as `(B, C, (Z), Y, X)` of a size that the model takes."""
        raise NotImplementedError

    def compare(self, actual: NDArray[Any], expected: NDArray[Any]) -> None:
        """Compare two predictions of the same tiles; by default to float32's precision."""
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)

    def test_batches_of_any_size_keep_their_spatial_size(self) -> None:
        """A last batch may be smaller than the others."""
        model = self.make_model()
        channels = set()
        for size in (1, 2, 3):
            batch = self.make_batch(size)
            predicted = np.asarray(model(batch.copy()))
            channels.add(predicted.shape[1])
            np.testing.assert_equal(predicted.shape[:1] + predicted.shape[2:], batch.shape[:1] + batch.shape[2:])
        np.testing.assert_equal(len(channels), 1, "the number of channels depends on the size of the batch")

    def test_a_tile_is_predicted_alike_alone_and_in_a_batch(self) -> None:
        """Which tiles share a batch must not show in the result."""
        model, batch = self.make_model(), self.make_batch(3)
        together = np.asarray(model(batch.copy()))
        for index in range(len(batch)):
            self.compare(np.asarray(model(batch[index : index + 1].copy()))[0], together[index])

    def test_a_tile_is_predicted_alike_in_any_memory_order(self) -> None:
        """A batch may be a view: strided, and not contiguous."""
        model, batch = self.make_model(), self.make_batch(2)
        expected = np.asarray(model(batch.copy()))
        self.compare(np.asarray(model(np.asfortranarray(batch))), expected)

    def test_the_model_works_in_another_process(self) -> None:
        """Workers get the model pickled."""
        model, batch = self.make_model(), self.make_batch(1)
        arrived = pickle.loads(pickle.dumps(model))  # noqa: S301  # pickled right here
        self.compare(np.asarray(arrived(batch.copy())), np.asarray(model(batch.copy())))
