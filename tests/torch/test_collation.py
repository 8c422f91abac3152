"""Batches: what goes in comes out, specifications above all."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import default_collate

import patchloom as pl
from patchloom.torch import Patch, PatchPair, collate, decollate

numbers = st.integers(-(2**40), 2**40)


def tuples(length: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*[numbers] * length)


@st.composite
def batches_of_specs(draw: st.DrawFn) -> list[pl.PatchSpecs]:
    """Draw 1 to 5 specifications of one of the three kinds, in 2D or 3D."""
    n_dims, n_channels = draw(st.integers(2, 3)), draw(st.integers(1, 4))
    spatial = tuples(n_dims)
    fields = {"data_idx": numbers, "sample_idx": numbers, "coords": spatial, "patch_size": spatial}
    tile = dict.fromkeys(("crop_coords", "crop_size", "stitch_coords"), spatial) | {"total_tiles": numbers}
    uncorrelated = {
        "principal_channel": numbers,
        "all_data_idx": tuples(n_channels),
        "all_sample_idx": tuples(n_channels),
        "all_coords": st.tuples(*[spatial] * n_channels),
    }
    kind = draw(st.sampled_from([{}, tile, uncorrelated]))
    return draw(st.lists(st.fixed_dictionaries(fields | kind), min_size=1, max_size=5))


@given(batches_of_specs(), st.sampled_from([collate, default_collate]))
def test_decollate(specs, collate_fn):
    """Decollated specifications are exactly those before collation."""
    batch = collate_fn([Patch(torch.zeros(1, 2, 2), spec) for spec in specs])

    returned = decollate(batch.specs)

    assert returned == specs
    pl.SpecTable.from_specs(returned)
    assert all(type(value) in (int, tuple) for spec in returned for value in spec.values())


def test_mixed_kinds(inputs, patching):
    """A batch can mix correlated and uncorrelated patches."""
    mixed = pl.UncorrelatedPatching(patching, n_channels=3, probability=0.5, seed=2)
    correlated = [len(set(spec["all_coords"])) == 1 for spec in mixed]
    assert any(correlated)
    assert not all(correlated)

    batch = collate([Patch(torch.zeros(3, 16, 16), spec) for spec in mixed])

    assert decollate(batch.specs) == list(mixed)


def test_stack(rng):
    """Pixels are stacked in order."""
    pixels = torch.from_numpy(rng.random((4, 2, 5, 5)))
    specs = {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (5, 5)}

    batch = collate([PatchPair(patch, -patch[:1], specs) for patch in pixels])

    assert torch.equal(batch.input, pixels)
    assert torch.equal(batch.target, -pixels[:, :1])


def test_lists(patching):
    """Specifications survive a conversion to dictionaries and back."""
    assert decollate(patching.specs([3, 1]).to_specs()) == [patching[3], patching[1]]


def test_different_sizes():
    """Patches of different sizes are refused; the message names both sizes."""
    specs = {"data_idx": 0, "sample_idx": 0, "coords": (0, 0), "patch_size": (5, 5)}

    with pytest.raises(pl.SpecError, match=r"input is \(1, 5, 5\).*and \(1, 5, 4\)"):
        collate([Patch(torch.zeros(1, 5, 5), specs), Patch(torch.zeros(1, 5, 4), specs)])
    with pytest.raises(pl.SpecError, match="patches is empty"):
        collate([])


@pytest.mark.parametrize("wrong", [{"data_idx": "0"}, {"data_idx": torch.zeros(1)}])
def test_not_a_batch(wrong):
    """An object that is not a batch of specifications is refused."""
    with pytest.raises(pl.SpecError):
        decollate(wrong)


def test_plain_numbers():
    """Decollated numbers are plain integers."""
    table = pl.SpecTable.from_specs(
        [{"data_idx": np.int64(1), "sample_idx": 0, "coords": (0, 0), "patch_size": (5, 5)}]
    )

    assert type(decollate(collate([Patch(torch.zeros(1, 1, 1), table[0])]).specs)[0]["data_idx"]) is int
