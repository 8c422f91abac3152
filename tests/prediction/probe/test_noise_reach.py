"""The reach of any callable, by noise in half of a tile."""

import os
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from tests.prediction.probe.random_networks import answer, draw, make_module, size_facts

from patchloom.prediction.probe.noise_reach import noise_reach
from patchloom.prediction.probe.report import Undecided
from patchloom.prediction.probe.torch_reach import SizeFacts

PLAIN = SizeFacts(1, 1, 1, (Fraction(1),), (Fraction(0),))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8, np.uint16])
def test_filter(dtype):
    """The reach of a lopsided filter is found, and is a lower bound."""

    def smallest(batch):
        padded = np.pad(batch, [(0, 0), (0, 0), (1, 1), (3, 0)], mode="edge")
        return [sliding_window_view(padded, (3, 4), axis=(2, 3)).min(axis=(4, 5))]

    (reach,) = noise_reach(smallest, 1, [PLAIN, PLAIN], dtype=dtype)
    assert (reach.context, reach.is_lower_bound, reach.method) == (((1, 1), (3, 0)), True, "noise")


def test_phases():
    """Each phase of the stride is seen, and scale and margin are taken into account."""

    def halved(batch):
        return [batch.reshape(1, 1, batch.shape[2] // 4, 4, -1).max(axis=3)]

    sizes = [SizeFacts(4, 4, 4, (Fraction(1, 4),), (Fraction(0),)), PLAIN]
    (reach,) = noise_reach(halved, 1, sizes)
    assert reach.context == ((0, 0), (0, 0))

    def repeated(batch):
        return [np.repeat(halved(batch)[0], 4, axis=2)]

    (reach,) = noise_reach(repeated, 1, [SizeFacts(4, 4, 4, (Fraction(1),), (Fraction(0),)), PLAIN])
    assert reach.context == ((3, 3), (0, 0))


def test_whole_tile():
    """A model that looks at the whole tile has no reach."""
    found = noise_reach(lambda batch: [batch - batch.mean()], 1, [PLAIN, PLAIN], largest=2**12)
    assert isinstance(found, Undecided)


N_NETWORKS = int(os.environ.get("PATCHLOOM_NETWORKS", "20"))
SEEDS = [seed for seed in range(N_NETWORKS) if N_NETWORKS > 20 or (draw(seed).n_dims == 2 and draw(seed).depth < 3)]


@pytest.mark.parametrize("seed", SEEDS)
def test_random_networks(seed):
    """What is found of a random network is never more than the analytic answer."""
    spec = draw(seed)
    module = make_module(spec)

    def predict(batch):
        with torch.no_grad():
            return [module(torch.from_numpy(batch)).numpy()]

    (reach,) = noise_reach(predict, 1, size_facts(spec), seconds=100)
    known = [answer(spec, axis) for axis in range(spec.n_dims)]
    assert all(found <= one.before for found, one in zip(reach.before, known, strict=True)), str(spec)
    assert all(found <= one.after for found, one in zip(reach.after, known, strict=True)), str(spec)
    if os.environ.get("PATCHLOOM_NETWORKS"):
        print("exact" if reach.context == tuple((one.before, one.after) for one in known) else "short", spec)
