"""Weights of channels and their sums, without PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

from patchloom.errors import GeometryError
from patchloom.patching import RandomPatching, UncorrelatedPatching
from patchloom.patching.counter_random import CounterRandom
from patchloom.torch.datasets.channel_mixing import checked_alpha_ranges, draw_alphas, mix_channels, specs_of_channel


def test_weights() -> None:
    """A weight is a function of (seed, epoch, index, channel)."""
    ranges = checked_alpha_ranges([(0, 1), (0, 1), (2, 2)], 3)
    alphas = draw_alphas(CounterRandom(5, 2), ranges, np.arange(100))
    assert (alphas[:, 2] == 2).all()
    assert len(set(alphas[:, :2].ravel().tolist())) == 200
    assert np.array_equal(draw_alphas(CounterRandom(5, 2), ranges, np.array([70, 3])), alphas[[70, 3]])
    for other in (CounterRandom(5, 3), CounterRandom(6, 2)):
        assert not (draw_alphas(other, ranges, np.arange(100)) == alphas)[:, :2].any()


def test_sums(rng: np.random.Generator) -> None:
    """Sums are weighted channel by channel."""
    channels = rng.random((4, 3, 2, 5, 6)).astype(np.float32)
    alphas = rng.normal(size=(4, 3))
    out = np.empty((4, 2, 5, 6), np.float32)
    mix_channels(channels, alphas, out)
    np.testing.assert_allclose(out, np.einsum("bc,bclyx->blyx", alphas, channels), rtol=1e-5, atol=1e-6)


def test_specs_of_channel() -> None:
    """A channel has specifications in its own series."""
    bases = [RandomPatching([(1, 1, 64, 64)] * n, (8, 8), seed=n) for n in (1, 3)]
    plan = UncorrelatedPatching(bases, n_channels=2)
    for channel in range(2):
        table = specs_of_channel(plan[:], channel)
        assert set(table.columns) == {"data_idx", "sample_idx", "coords", "patch_size"}
        own = {(spec["data_idx"], spec["coords"]) for spec in bases[channel]}
        assert {(spec["data_idx"], spec["coords"]) for spec in table} <= own


@pytest.mark.parametrize("ranges", [[], [(0, 1)] * 3, [(0, 1), (2, 1)], [(0, np.inf), (0, 1)], [(0, 1, 2), (0, 1)]])
def test_wrong_ranges(ranges: list[tuple[float, float]]) -> None:
    """Wrong ranges are refused."""
    with pytest.raises(GeometryError, match="alpha_ranges has"):
        checked_alpha_ranges(ranges, 2)
