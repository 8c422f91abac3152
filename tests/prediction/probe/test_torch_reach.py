"""The reach of networks of PyTorch, by NaN in half of a tile."""

import os
from fractions import Fraction

import pytest
import torch
from tests.prediction.probe.random_networks import answer, draw, make_module, size_facts

from patchloom.prediction.probe.report import Undecided
from patchloom.prediction.probe.torch_reach import SizeFacts, torch_reach

N_NETWORKS = int(os.environ.get("PATCHLOOM_NETWORKS", "20"))
PLAIN = SizeFacts(1, 1, 1, (Fraction(1),), (Fraction(0),))


@pytest.mark.parametrize("seed", range(N_NETWORKS))
def test_random_networks(seed):
    """The reach of a random network is that of the analytic answer, at the worst phase of its stride."""
    spec = draw(seed)
    (reach,) = torch_reach(make_module(spec), 1, size_facts(spec), seconds=100)
    expected = [answer(spec, axis) for axis in range(spec.n_dims)]
    assert reach.context == tuple((known.before, known.after) for known in expected), str(spec)


def test_whole_tile():
    """A network that looks at the whole tile has no reach."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1), torch.nn.InstanceNorm2d(2))
    assert isinstance(torch_reach(network, 1, [PLAIN, PLAIN], largest=2**16), Undecided)


def test_time_limit():
    """The time limit is kept, and is the reason."""
    assert torch_reach(torch.nn.Conv2d(1, 2, 3, padding=1), 1, [PLAIN, PLAIN], seconds=0) == Undecided(
        "the time limit is reached"
    )


def test_dead_activation():
    """A voxel that an activation makes zero is seen, and the network keeps its mode."""
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 5, padding=2), torch.nn.ReLU(), torch.nn.Dropout(0.9)).train()
    network[0].weight.data.fill_(-1.0)
    (reach,) = torch_reach(network, 1, [PLAIN, PLAIN])
    assert (reach.context, network.training, network[2].training) == (((2, 2), (2, 2)), True, True)


def test_failing_network():
    """A network that fails is reported, with its message."""
    found = torch_reach(torch.nn.Conv2d(3, 1, 3), 1, [PLAIN, PLAIN])
    assert isinstance(found, Undecided)
    assert "it fails on a tile" in found.reason
