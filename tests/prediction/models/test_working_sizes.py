"""The error of a tile size that a model does not accept contains sizes that it accepts."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.errors import ModelError
from patchloom.prediction import predict
from patchloom.prediction.models.working_sizes import find_working_sizes


def accepting(is_accepted):
    """Return a model that fails on other sizes, and the sizes that it was called with."""
    called = []

    def model(batch):
        called.append(batch.shape[2:])
        if not is_accepted(batch.shape[2:]):
            raise ModelError("not this size")
        return batch

    return model, called


@pytest.mark.parametrize(
    ("size", "is_accepted", "expected"),
    [
        ((100, 100), lambda size: not any(side % 32 for side in size), [(96, 96), (64, 64)]),
        ((128, 128), lambda size: set(size) <= {64, 96}, [(96, 96), (64, 64)]),
        ((40, 200), lambda size: len(set(size)) == 1, [(32, 32), (16, 16)]),
        ((20, 100, 100), lambda size: not any(side % 16 for side in size), [(32, 96, 96), (32, 32, 32)]),
        ((30, 30), lambda size: not any(side % 8 for side in size), [(32, 32), (16, 16)]),
        ((100, 100), lambda size: False, []),
        ((100, 100), lambda size: True, []),  # it failed for another reason
    ],
)
def test_find(size, is_accepted, expected):
    """At most two sizes are found, near the one that fails."""
    model, called = accepting(is_accepted)

    assert find_working_sizes(model, np.zeros((1, 2, *size))) == expected
    assert len(called) <= 11


def test_predict(rng):
    """The size that is planned is tried before anything is written, and the error names others."""
    model, _ = accepting(lambda size: not any(side % 16 for side in size))

    with pytest.raises(
        ModelError,
        match=r"not this size; it accepts tiles of 64 × 64 and 32 × 32: give such a size as patch_size=\(64, 64\)",
    ):
        predict(model, rng.random((200, 200)), axes="YX", patch_size=72, progress=False)
