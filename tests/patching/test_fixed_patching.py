"""Listed patches come back as they were given, in their order and of their kind."""

from __future__ import annotations

import pytest

from patchloom.errors import NotIntegerError, PatchIndexError, SpecError
from patchloom.patching import FixedPatching, RandomPatching, TiledPatching, UncorrelatedPatching
from patchloom.specs.patch_specs import PatchSpecs

SHAPES = [(2, 1, 40, 33), (1, 1, 25, 64)]


@pytest.mark.parametrize(
    "source",
    [
        RandomPatching(SHAPES, (8, 8), 1),
        TiledPatching(SHAPES, (8, 8), (2, 2)),
        UncorrelatedPatching(RandomPatching(SHAPES, (8, 8), 1), 2, probability=0.5),
    ],
)
def test_round_trip(source: RandomPatching) -> None:
    """Specifications of every kind are returned unchanged."""
    shuffled = list(source)[::-2]
    patching = FixedPatching(shuffled)
    assert list(patching) == list(patching.fixed_patch_specs) == shuffled
    assert [patching[index] for index in range(len(patching))] == shuffled
    assert list(patching.at_epoch(4)) == shuffled
    assert FixedPatching(iter(shuffled))[:] == FixedPatching(source.specs(range(len(source)))[::-2])[:]


def test_indices_of_stacks() -> None:
    """The indices of a stack are found for any order of stacks."""
    specs: list[PatchSpecs] = [
        {"data_idx": data_idx, "sample_idx": 0, "coords": (0, 0), "patch_size": (4, 4)} for data_idx in (2, 0, 2, 1, 0)
    ]
    patching = FixedPatching(specs)
    assert [list(patching.get_patch_indices(data_idx)) for data_idx in range(4)] == [[1, 4], [3], [0, 2], []]
    assert all(type(index) is int for index in patching.get_patch_indices(2))
    ordered = FixedPatching(sorted(specs, key=lambda spec: spec["data_idx"]))
    assert [ordered.get_patch_indices(data_idx) for data_idx in range(4)] == [
        range(2),
        range(2, 3),
        range(3, 5),
        range(5, 5),
    ]


def test_empty() -> None:
    """An empty list is a patching."""
    patching = FixedPatching([])
    assert len(patching) == patching.n_patches == 0
    assert list(patching) == []
    assert len(patching.specs([])) == len(patching.storage_order((1, 1, 4, 4))) == 0
    assert patching.get_patch_indices(0) == range(0)
    with pytest.raises(PatchIndexError, match="the patching has 0 patches"):
        patching.get_patch_spec(0)


def test_bad_arguments() -> None:
    """Lists that are not specifications, and bad indices of stacks, are refused."""
    tile, patch = TiledPatching(SHAPES, (8, 8), (2, 2))[0], RandomPatching(SHAPES, (8, 8), 1)[0]
    with pytest.raises(SpecError, match="specification 1 has fields"):
        FixedPatching([tile, patch])
    with pytest.raises(PatchIndexError, match="data_idx is -1"):
        FixedPatching([patch]).get_patch_indices(-1)
    with pytest.raises(NotIntegerError, match="data_idx is True"):
        FixedPatching([patch]).get_patch_indices(True)
